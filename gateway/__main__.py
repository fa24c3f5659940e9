"""`python -m gateway`: runs the gateway."""

import sys

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common.server import run

if __name__ == "__main__":
    settings = GatewaySettings.from_command_line()
    sys.exit(run(lambda: GatewayService(settings), settings, GatewayService.name))
