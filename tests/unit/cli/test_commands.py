"""The commands as a user types them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from cli.app import app
from cli.client import ClientError
from cli.local.ports import FREE_RANGE, PortError, free_ports
from cli.local.stack import StackConfig
from gateway.auth.keys import KeyRing
from services.common.settings import EMBEDDED_MODEL
from services.common.watermark.embed import Watermark
from services.common.watermark.keys import read_keys

runner = CliRunner()


COMMANDS = (
    *("demo", "up", "say", "voices", "doctor", "fetch", "verify", "prepare", "key", "bench", "text", "detect"),
    "mark-key",
)


def test_help_names_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=["light-tts", *COMMANDS])
def test_the_examples_of_the_help_are_commands_that_exist(arguments: list[str]) -> None:
    shown = runner.invoke(app, [*arguments, "--help"]).output.partition("Examples:")[2]
    examples = [
        shlex.split(line) for line in shown.replace("\\", " ").replace("\n   ", " ").splitlines() if line.strip()
    ]
    assert examples
    group: Any = typer.main.get_command(app)
    for program, name, *options in examples:
        assert program == "light-tts"
        assert [name] == arguments or not arguments
        context = group.make_context("light-tts", [name, *options], resilient_parsing=True)
        _, command, rest = group.resolve_command(context, [name, *options])
        command.make_context(name, rest)  # raises UsageError


def test_text_shows_how_a_text_is_read() -> None:
    arguments = ["text", "--model-dir", str(EMBEDDED_MODEL), "--language", "en-US", "Room 007. [pause:1s]Bye [laugh]."]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for shown in ("Room zero zero seven.", "[1 s of silence]", "Bye.", "sound_dropped"):
        assert shown in result.output
    refused = runner.invoke(app, ["text", "--model-dir", str(EMBEDDED_MODEL), "<speak>a & b</speak>"])
    assert refused.exit_code == 1
    assert "line 1, position 11" in refused.output.replace("\n", " ")


def test_the_version_is_that_of_the_package() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.output == f"light-tts {importlib.metadata.version('light-tts')}\n"


def test_rates_that_are_no_numbers_are_refused_with_an_example() -> None:
    result = runner.invoke(app, ["bench", "--rates", "fast"])
    assert result.exit_code == 1
    assert "--rates must be numbers separated by commas, such as 0.2,0.5,1" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates", "1", "--streams", "2"], "--rates, --streams and --trace exclude each other"),
        (["--streams", "1.5"], "--streams must be numbers separated by commas, such as 1,2,4"),
        (["--streams", "0"], "--streams must be above zero"),
        (["--streams", "2", "--find", "0.8"], "--find searches open loads"),
        (["--prompts", "nowhere"], "neither a set of prompts"),
        (["--trace", "nowhere"], "cannot read the trace nowhere"),
    ],
)
def test_a_load_that_cannot_be_is_refused(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, ["bench", *arguments])
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("command", [["say", "Hello."], ["voices"]])
def test_commands_without_a_gateway_show_how_to_start_one(command: list[str]) -> None:
    server = f"127.0.0.1:{free_ports(1).gateway.grpc}"
    result = runner.invoke(app, [*command, "--server", server])
    assert result.exit_code == 1
    assert "light-tts up" in result.output


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["text", "\udcff"], "TEXT is not UTF-8 text", 1),
        (["bench", "--text", "\udcff"], "--text is not UTF-8 text", 1),
        (["bench", "--voice", "\udcff"], "--voices is not UTF-8 text", 1),
        (["bench", "--api", "openai", "--server", "http://a:b"], "http://a:b is not an address", 1),
        (["bench", "--seed", str(2**64)], "--seed", 2),
        (["say", "Hello.", "--seed", str(2**64)], "--seed", 2),
        (["voices", "--server", "\udcff"], "the address of the server is not UTF-8 text", 1),
        (["text", "Hello.", "--server", "127.0.0.1"], "127.0.0.1 is not an address; write host:port", 1),
        (["say", "Hello.", "--out", "hello.MP3"], "this command writes WAV files only; name it hello.wav", 1),
        (["demo", "--out", "hello.ogg"], "this command writes WAV files only; name it hello.wav", 1),
        (["text", "Hello.", "--api-key", "two\nlines"], "the API key has a line break", 1),
        (["bench", "--seconds", "inf"], "--seconds must be a finite number", 1),
        (["up", "--ports", "free", "--host", "192.0.2.1"], "no server can listen on --host 192.0.2.1", 1),
        (["demo", "--text", "\udcff"], "--text is not UTF-8 text", 1),
    ],
)
def test_options_that_no_request_can_hold_are_reported(arguments: list[str], message: str, code: int) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == code
    assert message in result.output


def test_a_folder_of_logs_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = runner.invoke(app, ["up", "--ports", "free", "--log-dir", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert "choose a folder with --log-dir" in result.output


@pytest.mark.parametrize(
    "option", [["say", "Hi.", "--out"], ["demo", "--out"], ["bench", "--json"], ["bench", "--plot"]]
)
@pytest.mark.parametrize(
    ("file", "message"), [("nowhere/a", "the folder {}/nowhere does not exist"), ("", "{}: it is a folder")]
)
def test_a_file_that_cannot_be_written_is_reported_before_anything_else(
    option: list[str], file: str, message: str, tmp_path: Path
) -> None:
    """Not after a stack has started, or after a load of minutes; no gateway is there."""
    server = [] if option[0] == "demo" else ["--server", "127.0.0.1:1"]
    result = runner.invoke(app, [*option, str(tmp_path / file), *server])
    assert result.exit_code == 1
    assert message.format(tmp_path) in result.output
    assert "Starting" not in result.output


def test_a_report_of_verify_that_cannot_be_written_is_reported_before_the_model_is_loaded(tmp_path: Path) -> None:
    result = runner.invoke(app, ["verify", str(EMBEDDED_MODEL), "--report", str(tmp_path / "nowhere" / "a.json")])
    assert result.exit_code == 1
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in result.output


def test_pictures_without_matplotlib_are_refused_before_the_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cli.bench.output.find_spec", lambda name: None)
    result = runner.invoke(app, ["bench", "--server", "127.0.0.1:1", "--plot", str(tmp_path / "a.png")])
    assert result.exit_code == 1
    assert "pip install 'light-tts[plot]'" in result.output


def test_ports_that_are_named_hold_beside_free_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[StackConfig] = []

    def refuse(config: StackConfig, *_: object) -> None:
        stacks.append(config)
        raise PortError("nothing is started")

    monkeypatch.setattr("cli.app.Stack", refuse)
    named = ["--port", "40001", "--cosyvoice-port", "0"]
    for ports in ("free", "default"):
        runner.invoke(app, ["up", "--ports", ports, *named])
    free, default = (config.ports for config in stacks)
    assert free is not None
    assert default is not None
    assert (free.gateway.grpc, free.cosyvoice) == (default.gateway.grpc, default.cosyvoice) == (40001, 0)
    assert free.http in FREE_RANGE
    assert (default.http, default.encode.grpc) == (8080, 50051)


def test_ctrl_c_ends_a_command_that_runs_in_a_process_of_its_own_without_a_traceback() -> None:
    """A terminal sends SIGINT to both processes."""
    program = """
