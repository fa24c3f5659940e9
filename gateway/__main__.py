"""`python -m gateway`: runs the gateway, in as many processes as it is told."""

import sys

from gateway.process.supervisor import serve, supervise
from gateway.settings import GatewaySettings

if __name__ == "__main__":
    settings = GatewaySettings.from_command_line()
    sys.exit(supervise(settings) if settings.workers > 1 else serve(settings))
