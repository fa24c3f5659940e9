"""`python -m gateway`: runs the gateway, in as many processes as it is told."""

import sys

from gateway.settings import GatewaySettings
from gateway.workers import serve, supervise

if __name__ == "__main__":
    settings = GatewaySettings.from_command_line()
    sys.exit(supervise(settings) if settings.workers > 1 else serve(settings))
