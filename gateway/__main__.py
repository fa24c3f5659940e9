"""`python -m gateway`: runs the gateway."""

import sys

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common.malloc_arenas import limit_arenas
from services.common.server import run

if __name__ == "__main__":
    limit_arenas()
    settings = GatewaySettings.from_command_line()
    sys.exit(run(lambda: GatewayService(settings), settings, GatewayService.name))
