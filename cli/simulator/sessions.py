"""The gateways and their clients: sessions of several sentences, as the real gateway speaks them.

Each sentence is an utterance of the real gateway code; one is generated ahead of the one that is delivered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
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
from services.common.errors import LightTtsError, Overloaded
from services.common.voices.message import to_message
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import MovePolicy

QUEUE_MESSAGES = 8
"""Audio messages that a gateway holds for a slow reader, as by default."""


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
    """How often a decode or an llm worker was lost and another one continued."""

    @property
    def cut(self) -> bool:
        """Whether it ended with an error after audio."""
        return self.outcome.error is not None and self.outcome.audio_seconds > 0


class Gateway:
    """One gateway: its pool of llm workers and what its sessions share."""

    def __init__(self, world: World, llm: Group, name: str) -> None:
        scenario, clock = world.scenario, world.loop.time
        self.world = world
        self.pool = world.pool(llm, "lighttts.v1.Llm", f"llm of {name}")
        self.llm = LlmClientContext(
            pool=self.pool,
            policy=MovePolicy(patience_seconds=scenario.patience_seconds)
            if scenario.freezes
            else MovePolicy(silence_seconds=NEVER, patience_seconds=scenario.patience_seconds, frozen_seconds=0),
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
    """One session while it speaks; `gateway.session.turn` has the original."""

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
            for _ in range(self._gateway.world.scenario.sentences):
                await self._deliver(await self._order.get())
                self._slots.release()

    async def _plan(self, group: asyncio.TaskGroup) -> None:
        gateway, scenario = self._gateway, self._gateway.world.scenario
        ids = round(scenario.sentence_seconds * gateway.world.model.token_rate / scenario.llm_costs.tokens_per_text_id)
        newest: UtteranceStream | None = None
        for number in range(scenario.sentences):
            if not self._place.admitted:
                gateway.llm.recent_refusal.check(audio_pb2.Urgency.PRIORITY_UNSPECIFIED)
            await asyncio.sleep(scenario.encode_seconds)
            await self._slots.acquire()
            if newest is not None:
                await newest.audible.wait()
            start = llm_pb2.GenerateStart(
                request_id=self._place.session,
                voice_hash=gateway.voice.voice_hash,
                seed=utterance_seed(self._seed, 0, number),
                text_order=llm_pb2.TEXT_ORDER_WHOLE,
                speed=1.0,
            )
            lead = partial(self._lead, number)
            rate = gateway.world.audio.sample_rate
            newest = UtteranceStream(gateway.llm, start, gateway.voice, rate, self._place, lead)
            newest.add_text([0] * max(1, ids), last=True)
            group.create_task(newest.run())
            await self._order.put(newest)

    def _lead(self, number: int) -> float:
        """Seconds until the listener has played the sentences before this one, as the gateway estimates them."""
        unsent = max(0.0, number * self._gateway.world.scenario.sentence_seconds - self._sent)
        return max(0.0, self._sent + SURE_SHARE * unsent - self._playback.position)

    async def _deliver(self, utterance: UtteranceStream) -> None:
        world, samples, audio = self._gateway.world, 0, b""
        answer = self._session.outcome.answer
        async for part in utterance.parts:
            if not isinstance(part, AudioPart):
                self._session.moves += 1
                continue
            count = len(part.pcm) // FLOAT_BYTES
            seconds, now = count / world.audio.sample_rate, world.loop.time() + world.scenario.network_seconds
            samples += count
            if count:
                answer.first_byte_at = now if answer.first_byte_at is None else answer.first_byte_at
                answer.playback.take(now, seconds)
                answer.playback.heard_at = answer.playback.began_at
                self._playback.sent(seconds)
                self._sent += seconds
            if world.scenario.tones:
                audio += part.pcm
        self._session.samples.append(samples * world.model.sample_rate // world.audio.sample_rate)
        self._session.audio.append(audio)
