"""`light-tts detect` and `light-tts mark-key`: finds the watermark in a recording, and makes keys for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.console import examples, fail, out
from services.common.watermark.codebook import SYMBOLS
from services.common.watermark.detect import P_VALUE, Detection
from services.common.watermark.keys import KeyFileError, new_line, read_keys
from services.common.watermark.recording import as_fields, search

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

    A mark that is not found proves nothing: the recording may be too short, or
    too much changed. docs/marking.md says what the mark survives.
    """
    try:
        found = search(file, read_keys(keys), LONGEST_SECONDS)
    except KeyFileError as error:
        fail(str(error))
    except (ValueError, OSError) as error:
        fail(f"{file}: {error}")
    if as_json:
        out.print_json(json.dumps(as_fields(found)))
    else:
        show(found)
    if not found.marked:
        raise typer.Exit(1)


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
