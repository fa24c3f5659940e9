"""The bound on how often one event is logged."""

from __future__ import annotations

import logging

import pytest
import structlog

from services.common.log_rate import BURST, LINES_PER_SECOND, LogRate
from services.common.telemetry import configure_logging
from tests.support.clock import ManualClock as Clock


def line(message: object, name: str = "gateway") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, message, ("10.0.0.1",), None)


def test_a_flood_is_cut_and_counted() -> None:
    clock = Clock()
    rate = LogRate(clock)
    assert sum(rate.filter(line("refused %s")) for _ in range(10 * BURST)) == BURST
    assert rate.filter(line("another event %s"))
    clock.now += 1 / LINES_PER_SECOND
    next_line = line("refused %s")
    assert rate.filter(next_line)
    assert next_line.__dict__["dropped_lines"] == 9 * BURST
    assert not rate.filter(line("refused %s"))


def test_values_do_not_make_another_event() -> None:
    rate = LogRate(Clock())
    written = sum(rate.filter(line({"event": "refused", "address": str(n)})) for n in range(10 * BURST))
    assert written == BURST


def test_audit_lines_are_all_written() -> None:
    rate = LogRate(Clock())
    assert all(rate.filter(line({"event": "voice created"}, "gateway.audit")) for _ in range(10 * BURST))


def test_every_process_bounds_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logging("gateway", "g", "info", "json")
        for number in range(10 * BURST):
            logging.getLogger("asyncio").error("accept failed: %s", number)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    assert BURST <= len(capsys.readouterr().err.splitlines()) < 3 * BURST
