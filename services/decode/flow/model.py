"""Tokens to mel, exactly and in pieces: encoder, solver and a stream's state between hops (spec sections 5 and 6.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.modeldir import FlowConfig
from services.common.weights import load_strict
from services.decode.chunks import ChunkPlan
from services.decode.flow.encoder import Encoder
from services.decode.flow.past import Pass, Past
from services.decode.flow.solver import GUIDANCE_ROWS, NOISE_FRAMES, Solver, step_pasts
from services.decode.flow.unet import UNet


@dataclass
class FlowPast:
    """Everything the flow remembers of a stream's first `tokens` tokens; drop it and it is recomputed."""

    tokens: Past
    frames: Past
    steps: list[Past]

    def nbytes(self) -> int:
        return sum(past.nbytes() for past in (self.tokens, self.frames, *self.steps))


@dataclass
class FlowState:
    """One stream's flow as data.

    prompt_tokens  int64 [P]; prompt_mel float32 [2P, mel]; speaker float32 [mel], already projected
    done           tokens whose frames have been returned, prompt included
    past           None when nothing is kept: the next hop then recomputes from token 0, with the same result
    """

    prompt_tokens: Tensor
    prompt_mel: Tensor
    speaker: Tensor
    plan: ChunkPlan
    done: int = 0
    past: FlowPast | None = None
    tokens: list[int] = field(default_factory=list)
    """Generated tokens so far (the prompt's are not in here)."""

    @property
    def prompt(self) -> int:
        return self.prompt_tokens.shape[0]

    @property
    def available(self) -> int:
        """Absolute tokens known so far, prompt included."""
        return self.prompt + len(self.tokens)


@dataclass(frozen=True)
class FlowHop:
    """Decode one stream up to absolute token `end`; `final` says that no token will follow the ones known.

    `keep` = False leaves no past behind (a stream's last hop, or one that recomputes each time).
    """

    state: FlowState
    end: int
    final: bool
    keep: bool = True


