"""The commands about a model directory: doctor, fetch, verify, calibrate-alignment, prepare."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.client import ClientError
from cli.console import counted, err, examples, fail, out, show_finding
from cli.doctor import examine
from cli.local.process import module_command
from cli.model.fetch import FetchError, wait_for
from cli.model.fetch import fetch as fetch_checkpoint
from cli.model.progress import DownloadProgress
from cli.say import check_out
from services.common.families import FAMILIES, family_named
from services.common.settings import EMBEDDED_MODEL

ModelDirectory = Annotated[
    Path,
    typer.Option(envvar="LIGHTTTS_MODEL_DIR", help="Model directory in the official layout of CosyVoice 2 or 3."),
]
CheckpointFamily = StrEnum("CheckpointFamily", [(family.name, family.name) for family in FAMILIES])  # type: ignore[misc]
"""The checkpoints that `fetch` downloads."""


def add_to(app: typer.Typer) -> None:
    """Add the commands, with an example each."""
    app.command(epilog=examples("doctor", "doctor models/cosyvoice2"))(doctor)
    app.command(epilog=examples("fetch cosyvoice2", "fetch cosyvoice3 /data/cosyvoice3 --llm rl"))(fetch)
    app.command(epilog=examples("verify models/cosyvoice3", "verify /data/own --report report.json"))(verify)
    app.command("calibrate-alignment", epilog=examples("calibrate-alignment models/cosyvoice2"))(calibrate_alignment)
    tensorrt = "prepare --backend tensorrt --device cuda:0 \\\n    --model-dir models/cosyvoice2"
    app.command(epilog=examples("prepare --backend onnx", tensorrt))(prepare)


def doctor(
    model_dir: Annotated[Path, typer.Argument(help="Model directory to check.")] = EMBEDDED_MODEL,
) -> None:
    """Check versions, devices, ports and a model directory, and print a remedy for each problem."""
    failures = 0
    for finding in examine(model_dir):
        failures += finding.level == "fail"
        show_finding(finding)
    if failures:
        fail(f"{counted(failures, 'problem')} must be fixed before light-tts can run")


def fetch(
    family: Annotated[CheckpointFamily, typer.Argument(help="The checkpoint to download.")],
    directory: Annotated[Path | None, typer.Argument(help="Folder to put it in; default: models/NAME.")] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Do not download; wait this many seconds for another process to do it.")
    ] = 0,
    llm: Annotated[
        list[str] | None,
        typer.Option(help="Also download these weights of the language model: rl (of cosyvoice3)."),
    ] = None,
) -> None:
    """Download an official checkpoint from the Hugging Face hub and verify every checksum.

    Run the same command again to resume an interrupted download. HF_ENDPOINT
    names another hub or a mirror; HF_TOKEN is sent if it is set.
    """
    chosen, target = family_named(family.value), directory or Path("models") / family.value
    if unknown := set(llm or ()) - set(chosen.llm_variants):
        known = ", ".join(chosen.llm_variants) or "none"
        fail(f"--llm {unknown.pop()}: {chosen.name} has these further weights of the language model: {known}")
    try:
        with DownloadProgress() as progress:
            if wait:
                wait_for(target, wait, progress, variants=llm or ())
                return
            fetch_checkpoint(chosen, target, progress, variants=llm or ())
    except FetchError as error:
        fail(str(error))
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to resume")
        raise typer.Exit(130) from None
    out.print(f"Try: {sys.argv[0]} up --model-dir {target}", soft_wrap=True)


def verify(
    model_dir: Annotated[Path, typer.Argument(help="Model directory to verify.")],
    device: Annotated[str, typer.Option(help="Device to compute on: cpu, cuda, cuda:1 ...")] = "cpu",
    weights: Annotated[str, typer.Option(help="Other weights of the language model, such as rl; default llm.pt.")] = "",
    voice: Annotated[str, typer.Option(help="Speak with this voice only.")] = "",
    report: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Prove a model directory end to end: load it, speak fixed texts and judge the audio.

    Streamed audio must equal audio made in one go, be finite, and have a
    plausible length and level. If the package pocketsphinx is installed, it must
    also recognise the English texts. The voices are the directory's own, or
    recordings that come with light-tts.
    """
    if report is not None:
        try:
            check_out(report)
        except ClientError as error:
            fail(str(error))
    flags = (
        "--device",
        device,
        "--weights",
        weights,
        "--voice",
        voice,
        *(("--report", str(report)) if report is not None else ()),
    )
    command = module_command("cli.model.verify", str(model_dir), *flags)
    raise typer.Exit(_run_apart(command))


def calibrate_alignment(
    model_dir: Annotated[Path, typer.Argument(help="Model directory whose light-tts.yaml is written.")],
    device: Annotated[str, typer.Option(help="Device to compute on: cpu, cuda, cuda:1 ...")] = "cpu",
    texts: Annotated[int, typer.Option(min=1, max=25, help="English sentences to generate.")] = 25,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the heads and write nothing.")] = False,
) -> None:
    """Find the attention heads that give the times of words, and declare them in the directory's light-tts.yaml.

    The command generates sentences and scores how well each head's attention
    follows the text. Without a head that is good enough, it declares none: words
    then get no times, only utterances do.
    """
    flags = ("--device", device, "--texts", str(texts), *(("--dry-run",) if dry_run else ()))
    command = module_command("cli.model.calibrate", str(model_dir), *flags)
    raise typer.Exit(_run_apart(command))


def prepare(
    model_dir: ModelDirectory = EMBEDDED_MODEL,
    backend: Annotated[
        Literal["onnx", "tensorrt"],
        typer.Option(help="onnx takes seconds. tensorrt takes minutes and needs the model of GPU that will decode."),
    ] = "onnx",
    device: Annotated[str, typer.Option(help="Device to build for: cpu, cuda, cuda:1 ...")] = "cpu",
    max_batch_size: Annotated[
        int,
        typer.Option(min=0, help="Largest batch of a TensorRT engine, as the workers' setting; 0 is their default."),
    ] = 0,
    precision: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option(help="Precision of a TensorRT engine, as the workers' decode_precision; auto is bfloat16."),
    ] = "auto",
    cache_dir: Annotated[
        Path | None,
        typer.Option(envvar="LIGHTTTS_DECODE_CACHE_DIR", help="Folder the workers read; default: ~/.cache/light-tts."),
    ] = None,
) -> None:
    """Export graphs and build engines ahead for decode workers with LIGHTTTS_DECODE_BACKEND=onnx or tensorrt.

    These backends keep no states. Where memory holds the states, the torch
    backend costs less per hop.

    The name of a graph identifies its weights; that of an engine also the GPU,
    TensorRT's version, the precision and the batch size. No worker loads a file
    that was built for another. Existing files are kept, and every file is tested
    before the command ends.
    """
    flags = {
        "--decode-backend": backend,
        "--model-dir": model_dir,
        "--device": device,
        "--decode-max-batch-size": max_batch_size,
        "--decode-precision": precision,
    }
    flags |= {"--decode-cache-dir": cache_dir} if cache_dir is not None else {}
    words = (str(word) for pair in flags.items() for word in pair)
    command = module_command("services.decode.prepare", *words)
    raise typer.Exit(_run_apart(command))


def _run_apart(command: Sequence[str]) -> int:
    """Run a module of ours in a process of its own, where torch stays, and return its exit code.

    The process ignores the terminal's Ctrl-C, which reaches both: this one ends it, without a traceback.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command)  # noqa: S603 - our own module
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        return process.wait()
    except KeyboardInterrupt:
        err.print("stopped before the end")
        return 130
    finally:
        process.terminate()
        process.wait()
