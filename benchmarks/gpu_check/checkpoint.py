"""Writes the 0.5B layout with random weights and a voice: `python -m benchmarks.gpu_check.checkpoint FAMILY DIR`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks.gpu_check.check import TINY
from benchmarks.official.checkpoint import write_checkpoint
from benchmarks.official.graphs import write_speaker_encoder, write_speech_tokenizer
from services.common.families import family_named

CARD = "voices:\n  - {name: anna, audio: prompt_anna.wav, transcript: prompt_anna.txt}\n"


def write(family: str, directory: Path) -> None:
    """Writes the directory (3 or 4 GB) under another name first, so that it exists only when it is complete.

    Raises OSError when the disk is full.
    """
    part = directory.with_name(directory.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write_checkpoint(part, family=family)
    write_speech_tokenizer(part / family_named(family).speech_tokenizer)
    write_speaker_encoder(part / "campplus.onnx")
    for name in ("prompt_anna.wav", "prompt_anna.txt"):
        shutil.copy(TINY / name, part)
    (part / "light-tts.yaml").write_text(CARD, encoding="utf-8")
    part.rename(directory)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
