"""Tokens to mel in hops: front, solver and a stream's state between hops (spec sections 5 and 6.3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.flow_config import ConformerConfig, DiTConfig, FlowConfig
from services.common.checkpoint.weights import load_strict, without_weights
from services.decode.flow.dit import DiT
from services.decode.flow.encoder import ConformerFront
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import BatchPasses, Pass
from services.decode.flow.front import ConvolutionFront, Front, Rate
from services.decode.flow.front_program import FrontProgram
from services.decode.flow.kv_cache import EMPTY_STATE, KvBlockPool, KvLayout, KvState
from services.decode.flow.program import EulerProgram, Row
from services.decode.flow.programs import Programs
from services.decode.flow.solver import NOISE_FRAMES, Estimator, Solver, Start
from services.decode.flow.unet import UNet
from services.decode.flow.upload import Upload

EstimatorFactory = Callable[[EstimatorNetwork], Estimator]
SMALL_POOL = 64
"""Blocks of the default pool."""


def make_front(config: FlowConfig) -> Front:
    """Return the front that the configuration names."""
    if isinstance(config.front, ConformerConfig):
        return ConformerFront(config, config.front)
    return ConvolutionFront(config, config.front)


def make_network(config: FlowConfig) -> EstimatorNetwork:
    """Return the estimator that the configuration names."""
    if isinstance(config.estimator, DiTConfig):
        return DiT(config.estimator, config.output_size)
    return UNet(config.estimator, config.output_size)


@dataclass
class FlowState:
    """The state of one stream.

    prompt_tokens  int64 [P], on the host; prompt_mel float32 [2P, mel]; speaker float32 [mel], already projected
    done           tokens whose frames have been returned, prompt included
    kv_state       what is cached; None recomputes from token 0 at the next hop, with the same result
    """

    prompt_tokens: Tensor
    prompt_mel: Tensor
    speaker: Tensor
    plan: ChunkPlan
    done: int = 0
    kv_state: KvState | None = None
    tokens: list[int] = field(default_factory=list)
    """Generated tokens so far, without the prompt's."""

    @property
    def prompt(self) -> int:
        return self.prompt_tokens.shape[0]

    @property
    def available(self) -> int:
        """Absolute tokens known so far, prompt included."""
        return self.prompt + len(self.tokens)


@dataclass(frozen=True)
class FlowHop:
    """Decode one stream up to absolute token `end`; with `final` no token follows the known ones.

    `keep` = False stores no state (a stream's last hop, or one that recomputes each time); a full pool neither.
    """

    state: FlowState
    end: int
    final: bool
    keep: bool = True
    exact: bool = False
    """Compute in float32 by the plain network, from token 0, and store no state: used if the fast way fails."""


@dataclass(frozen=True)
class FlowMel:
    """A hop's new mel frames [n, mel], of which nothing has been read back to the host.

    `total` [] is finite only if all values of the hop are.
    """

    frames: Tensor
    total: Tensor
    kv_state: KvState | None
    """The state that the hop has written."""


