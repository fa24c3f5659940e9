"""The commands of `light-tts`: options and help texts. Each command's work is in a module of its own."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from cli import marking, text_command, voice_audit
from cli.access import LOCAL, ApiKey, Authority, Server, Tls, access
from cli.bench import command as bench_command
from cli.client import ClientError, check_health, list_voices
from cli.console import PROGRAM, counted, err, examples, fail, out, package_version, run, show_event, show_serving
from cli.demo import SENTENCE
from cli.demo import demo as run_demo
from cli.local.ports import HOST, PortError, default_ports, free_ports
from cli.local.process import WorkerError
from cli.local.stack import Stack, StackConfig
from cli.model import commands as model_commands
from cli.model.commands import ModelDirectory
from cli.say import MOST_SEED, check_speech, make_config, say_to_file, show_speech
from cli.simulator import command as simulator_command
from cli.simulator import plan_command
from gateway.auth.keys import NAME, key_hash, new_key
from services.common.settings import EMBEDDED_MODEL

app = typer.Typer(
    help="Streaming text-to-speech with the voice of a short recording. `light-tts up` starts all services on this "
    "machine, `light-tts say` speaks a text through them. COMMAND --help shows the options and examples of a command.",
    epilog=examples("demo", "up", 'say "Good morning, Alice, welcome to London."'),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OutFile = Annotated[Path, typer.Option("--out", help="WAV file to write.")]


class PortChoice(StrEnum):
    """Where the processes of a stack listen."""

    default = "default"
    free = "free"


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"light-tts {package_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options before the command."""


@app.command(epilog=examples("demo", 'demo --text "Keep up the good work." --out work.wav'))
def demo(
    out_file: OutFile = Path("demo.wav"),
    text: Annotated[str, typer.Option(help="Text to speak.")] = SENTENCE,
) -> None:
    """Start all services on free ports, speak one sentence into a WAV file, show the figures and stop everything."""
    try:
        if not run_demo(out_file, text):
            err.print("stopped before the end")
            raise typer.Exit(130)
    except (PortError, WorkerError, ClientError) as error:
        fail(str(error))


@app.command(
    epilog=examples("up", "up --ports free --log-dir .run2", "up --model-dir models/cosyvoice2 --devices cuda:0,cuda:1")
)
def up(
    decode: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Number of decode workers; default: one per device, or 2 on the CPU."),
    ] = None,
    devices: Annotated[
        str,
        typer.Option(
            help="Devices, such as cpu or cuda:0,cuda:1. Decode workers are placed on them round-robin, the llm worker "
            "on the first. Default: each service chooses."
        ),
    ] = "",
    model_dir: ModelDirectory = EMBEDDED_MODEL,
    host: Annotated[
        str, typer.Option(help="Address the gateway listens on; 0.0.0.0 accepts connections from other machines.")
    ] = HOST,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The gateway's gRPC port. Default: 50050.")] = None,
    http_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The gateway's HTTP port. Default: 8080.")
    ] = None,
    cosyvoice_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="The gateway's port for clients of CosyVoice; 0 switches it off. Default: 50000."
        ),
    ] = None,
    ports: Annotated[
        PortChoice,
        typer.Option(
            help="default: the documented ports, from 50050. free: any free ports, for a second stack. Ports that "
            "other options name hold in both cases."
        ),
    ] = PortChoice.default,
    log_dir: Annotated[Path, typer.Option(help="Folder of the log files, one per process.")] = Path(".run"),
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Least severe level that is logged.")
    ] = "info",
) -> None:
    """Run all services on this machine until Ctrl-C; a process that dies is restarted."""
    named = tuple(device.strip() for device in devices.split(",") if device.strip())
    decode = decode or (2 if named in ((), ("cpu",)) else len(named))
    try:
        chosen = free_ports(decode) if ports is PortChoice.free else default_ports(decode)
        chosen = chosen.with_gateway(port, http_port, cosyvoice_port)
        config = StackConfig(
            model_dir=model_dir, decode_workers=decode, devices=named, gateway_host=host, ports=chosen, log_dir=log_dir
        )
        config = replace(config, log_level=log_level)
        run(_serve(Stack(config, show_event)))  # settings that are not valid end the process here, outside of a task
    except (PortError, WorkerError) as error:
        fail(str(error))


