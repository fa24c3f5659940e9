"""Quotas of one process, with a simulated clock."""

from __future__ import annotations

import pytest

from gateway.auth.caller import ANONYMOUS, Caller
from gateway.auth.quota import LocalQuotas
from services.common.errors import QuotaExceeded, to_status


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def caller(name: str = "app", **limits: float) -> Caller:
    return Caller(name, name, **limits)  # type: ignore[arg-type]  # numbers of either kind


async def test_a_rate_allows_a_burst_and_then_the_average() -> None:
    clock = Clock()
    quotas, app = LocalQuotas(clock), caller(requests_per_minute=60, burst=3)
    for _ in range(3):
        await quotas.spend(app)
    with pytest.raises(QuotaExceeded, match="60 requests per minute; try again in 1 s") as refusal:
        await quotas.spend(app)
    assert refusal.value.retry_after == pytest.approx(1.0)
    clock.now += 0.999
    with pytest.raises(QuotaExceeded):
        await quotas.spend(app)
    clock.now += 0.001001
    await quotas.spend(app)
    clock.now += 3600
    for _ in range(3):
        await quotas.spend(app)
    with pytest.raises(QuotaExceeded):
        await quotas.spend(app)


async def test_streams_are_counted_per_key_and_released_after_errors_too() -> None:
    quotas, app, other = LocalQuotas(Clock()), caller(max_streams=1), caller("other", max_streams=1)

    async def fail() -> None:
        async with quotas.stream(app), quotas.stream(other):
            with pytest.raises(QuotaExceeded, match="1 streams at once"):
                await quotas.stream(app).__aenter__()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with quotas.stream(app):
        pass


async def test_a_stream_refused_for_its_rate_holds_no_place() -> None:
    clock = Clock()
    quotas, app = LocalQuotas(clock), caller(max_streams=1, requests_per_minute=1, burst=1)
    async with quotas.stream(app):
        pass
    with pytest.raises(QuotaExceeded, match="per minute"):
        async with quotas.stream(app):
            pass
    clock.now += 60
    async with quotas.stream(app):
        pass


async def test_a_caller_without_limits_is_never_refused() -> None:
    quotas = LocalQuotas(Clock())
    for _ in range(100):
        async with quotas.stream(ANONYMOUS), quotas.stream(ANONYMOUS):
            pass


def test_a_refusal_names_the_key() -> None:
    status = to_status(QuotaExceeded("too much", retry_after=2, subject="app"))
    kinds = [detail.TypeName() for detail in status.details]
    assert kinds == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.QuotaFailure"]
