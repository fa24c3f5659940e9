"""Speech tokens are aligned with the text: the monotonic path, and the same path however the engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from services.common.checkpoint.model_dir import AlignmentHead, ModelDir, open_model_dir
from services.common.engine.shell import FailedEvent
from services.llm.alignment.aligner import Aligner
from services.llm.alignment.calibration import Scores, Spoken, score_heads
from services.llm.alignment.monotonic import REACH, Aligned, follow
from services.llm.alignment.queries import QueryTap
from services.llm.engine.engine import LlmEngine
from services.llm.engine.layout import InputCodes
from services.llm.engine.scheduler import EngineLimits
from services.llm.engine.sequence import Request, SamplingOptions, Sequence
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from tests.unit.llm.llm_support import ROOT, Listener, MakeEngine, utterance

HEADS = (AlignmentHead(1, 0, 1.0), AlignmentHead(0, 3, 1.0), AlignmentHead(0, 2, 1.0))
LIMITS = EngineLimits(max_running=8, total_tokens=4096, max_request_tokens=512)


def path_of(scores: np.ndarray, start: int = 0) -> list[int]:
    path, position = [], start
    for row in scores.tolist():
        position = follow(row, 0, position).position
        path.append(position)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_the_path_follows_a_noisy_diagonal(seed: int) -> None:
    random = np.random.default_rng(seed)
    spoken = np.repeat(np.arange(12), random.integers(1, 8, 12))
    scores = random.normal(0, 1, (len(spoken), 12)) + 8 * np.eye(12)[spoken]
    path = path_of(scores)
    assert np.abs(np.array(path) - spoken).max() <= 1
    assert np.mean(np.array(path) == spoken) > 0.9
    assert all(later >= earlier for earlier, later in pairwise(path))


def test_the_path_never_goes_back_and_never_jumps_beyond_its_reach() -> None:
    random = np.random.default_rng(1)
    path = path_of(random.normal(0, 5, (200, 60)))
    assert all(0 <= later - earlier < REACH for earlier, later in pairwise(path))


def test_the_place_is_all_the_state() -> None:
    scores = np.random.default_rng(2).normal(0, 3, (40, 20))
    whole = path_of(scores)
    assert all(path_of(scores[cut:], whole[cut - 1]) == whole[cut:] for cut in range(1, 40))


def test_a_window_gives_what_all_scores_give() -> None:
    row = list(np.random.default_rng(3).normal(0, 2, 30))
    assert follow(row[6:20], 6, 10) == follow(row, 0, 10)


@pytest.mark.parametrize("scores", [[], [float("nan")] * 4, [float("inf"), 0.0, 0.0]])
def test_scores_that_say_nothing_leave_the_place(scores: list[float]) -> None:
    assert follow(scores, 0, 0) == Aligned(0, 0.0)


def test_confidence_is_the_share_of_the_attention_around() -> None:
    even, sure = follow([0.0, 0.0, 0.0, 0.0], 0, 0), follow([0.0, 50.0, 0.0], 0, 0)
    assert (even.position, sure.position) == (0, 1)
    assert [even.confidence, sure.confidence] == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize(
    ("around", "confidence"),
    [([-float("inf"), 1.0, 1.0], 0.5), ([float("nan"), 1.0, 1.0], 0.5), ([2000.0, 1.0, 0.0], 0.0)],
    ids=["masked", "not a number", "far greater"],
)
def test_confidence_withstands_extreme_scores_behind(around: list[float], confidence: float) -> None:
    found = follow(around, 0, 1)
    assert found.position == 1
    assert found.confidence == pytest.approx(confidence)


def requests() -> list[Request]:
    return [utterance(number) for number in range(4)]


def backend(model: SpeechLM, **options: object) -> TorchBackend:
    return TorchBackend(model, options=TorchOptions(alignment=HEADS, **options))  # type: ignore[arg-type]


def aligned_of(listener: Listener) -> list[Aligned]:
    assert listener.error is None
    return [place for event in listener.events if not isinstance(event, FailedEvent) for place in event.aligned]


def run_all(engine: LlmEngine, wanted: list[Request]) -> list[Listener]:
    listeners = [Listener() for _ in wanted]
    for request, listener in zip(wanted, listeners, strict=True):
        engine.submit(request, listener)
    return [listener.wait() for listener in listeners]


@pytest.fixture(scope="module")
def alone(make_engine: MakeEngine, mini_model: SpeechLM) -> list[Listener]:
    """Each request on its own, one step at a time."""
    with make_engine(LIMITS, backend(mini_model)) as engine:
        return [run_all(engine, [request])[0] for request in requests()]


def expected(mini_dir: ModelDir, model: SpeechLM, request: Request, listener: Listener) -> Iterator[Aligned]:
    """The path by a plain computation: one pass over everything that was fed, every head's logits at all text ids."""
    sequence = Sequence(request, mini_dir, 512, 0)
    for token in listener.raw_ids:
        sequence.layout.accept(token)
    inputs, slots = sequence.layout.inputs, torch.tensor(sequence.layout.text_slots)
    blocks = tuple(range(-(-len(inputs) // 16)))
    cache = KVCache(model.config, len(blocks), 16, torch.device("cpu"), torch.float32)

    class Everything(QueryTap):
        def __init__(self) -> None:
            super().__init__({})
            self.queries: dict[int, torch.Tensor] = {}

        def take(self, layer: int, query: torch.Tensor, last: torch.Tensor) -> None:
            self.queries[layer] = query.flatten(1, 2)

    tap = Everything()
    with torch.inference_mode():
        model(build_batch([SequenceInput(inputs, 0, blocks)], 16, torch.device("cpu"), tap), cache)
    group = model.config.num_heads // model.config.num_kv_heads
    logits = torch.stack(
        [
            tap.queries[head.layer][:, head.head]
            @ cache.keys_at(head.layer, head.head // group, slots // 16, slots % 16).T
            / model.config.head_dim**0.5
            for head in HEADS
        ]
    ).mean(0)
    position = 0
    for place in range(len(inputs) - len(listener.raw_ids) - 1, len(inputs) - 1):
        found = follow(logits[place].tolist(), 0, position)
        position = found.position
        yield found


def test_steps_give_the_path_of_the_whole_attention(
    mini_dir: ModelDir, mini_model: SpeechLM, alone: list[Listener]
) -> None:
    for request, listener in zip(requests(), alone, strict=True):
        places = list(expected(mini_dir, mini_model, request, listener))
        assert len(places) == len(listener.ids) > 3
        assert [place.position for place in aligned_of(listener)] == [place.position for place in places]
        assert [place.confidence for place in aligned_of(listener)] == pytest.approx(
            [place.confidence for place in places], abs=1e-4
        )


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        (LIMITS, {}),
        (LIMITS, {"cpu_graph": True}),
        (replace(LIMITS, steps_per_turn=8), {"program_sizes": (2, 4, 8), "program_tokens": 512}),
        (LIMITS, {"prefill_sizes": (64, 128), "program_sizes": (8,), "program_tokens": 512}),
        (replace(LIMITS, total_tokens=512, prefill_tokens=16), {}),
    ],
    ids=["batch", "cpu graph", "several steps", "prompt programs", "preempted"],
)
def test_the_path_is_the_same_however_the_engine_runs(
    limits: EngineLimits,
    options: dict[str, object],
    make_engine: MakeEngine,
    mini_model: SpeechLM,
    alone: list[Listener],
) -> None:
    with make_engine(limits, backend(mini_model, **options)) as engine:
        for listener, reference in zip(run_all(engine, requests()), alone, strict=True):
            assert listener.ids == reference.ids
            assert [place.position for place in aligned_of(listener)] == [
                place.position for place in aligned_of(reference)
            ]


@pytest.mark.parametrize("order", ["whole", "interleaved"])
def test_an_utterance_that_moves_keeps_its_path(
    order: Literal["whole", "interleaved"], make_engine: MakeEngine, mini_model: SpeechLM
) -> None:
    request = replace(utterance(2), text_order=order)
    with make_engine(LIMITS, backend(mini_model)) as engine:
        [whole] = run_all(engine, [request])
        events = [event for event in whole.events if not isinstance(event, FailedEvent)]
        assert len(aligned_of(whole)) == len(whole.ids)
        for cut in (1, len(events) // 2):
            raw = tuple(i for event in events[:cut] for i in event.raw_ids)
            [rest] = run_all(engine, [replace(request, resume_ids=raw, text_position=events[cut - 1].text_position)])
            before = [place.position for event in events[:cut] for place in event.aligned]
            assert before + [place.position for place in aligned_of(rest)] == [
                place.position for place in aligned_of(whole)
            ]


def test_an_utterance_whose_place_is_lost_is_not_aligned(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    with make_engine(LIMITS, backend(mini_model)) as engine:
        [whole] = run_all(engine, [utterance(2)])
        [rest] = run_all(engine, [replace(utterance(2), resume_ids=whole.raw_ids[:3], text_position=None)])
    assert rest.ids == whole.ids[3:]
    assert aligned_of(rest) == []


def test_heads_that_are_not_good_enough_are_not_used(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    weak = TorchBackend(mini_model, options=TorchOptions(alignment=(AlignmentHead(0, 0, 0.2),)))
    with make_engine(LIMITS, weak) as engine:
        [listener] = run_all(engine, [utterance(1)])
    assert not weak.aligns
    assert aligned_of(listener) == []


def test_calibration_tells_guided_heads_from_the_others() -> None:
    """The embedded voice was trained with two guided heads, and its directory declares them."""
    model_dir = open_model_dir(ROOT / "models" / "tiny")
    model, codes = load_speech_lm(model_dir), InputCodes(model_dir.llm)
    declared = {(head.layer, head.head) for head in model_dir.card.alignment}
    tokenizer = Tokenizer.from_file(str(model_dir.tokenizer_dir / "tokenizer.json"))
    text = tokenizer.encode("The water was not fit to drink.").ids
    engine = LlmEngine(TorchBackend(model), model_dir, LIMITS)
    try:
        request = Request(tuple(text), sampling=SamplingOptions(seed=3))
        [listener] = run_all(engine, [request])
    finally:
        engine.close()
    inputs = [codes.sos, *text, codes.task]
    spoken = Spoken([*inputs, *map(codes.speech, listener.ids)], range(1, 1 + len(text)), len(inputs) - 1)
    scores = Scores()
    scores.add(score_heads(model, spoken))
    assert scores.top() > 0.5
    best = scores.best()[0]
    assert (best.layer, best.head) in declared
    assert Aligner(model_dir.card.alignment, model_dir.llm).width == model_dir.llm.head_dim


def test_no_head_is_declared_for_attention_that_does_not_follow(mini_dir: ModelDir, mini_model: SpeechLM) -> None:
    codes = InputCodes(mini_dir.llm)
    inputs = [codes.sos, *range(20, 32), codes.task, *map(codes.speech, range(40))]
    scores = Scores()
    scores.add(score_heads(mini_model, Spoken(inputs, range(1, 13), 13)))
    assert scores.best() == ()
