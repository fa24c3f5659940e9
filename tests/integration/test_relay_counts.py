"""The relay path does no more per second of audio and per first audio than `python -m benchmarks.relay` measured.

Each count is compared with half as much again: its own variation is a few percent, and on a busy machine counts are
lower, because more messages arrive per wake-up.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.relay import QUICK, Meter, measure, serving

SLACK = 1.5
PER_SECOND = {
    ("messages", "Decode/Decode requests"): 1.3,
    ("messages", "Decode/Decode responses"): 1.3,
    ("messages", "Llm/Generate responses"): 1.5,
    ("messages", "TextToSpeech/Synthesize responses"): 1.6,
    ("callbacks", "gateway"): 20,
    ("callbacks", "llm"): 18,
    ("callbacks", "decode"): 10,
    ("calls", "gateway"): 604,
    ("calls", "llm"): 486,
    ("calls", "decode"): 210,
}
FIRST_AUDIO = {
    ("callbacks", "gateway"): 49,
    ("callbacks", "encode"): 21,
    ("callbacks", "llm"): 44,
    ("callbacks", "decode"): 17,
    ("calls", "gateway"): 1755,
    ("calls", "llm"): 1233,
    ("calls", "decode"): 434,
}


async def test_the_relay_path_does_no_more_than_measured(tmp_path: Path) -> None:
    meter = Meter()
    async with serving(meter, tmp_path, QUICK) as tts:
        report = await measure(meter, tts, 2)
    found = {key: report.per_second(*key) for key in PER_SECOND}
    assert not {key: count for key, count in found.items() if count > SLACK * PER_SECOND[key]}
    found = {key: report.per_first_audio(*key) for key in FIRST_AUDIO}
    assert not {key: count for key, count in found.items() if count > SLACK * FIRST_AUDIO[key]}
