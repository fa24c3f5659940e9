"""The `light-tts` command line: options here, each command's work in a module of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from cli import doctor as doctor_module
from cli.bench import HEADER, Load, Report, Target, largest_held, offer, report, table_row
from cli.client import Access, ClientError, check_health, list_voices
from cli.console import err, fail, out, run, show_event
from cli.demo import SENTENCE
from cli.demo import demo as run_demo
from cli.fetch import FetchError, wait_for
from cli.fetch import fetch as fetch_checkpoint
from cli.local.ports import HOST, PortError, default_ports, free_ports
from cli.local.process import WorkerError, module_command
from cli.local.stack import Stack, StackConfig
from cli.progress import DownloadProgress
from cli.say import check_speech, make_config, say_to_file, show_speech
from gateway.auth.keys import NAME, key_hash, new_key
from services.common.settings import EMBEDDED_MODEL

app = typer.Typer(
    help="Zero-shot streaming text-to-speech as gRPC microservices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Server = Annotated[
    str, typer.Option(envvar="LIGHTTTS_SERVER", help="The gateway's gRPC address: host:port, or https://host:port.")
]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS, as https:// before the address means too.")]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", envvar="LIGHTTTS_SERVER_CA", help="Who signed its certificate (PEM); implies --tls."),
]
ApiKey = Annotated[
    str,
    typer.Option(envvar="LIGHTTTS_API_KEY", show_default=False, help="Others see command lines: better the variable."),
]
ModelDirectory = Annotated[
    Path, typer.Option(envvar="LIGHTTTS_MODEL_DIR", help="Model directory in the official CosyVoice2/3 layout.")
]


class PortChoice(StrEnum):
    """Where a stack's processes listen."""

    default = "default"
    free = "free"


class CheckpointFamily(StrEnum):
    """What `fetch` knows."""

    cosyvoice2 = "cosyvoice2"
    cosyvoice3 = "cosyvoice3"


@app.command()
def up(
    decode: Annotated[int, typer.Option(min=1, max=32, help="Number of decode workers.")] = 2,
    devices: Annotated[
        str, typer.Option(help="Devices of the decode workers, by turns, and of the llm: cuda:0,cuda:1 or cpu.")
    ] = "",
    model_dir: ModelDirectory = EMBEDDED_MODEL,
    host: Annotated[str, typer.Option(help="Address the gateway listens on; 0.0.0.0 for other machines.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The gateway's gRPC port.")] = 50050,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="The gateway's HTTP port.")] = 8080,
    cosyvoice_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where CosyVoice's own clients are served; 0 serves none.")
    ] = 50000,
    ports: Annotated[
        PortChoice, typer.Option(help="default: 50050 and up as documented; free: whatever is free.")
    ] = PortChoice.default,
    log_dir: Annotated[Path, typer.Option(help="Where each process writes its log.")] = Path(".run"),
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the whole system on this machine until Ctrl-C; a process that dies is started again."""
    try:
        chosen = (
            free_ports(decode) if ports is PortChoice.free else default_ports(decode, port, http_port, cosyvoice_port)
        )
        config = StackConfig(
            model_dir=model_dir,
            decode_workers=decode,
            devices=tuple(device.strip() for device in devices.split(",") if device.strip()),
            gateway_host=host,
            ports=chosen,
            log_dir=log_dir,
            log_level=log_level,
        )
        run(_serve(config))
    except (PortError, WorkerError) as error:
        fail(str(error))


async def _serve(config: StackConfig) -> None:
    err.print(f"Starting encode, llm, {config.decode_workers} decode workers and the gateway (logs: {config.log_dir}):")
    async with Stack(config, show_event) as stack:
        server = "" if stack.ports.gateway.grpc == 50050 else f" --server {stack.gateway.address}"
        out.print(f"Serving: gRPC {stack.gateway.address}, HTTP and a page to try it {stack.http_url}. Try:")
        out.print(f'  {sys.argv[0]} say "Good morning, Alice, welcome to London."{server}', soft_wrap=True)
        out.print("Ctrl-C stops everything.")
        try:
            await asyncio.Event().wait()
        finally:
            err.print("Stopping:")


@app.command()
def prepare(
    model_dir: ModelDirectory = EMBEDDED_MODEL,
    backend: Annotated[
        Literal["onnx", "tensorrt"],
        typer.Option(help="onnx takes seconds; tensorrt minutes, on the very kind of GPU that will decode."),
    ] = "onnx",
    device: Annotated[str, typer.Option(help="Device it is built for: cpu, cuda, cuda:1 ...")] = "cpu",
    max_batch_size: Annotated[
        int,
        typer.Option(min=0, help="Largest batch of a TensorRT engine, as the workers' setting; 0 is their default."),
    ] = 0,
    precision: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option(help="Numbers of a TensorRT engine, as the workers' decode_precision; auto is bfloat16."),
    ] = "auto",
    cache_dir: Annotated[
        Path | None,
        typer.Option(envvar="LIGHTTTS_DECODE_CACHE_DIR", help="Where workers will look; default: ~/.cache/light-tts."),
    ] = None,
) -> None:
    """Build ahead what decode workers with LIGHTTTS_DECODE_BACKEND=onnx or tensorrt start from.

    They keep no states: where memory allows them, PyTorch's appending costs less per hop than any of these.

    A graph is named by the weights it was made from, an engine also by GPU, TensorRT's version, precision and batch, so
    that no worker uses what was built for another; what is there already is kept. All is tried before the command ends.
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
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own module, torch stays there


