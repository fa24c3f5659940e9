"""Hops grow with the number of streams: the rule alone, its bounds, and what it changes under load in virtual time."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import Result, simulate
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.admission import BLOCKING_HOPS, HEADROOM, Demand, busy_share, least_hop
from services.decode.engine.backends import AudioFormat
from services.decode.engine.hops import HopPolicy
from services.decode.engine.scheduler import EngineLimits, Moment, Stream, deadline, next_hop_end, pick, ready_jobs
from services.decode.engine.service_time import ExtraWork, ServiceTime
from tests.unit.decode import decode_support as support

AUDIO, SIZES, BATCH = AudioFormat(), HopPolicy().sizes, 4
LEAST = st.sampled_from([0, 25, 50, 100, 1000])
PLANS = st.builds(ChunkPlan, st.integers(1, 100), st.sampled_from([10, 25, 50, 100])) | st.just(ChunkPlan())
POLICIES = st.sampled_from([HopPolicy(), HopPolicy(sizes=(25,)), HopPolicy(60, (50,)), HopPolicy(5, (10, 40))])


@cache
def times(base: float, per_token: float) -> ServiceTime:
    made = ServiceTime()
    for hops, tokens in ((1, 25), (1, 100), (2, 50), (4, 200)):
        made.observe(hops, tokens, base + per_token * tokens)
    return made


def size(count: int, known: ServiceTime, in_force: int = 0, patience: float = 0.5) -> int:
    return least_hop(count, SIZES, in_force, known, ExtraWork(), BATCH, 25.0, patience)


TIMES = st.builds(times, st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.sampled_from([0.0, 2e-4, 2e-3]))


@given(st.integers(0, 300), st.integers(0, 300), TIMES, st.sampled_from([0, *SIZES]), st.floats(0.05, 2.0))
def test_more_streams_never_mean_smaller_hops(
    few: int, more: int, known: ServiceTime, in_force: int, patience: float
) -> None:
    small, large = sorted((few, few + more))
    assert size(small, known, in_force, patience) <= size(large, known, in_force, patience)
    assert size(small, known, 0, patience) <= size(small, known, in_force, patience)


@given(st.integers(0, 300), TIMES, st.sampled_from([0, *SIZES]), st.floats(0.05, 2.0))
def test_hops_grow_no_further_than_the_load_needs_and_a_new_stream_can_wait(
    count: int, known: ServiceTime, in_force: int, patience: float
) -> None:
    def fits(one: int) -> bool:
        return not count or busy_share([Demand(one, 0.0, one)] * count, known, ExtraWork(), BATCH, 25.0) <= HEADROOM

    chosen = size(count, known, in_force, patience)
    assert chosen in SIZES
    assert not any(fits(one) for one in SIZES if one < chosen)
    if chosen > max(in_force, SIZES[0]):
        assert (BLOCKING_HOPS + 1) * known.seconds([chosen] * BATCH) <= patience


@given(st.integers(0, BATCH), st.floats(0, 1), st.floats(0, 0.01), st.floats(0.05, 0.5))
def test_hops_of_few_streams_never_grow_however_slow_the_machine_is(
    count: int, base: float, per_token: float, patience: float
) -> None:
    """One batch of small hops that takes most of a second is too long for larger ones."""
    assert size(count, times.__wrapped__(base, per_token), patience=patience) == SIZES[0]


def test_growth_counts_when_the_hops_have_grown() -> None:
    """While hops are small, large ones have not shown that they are less work: their tokens may arrive too late."""
    extra = ExtraWork()
    for _ in range(1000):
        extra.observe(1.0, 25, 25, 25.0)
    assert (extra.hops(25), extra.hops(50), extra.hops_if(50)) == pytest.approx((1.0, 2.0, 1.0))
    for _ in range(1000):
        extra.observe(2.0, 50, 50, 25.0)
    assert (extra.hops(50), extra.hops_if(25)) == pytest.approx((1.0, 1.0), rel=0.01)
    for _ in range(1000):
        extra.observe(1.0, 25, 50, 25.0)  # the load asks for hops of two seconds, and they have one
    assert (extra.hops(50), extra.hops_if(25)) == pytest.approx((2.0, 1.5), rel=0.01)


def test_hops_grow_when_the_small_ones_leave_no_time() -> None:
    known = times(0.1, 2e-4)  # 0.12 s for a batch of four hops of one second, 0.14 s for four of two seconds
    assert [size(count, known) for count in (0, 1, 28, 29, 48, 49, 500)] == [25, 25, 25, 50, 50, 50, 50]
    assert size(500, known, patience=0.6) == 100
    assert size(500, known, patience=0.3) == 25, "three batches of four hops of two seconds take longer"
    assert size(500, known, in_force=50, patience=0.3) == 50, "it is in force"
    assert size(1, known, in_force=50) == 25, "the load has gone"


@given(POLICIES, LEAST)
def test_a_grown_policy_keeps_the_sizes_that_suffice(policy: HopPolicy, least: int) -> None:
    grown = policy.at_least(least)
    assert set(grown.sizes) <= set(policy.sizes)
    assert grown.sizes[-1] == policy.sizes[-1]
    assert grown.sizes[0] >= min(least, policy.sizes[-1])
    assert grown.first_frames >= policy.first_frames
    assert grown.first_frames <= max(policy.first_frames, grown.sizes[0] * policy.frames_per_token // 2)
    assert policy.at_least(policy.sizes[0]) is policy


def stream(policy: HopPolicy, plan: ChunkPlan, prompt: int, hops: int, tokens: int, lead: float, ended: bool) -> Stream:
    """A stream that has decoded `hops` chunks and knows `tokens` tokens."""
    made = Stream(support.voice(prompt, hops=policy, plan=plan), 0.0, plan, tokens=[0] * tokens, ended=ended)
    for _ in range(hops):
        made.done = plan.boundary_at_or_after(max(made.done, prompt) + 1)
    made.done = min(made.done, made.available)
    if made.done > prompt:
        made.emitted, made.played = int(lead * AUDIO.sample_rate), (0.0, 0.0)
    return made


STREAMS = st.builds(
    stream,
    POLICIES,
    PLANS,
    st.integers(0, 120),
    st.integers(0, 6),
    st.integers(1, 400),
    st.floats(0, 10),
    st.booleans(),
)


@given(STREAMS, LEAST)
def test_growth_ends_hops_at_boundaries_of_known_tokens_and_makes_no_stream_wait(one: Stream, least: int) -> None:
    plain, grown = next_hop_end(one, 0.0, AUDIO), next_hop_end(one, 0.0, AUDIO, least)
    assert (plain is None) == (grown is None), "a grown hop waits for no more tokens"
    if plain is None or grown is None:
        return
    assert plain <= grown <= one.available
    if grown < one.available:
        assert one.plan.boundary_at_or_after(grown) == grown
    policy = one.spec.hops.at_least(least)
    assert grown <= max(plain, policy.hop_end(one.plan, one.prompt, one.done, 0.0, AUDIO.held_frames))
    if not one.ended:
        assert grown + AUDIO.lookahead_tokens <= one.available


@given(STREAMS)
def test_a_stream_waits_exactly_while_tokens_of_its_next_hop_are_missing(one: Stream) -> None:
    policy, lead = one.spec.hops, one.lead(0.0, AUDIO.sample_rate)
    end = policy.hop_end(one.plan, one.prompt, one.done, lead, AUDIO.held_frames)
    known = one.done < one.available if one.ended else end + AUDIO.lookahead_tokens <= one.available
    assert (next_hop_end(one, 0.0, AUDIO) is not None) == known


@settings(max_examples=40)
@given(st.lists(STREAMS, min_size=1, max_size=8), LEAST, TIMES, st.integers(1, 8))
def test_grown_hops_run_by_deadline(streams: list[Stream], least: int, known: ServiceTime, most: int) -> None:
    limits = EngineLimits(max_batch=most)
    moment = Moment(0.0, AUDIO, limits, known, lambda _: 0, least)
    plain = ready_jobs(streams, replace(moment, least=0))
    jobs = ready_jobs(streams, moment)
    assert [(job.stream, job.deadline) for job in jobs] == [(job.stream, job.deadline) for job in plain]
    batch = pick(jobs, deadline, moment)
    assert bool(jobs) <= len(batch) <= most
    assert batch == sorted(batch, key=deadline)
    left = [deadline(job) for job in jobs if job not in batch and not job.stream.begins]
    assert not left or max(map(deadline, batch)) <= min(left)


LOAD: dict[str, Any] = {
    "decode_workers": 1,
    "llm": {"steps_per_turn": 8, "max_running": 256},
    "decode": {"decode_max_batch_size": 2, "decode_max_streams": 256, "decode_max_queue": 256},
    "sentence_seconds": 6.0,
    "seconds": 15.0,
}
CAPACITY = 1 / 0.12 * 2
"""Streams that keep the worker busy with batches of two hops of one second."""


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("costs")
    decode = {"batch_s": 0.11, "stream_s": 0.0025, "frame_s": 5e-5, "holdback_frames": 8, "pair_s": 0.0}
    llm = {"step_s": 0.001, "step_s_per_sequence": 1e-5, "prefill_s_per_token": 1e-5, "tokens_per_text_id": 6.0}
    (folder / "decode.json").write_text(json.dumps(decode))
    (folder / "llm.json").write_text(json.dumps(llm))
    return {"decode_cost_file": folder / "decode.json", "llm_cost_file": folder / "llm.json"}


def loaded(costs: dict[str, Path], load: float, **fields: Any) -> Result:
    """Simulate a load in shares of the capacity."""
    rate = load * CAPACITY / LOAD["sentence_seconds"]
    return simulate(make_scenario({**LOAD, **costs, "rate": rate, **fields}))


def test_an_overloaded_worker_accepts_more_streams_and_none_runs_dry(costs: dict[str, Path]) -> None:
    grown, fixed = (loaded(costs, 1.8, **one).report for one in ({}, {"hop_tokens": (25,)}))
    assert fixed.refused > 0.2 * fixed.asked
    assert grown.refused < 0.5 * fixed.refused
    for report in (grown, fixed):
        assert report.failed == report.streams_with_underrun == 0


def test_growth_changes_no_sample(costs: dict[str, Path]) -> None:
    few = {"tones": True, "seconds": 4.0, "rate": 3.0, "decode": {**LOAD["decode"], "decode_max_batch_size": 1}}
    grown, fixed = (loaded(costs, 1.0, **few, **one) for one in ({}, {"hop_tokens": (25,)}))
    assert grown.report.first_audio != fixed.report.first_audio, "the first hops have other sizes"
    pairs = zip(grown.sessions, fixed.sessions, strict=True)
    both = [pair for pair in pairs if not any(one.outcome.error for one in pair)]
    assert len(both) > 5
    assert all(one.audio == other.audio for one, other in both)


def test_hops_do_not_grow_while_small_ones_suffice(costs: dict[str, Path]) -> None:
    """Without admission they never grow with the number of streams."""
    unlimited = {**LOAD["decode"], "decode_admission": "off"}
    limited, free = (loaded(costs, 0.4, seconds=6.0, **one).report for one in ({}, {"decode": unlimited}))
    assert limited.asked == free.asked > limited.refused == 0
    for one, other in zip(astuple(limited.first_audio), astuple(free.first_audio), strict=True):
        assert one == pytest.approx(other)