class Flow(nn.Module):
    """The flow model of one checkpoint. Not thread-safe: one engine thread owns it."""

    def __init__(self, config: FlowConfig, weights: Mapping[str, Tensor], device: torch.device | None = None) -> None:
        """Raises ModelDirError when the weights do not fit the configuration."""
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.output_size)
        self.encoder = Encoder(config)
        self.encoder_proj = nn.Linear(config.encoder_width, config.output_size)
        self.decoder = nn.ModuleDict({"estimator": UNet(config)})
        load_strict(self, weights, "flow.pt")
        self.device = device or torch.device("cpu")
        self.to(self.device).eval().requires_grad_(False)
        self.encoder.sinusoids.to(self.device)
        self._ratio = config.mel_frames_per_token
        self.estimator: UNet = self.decoder["estimator"]  # type: ignore[assignment]
        self.solver = Solver(
            self.estimator, steps=config.steps, cfg_rate=config.cfg_rate, mel=config.output_size, device=self.device
        )

    def open(self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, plan: ChunkPlan) -> FlowState:
        """A stream's empty state: prompt_tokens int [P], prompt_mel [2P, mel], embedding [speaker_dim].

        The arguments are the caller's to check (`TorchBackend.check`).
        """
        speaker = self.spk_embed_affine_layer(F.normalize(embedding.to(self.device, torch.float32), dim=0))
        return FlowState(
            prompt_tokens=prompt_tokens.to(self.device, torch.int64),
            prompt_mel=prompt_mel.to(self.device, torch.float32),
            speaker=speaker,
            plan=plan,
        )

    @torch.inference_mode()
    def append(self, hops: Sequence[FlowHop], on_step: Callable[[], None] = lambda: None) -> list[Tensor]:
        """Decodes each stream's tokens up to its hop's end; returns its new mel frames [2 * new, mel], no prompt.

        Frames already returned never change, so hops may be cut anywhere on the plan's borders; a stream without
        past is computed from token 0. If it raises, no state has changed.
        """
        starts = [hop.state.past.tokens.length if hop.state.past else 0 for hop in hops]
        for hop, start in zip(hops, starts, strict=True):
            self._check(hop, start)
        pasts = [self._past(hop) for hop in hops]
        lengths = [hop.end - start for hop, start in zip(hops, starts, strict=True)]
        mu, encoder_passes = self._encode(hops, pasts, starts, lengths)
        x, cond = self._start(hops, starts, mu)
        frame_lengths = [self._ratio * length for length in lengths]
        masks = self._masks(hops, starts, self._ratio)
        step_lists = [past.steps if past else None for past in pasts]
        mel, step_passes = self.solver.solve(
            x,
            mu,
            torch.stack([hop.state.speaker for hop in hops]),
            cond,
            lambda step: Pass(
                step_pasts(step_lists, step), frame_lengths, masks, rows=GUIDANCE_ROWS, layers=self.estimator.layers
            ),
            on_step,
        )
        for each in (*encoder_passes, *step_passes):
            each.commit()
        return [
            self._finish(hop, past, start, rows)
            for hop, past, start, rows in zip(hops, pasts, starts, mel, strict=True)
        ]

    def _check(self, hop: FlowHop, start: int) -> None:
        state = hop.state
        ready = hop.end <= state.available if hop.final else hop.end + self.config.lookahead_tokens <= state.available
        if not ready or hop.end <= max(start, state.done - 1):
            raise ValueError(f"cannot decode to token {hop.end}: {state.done} done, {state.available} known")
        if self._ratio * hop.end > NOISE_FRAMES:
            raise ValueError(f"an utterance may hold {NOISE_FRAMES // self._ratio} tokens, prompt included")

    def _past(self, hop: FlowHop) -> FlowPast | None:
        if hop.state.past is not None or not hop.keep:
            return hop.state.past
        return FlowPast(Past(), Past(), [Past() for _ in range(self.solver.steps)])

    def _masks(self, hops: Sequence[FlowHop], starts: Sequence[int], ratio: int) -> list[Tensor | None]:
        """Per stream, which positions each new one may look at (`ratio` positions per token); None for all."""
        masks: list[Tensor | None] = []
        for hop, start in zip(hops, starts, strict=True):
            chunks = hop.state.plan.chunks(start, hop.end)
            if len(chunks) == 1:
                masks.append(None)
                continue
            ends = torch.cat([torch.full((ratio * (end - begin),), ratio * end) for begin, end in chunks])
            masks.append((torch.arange(ratio * hop.end) < ends[:, None]).to(self.device))
        return masks

    def _encode(
        self, hops: Sequence[FlowHop], pasts: Sequence[FlowPast | None], starts: Sequence[int], lengths: Sequence[int]
    ) -> tuple[Tensor, tuple[Pass, Pass]]:
        longest, lookahead = max(lengths), self.config.lookahead_tokens
        config = self.config
        embedded = torch.zeros(len(hops), longest + lookahead, config.encoder_width, device=self.device)
        for row, (hop, start) in enumerate(zip(hops, starts, strict=True)):
            known = torch.tensor(hop.state.tokens, dtype=torch.int64, device=self.device)
            ids = torch.cat((hop.state.prompt_tokens, known))[start : hop.end + lookahead]
            embedded[row, : ids.shape[0]] = self.encoder.embed(self.input_embedding(ids))
        tokens = Pass(
            [past.tokens if past else None for past in pasts],
            lengths,
            self._masks(hops, starts, 1),
            layers=config.encoder_blocks,
        )
        frames = Pass(
            [past.frames if past else None for past in pasts],
            [self._ratio * length for length in lengths],
            self._masks(hops, starts, self._ratio),
            layers=config.encoder_up_blocks,
        )
        return self.encoder_proj(self.encoder(embedded, tokens, frames)), (tokens, frames)

    def _start(self, hops: Sequence[FlowHop], starts: Sequence[int], mu: Tensor) -> tuple[Tensor, Tensor]:
        """The noise and the prompt condition of the new frames, padded like mu."""
        x, cond = torch.zeros_like(mu), torch.zeros_like(mu)
        for row, (hop, start) in enumerate(zip(hops, starts, strict=True)):
            begin, end = self._ratio * start, self._ratio * hop.end
            x[row, : end - begin] = self.solver.noise(begin, end)
            prompt = hop.state.prompt_mel[begin:end]
            cond[row, : prompt.shape[0]] = prompt
        return x, cond

    def _finish(self, hop: FlowHop, past: FlowPast | None, start: int, rows: Tensor) -> Tensor:
        state = hop.state
        first = max(state.done, state.prompt)
        state.past = past if hop.keep else None
        state.done = hop.end
        return rows[self._ratio * (first - start) : self._ratio * (hop.end - start)].clone()
