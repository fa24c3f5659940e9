"""The gateways and their clients: sessions of several sentences, as the real gateway speaks them.

Each sentence is an utterance of the real gateway code; one is generated ahead of the one that is delivered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial

from cli.bench.generator import Outcome
from cli.client import ClientError, Refused
from cli.simulator.process import Group, World
from cli.simulator.processes import MODEL_ID
from cli.simulator.virtual_time import NEVER
from gateway import tasks
from gateway.audio.samples import FLOAT_BYTES
from gateway.request_stats import RequestStats
from gateway.session.playback import PlaybackClock
from gateway.session.turn import SURE_SHARE, UTTERANCES_AHEAD, utterance_seed
from gateway.utterance.recent_refusal import RecentRefusal
from gateway.utterance.utterance import AudioPart, LlmClientContext, UtteranceStream
from lighttts.v1 import audio_pb2, llm_pb2
from services.common.errors import Internal, LightTtsError, Overloaded, Unavailable
from services.common.voices.message import to_message
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import MovePolicy

QUEUE_MESSAGES = 8
"""Audio messages that a gateway holds for a slow reader, as by default."""
RESTARTS = MovePolicy().max_moves
"""Restarts of a sentence, at most, in a gateway that restarts one instead of continuing it."""


@dataclass
class Session:
    """One session: what its listener received."""

    outcome: Outcome
    refused_by: str = ""
    """The stage that refused it."""
    samples: list[int] = field(default_factory=list)
    """Samples of each sentence that was completed."""
    audio: list[bytes] = field(default_factory=list)
    """Samples of each sentence, float32; only with tones."""
    moves: int = 0
    """How often a decode or an llm worker was lost and another one continued, or the sentence was restarted."""
    repeated: float = 0.0
    """Seconds of audio that were received a second time."""

    @property
    def cut(self) -> bool:
        """Whether it ended with an error after audio."""
        return self.outcome.error is not None and self.outcome.audio_seconds > 0


class Gateway:
    """One gateway: its pool of llm workers and what its sessions share."""

    def __init__(self, world: World, llm: Group, name: str) -> None:
        scenario, clock = world.scenario, world.loop.time
        policy = MovePolicy(patience_seconds=scenario.patience_seconds)
        if not scenario.finds_freezes:
            policy = replace(policy, silence_seconds=NEVER, frozen_seconds=0)
        if scenario.on_loss != "resume":
            policy = replace(policy, max_moves=0)
        self.world = world
        self.pool = world.pool(llm, "lighttts.v1.Llm", f"llm of {name}")
        self.llm = LlmClientContext(
            pool=self.pool,
            policy=policy,
            request_stats=RequestStats(clock),
            queue_messages=QUEUE_MESSAGES,
            failover_budget=FailoverBudget(clock, world.chance),
            clock=clock,
            process_clock=clock,
            recent_refusal=RecentRefusal(scenario.refusal_seconds, clock),
        )
        self.voice = to_message(world.voice, MODEL_ID)

    async def speak(self, session: Session, seed: int) -> None:
        """Speak a session to its end; its outcome has the error if it fails."""
        try:
            await _Speech(self, session, seed).run()
        except LightTtsError as error:
            if isinstance(error, Overloaded):
                session.refused_by = error.stage
                session.outcome.error = Refused(error.message)
            else:
                session.outcome.error = ClientError(error.message)
        session.outcome.ended_at = self.world.loop.time()


class _Speech:
    """One session while it speaks; `gateway.session.turn` has the original. Restarts belong to other servers."""

    def __init__(self, gateway: Gateway, session: Session, seed: int) -> None:
        self._gateway, self._session, self._seed = gateway, session, seed
        self._place = audio_pb2.SessionPlace(session=f"session {seed}")
        self._playback = PlaybackClock(None, gateway.world.loop.time)
        self._sent = 0.0
        """Seconds of audio sent."""
        self._slots = asyncio.Semaphore(1 + UTTERANCES_AHEAD)
        self._order: asyncio.Queue[UtteranceStream] = asyncio.Queue()

    async def run(self) -> None:
        async with tasks.group() as group:
            group.create_task(self._plan(group))
            for number in range(self._gateway.world.scenario.sentences):
                await self._deliver_whole(number, await self._order.get(), group)
                self._slots.release()

    async def _plan(self, group: asyncio.TaskGroup) -> None:
        gateway, scenario = self._gateway, self._gateway.world.scenario
        newest: UtteranceStream | None = None
        for number in range(scenario.sentences):
            if not self._place.admitted:
                gateway.llm.recent_refusal.check(audio_pb2.Urgency.PRIORITY_UNSPECIFIED)
            await asyncio.sleep(scenario.encode_seconds)
            await self._slots.acquire()
            if newest is not None:
                await newest.audible.wait()
            newest = self._begin(number, group)
            await self._order.put(newest)

    def _begin(self, number: int, group: asyncio.TaskGroup) -> UtteranceStream:
        """Begin a sentence."""
        gateway, scenario = self._gateway, self._gateway.world.scenario
        ids = round(scenario.sentence_seconds * gateway.world.model.token_rate / scenario.llm_costs.tokens_per_text_id)
        start = llm_pb2.GenerateStart(
            request_id=self._place.session,
            voice_hash=gateway.voice.voice_hash,
            seed=utterance_seed(self._seed, 0, number),
            text_order=llm_pb2.TEXT_ORDER_WHOLE,
            speed=1.0,
        )
        rate = gateway.world.audio.sample_rate
        utterance = UtteranceStream(gateway.llm, start, gateway.voice, rate, self._place, partial(self._lead, number))
        utterance.add_text([0] * max(1, ids), last=True)
        group.create_task(utterance.run())
        return utterance

    def _lead(self, number: int) -> float:
        """Seconds until the listener has played the sentences before this one, as the gateway estimates them."""
        unsent = max(0.0, number * self._gateway.world.scenario.sentence_seconds - self._sent)
        return max(0.0, self._sent + SURE_SHARE * unsent - self._playback.position)

    async def _deliver_whole(self, number: int, utterance: UtteranceStream, group: asyncio.TaskGroup) -> None:
        """Deliver a sentence; start it again if its worker is lost and the scenario says so."""
        world, received = self._gateway.world, _Received()
        while True:
            try:
                await self._deliver(utterance, received)
                break
            except (Internal, Unavailable):
                if world.scenario.on_loss not in ("skip", "repeat") or received.restarts == RESTARTS:
                    raise
            received.restarts += 1
            self._session.moves += 1
            utterance = self._begin(number, group)
        self._session.samples.append(received.samples * world.model.sample_rate // world.audio.sample_rate)
        self._session.audio.append(received.pcm)

    async def _deliver(self, utterance: UtteranceStream, received: _Received) -> None:
        world, position = self._gateway.world, 0
        async for part in utterance.parts:
            if not isinstance(part, AudioPart):
                self._session.moves += 1
                continue
            position += len(part.pcm) // FLOAT_BYTES
            new = max(0, position - received.samples)
            again = len(part.pcm) // FLOAT_BYTES - new
            received.samples += new
            if world.scenario.tones:
                received.pcm += part.pcm[again * FLOAT_BYTES :]
            if world.scenario.on_loss == "repeat":
                self._session.repeated += again / world.audio.sample_rate
                new += again
            if new:
                self._send(new / world.audio.sample_rate)

    def _send(self, seconds: float) -> None:
        """Send audio to the listener."""
        world, answer = self._gateway.world, self._session.outcome.answer
        now = world.loop.time() + world.scenario.network_seconds
        answer.first_byte_at = now if answer.first_byte_at is None else answer.first_byte_at
        answer.playback.take(now, seconds)
        answer.playback.heard_at = answer.playback.began_at
        self._playback.sent(seconds)
        self._sent += seconds


@dataclass
class _Received:
    """What the listener of a sentence has received."""

    samples: int = 0
    """Different ones: repeated samples count once."""
    pcm: bytes = b""
    """Float32; only with tones."""
    restarts: int = 0
