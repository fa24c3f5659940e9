"""The backend that computes: flow and vocoder of one checkpoint, eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.common.modeldir import ModelDir
from services.common.weights import read_weights
from services.decode.backends import AudioFormat, Hop, HopAudio, check_tokens
from services.decode.chunks import ChunkPlan
from services.decode.flow.model import Flow, FlowHop, FlowState
from services.decode.state import ResumeRecord, StreamError, StreamSpec
from services.decode.vocoder.context import layer_bound, measure_context
from services.decode.vocoder.stream import Vocoder, VocoderState
from services.decode.vocoder.stretch import Stretch

_WARM_UP_TOKENS = 60


class NonFiniteAudio(ArithmeticError):
    """The model produced NaN or infinity; the input or the precision does not suit it."""


@dataclass
class TorchState:
    """One stream: `skip` is how many (stretched) frames of a recomputed flow were already spoken elsewhere."""

    flow: FlowState
    stretch: Stretch
    vocoder: VocoderState
    full_attention_last: bool
    skip: int = 0


class TorchBackend:
    """Flow and vocoder on one device. Used by one thread at a time."""

    def __init__(self, model: ModelDir, device: str | torch.device = "cpu") -> None:
        """Loads the checkpoint. Raises ModelDirError when its weights are missing or do not fit."""
        self.device = torch.device(device)
        self.flow = Flow(model.flow, read_weights(model.weights_file("flow")), self.device)
        self.vocoder = Vocoder(
            model.vocoder, read_weights(model.weights_file("hift")), layer_bound(model.vocoder), self.device
        )
        self.format = AudioFormat.of(model)

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
            raise StreamError("the voice holds values that are not finite numbers; make it anew from its prompt")
        check_tokens(spec.prompt_tokens.tolist(), config.vocab_size)
        if spec.resume:
            record = ResumeRecord.from_bytes(spec.resume)
            fits = record.mel.shape[1] == config.output_size and record.phase.shape[0] == self.vocoder.source.harmonics
            if not fits or record.done > self.format.max_tokens:
                raise StreamError("the resume record belongs to another model; start the utterance anew")

    @torch.inference_mode()
    def open(self, spec: StreamSpec) -> TorchState:
        record = ResumeRecord.from_bytes(spec.resume) if spec.resume else None
        vocoder = self.vocoder.open(record.seed if record else spec.seed)
        if record:
            vocoder.emitted, vocoder.start = record.emitted, record.start
            vocoder.mel = torch.from_numpy(record.mel).to(self.device)
            vocoder.phase = torch.from_numpy(record.phase).to(self.device)
        flow = self.flow.open(
            torch.tensor(spec.prompt_tokens, dtype=torch.int64),
            torch.tensor(spec.prompt_mel, dtype=torch.float32),
            torch.tensor(spec.embedding, dtype=torch.float32),
            record.plan if record else spec.plan,
        )
        return TorchState(flow, Stretch(spec.speed), vocoder, spec.full_attention_last, vocoder.emitted)

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        mels = self.flow.append([self._flow_hop(hop) for hop in hops], beat)
        results: list[HopAudio | Exception] = []
        for hop, mel in zip(hops, mels, strict=True):
            try:
                results.append(self._vocode(hop, mel))
            except (ArithmeticError, RuntimeError, ValueError) as error:
                results.append(error)
            beat()
        return results

    def state_bytes(self, state: TorchState) -> int:
        return state.flow.past.nbytes() if state.flow.past else 0

    def warm_up(self) -> None:
        """Decodes made-up tokens and measures the vocoder's context on their mel (`measure_context`)."""
        config = self.flow.config
        generator = torch.Generator("cpu").manual_seed(0)
        embedding = torch.randn(config.speaker_dim, generator=generator)
        state = self.flow.open(torch.zeros(0), torch.zeros(0, config.output_size), embedding, ChunkPlan())
        state.tokens = torch.randint(config.vocab_size, (_WARM_UP_TOKENS,), generator=generator).tolist()
        border = state.plan.first_border
        mels = [self.flow.append([FlowHop(state, end, final=False)])[0] for end in (border, 2 * border)]
        mels += self.flow.append([FlowHop(state, state.available, final=True, keep=False)])
        self.vocoder.context = measure_context(self.vocoder, torch.cat(mels))

    def _flow_hop(self, hop: Hop) -> FlowHop:
        flow: FlowState = hop.state.flow
        flow.tokens = list(hop.tokens)
        ends = hop.final and hop.end == flow.available
        if ends and hop.state.full_attention_last:
            flow.plan, flow.past = ChunkPlan.whole(), None
        return FlowHop(flow, hop.end, hop.final, keep=not ends)

    def _vocode(self, hop: Hop, mel: Tensor) -> HopAudio:
        state: TorchState = hop.state
        last = hop.final and hop.end == state.flow.available
        frames = state.stretch.append(mel, last)
        new = frames[state.skip :]
        state.skip = max(0, state.skip - frames.shape[0])
        if last and state.skip:
            raise StreamError("the resume record is ahead of the tokens; push every token from the utterance's first")
        first = state.vocoder.emitted
        samples = self.vocoder.append(state.vocoder, new, last)
        if not bool(torch.isfinite(samples).all() and torch.isfinite(new).all()):
            raise NonFiniteAudio("the model produced values that are not finite numbers")
        return HopAudio(first * self.format.frame_samples, samples.cpu().numpy(), self._record(state))

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
