"""`python -m services.decode`: runs a decode worker."""

import sys

from services.common.server import run
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings

if __name__ == "__main__":
    settings = DecodeSettings.from_command_line()
    sys.exit(run(lambda: DecodeService(settings), settings, DecodeService.name))
