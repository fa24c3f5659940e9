"""The vocoder's programs of fixed shape give the samples of plain windows, whatever shares their batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.op_count import OpCounter
from services.decode.engine.hops import HopPolicy
from services.decode.flow.program import Record
from services.decode.vocoder.activation import Snake, convolve_join_plain
from services.decode.vocoder.build import build_vocoder
from services.decode.vocoder.conv import Conv
from services.decode.vocoder.programs import VocoderPrograms, use_vocoder_programs, window_shapes
from services.decode.vocoder.stream import Context, Vocoder, VocoderState
from tests.unit.decode import decode_support as support

SAME = 1e-5
CHUNK = 20
"""Frames; a fraction of the real 50 saves time."""
STREAMS = 3
CONTEXTS = {"cosyvoice2": Context(11, 14), "cosyvoice3": Context(21, 5)}
"""As measured (`test_vocoder_stream`)."""
BOTH = pytest.mark.parametrize("family", support.FAMILIES)


@cache
def plain(family: str = "cosyvoice2") -> Vocoder:
    made = build_vocoder(support.mini(family))
    made.context = CONTEXTS[family]
    return made


@cache
def programmed(family: str = "cosyvoice2") -> Vocoder:
    made = build_vocoder(support.mini(family))
    made.context = plain(family).context
    made.programs = programs_of(made)
    return made


def programs_of(vocoder: Vocoder, record: Record | None = None, most_streams: int = STREAMS) -> VocoderPrograms:
    programs = VocoderPrograms(vocoder, most_streams=most_streams, chunk_frames=CHUNK, record=record)
    programs.prepare()
    return programs


@pytest.fixture
def vocoder() -> Iterator[Vocoder]:
    """The plain vocoder, for a test that gives it programs."""
    yield plain()
    plain().programs = None


@cache
def mel(frames: int, seed: int = 5) -> Tensor:
    """A mel that varies like speech."""
    generator = torch.Generator().manual_seed(seed)
    slow = torch.randn(frames // 10 + 1, 80, generator=generator).repeat_interleave(10, dim=0)[:frames]
    return 2.0 * slow + 0.7 * torch.randn(frames, 80, generator=generator) - 5.0


def spoken(over: Vocoder, streams: list[list[int]]) -> list[Tensor]:
    """Speak streams of these hops together; the last hop of each ends its utterance."""
    states = [over.open(seed) for seed in range(len(streams))]
    samples: list[list[Tensor]] = [[] for _ in streams]
    for turn in range(max(map(len, streams))):
        going = [index for index, hops in enumerate(streams) if turn < len(hops)]
        pieces = []
        for index in going:
            hops = streams[index]
            begin, last = sum(hops[:turn]), turn == len(hops) - 1
            pieces.append((states[index], mel(sum(hops), index)[begin : begin + hops[turn]], last))
        for index, made in zip(going, over.append_all(pieces), strict=True):
            samples[index].append(made)
    return [torch.cat(pieces) for pieces in samples]


def difference(made: list[Tensor], expected: list[Tensor]) -> float:
    assert [samples.shape for samples in made] == [samples.shape for samples in expected]
    return max(float((one - other).abs().max()) for one, other in zip(made, expected, strict=True))


@BOTH
@settings(max_examples=2)
@given(streams=st.lists(st.lists(st.sampled_from([1, 7, 20]), min_size=1, max_size=2), min_size=1, max_size=2))
def test_programs_give_the_samples_of_plain_windows(family: str, streams: list[list[int]]) -> None:
    before = programmed(family).programs
    assert before is not None
    assert difference(spoken(programmed(family), streams), spoken(plain(family), streams)) <= SAME
    assert before.unprepared == 0


@BOTH
def test_a_stream_gives_one_shots_samples_whatever_shares_its_batch(family: str) -> None:
    """First, middle and last hops of different lengths, utterances of one hop, and noise by the stream's own seed."""
    streams = [[29, 20, 21], [20, 40], [3]]
    together = spoken(programmed(family), streams)
    for index, (made, hops) in enumerate(zip(together, streams, strict=True)):
        whole = plain(family).append(plain(family).open(index), mel(sum(hops), index), last=True)
        assert difference([made], [whole]) <= 1e-4
    alone = programmed(family).append(programmed(family).open(seed=1), mel(60, 1)[:20], last=False)
    assert difference([alone], [together[1][: alone.shape[0]]]) <= 1e-6


@BOTH
def test_a_stream_continues_elsewhere_after_a_program(family: str) -> None:
    over, state, whole = programmed(family), programmed(family).open(seed=3), mel(90)
    before = over.append(state, whole[:60], last=False)
    kept = plain(family).open(seed=3)
    plain(family).append(kept, whole[:60], last=False)
    assert (state.emitted, state.start, state.mel.shape) == (kept.emitted, kept.start, kept.mel.shape)
    assert torch.equal(state.mel, kept.mel)
    assert float((state.phase - kept.phase).abs().max()) < 1e-9
    context = state.mel[: state.emitted - state.start]
    moved = VocoderState(3, state.phase.clone(), context.clone(), state.emitted, state.start)
    after = over.append(moved, whole[state.emitted :], last=True)
    expected = plain(family).append(plain(family).open(seed=3), whole, last=True)
    assert difference([torch.cat((before, after))], [expected]) <= 1e-4


