"""The backend that computes: the speech language model over a paged K/V cache, and RAS sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.common.engine.thread import current_device
from services.llm.engine.backends import NonFiniteLogits
from services.llm.engine.scheduler import ScheduledSequence
from services.llm.model.decode_program import MOST_STEPS, DecodeProgram, ProgramRow
from services.llm.model.kv_cache import DecodeAttention, KVCache, Rows, build_batch, gathered
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import NOT_FINITE, CounterDraw, Draw, SamplingBatch, SamplingRow, sample

log = logging.getLogger(__name__)

BAN_KINDS = 16
"""Different sets of allowed special ids a checkpoint's layouts can ask for, at most."""
DrawFactory = Callable[[Sequence[SamplingRow], torch.device], Draw]


@dataclass(frozen=True)
class TorchOptions:
    """How the model is run; results differ by no more than rounding."""

    int8_kv: bool = False
    """Keys and values are kept as 8-bit integers: a quarter of float32's memory."""
    attend: DecodeAttention = gathered
    """How decoding rows attend over their blocks."""
    program_rows: tuple[int, ...] = ()
    """Batch sizes for which decode steps run as fixed-shape programs: CUDA graphs on a GPU."""
    program_tokens: int = 4096
    """Rows one sequence may take in a program: the engine's max_request_tokens."""