@app.command()
def bench(
    rates: Annotated[str, typer.Option(help="Utterances per second, one load each: 0.5,1,2.")] = "0.2,0.5,1",
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each load.")] = 30.0,
    find: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Search the largest load that is held, from the first of --rates on: p95 of the first audio within so "
            "many seconds, nobody refused, at most 1% of the streams with an underrun.",
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="What is said.")] = SENTENCE,
    voice: Annotated[str | None, typer.Option(help="A voice of the gateway.")] = None,
    server: Server = "127.0.0.1:50050",
) -> None:
    """Offer a gateway Poisson loads and show what listeners had of them, line by line."""
    try:
        offered = [float(rate) for rate in rates.split(",")]
    except ValueError as error:
        fail(f"--rates must be numbers with commas between ({error})")
    if min(offered) <= 0:
        fail("--rates must be above zero")
    try:
        asyncio.run(_bench(server, [Load(text, rate, seconds, voice) for rate in offered], find))
    except ClientError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _bench(server: str, loads: list[Load], find: float | None) -> None:
    async def measure(load: Load) -> Report:
        one = report(load, await offer(server, load))
        out.print(table_row(one), soft_wrap=True)
        return one

    await list_voices(server)  # says at once when no gateway is there or the key is wrong
    out.print(HEADER, soft_wrap=True)
    if find is None:
        for load in loads:
            await measure(load)
        return
    best = await largest_held(lambda rate: measure(replace(loads[0], rate=rate)), Target(find), loads[0].rate)
    out.print(f"held: {best.rate:.2f} per second, {best.offered:.1f} streams" if best else "no load was held")


def _access(server: str, tls: bool, ca: Path | None, api_key: str) -> Access:
    secure = (tls or ca is not None) and not server.startswith("https://")
    return replace(Access.of(f"https://{server}" if secure else server), authority=ca, key=api_key)


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="What to say.")],
    voice: Annotated[str | None, typer.Option(help="A voice of the gateway; see `light-tts voices`.")] = None,
    out_file: Annotated[Path, typer.Option("--out", help="The WAV file to write.")] = Path("out.wav"),
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same speech.")] = None,
    speed: Annotated[float, typer.Option(help="Speaking rate, 0.25 to 4.")] = 1.0,
    prompt_audio: Annotated[Path | None, typer.Option(help="A recording of the voice to speak with.")] = None,
    prompt_text: Annotated[str | None, typer.Option(help="What that recording says, word for word.")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Fail unless the gateway is well and sends speech of a likely length."),
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Try again for so many seconds while nobody can speak.")] = 0,
    server: Server = "127.0.0.1:50050",
    tls: Tls = False,
    ca: Authority = None,
    api_key: ApiKey = "",
) -> None:
    """Speak a text into a WAV file through the gateway's streaming API and show the figures."""
    try:
        config = make_config(voice, prompt_audio, prompt_text, seed, speed)
        access = _access(server, tls, ca, api_key)
        speech = asyncio.run(say_to_file(access, config, text, out_file, wait))
        if check:
            check_speech(text, speech, out_file)
            asyncio.run(check_health(access))
    except ClientError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    show_speech(speech, out_file)