import sys, typer, cli.model.commands as commands
child = "import time; print('computes', flush=True); time.sleep(60)"
commands.module_command = lambda *_: (sys.executable, "-c", child)
app = typer.Typer(pretty_exceptions_enable=False)
commands.add_to(app)
app()
"""
    command = [sys.executable, "-c", program, "verify", "models/tiny"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "computes\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "stopped before the end\n"


@pytest.mark.parametrize("arguments", [["up", "--ports", "free"], ["demo"]], ids=["up", "demo"])
def test_a_stack_with_a_wrong_setting_ends_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.setenv("LIGHTTTS_DRAIN_GRACE_SECONDS", "soon")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "LIGHTTTS_DRAIN_GRACE_SECONDS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_up_names_a_taken_port() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = runner.invoke(app, ["up", "--port", str(port)])
    assert result.exit_code == 1
    assert f"{port} (gateway gRPC)" in result.output


def test_doctor_accepts_the_embedded_model() -> None:
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for part in ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx"):
        assert part in result.output


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a bare GPU machine, which has the checkout alone."""
    found = importlib.metadata.version

    def version(name: str) -> str:
        if name == "light-tts":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for command in ("--version", "doctor"):
        result = runner.invoke(app, [command])
        assert result.exit_code == 0, result.output
        assert "light-tts (not installed)" in result.output


