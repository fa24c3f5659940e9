"""`python -m services.encode`: runs the encode service."""

import sys

from services.common.server import run
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings

if __name__ == "__main__":
    settings = EncodeSettings.from_command_line()
    sys.exit(run(lambda: EncodeService(settings), settings, EncodeService.name))
