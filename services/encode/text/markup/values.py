"""Reads values of attributes: durations, rates, volumes."""

from __future__ import annotations

import math

import regex

_DURATION = regex.compile(r"\+?(\d{1,7}(?:\.\d{0,6})?|\.\d{1,6})\s?(ms|s)", regex.IGNORECASE)
_PERCENT = regex.compile(r"([+-]?)(\d{1,4}(?:\.\d{0,4})?)\s?%")
_NUMBER = regex.compile(r"\d{1,4}(?:\.\d{0,4})?|\.\d{1,4}")
_DECIBEL = regex.compile(r"([+-]?\d{1,3}(?:\.\d{0,4})?)\s?dB", regex.IGNORECASE)

STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.0}
"""Seconds of `<break strength>`."""
_RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.6}
_VOLUMES = {"silent": 0.0, "x-soft": 0.25, "soft": 0.5, "medium": 1.0, "default": 1.0, "loud": 1.4, "x-loud": 2.0}
LARGEST_GAIN = 4.0
"""12 dB; louder speech would only be distorted."""
SLOWEST, FASTEST = 0.25, 4.0


def seconds(value: str) -> float | None:
    """Read `500ms` or `1.5s`; None if it is neither."""
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        return None
    return float(match.group(1)) / (1000 if match.group(2).lower() == "ms" else 1)


def rate(value: str) -> float | None:
    """Read a rate as a factor: `slow`, `80%`, `+20%`, `1.2`."""
    factor = _RATES.get(value.strip().lower(), _factor(value.strip()))
    return None if factor is None else min(max(factor, SLOWEST), FASTEST)


def gain(value: str) -> float | None:
    """Read a volume as a factor: `soft`, `-6dB`, `+10%`, `0` to `100`."""
    text = value.strip()
    factor = _VOLUMES.get(text.lower())
    if factor is None and (match := _DECIBEL.fullmatch(text)) is not None:
        factor = math.pow(10, float(match.group(1)) / 20)
    if factor is None and _NUMBER.fullmatch(text):
        factor = float(text) / 100  # SSML 1.0: 0 to 100
    if factor is None:
        factor = _factor(text)
    return None if factor is None else min(factor, LARGEST_GAIN)


def _factor(text: str) -> float | None:
    if (match := _PERCENT.fullmatch(text)) is not None:
        share = float(match.group(2)) / 100
        return max(0.0, {"+": 1 + share, "-": 1 - share, "": share}[match.group(1)])
    return float(text) if _NUMBER.fullmatch(text) else None
