"""Measures the watermark: what it survives, what it costs, how it sounds, and how often it is found where it is not.

    python -m benchmarks.watermark [--audio FILES] [--excerpts 8] [--searches 240] [--first 0] [--only-unmarked]

Marks recordings (by default the 25 of tests/data/heldout25, a minute of speech), changes them as the world does, and
searches excerpts that begin anywhere. Prints Markdown. DNSMOS is measured where the package speechmos is installed.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from services.common.watermark.codebook import BLOCK, PERIOD, SAMPLE_RATE, SYMBOLS
from services.common.watermark.detect import GRID_STEP, P_VALUE, Found, detect
from services.common.watermark.embed import Watermark
from training.report.judges import Dnsmos, find_dnsmos

Audio = NDArray[np.float32]
RECORDINGS = Path(__file__).parents[1] / "tests" / "data" / "heldout25"
KEYS = {1: bytes(range(32))}
PAYLOAD = 0x0107
EXCERPTS = (3.0, 10.0)
"""Seconds of the excerpts."""
SEARCHED = BLOCK // GRID_STEP * PERIOD * SYMBOLS**2
"""Alignments and payloads of one search of one window with one key."""


def resampled(rate: int) -> Callable[[Audio], Audio]:
    return lambda audio: soxr.resample(soxr.resample(audio, SAMPLE_RATE, rate), rate, SAMPLE_RATE)


def mu_law(audio: Audio) -> Audio:
    """Telephony: 8 kHz, 8 bits."""
    narrow = np.clip(soxr.resample(audio, SAMPLE_RATE, 8000), -1, 1)
    code = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    wide = np.sign(code) * (256.0 ** np.abs(code) - 1) / 255
    return np.asarray(soxr.resample(wide, 8000, SAMPLE_RATE), np.float32)


def coded(codec: str, container: str, bit_rate: int) -> Callable[[Audio], Audio]:
    """Return a change that encodes and decodes; PyAV, which the extra `aac` installs, has the codecs."""

    def change(audio: Audio) -> Audio:
        import av

        file = io.BytesIO()
        pcm = (np.clip(audio, -1, 1) * 32767).astype(np.int16)[None]
        with av.open(file, "w", format=container) as out:
            stream: Any = out.add_stream(codec, rate=SAMPLE_RATE)
            stream.layout, stream.bit_rate = "mono", bit_rate
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            for packet in (*stream.encode(frame), *stream.encode(None)):
                out.mux(packet)
        file.seek(0)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        with av.open(file, "r") as read:
            parts = [part.to_ndarray()[0] for frame in read.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate(parts)

    return change


def noisy(decibels: float) -> Callable[[Audio], Audio]:
    def change(audio: Audio) -> Audio:
        power = float((audio**2).mean()) / 10 ** (decibels / 10)
        return audio + np.random.default_rng(1).normal(0, power**0.5, len(audio)).astype(np.float32)

    return change


def equalised(audio: Audio) -> Audio:
    """Bass +6 dB and treble −6 dB, a straight line over the logarithm of frequency from 100 Hz to 8 kHz."""
    spectrum = np.fft.rfft(audio)
    octaves = np.log2(np.clip(np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE), 100, 8000) / 100)
    gain = 10 ** ((6 - 12 * octaves / octaves.max()) / 20)
    return np.fft.irfft(spectrum * gain, len(audio)).astype(np.float32)


CHANGES: dict[str, Callable[[Audio], Audio]] = {
    "none": lambda audio: audio,
    "resampled to 16 kHz": resampled(16_000),
    "resampled to 8 kHz": resampled(8_000),
    "telephone, mu-law": mu_law,
    "MP3, 64 kbit/s": coded("libmp3lame", "mp3", 64_000),
    "Opus, 24 kbit/s": coded("libopus", "ogg", 24_000),
    "Opus, 12 kbit/s": coded("libopus", "ogg", 12_000),
    "20 % louder": lambda audio: 1.2 * audio,
    "20 % softer": lambda audio: 0.8 * audio,
    "equaliser, ±6 dB": equalised,
    "noise at 20 dB": noisy(20),
    "5 % faster": lambda audio: soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE / 1.05),
    "a second mark, of another key": lambda audio: Watermark(b"another key, not ours", 0x0909).apply(0, audio),
}


def survival(original: Audio, excerpts: int) -> None:
    """Print in how many excerpts the mark and its payload are found after each change."""
    marked = Watermark(KEYS[1], PAYLOAD).apply(0, original)
    print("| change | " + " | ".join(f"{seconds:g} s: found, payload, median z" for seconds in EXCERPTS) + " |")
    print("|---" * (1 + len(EXCERPTS)) + "|")
    for name, change in CHANGES.items():
        changed, cells = np.asarray(change(marked), np.float32), []
        for seconds in EXCERPTS:
            length = round(seconds * SAMPLE_RATE)
            begins = np.random.default_rng(0).integers(0, len(changed) - length, excerpts)
            best = [detect(changed[begin : begin + length], KEYS).best for begin in begins]
            found = [one for one in best if one.p_value <= P_VALUE]
            right = sum(one.payload == PAYLOAD for one in found)
            cells.append(f"{len(found)} of {excerpts}, {right}, {np.median([one.z for one in best]):.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def mixture(original: Audio) -> None:
    """Print the spans found in speech that is marked in the middle alone."""
    third = len(original) // 3 // SAMPLE_RATE * SAMPLE_RATE
    middle = Watermark(KEYS[1], PAYLOAD).apply(0, original[third : 2 * third])
    spans = detect(np.concatenate([original[:third], middle, original[2 * third :]]), KEYS).spans
    named = ", ".join(f"{one.start:.0f} to {one.end:.0f} s" for one in spans)
    print(f"\nMarked from {third / SAMPLE_RATE:.0f} to {2 * third / SAMPLE_RATE:.0f} s, found in: {named}")


def unmarked(original: Audio) -> dict[str, Audio]:
    """Return audio of several kinds without a mark, each as long as `original`."""
    count = len(original)
    random, times = np.random.default_rng(2), np.arange(count) / SAMPLE_RATE
    notes = 220.0 * 2.0 ** (random.integers(0, 24, count // 6000 + 1) / 12)
    pitch = np.repeat(notes, 6000)[:count]
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    music = sum(np.sin(n * phase) / n for n in range(1, 12)) * np.exp(-4 * (times % 0.25))
    loop = PERIOD * BLOCK
    beat = np.tile(original[:loop], count // loop + 1)[:count]
    return {
        "speech": original,
        "speech by telephone": mu_law(original)[:count],
        "speech, MP3": np.asarray(CHANGES["MP3, 64 kbit/s"](original), np.float32)[:count],
        "music, harmonics of notes": np.asarray(0.1 * music, np.float32),
        "a sound that repeats with the mark's period": np.asarray(beat, np.float32),
        "noise": random.normal(0, 0.05, count).astype(np.float32),
    }


def false_positives(original: Audio, searches: int, first: int) -> None:
    """Search unmarked audio, each time an excerpt of 4 s that begins anywhere and with a key of its own, from number
    `first` on. Print how often the p-value is small.
    """
    length, random = 4 * SAMPLE_RATE, np.random.default_rng(first)
    kinds = unmarked(original)
    found: dict[str, list[Found]] = {name: [] for name in kinds}
    for number in range(first, first + searches):
        name = list(kinds)[number % len(kinds)]
        begin = int(random.integers(0, len(kinds[name]) - length))
        part = kinds[name][begin : begin + length]
        found[name].append(detect(part, {1: b"trial" + number.to_bytes(11, "big")}).best)
    limits = (1e-2, 1e-4, P_VALUE)
    print("| unmarked audio | searches of 4 s | largest z | " + " | ".join(f"p ≤ {limit:g}" for limit in limits) + " |")
    print("|---" * (3 + len(limits)) + "|")
    for name, each in [*found.items(), ("all", [one for some in found.values() for one in some])]:
        counts = [sum(one.p_value <= limit for one in each) for limit in limits]
        print(f"| {name} | {len(each)} | {max(one.z for one in each):.2f} | " + " | ".join(map(str, counts)) + " |")
    needed = [math.sqrt(2 * math.log(SEARCHED / limit)) for limit in limits]
    print("z of these p-values: " + ", ".join(f"{z:.2f}" for z in needed))
    print(f"with no find in {searches} searches, the rate is below {3 / searches:.1g} (95 % confidence)")


def cost(original: Audio) -> None:
    """Print the cost of marking and searching, and the level of the mark."""
    mark, hop = Watermark(KEYS[1], PAYLOAD), SAMPLE_RATE
    began = time.process_time()
    for first in range(0, len(original), hop):
        mark.apply(first, original[first : first + hop])
    marking = (time.process_time() - began) / (len(original) / SAMPLE_RATE)
    began = time.process_time()
    detect(original[: 10 * SAMPLE_RATE], KEYS)
    searching = (time.process_time() - began) / 10
    change = mark.apply(0, original) - original
    level = 10 * np.log10(float((original**2).sum()) / float((change**2).sum()))
    print("\nprocessor time per second of audio:", end=" ")
    print(f"marking {1000 * marking:.1f} ms, searching {1000 * searching:.0f} ms")
    print(f"the mark is {level:.1f} dB below the speech")


def quality(parts: Sequence[Audio]) -> None:
    """Print DNSMOS of the recordings without and with the mark."""
    network = find_dnsmos()
    if network is None:
        print("DNSMOS: not measured, the package speechmos is not installed")
        return
    judge = Dnsmos(network)

    def score(audio: Audio) -> float:
        return judge.score(audio, SAMPLE_RATE)["overall"]

    mark = Watermark(KEYS[1], PAYLOAD)
    pairs = [(score(part), score(mark.apply(0, part))) for part in parts]
    before, after = np.mean(pairs, axis=0)
    change = f"{before:.3f} without, {after:.3f} with the mark ({after - before:+.3f})"
    print(f"DNSMOS overall, mean of {len(pairs)} recordings: {change}")


def read(path: Path) -> Audio:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples[:, 0], rate, SAMPLE_RATE), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watermark", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--audio", type=Path, nargs="+", default=sorted(RECORDINGS.glob("*.flac")), help="recordings")
    parser.add_argument("--excerpts", type=int, default=8, help="excerpts per change and length")
    parser.add_argument("--searches", type=int, default=240, help="searches of unmarked audio")
    parser.add_argument("--first", type=int, default=0, help="number of their first key: runs with others add up")
    parser.add_argument("--only-unmarked", action="store_true", help="measure the false positives alone")
    options = parser.parse_args()
    parts = [read(path) for path in options.audio]
    whole = np.concatenate(parts)
    print(f"{len(parts)} recordings, {len(whole) / SAMPLE_RATE:.0f} s\n")
    if not options.only_unmarked:
        survival(whole, options.excerpts)
        mixture(whole)
        cost(whole)
        quality(parts)
    false_positives(whole, options.searches, options.first)


if __name__ == "__main__":
    main()
