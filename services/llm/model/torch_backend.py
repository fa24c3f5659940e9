"""The backend that computes: the speech language model over a paged K/V cache, with RAS sampling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from services.common.checkpoint.model_dir import AlignmentHead
from services.common.engine.thread import current_device
from services.llm.alignment.aligner import Aligner
from services.llm.engine.backends import NonFiniteLogits
from services.llm.engine.scheduler import ScheduledSequence
from services.llm.model.columns import WINDOW_SIZE
from services.llm.model.cpu_graph.sampling import sample_rows
from services.llm.model.decode_program import MAX_STEPS, MAX_TOP_K, DecodeInputs, DecodeProgram, ProgramInput
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch, kv_cache_bytes, read_buffer_bytes
from services.llm.model.model import SpeechLM
from services.llm.model.prefill_program import TILE, PrefillInput, PrefillProgram
from services.llm.model.sampling import NOT_FINITE, CounterDraw, Draw, SamplingBatch, SamplingRow, sample

if TYPE_CHECKING:
    from services.llm.model.cpu_graph.step import CpuStep

log = logging.getLogger(__name__)

BAN_KINDS = 16
"""Most different sets of allowed special ids that a checkpoint's layouts may use."""
DrawFactory = Callable[[Sequence[SamplingRow], torch.device], Draw]


@dataclass(frozen=True)
class TorchOptions:
    """How the model runs; the options change results by rounding only."""

    int8_kv: bool = False
    """Store keys and values as 8-bit integers: a quarter of float32's memory."""
    kernels: StepKernels = PLAIN
    """The implementations of the parts of a step."""
    program_sizes: tuple[int, ...] = ()
    """Batch sizes for which decode steps run as fixed-shape programs: CUDA graphs on a GPU."""
    program_tokens: int = 4096
    """Most inputs of one sequence in a program: the engine's max_request_tokens."""
    prefill_sizes: tuple[int, ...] = ()
    """Numbers of inputs for which prompts run as fixed-shape programs; multiples of `prefill_program.TILE`."""
    alignment: tuple[AlignmentHead, ...] = ()
    """The heads that align speech tokens with the text; without any that is good enough, tokens are not aligned."""
    cpu_graph: bool = False
    """Run decode steps as one ONNX Runtime graph; for models in float32 on a CPU."""


