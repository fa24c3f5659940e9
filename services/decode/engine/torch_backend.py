"""The backend that computes: flow and vocoder of one checkpoint in PyTorch."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir
from services.common.checkpoint.weights import read_weights
from services.common.engine.precision import forbid_tf32
from services.decode.engine.backends import AudioFormat, BackendCounts, Hop, HopAudio, check_tokens
from services.decode.engine.memory import MOST_STREAMS, StateMemory
from services.decode.engine.program_memory import program_bytes
from services.decode.engine.prompt_cache import PromptCache
from services.decode.engine.state import ResumeRecord, StreamError, StreamSpec
from services.decode.estimators.compiled import rough_mel
from services.decode.flow.kv_cache import EMPTY_STATE, KvBlockPool, KvLayout, block_bytes, slot_bytes
from services.decode.flow.model import EstimatorFactory, Flow, FlowHop, FlowState
from services.decode.vocoder.build import build_vocoder
from services.decode.vocoder.context import measure_context
from services.decode.vocoder.stream import VocoderState
from services.decode.vocoder.stretch import Stretch

log = logging.getLogger(__name__)

_Piece = tuple[VocoderState, Tensor, bool]
"""Input of the vocoder: a stream's state, its new mel frames [n, mel], and whether they are its last."""


class NonFiniteAudio(ArithmeticError):
    """The model produced NaN or infinity; the input or the precision is unsuitable."""


@dataclass
class TorchState:
    """One stream. `skip` counts the (stretched) frames of a recomputed flow that another worker has already spoken."""

    flow: FlowState
    stretch: Stretch
    vocoder: VocoderState
    full_attention_last: bool
    voice: str
    skip: int = 0


@dataclass(frozen=True)
class _Spoken:
    """What a stream has spoken, to return to if its hop must be computed again."""

    stretch: Stretch
    vocoder: VocoderState
    skip: int

    @classmethod
    def of(cls, state: TorchState) -> _Spoken:
        return cls(copy.copy(state.stretch), replace(state.vocoder), state.skip)

    def restore(self, state: TorchState) -> None:
        state.stretch, state.skip = copy.copy(self.stretch), self.skip
        state.vocoder = replace(self.vocoder)


@dataclass(frozen=True)
class Precision:
    """Number types of the flow's computation and of its cache. The vocoder always runs in float32."""

    compute: torch.dtype = torch.float32
    state: torch.dtype = torch.float32


