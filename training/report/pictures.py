"""Pictures of a report without a plotting library: spectrograms as PNG, curves as SVG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import MelConfig
from services.encode.voice.features import prompt_mel

_SCALE = 3
"""Pixels per mel band; a frame is two pixels wide."""
_COLOURS = np.array([[0, 0, 20], [60, 20, 110], [180, 50, 90], [250, 140, 40], [255, 250, 190]], dtype=np.float64)


def write_spectrogram(samples: NDArray[np.float32], path: Path) -> None:
    """Write the mel spectrogram of 24 kHz samples, low frequencies at the bottom."""
    mel = prompt_mel(samples, MelConfig())
    low, high = np.percentile(mel, [2, 99.8])
    level = np.clip((mel.T[::-1] - low) / max(1e-6, high - low), 0, 1) * (len(_COLOURS) - 1)
    below = np.minimum(level.astype(int), len(_COLOURS) - 2)
    share = (level - below)[..., None]
    pixels = _COLOURS[below] * (1 - share) + _COLOURS[below + 1] * share
    write_png(pixels.round().astype(np.uint8).repeat(_SCALE, 0).repeat(2, 1), path)


def write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 [height, width, 3] as PNG."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + image)


def curve(points: Sequence[tuple[float, float]], title: str, width: int = 420, height: int = 160) -> str:
    """Return an SVG of a falling or rising curve with its first and last value."""
    if len(points) < 2:
        return ""
    steps, values = np.array(points, dtype=np.float64).T
    low, high = float(values.min()), float(values.max())
    x = 50 + (steps - steps[0]) / max(1e-9, steps[-1] - steps[0]) * (width - 60)
    y = 24 + (high - values) / max(1e-9, high - low) * (height - 44)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg width="{width}" height="{height}" font-family="sans-serif" font-size="11">'
        f'<text x="50" y="14">{title}: {values[0]:.3g} → {values[-1]:.3g}, {steps[-1]:.0f} steps</text>'
        f'<text x="2" y="30">{high:.3g}</text><text x="2" y="{height - 18}">{low:.3g}</text>'
        f'<polyline fill="none" stroke="#246" points="{line}"/></svg>'
    )
