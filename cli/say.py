"""`light-tts say`: speaks a text into a WAV file, which grows as audio arrives."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import soundfile
from rich.markup import escape
from rich.table import Table

from cli.client import Absent, Access, ClientError, Speech, check_text, speak
from cli.console import out
from gateway.audio.notice import NOTICE, SOFTWARE
from lighttts.v1 import audio_pb2, tts_pb2

MOST_SEED = 2**64 - 1
SECONDS_PER_CHARACTER = (0.02, 0.5)
"""Least and most plausible duration, in any language and at any speed."""
QUIETEST_PEAK = 0.01
"""Audio with a smaller peak counts as silent; full scale is 1."""
OTHER_FORMATS = (".aac", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".pcm", ".raw", ".webm")
RETRY_SECONDS = 1.0
"""Interval between attempts while no gateway or no worker is available."""


def make_config(
    voice: str | None, prompt_audio: Path | None, prompt_text: str | None, seed: int | None, speed: float
) -> tts_pb2.SynthesisConfig:
    """Return the request's configuration. Raises ClientError if the options contradict each other."""
    for name, value in (("--voice", voice), ("--prompt-text", prompt_text)):
        check_text(name, value or "")
    config = tts_pb2.SynthesisConfig(format=audio_pb2.SAMPLE_FORMAT_S16LE, speed=speed)
    if seed is not None:
        config.seed = seed
    if prompt_audio is not None or prompt_text is not None:
        if prompt_audio is None or prompt_text is None:
            raise ClientError("--prompt-audio (a recording) and --prompt-text (its words) need each other; give both")
        if voice is not None:
            raise ClientError("--voice and --prompt-audio exclude each other; give one of them")
        try:
            config.prompt.audio = prompt_audio.read_bytes()
        except OSError as error:
            raise ClientError(f"cannot read {prompt_audio}: {error.strerror}") from error
        config.prompt.transcript = prompt_text
    elif voice is not None:
        config.voice_name = voice
    return config


async def say_to_file(
    server: str | Access, config: tts_pb2.SynthesisConfig, text: str, path: Path, wait: float = 0.0
) -> Speech:
    """Speak `text` into a 16-bit WAV file that grows as audio arrives. Raises ClientError.

    The first audio creates the file, so a refused request leaves an existing file unchanged. While no gateway or no
    worker is available, it retries for `wait` seconds.
    """
    check_text("the text", text)
    until = time.monotonic() + wait
    while True:
        try:
            return await _say_once(server, config, text, path)
        except Absent:
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(RETRY_SECONDS)


async def _say_once(server: str | Access, config: tts_pb2.SynthesisConfig, text: str, path: Path) -> Speech:
    wav: soundfile.SoundFile | None = None
    check_wav(path)

    def write(audio: audio_pb2.AudioChunk) -> None:
        nonlocal wav
        if wav is None:
            # By descriptor: the library states no reason for a file that it cannot open, and takes only UTF-8 names.
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            wav = soundfile.SoundFile(opened, "w", audio.sample_rate, channels=1, subtype="PCM_16", format="WAV")
            wav.software, wav.comment = SOFTWARE, NOTICE
        wav.buffer_write(audio.pcm, dtype="int16")

    try:
        speech = await speak(server, config, text, write)
    except OSError as error:
        raise ClientError(f"cannot write {path}: {error.strerror or error}") from error
    except soundfile.LibsndfileError as error:
        raise ClientError(f"cannot write {path}: {error}") from error
    finally:
        if wav is not None:
            wav.close()
    if wav is None:
        raise ClientError("no audio arrived: the text has no words; send at least one")
    return speech


def check_out(path: Path) -> None:
    """Raise ClientError if no file can be written at `path`, so that a command says so before its work, not after."""
    if path.is_dir():
        raise ClientError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ClientError(f"cannot write {path}: the folder {path.parent} does not exist; create it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ClientError(f"cannot write {path}: no permission")


def check_wav(path: Path) -> None:
    """Raise ClientError if no file can be written at `path`, or if its name promises another format than WAV."""
    if path.suffix.lower() in OTHER_FORMATS:
        raise ClientError(
            f"cannot write {path}: this command writes WAV files only; name it {path.with_suffix('.wav')}"
        )
    check_out(path)


def check_speech(text: str, speech: Speech, path: Path) -> None:
    """Raise ClientError unless `path` holds audible sound of a length that is plausible for `text`."""
    samples, _ = soundfile.read(path, dtype="float32")
    if len(samples) != speech.samples:
        raise ClientError(f"{path} holds {len(samples)} samples, but {speech.samples} were received")
    least, most = (len(text) * seconds for seconds in SECONDS_PER_CHARACTER)
    if not least <= speech.audio_seconds <= most + 1.0:
        raise ClientError(f"{speech.audio_seconds:.2f} s of audio are not plausible for {len(text)} characters")
    if abs(samples).max() < QUIETEST_PEAK:
        raise ClientError("the audio is silent; the model or its voice is damaged")


def show_speech(speech: Speech, path: Path) -> None:
    """Print the figures of one request."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("written", f"{escape(str(path))} ({speech.audio_seconds:.2f} s of speech, seed {speech.seed})")
    table.add_row("time to first audio", f"{speech.time_to_first_audio:.2f} s")
    table.add_row("real-time factor", f"{speech.real_time_factor:.2f}")
    table.add_row("chunks", str(speech.chunks))
    table.add_row("decode workers", escape(", ".join(speech.decode_workers)))
    if speech.underrun_seconds:
        table.add_row("playback waited", f"{speech.underrun_seconds:.2f} s")
    for warning in speech.warnings:
        table.add_row("warning", escape(warning))
    out.print(table)