def test_a_window_that_fits_no_program_runs_without_and_is_counted(
    vocoder: Vocoder, caplog: pytest.LogCaptureFixture
) -> None:
    streams = [[200], [20]]
    expected = spoken(vocoder, streams)
    vocoder.programs = programs_of(vocoder)
    for count in (1, 2):
        assert difference(spoken(vocoder, streams), expected) <= SAME
        assert vocoder.programs.unprepared == count
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "no prepared program for a vocoder's window; kernels are launched one by one"
    ]


def test_more_streams_than_a_program_has_run_one_after_the_other(vocoder: Vocoder) -> None:
    streams = [[2 + index] for index in range(5)]
    expected = spoken(vocoder, streams)
    runs: list[int] = []

    def record(run: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            runs.append(1)
            run()

        return replay

    vocoder.programs = programs_of(vocoder, record, most_streams=2)
    assert difference(spoken(vocoder, streams), expected) <= SAME
    assert len(runs) == 3
    assert vocoder.programs.unprepared == 0


@pytest.mark.parametrize("context", [Context(11, 14), Context(31, 5), Context(22, 22)])
@pytest.mark.parametrize("most", [1, 3, 16, 64])
def test_the_windows_of_all_hops_fit(context: Context, most: int) -> None:
    """The longest window of a hop is the context on both sides and the hop's frames; hops may be twice as long."""
    policy = HopPolicy()
    lengths = {shape.frames for shape in window_shapes(most, 50, context) if shape.streams == 1}
    for size in policy.sizes:
        assert context.left + context.right + size * policy.frames_per_token in lengths  # without padding
    assert max(lengths) >= context.left + context.right + 2 * policy.frames_per_token * max(policy.sizes)
    shapes = window_shapes(most, 50, context)
    assert len(set(shapes)) == len(shapes) <= 32
    assert max(shape.streams for shape in shapes) == min(most, 16)


def test_programs_that_lack_memory_are_left_out(vocoder: Vocoder, caplog: pytest.LogCaptureFixture) -> None:
    streams, left = [[20], [20], [20]], [4]
    expected = spoken(vocoder, streams)

    def record(run: Callable[[], None]) -> Callable[[], None]:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("out of memory\nat some place")
        return run

    shapes = window_shapes(STREAMS, CHUNK, vocoder.context)
    vocoder.programs = programs_of(vocoder, record)
    assert len(vocoder.programs) == len(shapes) - 4
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "no memory for some of the vocoder's programs; their batches run without"
    ]
    assert difference(spoken(vocoder, streams), expected) <= SAME
    left[0] = 1000
    with pytest.raises(RuntimeError, match="out of memory"):
        programs_of(vocoder, record)


def test_programs_that_fail_or_give_other_samples_are_not_used(vocoder: Vocoder) -> None:
    def refuse(run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        use_vocoder_programs(vocoder, 2, CHUNK, refuse)
    assert vocoder.programs is None

    with pytest.raises(RuntimeError, match="differ from the plain ones"):
        use_vocoder_programs(vocoder, 1, CHUNK, None, wrong)
    assert vocoder.programs is None
    assert vocoder.generator.convolve is None

    def wrong_for_many(
        wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        form = wrong if wave.shape[0] > 2 else convolve_join_plain
        return form(wave, conv, known, shortcut, snake)

    with pytest.raises(RuntimeError, match="differ from the plain ones"):
        use_vocoder_programs(vocoder, 3, CHUNK, None, wrong_for_many)
    use_vocoder_programs(vocoder, 2, CHUNK, None)
    assert vocoder.programs is not None
    assert vocoder.programs.unprepared == 0


def wrong(
    wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
) -> tuple[Tensor, Tensor]:
    """A form of the convolutions with a defect."""
    total, after = convolve_join_plain(wave, conv, known, shortcut, snake)
    return total, 1.1 * after


def test_a_program_that_fails_changes_no_stream(vocoder: Vocoder) -> None:
    failing = [False]

    def record(run: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            run()
            if failing[0]:
                raise RuntimeError("the device is lost")

        return replay

    vocoder.programs = programs_of(vocoder, record, most_streams=1)
    state, failing[0] = vocoder.open(seed=3), True
    with pytest.raises(RuntimeError, match="lost"):
        vocoder.append(state, mel(20), last=False)
    assert (state.emitted, state.start, state.mel.shape[0]) == (0, 0, 0)
    failing[0] = False
    made = vocoder.append(state, mel(20), last=True)
    assert difference([made], [plain_one_shot(20)]) <= SAME


def plain_one_shot(frames: int) -> Tensor:
    programs, plain().programs = plain().programs, None
    try:
        return plain().append(plain().open(seed=3), mel(frames), last=True)
    finally:
        plain().programs = programs


@BOTH
def test_joined_operations_give_the_samples_of_single_ones(family: str) -> None:
    """As on a GPU, where kernels compute convolutions and what is between them; the plain form of that part here."""
    over, streams = programmed(family), [[25, 9], [31]]
    over.generator.convolve = convolve_join_plain
    try:
        made = spoken(over, streams)
    finally:
        over.generator.convolve = None
    assert difference(made, spoken(plain(family), streams)) <= SAME


@BOTH
def test_a_batch_is_as_many_launches_as_one_stream(family: str) -> None:
    """Nothing is read back, and no stream has operations of its own: neither in the program nor around it."""
    over, launches = programmed(family), []
    for count in (1, STREAMS):
        pieces = [(over.open(seed), mel(20 + seed), False) for seed in range(count)]
        counter = OpCounter()
        with counter.read_backs_counted(), counter:
            over.append_all(pieces)
        assert counter.read_backs == 0
        launches.append(counter.kernels.total())
    assert launches[0] == launches[1]