async def _serve(stack: Stack) -> None:
    workers, logs = counted(stack.config.decode_workers, "decode worker"), escape(str(stack.config.log_dir))
    err.print(f"Starting encode, llm, {workers} and the gateway (logs: {logs}):")
    async with stack:
        server = "" if stack.ports.gateway.grpc == 50050 else f" --server {stack.gateway.address}"
        server += " --tls" if stack.secure else ""
        show_serving(stack.addresses, f'{PROGRAM} say "Good morning, Alice, welcome to London."{server}')
        try:
            await asyncio.Event().wait()
        finally:
            err.print("Stopping:")


@app.command(
    epilog=examples(
        'say "Good morning, Alice, welcome to London."',
        'say "Keep up the good work." --voice hugo --seed 7',
        'say "Keep up the good work." --out work.wav \\\n'
        '    --prompt-audio models/tiny/prompt_anna.wav \\\n    --prompt-text "$(cat models/tiny/prompt_anna.txt)"',
    )
)
def say(
    text: Annotated[str, typer.Argument(help="Text to speak.")],
    voice: Annotated[
        str | None, typer.Option(help="Voice of the gateway; `light-tts voices` lists them. Default: the gateway's.")
    ] = None,
    out_file: OutFile = Path("out.wav"),
    seed: Annotated[int | None, typer.Option(min=0, max=MOST_SEED, help="The same seed gives the same audio.")] = None,
    speed: Annotated[float, typer.Option(help="Speaking rate, 0.25 to 4.")] = 1.0,
    prompt_audio: Annotated[
        Path | None, typer.Option(help="Recording of another voice to speak with, 3 to 30 s; needs --prompt-text.")
    ] = None,
    prompt_text: Annotated[str | None, typer.Option(help="The words of that recording, exactly as spoken.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Fail unless the gateway reports that every service serves, and the audio is not silent and has a "
            "plausible length.",
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Retry for this many seconds while the gateway or its workers are starting.")
    ] = 0,
    server: Server = LOCAL,
    tls: Tls = False,
    ca: Authority = None,
    api_key: ApiKey = "",
) -> None:
    """Speak a text into a WAV file through a running gateway and show latency and speed."""
    try:
        config = make_config(voice, prompt_audio, prompt_text, seed, speed)
        gateway = access(server, tls, ca, api_key)
        speech = asyncio.run(say_to_file(gateway, config, text, out_file, wait))
        if check:
            check_speech(text, speech, out_file)
            asyncio.run(check_health(gateway, wait))
    except ClientError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    show_speech(speech, out_file)


voices_app = typer.Typer(invoke_without_command=True)


@voices_app.callback(epilog=examples("voices", "voices --server tts.example:443 --tls", "voices audit"))
def voices(
    context: typer.Context,
    server: Server = LOCAL,
    tls: Tls = False,
    ca: Authority = None,
    api_key: ApiKey = "",
) -> None:
    """List the voices that a running gateway offers; `voices audit` shows who registered and deleted voices."""
    if context.invoked_subcommand is not None:
        return
    try:
        answer = asyncio.run(list_voices(access(server, tls, ca, api_key)))
    except ClientError as error:
        fail(str(error))
    table = Table("voice", "languages", "description", box=None, pad_edge=False)
    for entry in answer.voices:
        mark = " (default)" if entry.name == answer.default_voice else ""
        table.add_row(*map(escape, (f"{entry.name}{mark}", ", ".join(entry.languages), entry.description)))
    out.print(table)


@app.command(epilog=examples("key assistant"))
def key(name: Annotated[str, typer.Argument(help="Name of the key's holder: letters, digits, dots, dashes.")]) -> None:
    """Make an API key: print the key once, and the lines for the gateway's key file, which holds only its hash."""
    if re.fullmatch(NAME, name) is None:
        fail("a key's name has 1 to 64 letters, digits, dots, dashes or underscores, and begins with a letter or digit")
    made = new_key()
    err.print("The key, for its holder only; it cannot be shown again:")
    out.print(made, markup=False, soft_wrap=True)
    err.print("For the file that LIGHTTTS_API_KEYS_FILE names, under `keys:`:")
    out.print(f"  - name: {name}\n    sha256: {key_hash(made)}", markup=False, soft_wrap=True)


app.add_typer(voices_app, name="voices")
voice_audit.add_to(voices_app)
bench_command.add_to(app)
simulator_command.add_to(app)
plan_command.add_to(app)
model_commands.add_to(app)
text_command.add_to(app)
marking.add_to(app)