class TorchBackend:
    """Runs one or several `SpeechLM`s of equal shape on one device. Used by one thread at a time."""

    def __init__(
        self,
        model: SpeechLM,
        draw: DrawFactory | None = None,
        *,
        styles: Mapping[str, SpeechLM] | None = None,
        options: TorchOptions | None = None,
    ) -> None:
        """`model` serves the style "", `styles` the others.

        `draw` makes each step's random choices; anything but the default is for parity checks.
        """
        self._models = {"": model, **(styles or {})}
        self._config = model.config
        self._options = options or TorchOptions()
        self._draw = draw
        self.device, self._dtype = model.speech_embedding.weight.device, model.dtype
        self._cache: KVCache | None = None
        self._programs: dict[str, list[DecodeProgram]] = {}
        self.latest_program: DecodeProgram | None = None
        """What the latest step that could run as a program ran as; for measurements."""
        self._ban_kinds: dict[frozenset[int], int] = {}
        self._bans = torch.zeros(
            (BAN_KINDS, model.speech_embedding.num_embeddings), dtype=torch.bool, device=self.device
        )

    def reserve(self, num_blocks: int, block_size: int) -> None:
        with current_device(self.device):
            self._reserve(num_blocks, block_size)

    def _reserve(self, num_blocks: int, block_size: int) -> None:
        options = self._options
        # One block more than the scheduler knows of: where the unused rows of a program write.
        self._cache = KVCache(
            self._config,
            num_blocks + 1,
            block_size,
            self.device,
            self._dtype,
            quantized=options.int8_kv,
            attend=options.attend,
        )
        width = min(num_blocks, -(-options.program_tokens // block_size))
        self._programs = {
            style: [DecodeProgram(model, self._cache, self._bans, rows, width) for rows in sorted(options.program_rows)]
            for style, model in self._models.items()
        }
        if self.device.type == "cuda":
            try:
                self._record()
            except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own; single kernels always work
                self._programs = {style: [] for style in self._models}
                told = {
                    "setting": "llm_cuda_graphs",
                    "instead": "kernels launched one by one",
                    "reason": (str(error) or type(error).__name__).splitlines()[0],
                }
                log.warning("a setting cannot be followed here", extra=told)

    @torch.inference_mode()
    def _record(self) -> None:
        """Records every program, the largest first, whose memory the smaller ones then share."""
        pool = None
        for programs in self._programs.values():
            for program in reversed(programs):
                pool = program.record(pool)

    @torch.inference_mode()
    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        """One forward pass per style over the batch's rows, in a program as many as the rows' bursts allow.

        Raises NonFiniteLogits naming the precision.
        """
        if self._cache is None:
            raise RuntimeError("reserve() the K/V cache before the first step")
        with current_device(self.device):
            return self._step(batch, self._cache)

    def _step(self, batch: Sequence[ScheduledSequence], cache: KVCache) -> list[Sequence[int]]:
        tokens: list[Sequence[int]] = [()] * len(batch)
        for style in dict.fromkeys(work.sequence.request.style for work in batch):
            chosen = [i for i, work in enumerate(batch) if work.sequence.request.style == style]
            program, rows = self._program(style, {i: batch[i] for i in chosen})
            if program is not None:
                self.latest_program = program
                steps = min(MOST_STEPS, max(batch[i].burst for i in rows))
                self._store(tokens, batch, rows, program.run(list(rows.values()), steps))
            rest = [i for i in chosen if i not in rows]
            if rest:
                sampled, drawn = self._run(self._models[style], [batch[i] for i in rest], cache)
                self._store(tokens, batch, [rest[i] for i in sampled], [[token] for token in drawn])
        return tokens

    def _program(
        self, style: str, batch: Mapping[int, ScheduledSequence]
    ) -> tuple[DecodeProgram | None, dict[int, ProgramRow]]:
        """The smallest program for the batch's decoding rows, and these rows by their place in the step."""
        programs, longest = self._programs[style], self._options.program_tokens
        if not programs:
            return None, {}
        rows = {
            i: self._decode_row(work)
            for i, work in batch.items()
            if work.count == 1 and work.samples and len(work.sequence.layout.rows) <= longest
        }
        rows = {i: row for i, row in rows.items() if row.fits}
        return next(((program, rows) for program in programs if 0 < len(rows) <= program.rows), (None, {}))

    def _decode_row(self, work: ScheduledSequence) -> ProgramRow:
        sequence = work.sequence
        ban = self._ban_kind(sequence.layout.constraint().allowed)
        code, window = sequence.layout.rows[work.start], sequence.sampling.win_size
        return ProgramRow(code, work.start, sequence.blocks, ban, _sampling_row(work), window)

    def _run(self, model: SpeechLM, batch: Sequence[ScheduledSequence], cache: KVCache) -> tuple[list[int], list[int]]:
        """Which items of the batch sample, and what they drew."""
        laid_out = build_batch([_rows(work) for work in batch], cache.block_size, self.device)
        hidden = model(laid_out, cache)
        sampled = [i for i, work in enumerate(batch) if work.samples]
        return sampled, self._sample(model, [batch[i] for i in sampled], hidden[laid_out.last[sampled]])

    def _sample(self, model: SpeechLM, batch: Sequence[ScheduledSequence], hidden: Tensor) -> list[int]:
        if not batch:
            return []
        rows = [_sampling_row(work) for work in batch]
        banned = self._bans[[self._ban_kind(work.sequence.layout.constraint().allowed) for work in batch]]
        sampling = SamplingBatch.of(rows, self.device)
        draw = CounterDraw(sampling) if self._draw is None else self._draw(rows, self.device)
        ids: list[int] = sample(model.logits(hidden), sampling, banned, draw).tolist()
        return ids

    def _store(
        self,
        tokens: list[Sequence[int]],
        batch: Sequence[ScheduledSequence],
        where: Iterable[int],
        drawn: Sequence[Sequence[int]],
    ) -> None:
        for i, row in zip(where, drawn, strict=True):
            forced = batch[i].sequence.layout.constraint().forced
            # What a program drew beyond an id that is not speech was drawn after a row that is never fed.
            ends = next((k for k, token in enumerate(row, 1) if token >= self._config.speech_tokens), len(row))
            tokens[i] = row[: min(ends, batch[i].burst)] if forced is None else (forced,)
            if NOT_FINITE in row[:ends]:
                name = str(self._dtype).removeprefix("torch.")
                raise NonFiniteLogits(f"the model's logits in {name} are not finite; a wider precision may help")

    def _ban_kind(self, allowed: frozenset[int]) -> int:
        """Which row of `_bans` is true for every special id that is not allowed."""
        if allowed not in self._ban_kinds:
            kind = len(self._ban_kinds)
            if kind == BAN_KINDS:
                raise RuntimeError(f"more than {BAN_KINDS} different sets of allowed ids")
            self._bans[kind, self._config.speech_tokens :] = True
            self._bans[kind, sorted(allowed)] = False
            self._ban_kinds[allowed] = kind
        return self._ban_kinds[allowed]


def _rows(work: ScheduledSequence) -> Rows:
    sequence = work.sequence
    return Rows(sequence.layout.rows[work.start : work.start + work.count], work.start, sequence.blocks)


def _sampling_row(work: ScheduledSequence) -> SamplingRow:
    sequence, sampling, options = work.sequence, work.sequence.sampling, work.sequence.request.sampling
    return SamplingRow(
        seed=options.seed,
        position=len(sequence.decoded),
        temperature=options.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repeats=sampling.win_size * sampling.tau_r if options.ras else math.inf,
        window=sequence.decoded[-sampling.win_size :],
    )
