"""Requests that this gateway has served, by decode worker: the figures of LightTTS's `/concurrent_stats`.

Only the llm service has a list of decode workers. The gateway sees those that decoded its utterances, because the start
and the end of every utterance name them.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, Field

MAX_WORKERS = 256
"""Workers kept, because pods come and go; the least recently seen are evicted."""


class RunningUtterance(Protocol):
    """The part of an utterance that the statistics read."""

    decode_worker: str
    """Address; empty while unknown."""

    @property
    def waiting(self) -> int:
        """Audio messages that wait for the reader."""


class WorkerStats(BaseModel):
    requests_processed: int = Field(description="Utterances that it has finished for this gateway.")
    average_processing_time: float = Field(description="Seconds per utterance, from its text to its last audio.")


class QueueStatus(BaseModel):
    request_queue: int = Field(description="Utterances of this gateway that it decodes now.")
    response_queue: int = Field(description="Audio messages of these utterances that wait for their clients.")


class ConcurrentStats(BaseModel):
    """Requests of all APIs since this gateway started; the workers are those that decoded its utterances."""

    mode: str = "microservices"
    gpu_count: int = Field(description="Decode workers seen; each may have a GPU of its own.")
    total_requests: int = Field(description="Accepted requests, including running and cancelled ones.")
    completed_requests: int
    failed_requests: int
    success_rate: float = Field(description="Completed / (completed + failed); 1 before the first.")
    gpu_stats: dict[str, WorkerStats]
    queue_status: dict[str, QueueStatus]


@dataclass
class _Work:
    utterances: int = 0
    seconds: float = 0.0


@dataclass
class RequestStats:
    """Counts requests and utterances. One per gateway process."""

    clock: Callable[[], float] = time.monotonic
    _total: int = 0
    _completed: int = 0
    _failed: int = 0
    _running: dict[int, RunningUtterance] = field(default_factory=dict)
    """By identity: utterances are dataclasses, and equal ones may run at the same time."""
    _workers: OrderedDict[str, _Work] = field(default_factory=OrderedDict)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count the block as a request. An error that leaves the block counts as failed; a cancellation does not."""
        self._total += 1
        try:
            yield
        except Exception:
            self._failed += 1
            raise
        self._completed += 1

    @contextlib.contextmanager
    def utterance(self, utterance: RunningUtterance) -> Iterator[None]:
        """Count the block as a running utterance; when it ends without an error, count it for its decode worker."""
        started = self.clock()
        self._running[id(utterance)] = utterance
        try:
            yield
        finally:
            self._running.pop(id(utterance), None)
        work = self._workers.setdefault(utterance.decode_worker, _Work())
        work.utterances += 1
        work.seconds += self.clock() - started
        self._workers.move_to_end(utterance.decode_worker)
        while len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

    def snapshot(self) -> ConcurrentStats:
        """Return the current figures."""
        running: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for utterance in self._running.values():
            running[utterance.decode_worker] += 1
            waiting[utterance.decode_worker] += utterance.waiting
        names = sorted(name for name in {*self._workers, *running} if name)
        done = {name: self._workers.get(name, _Work()) for name in names}
        ended = self._completed + self._failed
        return ConcurrentStats(
            gpu_count=len(names),
            total_requests=self._total,
            completed_requests=self._completed,
            failed_requests=self._failed,
            success_rate=self._completed / ended if ended else 1.0,
            gpu_stats={
                name: WorkerStats(
                    requests_processed=work.utterances,
                    average_processing_time=work.seconds / work.utterances if work.utterances else 0.0,
                )
                for name, work in done.items()
            },
            queue_status={
                name: QueueStatus(request_queue=running[name], response_queue=waiting[name]) for name in names
            },
        )
