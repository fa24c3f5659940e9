"""Entry point of the command `light-tts`. It imports little itself, so Ctrl-C during the imports is handled too."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C has ended, as shells report it."""


def main() -> None:
    """Run the command that the arguments name. Ctrl-C ends it without a traceback at any moment."""
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a parent may have it ignored
    if own:
        signal.signal(signal.SIGINT, _exit)
    from cli.app import app
    from cli.console import output_errors

    try:
        if own:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with output_errors():
            app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        if own:
            signal.signal(signal.SIGINT, _exit)  # while the interpreter ends


def _exit(number: int, frame: FrameType | None) -> None:
    """End the process: an exception that is raised during an import would be shown, or changed by what is imported."""
    os._exit(INTERRUPTED)
