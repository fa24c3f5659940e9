"""`light-tts demo`: runs the whole system for one sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cli.console import err, show_event
from cli.local.stack import Stack, StackConfig
from cli.say import make_config, say_to_file, show_speech

SENTENCE = "Hello, this is the tiny voice speaking."
SEED = 1


async def demo(path: Path, text: str = SENTENCE, decode_workers: int = 2) -> None:
    """Start a stack on free ports, speak `text` into `path`, show the figures, stop the stack."""
    with tempfile.TemporaryDirectory(prefix="light-tts-demo-") as logs:
        config = StackConfig(decode_workers=decode_workers, log_dir=Path(logs))
        err.print(f"Starting encode, llm, {decode_workers} decode workers and the gateway:")
        async with Stack(config, show_event) as stack:
            err.print(f"Speaking: “{text}”", markup=False, soft_wrap=True)
            request = make_config(voice=None, prompt_audio=None, prompt_text=None, seed=SEED, speed=1.0)
            speech = await say_to_file(stack.gateway.address, request, text, path)
            show_speech(speech, path)
            err.print("Stopping:")
