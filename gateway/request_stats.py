"""What this gateway has served, by decode worker: the figures of LightTTS's `/concurrent_stats`.

The gateway has no list of decode workers; the llm service does. It knows those that have spoken for it, because every
utterance's start and end name them.
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
"""Workers remembered; pods come and go, and those not heard of for longest are forgotten."""


class Speaking(Protocol):
    """An utterance, as the ledger sees it."""

    decode_worker: str
    """Empty until it is known."""

    @property
    def waiting(self) -> int:
        """Audio messages that wait for the listener."""


class WorkerStats(BaseModel):
    requests_processed: int = Field(description="Utterances it has finished for this gateway.")
    average_processing_time: float = Field(description="Seconds per utterance, from its text to its last audio.")


class QueueStatus(BaseModel):
    request_queue: int = Field(description="Utterances it is speaking for this gateway now.")
    response_queue: int = Field(description="Audio messages of theirs that wait for their listeners.")


class ConcurrentStats(BaseModel):
    """Requests of all interfaces since this gateway started; workers are those that have spoken for it."""

    mode: str = "microservices"
    gpu_count: int = Field(description="Decode workers known; each may have a GPU of its own.")
    total_requests: int = Field(description="Accepted, those running and cancelled included.")
    completed_requests: int
    failed_requests: int
    success_rate: float = Field(description="Completed of completed and failed; 1 before there is any.")
    gpu_stats: dict[str, WorkerStats]
    queue_status: dict[str, QueueStatus]


@dataclass
class _Work:
    utterances: int = 0
    seconds: float = 0.0


@dataclass
class RequestStats:
    """Counts. One per gateway process."""

    clock: Callable[[], float] = time.monotonic
    _total: int = 0
    _completed: int = 0
    _failed: int = 0
    _speaking: list[Speaking] = field(default_factory=list)
    _workers: OrderedDict[str, _Work] = field(default_factory=OrderedDict)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """A request runs while the block does; an error that leaves it has failed it, a cancellation has not."""
        self._total += 1
        try:
            yield
        except Exception:
            self._failed += 1
            raise
        self._completed += 1

    @contextlib.contextmanager
    def utterance(self, utterance: Speaking) -> Iterator[None]:
        """An utterance runs while the block does; it counts for its worker once it has been spoken to its end."""
        started = self.clock()
        self._speaking.append(utterance)
        try:
            yield
        finally:
            # By identity: utterances are dataclasses, and equal ones may run side by side.
            self._speaking = [other for other in self._speaking if other is not utterance]
        work = self._workers.setdefault(utterance.decode_worker, _Work())
        work.utterances += 1
        work.seconds += self.clock() - started
        self._workers.move_to_end(utterance.decode_worker)
        while len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

    def snapshot(self) -> ConcurrentStats:
        """The figures now."""
        running: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for utterance in self._speaking:
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
