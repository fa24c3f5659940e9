"""`light-tts demo`: runs the whole system for one sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cli.client import check_text
from cli.console import err, run, show_event
from cli.local.stack import Stack, StackConfig
from cli.say import check_wav, make_config, say_to_file, show_speech

SENTENCE = "Hello, this is the tiny voice speaking."
SEED = 1


def demo(path: Path, text: str = SENTENCE, decode_workers: int = 2) -> bool:
    """Start a stack on free ports, speak `text` into `path`, show the figures, stop the stack.

    Return False if a signal stopped it. Raises ClientError, PortError or WorkerError.
    """
    check_text("--text", text)
    check_wav(path)
    with tempfile.TemporaryDirectory(prefix="light-tts-demo-") as logs:
        # Settings that are not valid end the process here, outside of a task.
        stack = Stack(StackConfig(decode_workers=decode_workers, log_dir=Path(logs)), show_event)
        err.print(f"Starting encode, llm, {decode_workers} decode workers and the gateway:")
        return run(_speak(stack, path, text))


async def _speak(stack: Stack, path: Path, text: str) -> None:
    async with stack as started:
        err.print(f"Speaking: “{text}”", markup=False, soft_wrap=True)
        request = make_config(voice=None, prompt_audio=None, prompt_text=None, seed=SEED, speed=1.0)
        speech = await say_to_file(started.gateway.address, request, text, path)
        show_speech(speech, path)
        err.print("Stopping:")
