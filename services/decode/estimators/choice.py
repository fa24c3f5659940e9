"""Whether the kernels of an Euler step are launched early here: measured, because the gain depends on the card.

See `early_launch`. Both ways compute the same bits, so early launches are used if they are faster and every repetition
of the measurement gives exactly the mel of kernels that are launched one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from services.decode.engine.fastest import Seconds, fastest_first, least_seconds
from services.decode.estimators.compiled import ProgramParts, network_of
from services.decode.flow.kv_cache import EMPTY_STATE
from services.decode.flow.model import Flow
from services.decode.flow.program import EulerProgram, Record, Row, Shape, scratch
from services.decode.flow.programs import BLOCKS, device_in_force
from services.decode.flow.solver import Start

CAPABILITY = (9, 0)
"""The least compute capability that has early launches."""
LATE, EARLY = "one after the other", "early"


def fastest_launch(
    flow: Flow,
    late: ProgramParts,
    early: ProgramParts,
    most_streams: int,
    record: Record | None,
    leave_out: Callable[[str, Exception], None],
    seconds: Seconds | None = None,
) -> list[ProgramParts]:
    """Return `early` and `late` in the order in which to use them, or `late` alone if it is faster or differs.

    Times the steps of one stream and those of `most_streams` streams, together.
    """
    expected: list[Tensor] = []

    def measure(parts: ProgramParts) -> float:
        total, mels = 0.0, list[Tensor]()
        for streams in sorted({1, most_streams}):
            taken, made = steps_seconds(flow, parts, streams, record, seconds)
            total += taken
            mels += made
        if parts is late:
            expected.extend(mels)
        elif not expected or not all(map(torch.equal, mels, expected)):
            raise RuntimeError("its mel differs from that of kernels launched one after the other")
        return total

    order = fastest_first("the launches of the Euler steps' kernels", {LATE: late, EARLY: early}, measure, leave_out)
    return [early, late] if next(iter(order), LATE) == EARLY else [late]


@torch.inference_mode()
def steps_seconds(
    flow: Flow, parts: ProgramParts, streams: int, record: Record | None, seconds: Seconds | None = None
) -> tuple[float, list[Tensor]]:
    """Return the seconds of the Euler steps of a hop of one chunk after another one, and the mel of each repetition.

    They run as a program. Raises whatever the recording or a step raises. The flow stays as it is.
    """
    pool, config, device = flow.pool, flow.config, flow.device
    cache, tokens = pool.caches["estimator"], config.chunk_tokens
    shape = Shape(streams, cache.layout.positions, BLOCKS[0])
    first, second = [], []
    for _ in range(streams):  # streams for which the pool is too small are padding
        past = pool.extend(EMPTY_STATE, tokens)
        after = past and pool.extend(past, 2 * tokens)
        if past and after:
            first.append(Row(EMPTY_STATE, past, None))
            second.append(Row(past, after, None))
    noise = torch.randn(2, streams, shape.frames, config.output_size, generator=torch.Generator("cpu").manual_seed(0))
    x, mu = noise.to(device)
    start, mels = Start(x, mu, mu[:, 0], torch.zeros_like(mu)), list[Tensor]()
    network = parts.network or network_of(flow)
    with device_in_force(device):
        room = scratch(flow.solver, [shape])
        program = EulerProgram(flow.solver, network, cache, config.mel_frames_per_token, shape, room, parts.attention)
        if record is not None:
            program.record(record)
        numbers = program.numbers(second).to(device)

        def solve() -> None:
            mels.append(program.solve(start, numbers, lambda: None)[: len(second)])

        program.solve(start, program.numbers(first).to(device), lambda: None)
        return least_seconds(solve, device, seconds), mels