def test_doctor_names_damaged_files(tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, broken)
    (broken / "flow.pt").write_bytes(b"half a file")
    (broken / "campplus.onnx").write_bytes(b"half a file")
    result = runner.invoke(app, ["doctor", str(broken)])
    assert result.exit_code == 1
    assert "flow.pt is damaged" in result.output
    assert "campplus.onnx is not a readable ONNX graph" in result.output
    assert "2 problems must be fixed" in result.output


def test_doctor_names_a_missing_directory(tmp_path: Path) -> None:
    result = runner.invoke(app, ["doctor", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "does not exist" in result.output
    assert "1 problem must be fixed" in result.output


def test_a_key_is_made_for_the_gateway_s_own_file(tmp_path: Path) -> None:
    result = runner.invoke(app, ["key", "assistant"])
    assert result.exit_code == 0
    made, name, digest = result.stdout.splitlines()
    (tmp_path / "keys.yaml").write_text(f"keys:\n{name}\n{digest}\n")
    assert KeyRing(tmp_path / "keys.yaml").caller(made).name == "assistant"


@pytest.mark.parametrize("name", ["", "two words", "-dash", "x" * 65, "a\nb"])
def test_a_name_that_the_key_file_would_not_accept_is_refused(name: str) -> None:
    result = runner.invoke(app, ["key", "--", name])
    assert result.exit_code == 1
    assert "a key's name has 1 to 64" in result.output


def test_a_mark_is_found_in_a_file_and_named(tmp_path: Path) -> None:
    made = runner.invoke(app, ["mark-key", "3"])
    keys = tmp_path / "marks.keys"
    keys.write_text(made.output, encoding="utf-8")
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * 24_000).astype(np.float32)
    marked = Watermark(read_keys(keys)[3], 0x0304).apply(0, noise)
    for name, samples in (("marked.wav", marked), ("plain.wav", noise)):
        soundfile.write(tmp_path / name, samples, 24_000)
    found = runner.invoke(app, ["detect", str(tmp_path / "marked.wav"), "--keys", str(keys)])
    assert found.exit_code == 0
    assert "key 3, deployment 4" in found.output
    fields = json.loads(
        runner.invoke(app, ["detect", str(tmp_path / "marked.wav"), "--keys", str(keys), "--json"]).output
    )
    assert fields["marked"] is True
    assert fields["spans"][0]["deployment"] == 4
    absent = runner.invoke(app, ["detect", str(tmp_path / "plain.wav"), "--keys", str(keys)])
    assert absent.exit_code == 1
    assert "no mark found" in absent.output


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no audio", "text.wav"), (None, "text.wav"), (b"", "text.wav")],
    ids=["bad", "absent", "empty"],
)
def test_a_file_that_is_no_audio_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    keys, file = tmp_path / "marks.keys", tmp_path / "text.wav"
    keys.write_text(f"1 {'ab' * 16}\n", encoding="utf-8")
    if content is not None:
        file.write_bytes(content)
    result = runner.invoke(app, ["detect", str(file), "--keys", str(keys)])
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_demo_shows_brackets_of_its_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rich reads brackets as its markup; the stack is left out, so nothing can be spoken."""

    async def refuse(*_: object) -> None:
        raise ClientError("nothing is spoken")

    monkeypatch.setattr("cli.demo.Stack", lambda *_: nullcontext(SimpleNamespace(gateway=SimpleNamespace(address=""))))
    monkeypatch.setattr("cli.demo.say_to_file", refuse)
    result = runner.invoke(app, ["demo", "--text", "Oh [laughter] no [/b]", "--out", str(tmp_path / "demo.wav")])
    assert result.exit_code == 1
    assert "Speaking: “Oh [laughter] no [/b]”" in result.output
    assert "nothing is spoken" in result.output
