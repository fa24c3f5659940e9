"""Stage pack: checkpoints to carry away from a rented machine."""

from __future__ import annotations

from pathlib import Path

import torch

from training.fit import read_checkpoint
from training.work import Work

_EXACT = ("tokenizer", "speaker")
"""Their tokens and embeddings must stay the same; the other networks are exported in fp16 anyway."""


def run(work: Work) -> list[Path]:
    """Write `packed/*.pt`: averaged weights alone, of which training begins again. They are 1 to 9 MB each."""
    folder = work.root / "packed"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(work.root.glob("*.pt")):
        saved = read_checkpoint(path)
        net = {**saved["net"], **saved["means"]}
        if path.stem not in _EXACT:
            net = {key: value.half() if value.is_floating_point() else value for key, value in net.items()}
        packed = folder / path.name
        torch.save({"step": saved["step"], "net": net, "means": {}, "optimizer": {}, "beside": {}}, packed)
        written.append(packed)
    return written