class Flow(nn.Module):
    """The flow model of one checkpoint. Not thread-safe: one engine thread owns it."""

    def __init__(
        self,
        config: FlowConfig,
        weights: Mapping[str, Tensor],
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        make_pool: Callable[[Mapping[str, KvLayout], int], KvBlockPool] | None = None,
        make_estimator: EstimatorFactory | None = None,
    ) -> None:
        """The estimator, nearly all of the work, computes in `dtype`; the rest in float32.

        `make_pool(layouts, block_tokens)` makes the cache; the default one holds a few short streams.
        `make_estimator(network)` makes a replacement of the network; it must use the cache if the pool has blocks.

        Raises ModelDirError if the weights do not fit the configuration.
        """
        super().__init__()
        self.config = config
        with without_weights():
            self.front, self.estimator = make_front(config), make_network(config)
            self.speaker_projection = nn.Linear(config.speaker_dim, config.output_size)
        named = {
            **dict(self.front.named_children()),
            "spk_embed_affine_layer": self.speaker_projection,
            "decoder": nn.ModuleDict({"estimator": self.estimator}),
        }
        load_strict(nn.ModuleDict(named), weights, "flow.pt")
        self.device = device or torch.device("cpu")
        self.to(self.device).eval().requires_grad_(False)
        self._ratio = config.mel_frames_per_token
        self.exact = self.make_solver(self.estimator)
        self.solver = self.exact
        if make_estimator is not None:
            self.solver = self.make_solver(make_estimator(self.estimator))
        elif dtype != torch.float32:
            self.solver = self.make_solver(copy.deepcopy(self.estimator).to(dtype))
        make = make_pool or (lambda layouts, tokens: KvBlockPool(layouts, tokens, SMALL_POOL, device=self.device))
        self.pool = make(self.layouts(), config.chunk_tokens)
        self.programs: Programs | None = None
        """Run the Euler steps of batches that fit one of their shapes; see `services.decode.estimators.compiled`."""

    def open(self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, plan: ChunkPlan) -> FlowState:
        """Return a stream's initial state: prompt_tokens int [P], prompt_mel [2P, mel], embedding [speaker_dim].

        The caller checks the arguments (`TorchBackend.check`).
        """
        speaker = self.speaker_projection(F.normalize(embedding.to(self.device, torch.float32), dim=0))
        return FlowState(
            prompt_tokens=prompt_tokens.to("cpu", torch.int64),
            prompt_mel=prompt_mel.to(self.device, torch.float32),
            speaker=speaker,
            plan=plan,
        )

    def make_solver(self, estimator: Estimator) -> Solver:
        """Return a solver over an estimator: this model's own, a copy of it, or a replacement."""
        return Solver(estimator, self.estimator, self.config.solver, self.config.output_size, self.device)

    def layouts(self) -> dict[str, KvLayout]:
        """Cache layouts of the pool: those of the front, and the estimator's at every Euler step."""
        tokens = self.config.chunk_tokens
        steps, rows = self.config.solver.steps, self.config.solver.rows
        return {**self.front.layouts(tokens), "estimator": self.estimator.layout(tokens * self._ratio, steps, rows)}

    @torch.inference_mode()
    def append(self, hops: Sequence[FlowHop], on_step: Callable[[], None] = lambda: None) -> list[Tensor]:
        """`decode`, with the mel checked: a state that holds values that are not finite is not reused unchanged."""
        made = self.decode(hops, on_step)
        for one, total in zip(made, torch.stack([one.total for one in made]).tolist(), strict=True):
            if not math.isfinite(total):
                self.reject(one)
        return [one.frames for one in made]

    @torch.inference_mode()
    def decode(self, hops: Sequence[FlowHop], on_step: Callable[[], None] = lambda: None) -> list[FlowMel]:
        """Decode each stream's tokens up to its hop's end; return its new mel frames [2 * new, mel], no prompt.

        Frames already returned never change, so hops may end at any boundary of the plan; a stream without a cached
        state is computed from token 0. If it raises, no state has changed. The caller must `reject` the results whose
        total is not finite.
        """
        kv_states: list[tuple[KvState, KvState | None]] = []
        for hop in hops:
            before = hop.state.kv_state if hop.state.kv_state and not hop.exact else EMPTY_STATE
            self._check(hop, before.tokens)
            wanted = (hop.keep and not hop.exact) or before.tokens > 0
            after = self.pool.extend(before, hop.end) if wanted else None
            kv_states.append((before, after) if after else (EMPTY_STATE, None))
        rows: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(hops)
        for group in self._groups(hops, kv_states):
            mels = self._decode([hops[i] for i in group], [kv_states[i] for i in group], on_step)
            for index, mel, total in zip(group, mels.unbind(), mels.sum(dim=(1, 2)).unbind(), strict=True):
                rows[index] = mel, total
        return [
            self._finish(hop, before, after, mel, total)
            for hop, (before, after), (mel, total) in zip(hops, kv_states, rows, strict=True)
        ]

    def _groups(self, hops: Sequence[FlowHop], kv_states: Sequence[tuple[KvState, KvState | None]]) -> list[list[int]]:
        """Group hops into batches: all or none with a new state, and none padded to more than twice its length."""
        groups: list[list[int]] = []
        length = [hop.end - before.tokens for hop, (before, _) in zip(hops, kv_states, strict=True)]
        for index in sorted(range(len(hops)), key=length.__getitem__):
            group = groups[-1] if groups else []
            first = group[0] if group else index
            alike = hops[index].exact == hops[first].exact and (kv_states[index][1] is None) == (
                kv_states[first][1] is None
            )
            if group and alike and length[index] <= 2 * length[first]:
                group.append(index)
            else:
                groups.append([index])
        return groups

    def _decode(
        self, hops: Sequence[FlowHop], kv_states: Sequence[tuple[KvState, KvState | None]], on_step: Callable[[], None]
    ) -> Tensor:
        """Return the mel frames of every hop's new tokens, [S, longest, mel]."""
        starts = [before.tokens for before, _ in kv_states]
        earlier, later = [before for before, _ in kv_states], [after for _, after in kv_states if after]
        lengths = [hop.end - start for hop, start in zip(hops, starts, strict=True)]
        front, program = self._programs(len(hops), max(lengths), later, exact=hops[0].exact)
        ends = [self._visible(hop, start) for hop, start in zip(hops, starts, strict=True)]
        rows = [Row(*one) for one in zip(earlier, later, ends, strict=True)] if later else []
        ids, upload, passes = self._ids(hops, starts, max(lengths)), Upload(), None
        first = upload.add(torch.tensor(starts))
        given = upload.add(ids if front is None else front.numbers(rows, ids))
        table = None if program is None else upload.add(program.numbers(rows))
        if front is None or program is None:
            kept = (earlier, later, self.pool.block_tokens) if later else None
            passes = BatchPasses(starts, lengths, ends, kept, (1, self._ratio), upload, on_step)
        upload.send(self.device)

        def over(name: str, ratio: int, rows: int = 1) -> Callable[[int], Pass]:
            return cast(BatchPasses, passes).over(ratio, rows, self.pool.caches[name])

        def at(rate: Rate) -> Pass:
            return over(rate, 1 if rate == "tokens" else self._ratio)(0)

        if front is None:
            mu = self.front(self.front.embed_known(given()), at)
        else:
            mu = front.run(given())[: len(hops), : self._ratio * max(lengths)]
        start = self._start(hops, starts, first(), mu)
        if program is not None and table is not None:
            return program.solve(start, table(), on_step)
        solver = self.exact if hops[0].exact else self.solver
        return solver.solve(start, over("estimator", self._ratio, solver.rows), on_step)

    def _programs(
        self, streams: int, tokens: int, later: Sequence[KvState], *, exact: bool
    ) -> tuple[FrontProgram | None, EulerProgram | None]:
        if self.programs is None or not later or exact:
            return None, None
        size = (streams, self._ratio * tokens, max(len(state.blocks) for state in later))
        return self.programs.find_front(*size), self.programs.find(*size)

    def _check(self, hop: FlowHop, start: int) -> None:
        state = hop.state
        ready = hop.end <= state.available if hop.final else hop.end + self.config.lookahead_tokens <= state.available
        if not ready or hop.end <= max(start, state.done - 1):
            raise ValueError(f"cannot decode to token {hop.end}: {state.done} done, {state.available} known")
        if self._ratio * hop.end > NOISE_FRAMES:
            raise ValueError(f"an utterance may hold {NOISE_FRAMES // self._ratio} tokens, prompt included")

    def _visible(self, hop: FlowHop, start: int) -> Tensor | None:
        """Per new token, the one before which it may attend; None for no limit."""
        chunks = hop.state.plan.chunks(start, hop.end)
        if len(chunks) == 1:
            return None
        return torch.cat([torch.full((end - begin,), end) for begin, end in chunks])

    def _ids(self, hops: Sequence[FlowHop], starts: Sequence[int], longest: int) -> Tensor:
        """The new tokens and their lookahead: [S, longest + lookahead], -1 in the padding."""
        lookahead = self.config.lookahead_tokens
        ids = torch.full((len(hops), longest + lookahead), -1, dtype=torch.int64)
        for row, hop, start in zip(ids, hops, starts, strict=True):
            state, end = hop.state, hop.end + lookahead
            own = slice(max(0, start - state.prompt), max(0, end - state.prompt))
            known = torch.cat((state.prompt_tokens[start:end], torch.tensor(state.tokens[own], dtype=torch.int64)))
            row[: known.shape[0]] = known
        return ids

    def _start(self, hops: Sequence[FlowHop], starts: Sequence[int], first: Tensor, mu: Tensor) -> Start:
        """Return the noise and the prompt condition of the new frames, padded like mu; `first` has `starts`."""
        cond = torch.zeros_like(mu)
        for row, (hop, start) in enumerate(zip(hops, starts, strict=True)):
            prompt = hop.state.prompt_mel[self._ratio * start : self._ratio * hop.end]
            if prompt.shape[0]:
                cond[row, : prompt.shape[0]] = prompt
        noise = self.solver.noise_from(self._ratio * first, mu.shape[1])
        return Start(noise, mu, torch.stack([hop.state.speaker for hop in hops]), cond)

    def reject(self, made: FlowMel) -> None:
        """Take note that a result is not finite: what it has stored must not reach another stream."""
        if made.kv_state is not None:
            self.pool.zero_before_reuse(made.kv_state)

    def _finish(self, hop: FlowHop, before: KvState, after: KvState | None, mel: Tensor, total: Tensor) -> FlowMel:
        state = hop.state
        first = max(state.done, state.prompt)
        state.kv_state = after if hop.keep and not hop.exact else None
        state.done = hop.end
        start = before.tokens
        return FlowMel(mel[self._ratio * (first - start) : self._ratio * (hop.end - start)], total, after)
