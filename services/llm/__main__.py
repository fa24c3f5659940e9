"""`python -m services.llm`: runs the llm service."""

import sys

from services.common.server import run
from services.llm.server import LlmService
from services.llm.settings import LlmSettings

if __name__ == "__main__":
    settings = LlmSettings.from_command_line()
    sys.exit(run(lambda: LlmService(settings), settings, LlmService.name))
