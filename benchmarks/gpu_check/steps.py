"""The steps of the check in the order in which they run, and the time that each may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One process of the check: function `name` of module `module` in this package, called with a `Check`."""

    name: str
    module: str
    limit_s: float
    """Seconds on one current data-centre GPU after which the step is stopped."""
    shows: str
    """What the step proves or measures."""
    needs_gpu: bool = False
    needs_checkpoint: bool = False


STEPS = (
    Step("env", "env", 60, "versions, and the card's rates: copy, matrix products, convolutions, gathers"),
    Step("features", "extras.features", 40, "encode's features of a prompt against torchaudio's"),
    Step("kernel", "kernel", 110, "the llm's Triton kernels against plain operations; times of both", needs_gpu=True),
    Step(
        "decode_kernel",
        "decode_kernel",
        140,
        "decode's Triton kernels against plain operations; times of both",
    ),
    Step(
        "llm_exact", "llm", 80, "llm: recorded steps give the tokens of the same steps unrecorded, and of plain steps"
    ),
    Step("llm_speed", "llm", 110, "llm: step, host part and bare replay against batch size (benchmarks.llm)"),
    Step(
        "decode_exact", "decode", 110, "decode: recorded against plain mel, streamed against whole audio", False, True
    ),
    Step("decode_speed", "decode", 150, "decode: time of a hop against streams, flow and vocoder apart", False, True),
    Step("states", "states", 110, "decode: error and time of a hop for each precision of kept states", False, True),
    Step(
        "together", "together", 80, "first audio with llm and decode in one process, alone and 16 at once", False, True
    ),
    Step("stack", "stack", 170, "first audio and load over gRPC with all services on one card", False, True),
    Step("mps", "extras.mps", 60, "the loads again, with llm and decode sharing the card by MPS", False, True),
    Step("kill", "stack", 90, "16 streams over two decode workers of one card, one of which is killed", False, True),
)
