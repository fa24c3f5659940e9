"""`light-tts detect` and `light-tts mark-key`: finds the watermark in a recording, and makes keys for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import soundfile
import soxr
import typer

from cli.console import examples, fail, out
from services.common.watermark.codebook import SAMPLE_RATE, SYMBOLS
from services.common.watermark.detect import P_VALUE, Detection, detect
from services.common.watermark.keys import KeyFileError, new_line, read_keys

LONGEST_SECONDS = 3600.0
"""Longer files are refused: cut them. An hour takes some minutes and a gigabyte of memory."""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "detect", epilog=examples("detect call.wav --keys marks.keys", "detect call.mp3 --keys marks.keys --json")
    )(detect_file)
    app.command("mark-key", epilog=examples("mark-key 1"))(mark_key)


def detect_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording: WAV, FLAC, MP3, Ogg ...")],
    keys: Annotated[Path, typer.Option(help="File of the watermark's secret keys.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search a recording for the watermark of this system's speech. Exits with 0 if it is there, with 1 if not.

    A mark that is not found proves nothing: the recording may be too short, or too much changed. docs/marking.md says
    what the mark survives.
    """
    try:
        found = search(file, keys)
    except (ValueError, OSError, soundfile.LibsndfileError) as error:
        fail(f"{file}: {error}" if str(file) not in str(error) else str(error))
    if as_json:
        out.print_json(json.dumps(as_fields(found)))
    else:
        show(found)
    if not found.marked:
        raise typer.Exit(1)


def search(file: Path, keys: Path) -> Detection:
    """Search a recording. Raises KeyFileError, ValueError (too short or long), OSError or soundfile.LibsndfileError."""
    secrets = read_keys(keys)
    with soundfile.SoundFile(file) as audio:
        if audio.frames > LONGEST_SECONDS * audio.samplerate:
            raise ValueError(f"longer than {LONGEST_SECONDS / 60:.0f} minutes; cut it into parts")
        samples = audio.read(dtype="float32", always_2d=True).mean(axis=1)
        return detect(soxr.resample(samples, audio.samplerate, SAMPLE_RATE), secrets)


def as_fields(found: Detection) -> dict[str, object]:
    """Return a result as JSON fields."""

    def fields(one: object) -> dict[str, object]:
        values = dict(vars(one))
        key, deployment = divmod(int(values.pop("payload")), SYMBOLS)
        return {**values, "payload_key": key, "payload_deployment": deployment}

    return {
        "marked": found.marked,
        "p_value": found.best.p_value,
        "best": fields(found.best),
        "spans": [fields(one) for one in found.spans],
    }


def show(found: Detection) -> None:
    """Print a result for people."""
    if not found.marked:
        out.print(f"no mark found (p = {found.best.p_value:.2g}; a mark counts from p = {P_VALUE:g} on)")
        return
    out.print(f"marked as synthetic (p = {found.best.p_value:.1g})")
    for one in found.spans:
        key, deployment = divmod(one.payload, SYMBOLS)
        out.print(f"  {one.start:.1f} to {one.end:.1f} s: key {key}, deployment {deployment}, z = {one.z:.1f}")


def mark_key(
    number: Annotated[int, typer.Argument(help="Number of the key, 0 to 255; the mark carries it.")] = 1,
) -> None:
    """Print a line with a new secret key for the watermark's key file."""
    try:
        out.print(new_line(number), markup=False, soft_wrap=True)
    except KeyFileError as error:
        fail(str(error))
