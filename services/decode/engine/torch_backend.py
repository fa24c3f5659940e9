"""The backend that computes: flow and vocoder of one checkpoint in PyTorch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir
from services.common.checkpoint.weights import read_weights
from services.common.engine.memory import check_room, free_memory, host_memory
from services.common.engine.precision import forbid_tf32
from services.decode.engine.backends import AudioFormat, BackendCounts, Hop, HopAudio, check_tokens
from services.decode.engine.memory import FREE_LIST_BYTES, MOST_STREAMS, default_budget
from services.decode.engine.prompt_cache import PromptCache
from services.decode.engine.state import ResumeRecord, StreamError, StreamSpec
from services.decode.estimators.compiled import rough_mel
from services.decode.flow.kv_cache import EMPTY_STATE, KvBlockPool, KvLayout, block_bytes
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
        memory_share: float = 1.0,
    ) -> None:
        """Load the checkpoint; `state_bytes` is the memory for streams' states.

        None means `default_budget` for a process that has `memory_share` of the device's memory.
        `make_estimator` replaces the estimator by an exported graph; it needs `state_bytes` 0.
        float32 operations run without TF32: `forbid_tf32` is called for the whole process.

        Raises ModelDirError if the weights are missing or do not fit, StartError if `state_bytes` exceeds the memory.
        """
        forbid_tf32()
        self.device = torch.device(device)
        self.format = AudioFormat.of(model)
        self.precision = precision or Precision()
        weights = read_weights(model.weights_file("flow"))
        self._state_bytes, self._memory_share = state_bytes, memory_share
        compute = self.precision.compute
        self.flow = Flow(model.flow, weights, self.device, compute, self._make_pool, make_estimator)
        self.vocoder = build_vocoder(model, self.device)
        self._beat: Callable[[], None] = lambda: None
        for layer in (*self.vocoder.generator.source_resblocks, *self.vocoder.generator.resblocks):
            layer.register_forward_hook(lambda *_: self._beat())
        self._hold_back()
        self.prompts = PromptCache(self.flow)
        self._recomputed = self._non_finite = 0
        self._memory_reported = False
        self._flow_s = self._vocoder_s = 0.0

    def _make_pool(self, layouts: Mapping[str, KvLayout], block_tokens: int) -> KvBlockPool:
        budget = self._state_bytes
        if budget is None:
            budget = default_budget(self.device, self._memory_share)
        size = block_bytes(layouts, self.precision.state)
        longest = -(-self.format.max_tokens // block_tokens)
        blocks = min(budget // size, MOST_STREAMS * longest)
        self._check_room(blocks, size)
        return KvBlockPool(layouts, block_tokens, blocks, self.precision.state, self.device)

    def _check_room(self, blocks: int, size: int) -> None:
        what, setting = f"{blocks} blocks of streams' states", "decode_state_bytes"
        on_host = blocks * FREE_LIST_BYTES
        if self.device.type == "cuda":
            free = free_memory(self.device, self._memory_share)
            check_room(what, blocks * size, free, setting=setting, where=str(self.device))
        else:
            on_host += blocks * size
        check_room(what, on_host, host_memory().free, setting=setting, where="this machine or container")

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

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        self._beat = beat
        began = time.perf_counter()
        flow_hops = [self._flow_hop(hop) for hop in hops]
        for hop in hops:
            self.prompts.begin(hop.state.voice, hop.state.flow, beat)
        done = [(hop.state.flow.done, hop.state.flow.kv_state.tokens if hop.state.flow.kv_state else 0) for hop in hops]
        kv_states = [hop.state.kv_state for hop in flow_hops]
        mels = self.flow.append(flow_hops, beat)
        try:
            mels = self._finite(flow_hops, mels, [before for before, _ in done], beat)
        except Exception:  # for example, out of memory: the engine runs the hops again, one by one
            for failed, kv_state, (before, _) in zip(flow_hops, kv_states, done, strict=True):
                failed.state.kv_state, failed.state.done = kv_state, before
            raise
        self._recomputed += self.format.frames_per_token * sum(max(0, known - kept) for known, kept in done)
        if any(hop.keep and hop.state.kv_state is None for hop in flow_hops):
            self._report_no_memory()
        flowed = time.perf_counter()
        results = self._vocode(hops, mels)
        beat()
        self._flow_s += flowed - began
        self._vocoder_s += time.perf_counter() - flowed
        return results

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
            unprepared_batches=self.flow.programs.unprepared if self.flow.programs else 0,
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

    def _finite(
        self, hops: Sequence[FlowHop], mels: list[Tensor], done: Sequence[int], beat: Callable[[], None]
    ) -> list[Tensor]:
        """Compute hops again in float32 if their mel is not finite; if it still is not, the stream fails later."""
        for index, (hop, mel) in enumerate(zip(hops, mels, strict=True)):
            if bool(torch.isfinite(mel).all()):
                continue
            hop.state.kv_state, hop.state.done = None, done[index]
            self._non_finite += 1
            mels[index] = self.flow.append([replace(hop, exact=True)], beat)[0]
        return mels

    def _vocode(self, hops: Sequence[Hop], mels: Sequence[Tensor]) -> list[HopAudio | Exception]:
        """Return the audio of each hop, or the error that fails its stream.

        Never raises: the flow has already advanced, so the engine could not run these hops again.
        """
        pieces: list[_Piece | Exception] = []
        for hop, mel in zip(hops, mels, strict=True):
            try:
                pieces.append(self._piece(hop, mel))
            except Exception as error:  # noqa: BLE001 - fails this stream, not its batch
                pieces.append(error)
        first = [hop.state.vocoder.emitted for hop in hops]
        made = iter(self._samples([piece for piece in pieces if not isinstance(piece, Exception)]))
        results: list[HopAudio | Exception] = []
        for hop, piece, start in zip(hops, pieces, first, strict=True):
            samples = piece if isinstance(piece, Exception) else next(made)
            try:
                results.append(samples if isinstance(samples, Exception) else self._audio(hop, start, samples))
            except Exception as error:  # noqa: BLE001 - as above
                results.append(error)
        return results

    def _samples(self, pieces: Sequence[_Piece]) -> list[Tensor | Exception]:
        """Run the vocoder over one batch; if it fails, over each stream alone, so that only the bad ones fail."""
        try:
            return [*self.vocoder.append_all(pieces)]
        except Exception as error:  # noqa: BLE001 - whatever a device raises, the other streams go on
            if len(pieces) == 1:
                return [error]
        return [made for piece in pieces for made in self._samples([piece])]

    def _audio(self, hop: Hop, start: int, samples: Tensor) -> HopAudio:
        """`samples` [n] from mel frame `start` on, as a result. Raises NonFiniteAudio."""
        if not bool(torch.isfinite(samples).all()):
            raise NonFiniteAudio("the vocoder produced values that are not finite numbers")
        return HopAudio(start * self.format.frame_samples, samples.cpu().numpy(), self._record(hop.state))

    def _piece(self, hop: Hop, mel: Tensor) -> _Piece:
        """The vocoder's input from a hop's mel: stretched, without frames that another worker has spoken."""
        state: TorchState = hop.state
        last = self._ends(hop)
        frames = state.stretch.append(mel, last)
        new = frames[state.skip :]
        state.skip = max(0, state.skip - frames.shape[0])
        if last and state.skip:
            raise StreamError("the resume record is ahead of the tokens; push every token from the utterance's first")
        if not bool(torch.isfinite(new).all()):
            raise NonFiniteAudio("the flow produced values that are not finite numbers")
        return state.vocoder, new, last

    def _record(self, state: TorchState) -> ResumeRecord:
        vocoder = state.vocoder
        context = vocoder.mel[: vocoder.emitted - vocoder.start]
        return ResumeRecord(
            plan=state.flow.plan,
            seed=vocoder.seed,
            done=state.flow.done,
            emitted=vocoder.emitted,
            start=vocoder.start,
            mel=context.cpu().numpy(),
            phase=vocoder.phase.cpu().numpy(),
        )