@app.command()
def voices(server: Server = "127.0.0.1:50050", tls: Tls = False, ca: Authority = None, api_key: ApiKey = "") -> None:
    """List the voices a gateway speaks with."""
    try:
        answer = asyncio.run(list_voices(_access(server, tls, ca, api_key)))
    except ClientError as error:
        fail(str(error))
    table = Table("voice", "languages", "description", box=None, pad_edge=False)
    for entry in answer.voices:
        mark = " (default)" if entry.name == answer.default_voice else ""
        table.add_row(f"{entry.name}{mark}", ", ".join(entry.languages), entry.description)
    out.print(table)


@app.command()
def doctor(
    model_dir: Annotated[Path, typer.Argument(help="Model directory to examine.")] = EMBEDDED_MODEL,
) -> None:
    """Check versions, devices, ports and the model directory; say what to do about what is wrong."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    failures = 0
    for finding in doctor_module.examine(model_dir):
        failures += finding.level == "fail"
        out.print(f"[{colours[finding.level]}]{finding.level:<4}[/] ", end="")
        out.print(finding.what, markup=False, soft_wrap=True)
        if finding.remedy:
            out.print(f"     → {finding.remedy}", markup=False, soft_wrap=True)
    if failures:
        fail(f"{failures} of these must be mended before light-tts can run")


@app.command()
def fetch(
    family: Annotated[CheckpointFamily, typer.Argument(help="Which official checkpoint.")],
    directory: Annotated[Path | None, typer.Argument(help="Where to put it; default: models/NAME.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Download nothing; wait so many seconds until it is there.")] = 0,
) -> None:
    """Download an official checkpoint from the Hugging Face hub; run it again to go on after an interruption."""
    target = directory or Path("models") / family.value
    try:
        with DownloadProgress() as progress:
            if wait:
                wait_for(target, wait, progress)
                return
            fetch_checkpoint(family.value, target, progress)
    except FetchError as error:
        fail(str(error))
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    out.print(f"Try: {sys.argv[0]} up --model-dir {target}", soft_wrap=True)


@app.command()
def key(name: Annotated[str, typer.Argument(help="Whose key it is; letters, digits, dots, dashes.")]) -> None:
    """Make an API key: the key itself, shown this once, and the lines for the gateway's key file."""
    if re.fullmatch(NAME, name) is None:
        fail("a key's name has 1 to 64 letters, digits, dots, dashes or underscores, and begins with a letter or digit")
    made = new_key()
    err.print("The key, for its holder alone; it cannot be shown again:")
    out.print(made, markup=False, soft_wrap=True)
    err.print("For the file that LIGHTTTS_API_KEYS_FILE names, under `keys:`:")
    out.print(f"  - name: {name}\n    sha256: {key_hash(made)}", markup=False, soft_wrap=True)


@app.command()
def demo(
    out_file: Annotated[Path, typer.Option("--out", help="The WAV file to write.")] = Path("demo.wav"),
    text: Annotated[str, typer.Option(help="What to say.")] = SENTENCE,
) -> None:
    """Start everything on free ports, speak one sentence, show the figures, stop everything."""
    try:
        if not run(run_demo(out_file, text)):
            err.print("stopped before the end")
            raise typer.Exit(130)
    except (PortError, WorkerError, ClientError) as error:
        fail(str(error))


def main() -> None:
    """Entry point of the `light-tts` command."""
    app()