@dataclass(frozen=True)
class _Programs:
    """The programs of one style, each kind from small to large."""

    decode: Sequence[DecodeProgram] = ()
    prefill: Sequence[PrefillProgram] = ()


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

        `draw` makes each step's random choices; other values than None are for parity checks.
        """
        self._models = {"": model, **(styles or {})}
        self._config = model.config
        self._options = options or TorchOptions()
        self._draw = draw
        self._aligner = Aligner(self._options.alignment, model.config)
        self.device, self._dtype = model.speech_embedding.weight.device, model.dtype
        self._cache: KVCache | None = None
        self._programs: dict[str, _Programs] = {}
        self._cpu_steps: dict[str, CpuStep] = {}
        """The graph of each style; empty if steps run as single operations."""
        self.latest_program: DecodeProgram | None = None
        """The program of the latest step that ran as one; for measurements."""
        self._ban_kinds: dict[frozenset[int], int] = {}
        self._bans = torch.zeros(
            (BAN_KINDS, model.speech_embedding.num_embeddings), dtype=torch.bool, device=self.device
        )

    @property
    def kernels(self) -> StepKernels:
        """The kernels of its steps."""
        return self._options.kernels

    @property
    def aligns(self) -> bool:
        """Whether steps align their tokens with the text."""
        return bool(self._aligner.heads)

    def kv_bytes(self, num_blocks: int, block_size: int) -> int:
        """Return the bytes of the K/V cache that `reserve` allocates on the device."""
        return kv_cache_bytes(self._config, num_blocks + 1, block_size, self._dtype, self._options.int8_kv)

    def program_bytes(self, num_blocks: int, block_size: int) -> tuple[int, int]:
        """Return the bytes of the programs' inputs and results, and of the buffer into which they copy K/V blocks.

        The buffer is 0 bytes if a kernel reads the blocks in place.
        """
        options, queries = self._options, self._aligner.width
        width = self._width(num_blocks, block_size)
        own = sum(DecodeProgram.device_bytes(size, width, queries) for size in options.program_sizes)
        own += sum(PrefillProgram.device_bytes(size // TILE, width, queries) for size in options.prefill_sizes)
        copied = max(options.program_sizes, default=0) if options.kernels.attend is PLAIN.attend else 0
        stored = torch.int8 if options.int8_kv else self._dtype
        read = read_buffer_bytes(self._config, copied, width + 1, block_size, stored)
        return own * len(self._models), read

    def _width(self, num_blocks: int, block_size: int) -> int:
        """Most blocks of one sequence in a program."""
        return min(num_blocks, -(-self._options.program_tokens // block_size))

    def graph_bytes(self) -> int:
        """Return the bytes of the copies of weights that the graphs of decode steps will keep."""
        if not self._options.cpu_graph:
            return 0
        return sum(
            weight.nbytes for model in self._models.values() for layer in model.layers for weight in layer.parameters()
        )

    def reserve(self, num_blocks: int, block_size: int) -> None:
        with current_device(self.device):
            self._reserve(num_blocks, block_size)

    def _reserve(self, num_blocks: int, block_size: int) -> None:
        options = self._options
        # One block more than the scheduler uses: unused rows of a program write to it.
        self._cache = KVCache(
            self._config,
            num_blocks + 1,
            block_size,
            self.device,
            self._dtype,
            quantized=options.int8_kv,
        )
        width = self._width(num_blocks, block_size)
        self._programs = {
            style: self._make_programs(model, self._cache, width) for style, model in self._models.items()
        }
        if self.device.type == "cuda":
            try:
                self._record()
            except Exception as error:  # noqa: BLE001 - compilers raise many kinds of errors; single kernels always work
                self._programs = dict.fromkeys(self._models, _Programs())
                _log_replaced("llm_cuda_graphs", "kernels launched one by one", error)
        if options.cpu_graph:
            self._cpu_steps = self._make_cpu_steps(self._cache)

    @torch.inference_mode()
    def _make_cpu_steps(self, cache: KVCache) -> dict[str, CpuStep]:
        """Return the graph of each style, or none, with a reason in the log, if one cannot be made or is wrong."""
        try:
            from services.llm.model.cpu_graph.step import CpuStep

            shared = (cache, torch.get_num_threads(), self._aligner.groups)
            steps = {style: CpuStep(model, *shared) for style, model in self._models.items()}
            reason: object = next((fault for step in steps.values() if (fault := step.fault())), None)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many kinds of errors; operations always work
            reason = error
        if reason is None:
            return steps
        _log_replaced("llm_cpu_graph", "single operations", reason)
        return {}

    def _make_programs(self, model: SpeechLM, cache: KVCache, width: int) -> _Programs:
        options = self._options
        shared = (width, options.kernels, self._aligner)
        return _Programs(
            [DecodeProgram(model, cache, self._bans, size, *shared) for size in sorted(options.program_sizes)],
            [PrefillProgram(model, cache, self._bans, size, *shared) for size in sorted(options.prefill_sizes)],
        )

    @torch.inference_mode()
    def _record(self) -> None:
        """Record every program, of each kind the largest first; the others share its memory."""
        pool = None
        for programs in self._programs.values():
            for program in (*reversed(programs.prefill), *reversed(programs.decode)):
                pool = program.record(pool)

    @torch.inference_mode()
    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        """Run one forward pass per style; in a program several, up to the sequences' `num_steps`.

        Raises NonFiniteLogits with the name of the precision.
        """
        if self._cache is None:
            raise RuntimeError("call reserve() before the first step")
        with current_device(self.device):
            try:
                return self._step(batch, self._cache)
            except Exception:  # the engine runs the sequences again, one by one, and their tokens may be other ones
                for programs in self._programs.values():
                    for program in programs.decode:
                        program.forget()
                raise

    def _step(self, batch: Sequence[ScheduledSequence], cache: KVCache) -> list[Sequence[int]]:
        tokens: list[Sequence[int]] = [()] * len(batch)
        launched: list[tuple[DecodeProgram, list[int]]] = []
        rest: dict[str, list[int]] = {}
        for i, scheduled in enumerate(batch):
            rest.setdefault(scheduled.sequence.request.style, []).append(i)
        for style, chosen in rest.items():
            program, where = self._program(style, chosen, batch)
            if program is not None:
                self.latest_program = program
                decoding = [batch[i] for i in where]
                num_steps = min(MAX_STEPS, max([scheduled.num_steps for scheduled in decoding]))
                program.launch(self._decode_inputs(decoding), num_steps)
                launched.append((program, where))
                rest[style] = sorted(set(chosen).difference(where))
        # The device decodes while the host prepares the prompts.
        for style, left in rest.items():
            self._prefill(style, left, batch, tokens, cache)
        for program, where in launched:
            self._store(tokens, batch, where, program.read(), program.run_queries())
        return tokens

    def _prefill(
        self,
        style: str,
        left: Sequence[int],
        batch: Sequence[ScheduledSequence],
        tokens: list[Sequence[int]],
        cache: KVCache,
    ) -> None:
        """Run the sequences `left` of the step, in programs as far as they fit."""
        programs = self._programs[style].prefill
        inputs = {i: self._prefill_input(batch[i]) for i in left} if programs else {}
        most = programs[-1].size if programs else 0
        fitting = [i for i, item in inputs.items() if self._fits(batch[i]) and item.tiles <= most]
        while fitting:
            taken, tiles = [], 0
            for i in fitting:
                if tiles + inputs[i].tiles <= most:
                    taken.append(i)
                    tiles += inputs[i].tiles
            program = next(program for program in programs if tiles <= program.size)
            ids, rows = program.run([inputs[i] for i in taken])
            drawn = dict(zip(taken, zip(ids, rows, strict=True), strict=True))
            sampled = [i for i in taken if batch[i].samples]
            queries = program.queries[None, [drawn[i][1] for i in sampled]]
            self._store(tokens, batch, sampled, [[drawn[i][0]] for i in sampled], queries)
            fitting = [i for i in fitting if i not in drawn]
            left = [i for i in left if i not in drawn]
        if left:
            sampled, ids, queries = self._run(style, [batch[i] for i in left], cache)
            self._store(tokens, batch, [left[i] for i in sampled], [[token] for token in ids], queries[None])

    def _program(
        self, style: str, chosen: Sequence[int], batch: Sequence[ScheduledSequence]
    ) -> tuple[DecodeProgram | None, list[int]]:
        """Return the smallest program for those of `chosen` that decode, and which these are."""
        programs = self._programs[style].decode
        if not programs:
            return None, []
        where = [i for i in chosen if batch[i].count == 1 and batch[i].samples and self._fits(batch[i])]
        return next(((program, where) for program in programs if 0 < len(where) <= program.size), (None, []))

    def _fits(self, scheduled: ScheduledSequence) -> bool:
        """Whether the sequence fits the fixed shapes of programs."""
        sampling, inputs = scheduled.sequence.sampling, scheduled.sequence.layout.inputs
        small = sampling.top_k <= MAX_TOP_K and sampling.win_size <= WINDOW_SIZE
        return small and len(inputs) <= self._options.program_tokens

    def _decode_inputs(self, batch: Sequence[ScheduledSequence]) -> DecodeInputs:
        sequences = [scheduled.sequence for scheduled in batch]
        return DecodeInputs(
            sequences=sequences,
            codes=[scheduled.sequence.layout.inputs[scheduled.start] for scheduled in batch],
            positions=[scheduled.start for scheduled in batch],
            draws=[len(sequence.decoded) for sequence in sequences],
            bans=[self._ban_kind(sequence.layout.constraint().allowed) for sequence in sequences],
            blocks=[sequence.blocks for sequence in sequences],
            complete=lambda i: self._program_input(batch[i]),
        )

    def _prefill_input(self, scheduled: ScheduledSequence) -> PrefillInput:
        codes = scheduled.sequence.layout.inputs[scheduled.start : scheduled.start + scheduled.count]
        return PrefillInput(codes, self._program_input(scheduled))

    def _program_input(self, scheduled: ScheduledSequence) -> ProgramInput:
        sequence = scheduled.sequence
        ban = self._ban_kind(sequence.layout.constraint().allowed) if scheduled.samples else 0
        window = sequence.sampling.win_size
        return ProgramInput(scheduled.start, sequence.blocks, ban, SamplingRow.of(sequence), window)

    def _run(
        self, style: str, batch: Sequence[ScheduledSequence], cache: KVCache
    ) -> tuple[list[int], list[int], Tensor]:
        """Return the indices of the sequences that sample, their tokens, and the queries that align them."""
        model, cpu_step = self._models[style], self._cpu_steps.get(style)
        single = [i for i, scheduled in enumerate(batch) if scheduled.count == 1] if cpu_step is not None else []
        rest = [i for i in range(len(batch)) if i not in set(single)]
        hidden, queries = list[Tensor](), list[Tensor]()
        if cpu_step is not None and single:
            states, tapped = cpu_step.run([_sequence_input(batch[i]) for i in single])
            hidden.append(states)
            queries += [] if tapped is None else [tapped]
        if rest:
            tap = self._aligner.tap()
            inputs = [_sequence_input(batch[i]) for i in rest]
            step_batch = build_batch(inputs, cache.block_size, self.device, tap)
            hidden.append(model(step_batch, cache, self._options.kernels)[step_batch.last])
            queries += [] if tap is None else [tap.summed()]
        place = {i: row for row, i in enumerate(single + rest)}
        sampled = [i for i, scheduled in enumerate(batch) if scheduled.samples]
        chosen = [place[i] for i in sampled]
        ids = self._sample(model, [batch[i] for i in sampled], _rows(hidden, chosen))
        return sampled, ids, _rows(queries, chosen) if queries else hidden[0][:0, :0]

    def _sample(self, model: SpeechLM, batch: Sequence[ScheduledSequence], hidden: Tensor) -> list[int]:
        if not batch:
            return []
        rows = [SamplingRow.of(scheduled.sequence) for scheduled in batch]
        banned = self._bans[[self._ban_kind(scheduled.sequence.layout.constraint().allowed) for scheduled in batch]]
        if self._draw is None and self.device.type == "cpu":
            return sample_rows(model.logits(hidden), rows, banned)
        sampling = SamplingBatch.of(rows, self.device)
        draw = CounterDraw(sampling) if self._draw is None else self._draw(rows, self.device)
        ids: list[int] = sample(model.logits(hidden), sampling, banned, draw).tolist()
        return ids

    def _store(
        self,
        tokens: list[Sequence[int]],
        batch: Sequence[ScheduledSequence],
        where: Sequence[int],
        drawn: Sequence[Sequence[int]],
        queries: Tensor,
    ) -> None:
        """Store the ids drawn for the sequences `where`, and align them.

        queries [steps or more, sequences or more, width]
        """
        speech = self._config.speech_tokens
        for i, row in zip(where, drawn, strict=True):
            scheduled = batch[i]
            ids = row
            if max(row) >= speech:
                # A program's tokens after an id that is not speech are dropped: that id is never fed.
                ids = row[: next(k for k, token in enumerate(row, 1) if token >= speech)]
            if NOT_FINITE in ids:
                name = str(self._dtype).removeprefix("torch.")
                raise NonFiniteLogits(f"the model's logits in {name} are not finite; a wider precision may help")
            forced = scheduled.sequence.layout.constraint().forced
            tokens[i] = ids[: scheduled.num_steps] if forced is None else (forced,)
        if self._aligner.heads and self._cache is not None and where:
            counts = [len(tokens[i]) for i in where]
            self._aligner.align([batch[i] for i in where], counts, queries, self._cache)

    def _ban_kind(self, allowed: frozenset[int]) -> int:
        """Return the index of the mask in `_bans` that is true for every special id that is not allowed."""
        if allowed not in self._ban_kinds:
            kind = len(self._ban_kinds)
            if kind == BAN_KINDS:
                raise RuntimeError(f"more than {BAN_KINDS} different sets of allowed ids")
            self._bans[kind, self._config.speech_tokens :] = True
            self._bans[kind, sorted(allowed)] = False
            self._ban_kinds[allowed] = kind
        return self._ban_kinds[allowed]


def _log_replaced(setting: str, instead: str, reason: object) -> None:
    fields = {"setting": setting, "instead": instead, "reason": (str(reason) or type(reason).__name__).splitlines()[0]}
    log.warning("a setting cannot be followed here", extra=fields)


def _rows(parts: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    """Return rows of `parts` one below the other; nearly always these are all rows of one part."""
    if len(parts) == 1 and len(chosen) == len(parts[0]) and all(row == i for i, row in enumerate(chosen)):
        return parts[0]
    return torch.cat(tuple(parts))[chosen]


def _sequence_input(scheduled: ScheduledSequence) -> SequenceInput:
    sequence, start = scheduled.sequence, scheduled.start
    return SequenceInput(sequence.layout.inputs[start : start + scheduled.count], start, sequence.blocks)
