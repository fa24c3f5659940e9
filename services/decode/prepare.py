"""`python -m services.decode.prepare`: builds ahead what a worker with the same settings builds at its start."""

from __future__ import annotations

import sys
import time

import structlog
import torch

from services.common.checkpoint.model_dir import ModelDirError, open_model_dir
from services.common.start_error import StartError
from services.common.telemetry import configure_logging
from services.decode.loading import prepare
from services.decode.settings import DecodeSettings

log = structlog.get_logger(__name__)


def main() -> int:
    settings = DecodeSettings.from_command_line()
    configure_logging("decode", settings.worker_name, settings.log_level, settings.log_format)
    torch.set_num_threads(settings.torch_threads)
    began = time.monotonic()
    try:
        cache = prepare(open_model_dir(settings.model_dir), settings)
    except (StartError, ModelDirError) as error:
        log.error("cannot prepare", reason=str(error))
        return 1
    seconds = round(time.monotonic() - began, 1)
    log.info("prepared and tested", backend=settings.decode_backend, cache=str(cache), seconds=seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