class TorchBackend:
    """Flow and vocoder on one device. Used by one thread at a time."""

    def __init__(
        self,
        model: ModelDir,
        device: str | torch.device = "cpu",
        precision: Precision | None = None,
        state_bytes: int | None = None,
        make_estimator: EstimatorFactory | None = None,
        program_streams: int = 0,
        memory_share: float = 1.0,
    ) -> None:
        """Load the checkpoint; `state_bytes` is the memory for streams' states.

        None means `default_budget` for a process that has `memory_share` of the device's memory and will record
        programs of up to `program_streams` streams.
        `make_estimator` replaces the estimator by an exported graph; it needs `state_bytes` 0.
        float32 operations run without TF32: `forbid_tf32` is called for the whole process.

        Raises ModelDirError if the weights are missing or do not fit, StartError if `state_bytes` exceeds the memory.
        """
        forbid_tf32()
        self.device = torch.device(device)
        self.format = AudioFormat.of(model)
        self.precision = precision or Precision()
        self.vocoder = build_vocoder(model, self.device)  # first: the flow divides the memory that is left
        weights = read_weights(model.weights_file("flow"))
        self._state_bytes, self._memory_share = state_bytes, memory_share
        self._program_bytes = program_bytes(model, self.precision.compute, program_streams) if program_streams else 0
        compute = self.precision.compute
        self.flow = Flow(model.flow, weights, self.device, compute, self._make_pool, make_estimator)
        self._beat: Callable[[], None] = lambda: None
        for layer in (*self.vocoder.generator.source_resblocks, *self.vocoder.generator.resblocks):
            layer.register_forward_hook(lambda *_: self._beat())
        self._hold_back()
        self.prompts = PromptCache(self.flow)
        self._recomputed = self._non_finite = 0
        self._memory_reported = False
        self._flow_s = self._vocoder_s = 0.0

    def _make_pool(self, layouts: Mapping[str, KvLayout], block_tokens: int) -> KvBlockPool:
        stored = self.precision.state
        sizes = block_bytes(layouts, stored), slot_bytes(layouts, {"estimator": self.precision.compute})
        self.memory = StateMemory.plan(
            self.device,
            self._memory_share,
            sizes,
            budget=self._state_bytes,
            most=MOST_STREAMS * -(-self.format.max_tokens // block_tokens),
            programs=self._program_bytes,
        )
        return KvBlockPool(layouts, block_tokens, self.memory.blocks, stored, self.device)

    @property
    def chunk_frames(self) -> int:
        """Mel frames of the plan's later chunks at speed 1."""
        return self.flow.config.chunk_tokens * self.flow.config.mel_frames_per_token

    def check(self, spec: StreamSpec) -> None:
        config, tokens = self.flow.config, spec.prompt_tokens.shape[0]
        frames = self.format.frames_per_token * tokens
        if spec.prompt_mel.shape != (frames, config.output_size):
            raise StreamError(
                f"the prompt mel is {list(spec.prompt_mel.shape)}, but {tokens} prompt tokens need "
                f"[{frames}, {config.output_size}]; cut both to the same duration"
            )
        if spec.embedding.shape != (config.speaker_dim,):
            raise StreamError(f"the speaker embedding is {list(spec.embedding.shape)}, expected [{config.speaker_dim}]")
        if not (np.isfinite(spec.prompt_mel).all() and np.isfinite(spec.embedding).all()):
            raise StreamError("the voice contains values that are not finite numbers; extract it again from its prompt")
        check_tokens(spec.prompt_tokens.tolist(), config.vocab_size)
        if spec.resume:
            record = ResumeRecord.from_bytes(spec.resume)
            fits = record.mel.shape[1] == config.output_size and record.phase.shape[0] == self.vocoder.source.harmonics
            if not fits or record.done > self.format.max_tokens:
                raise StreamError("the resume record belongs to another model; start the utterance again")

    @torch.inference_mode()
    def open(self, spec: StreamSpec) -> TorchState:
        record = ResumeRecord.from_bytes(spec.resume) if spec.resume else None
        vocoder = self.vocoder.open(record.seed if record else spec.seed)
        if record:
            vocoder.emitted, vocoder.start = record.emitted, record.start
            vocoder.mel = torch.from_numpy(record.mel).to(self.device)
            vocoder.phase = torch.from_numpy(record.phase).to(self.device)
            again = max(0, record.done - spec.prompt_tokens.shape[0])  # decoded by another worker
            self._recomputed += self.format.frames_per_token * again
        flow = self.flow.open(
            torch.tensor(spec.prompt_tokens, dtype=torch.int64),
            torch.tensor(spec.prompt_mel, dtype=torch.float32),
            torch.tensor(spec.embedding, dtype=torch.float32),
            record.plan if record else spec.plan,
        )
        return TorchState(flow, Stretch(spec.speed), vocoder, spec.full_attention_last, spec.voice, vocoder.emitted)

    def begin(self, state: TorchState, beat: Callable[[], None]) -> None:
        began = time.perf_counter()
        self.prompts.begin(state.voice, state.flow, beat)
        self._flow_s += time.perf_counter() - began

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        self._beat = beat
        began = time.perf_counter()
        flow_hops = [self._flow_hop(hop) for hop in hops]
        for hop in hops:
            self.prompts.begin(hop.state.voice, hop.state.flow, beat)
        done = [(hop.state.flow.done, hop.state.flow.kv_state.tokens if hop.state.flow.kv_state else 0) for hop in hops]
        kv_states = [hop.state.kv_state for hop in flow_hops]
        spoken = [_Spoken.of(hop.state) for hop in hops]
        made = self.flow.decode(flow_hops, beat)
        if any(hop.keep and hop.state.kv_state is None for hop in flow_hops):
            self._report_no_memory()
        flowed = self._mark()
        try:
            # The host waits for the device once, for all that it needs: whether the mel is finite too.
            totals, results = self._vocode(hops, [one.frames for one in made], [one.total for one in made])
            for index in [index for index, total in enumerate(totals) if not math.isfinite(total)]:
                self.flow.reject(made[index])
                spoken[index].restore(hops[index].state)
                results[index] = self._exactly(hops[index], flow_hops[index], done[index][0], beat)
        except Exception:  # for example, out of memory: the engine runs the hops again, one by one
            for hop, before, kv_state, (known, _) in zip(hops, spoken, kv_states, done, strict=True):
                before.restore(hop.state)
                hop.state.flow.kv_state, hop.state.flow.done = kv_state, known
            raise
        self._recomputed += self.format.frames_per_token * sum(max(0, known - kept) for known, kept in done)
        beat()
        in_vocoder = self._since(flowed)
        self._flow_s += time.perf_counter() - began - in_vocoder
        self._vocoder_s += in_vocoder
        return results

    def _mark(self) -> float | torch.cuda.Event:
        """The present point in the device's work."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _since(self, mark: float | torch.cuda.Event) -> float:
        """Seconds of the device's work since a mark; the host has waited for all of it."""
        if isinstance(mark, float):
            return time.perf_counter() - mark
        now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        now.record()
        now.synchronize()
        return float(mark.elapsed_time(now)) / 1e3

    def state_bytes(self, state: TorchState) -> int:
        return len(state.flow.kv_state.blocks) * self.flow.pool.block_bytes if state.flow.kv_state else 0

    def cached_tokens(self, state: TorchState) -> int:
        if (kept := state.flow.kv_state) is not None:
            return kept.tokens
        return self.prompts.cached_tokens(state.voice, state.flow.plan)

    def prompt_tokens(self, voice: str, plan: ChunkPlan) -> int:
        return self.prompts.cached_tokens(voice, plan)

    def has_room(self, hops: Sequence[Hop]) -> bool:
        pool = self.flow.pool
        wanted = sum(
            pool.missing_blocks(hop.state.flow.kv_state or EMPTY_STATE, hop.end) for hop in hops if not self._ends(hop)
        )
        while wanted > pool.free_blocks:
            if not self.prompts.evict_one():
                return False
        return True

    def evict(self, state: TorchState) -> int:
        freed, state.flow.kv_state = self.state_bytes(state), None
        self._report_no_memory()
        return freed

    def evict_voice(self, voice: str) -> None:
        self.prompts.evict_voice(voice)

    def counts(self) -> BackendCounts:
        pool = self.flow.pool
        return BackendCounts(
            kept_bytes=(pool.blocks - pool.free_blocks) * pool.block_bytes,
            budget_bytes=pool.blocks * pool.block_bytes,
            recomputed_frames=self._recomputed,
            non_finite=self._non_finite,
            prompts_computed=self.prompts.computed,
            prompts_shared=self.prompts.shared,
            unprepared_batches=sum(one.unprepared for one in (self.flow.programs, self.vocoder.programs) if one),
            flow_s=self._flow_s,
            vocoder_s=self._vocoder_s,
        )

    def warm_up(self) -> None:
        """Decode synthetic tokens and measure the vocoder's context on their mel (`measure_context`)."""
        self.vocoder.context = measure_context(self.vocoder, rough_mel(self.flow))
        self._hold_back()

    def _hold_back(self) -> None:
        self.format = replace(self.format, held_frames=self.vocoder.context.right)

    def _ends(self, hop: Hop) -> bool:
        return hop.final and hop.end == hop.state.flow.prompt + len(hop.tokens)

    def _flow_hop(self, hop: Hop) -> FlowHop:
        flow: FlowState = hop.state.flow
        flow.tokens = list(hop.tokens)
        if self._ends(hop) and hop.state.full_attention_last:
            flow.plan, flow.kv_state = ChunkPlan.whole(), None
        return FlowHop(flow, hop.end, hop.final, keep=not self._ends(hop))

    def _report_no_memory(self) -> None:
        """Log once that memory is too small; the metrics of recomputed frames and evictions show it from then on."""
        if self._memory_reported or not self.flow.pool.blocks:
            return
        self._memory_reported = True
        mib = self.counts().budget_bytes >> 20
        details = {"setting": "decode_state_bytes", "mib": mib, "advice": "increase it, or store states in float8"}
        log.warning("no memory for a stream's state: each of its hops computes its whole history", extra=details)

    def _exactly(self, hop: Hop, flow_hop: FlowHop, done: int, beat: Callable[[], None]) -> HopAudio | Exception:
        """Compute a hop again, in float32, because its mel is not finite; if it still is not, return an error."""
        flow_hop.state.kv_state, flow_hop.state.done = None, done
        self._non_finite += 1
        [made] = self.flow.decode([replace(flow_hop, exact=True)], beat)
        [total], [result] = self._vocode([hop], [made.frames], [made.total])
        if math.isfinite(total):
            return result
        return NonFiniteAudio("the flow produced values that are not finite numbers")

    def _vocode(
        self, hops: Sequence[Hop], mels: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> tuple[list[float], list[HopAudio | Exception]]:
        """Return `totals`, and the audio of each hop or the error that fails its stream.

        Raises only what reading from the device raises: the flow has already advanced, so the engine could not run
        these hops again.
        """
        pieces: list[_Piece | Exception] = []
        for hop, mel in zip(hops, mels, strict=True):
            try:
                pieces.append(self._piece(hop, mel))
            except Exception as error:  # noqa: BLE001 - fails this stream, not its batch
                pieces.append(error)
        first = [hop.state.vocoder.emitted for hop in hops]
        made = iter(self._samples([piece for piece in pieces if not isinstance(piece, Exception)]))
        spoken = [piece if isinstance(piece, Exception) else next(made) for piece in pieces]
        wanted = [torch.stack([*totals])]
        for hop, samples in zip(hops, spoken, strict=True):
            if not isinstance(samples, Exception):
                vocoder: VocoderState = hop.state.vocoder
                wanted += [samples, vocoder.mel[: vocoder.emitted - vocoder.start], vocoder.phase]
        read = iter(_to_host(wanted))
        checked = next(read).tolist()
        results: list[HopAudio | Exception] = []
        for hop, start, samples in zip(hops, first, spoken, strict=True):
            if not isinstance(samples, Exception):
                results.append(self._audio(hop, start, next(read), next(read), next(read)))
            else:
                results.append(samples)
        return checked, results

    def _samples(self, pieces: Sequence[_Piece]) -> list[Tensor | Exception]:
        """Run the vocoder over one batch; if it fails, over each stream alone, so that only the bad ones fail."""
        try:
            return [*self.vocoder.append_all(pieces)]
        except Exception as error:  # noqa: BLE001 - whatever a device raises, the other streams go on
            if len(pieces) == 1:
                return [error]
        return [made for piece in pieces for made in self._samples([piece])]

    def _audio(
        self, hop: Hop, start: int, samples: NDArray[Any], mel: NDArray[Any], phase: NDArray[Any]
    ) -> HopAudio | NonFiniteAudio:
        """`samples` [n] from mel frame `start` on, and the vocoder's state, as a result."""
        if not np.isfinite(samples).all():
            return NonFiniteAudio("the vocoder produced values that are not finite numbers")
        state: TorchState = hop.state
        record = ResumeRecord(
            plan=state.flow.plan,
            seed=state.vocoder.seed,
            done=state.flow.done,
            emitted=state.vocoder.emitted,
            start=state.vocoder.start,
            mel=mel,
            phase=phase,
        )
        return HopAudio(start * self.format.frame_samples, samples, record)

    def _piece(self, hop: Hop, mel: Tensor) -> _Piece:
        """The vocoder's input from a hop's mel: stretched, without frames that another worker has spoken."""
        state: TorchState = hop.state
        last = self._ends(hop)
        frames = state.stretch.append(mel, last)
        new = frames[state.skip :]
        state.skip = max(0, state.skip - frames.shape[0])
        if last and state.skip:
            raise StreamError("the resume record is ahead of the tokens; push every token from the utterance's first")
        return state.vocoder, new, last


def _to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Copy float32 and float64 tensors of one device to the host as one tensor: the only wait for the device."""
    together = torch.cat([tensor.contiguous().flatten().view(torch.float32) for tensor in tensors])
    if together.is_cuda:
        copied = torch.empty(together.shape, pin_memory=True).copy_(together, non_blocking=True)
        torch.cuda.current_stream(together.device).synchronize()
    else:
        copied = together.cpu()
    sizes = [tensor.numel() * tensor.element_size() // 4 for tensor in tensors]
    parts = zip(tensors, copied.split(sizes), strict=True)  # type: ignore[no-untyped-call]
    # Own memory for each: a stream must not keep what a whole batch has read.
    return [part.clone().view(tensor.dtype).view(tensor.shape).numpy() for tensor, part in parts]
