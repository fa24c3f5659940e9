"""The decode backend: recorded against plain steps, streamed against whole audio, and the time of a hop."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.decode import made_up_voice
from benchmarks.gpu_check.check import Check, allow_tf32, name_of
from services.common.checkpoint.model_dir import open_model_dir
from services.common.engine.device import first_line
from services.decode.engine.backends import Hop
from services.decode.engine.torch_backend import Precision, TorchBackend, TorchState
from services.decode.estimators.choice import CAPABILITY, EARLY, LATE, steps_seconds
from services.decode.estimators.compiled import LARGEST_DIFFERENCE, ProgramParts, probe_mel, use_programs
from services.decode.flow.block_attention import PlainAttention
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.program import Record
from services.decode.flow.programs import CudaGraphs
from services.decode.flow.solver import Start
from services.decode.loading import launched, launched_fastest, program_parts, vocoder_forms
from services.decode.vocoder.activation import ConvolveJoin
from services.decode.vocoder.choice import batch_seconds, fastest_forms
from services.decode.vocoder.programs import VocoderPrograms, use_vocoder_programs
from services.decode.vocoder.stream import Vocoder

TOKEN_RATE = 25
PROMPT_TOKENS = 75
FIRST_END, LAST_END = 100, 200
"""Absolute tokens of the first hop's end and of the last one that is timed: 8 blocks with the prompt."""
SPEECH_TOKENS = 230
STATE_BYTES, TINY_STATE_BYTES = 24 * 2**30, 400 * 2**20
STREAMED_DIFFERENCE = 1e-4
"""Largest difference allowed between streamed and whole audio."""
PROFILED_STREAMS = 16


def load_decode(check: Check, compute: torch.dtype, state: torch.dtype, programs: int = 0) -> TorchBackend:
    """Load and warm up a backend; batches of up to `programs` streams run as programs, recorded on a GPU."""
    state_bytes = STATE_BYTES if check.on_gpu else TINY_STATE_BYTES
    backend = TorchBackend(open_model_dir(check.checkpoint), check.device, Precision(compute, state), state_bytes)
    backend.warm_up()
    if programs:
        record = _record(check)
        what = f"programs in {name_of(compute)}"
        parts = _program_parts(check, backend, programs)
        try:
            seconds = check.seconds(
                lambda: use_programs(backend.flow, programs, record, parts.attention, parts.network)
            )
        except RuntimeError as error:
            check.expect(f"{what} are used", False, str(error).splitlines()[0])
        else:
            made = 0 if backend.flow.programs is None else len(backend.flow.programs)
            check.report(f"{what}: number, seconds to prepare", [made, round(seconds, 1)])
            fronts = 0 if backend.flow.programs is None else len(backend.flow.programs.fronts)
            check.expect(f"{what}: the encoder has programs", fronts > 0, f"{fronts} programs")
        _record_vocoder(check, backend, programs)
    return backend


def _record_vocoder(check: Check, backend: TorchBackend, most_streams: int) -> None:
    """Make the vocoder's programs as a worker does: with the fastest form of its convolutions that works."""
    vocoder, chunk = backend.vocoder, backend.chunk_frames
    forms: dict[str, ConvolveJoin | None] = {}
    if check.on_gpu:

        def leave_out(name: str, error: Exception) -> None:
            check.expect(f"the vocoder's {name} can be timed", False, first_line(error))

        forms |= fastest_forms(vocoder, most_streams, chunk, _record(check), vocoder_forms(), leave_out)
        check.report("the vocoder's forms, the fastest first", list(forms))
    for name, form in {**forms, "plain operations": None}.items():
        what = f"the vocoder's programs with {name}"
        parts = partial(use_vocoder_programs, vocoder, most_streams, chunk, _record(check), form)
        try:
            seconds = check.seconds(parts)
        except Exception as error:  # noqa: BLE001 - compilers raise errors of their own types; the next form may work
            check.expect(f"{what} are used", False, first_line(error))
        else:
            made = len(vocoder.programs) if isinstance(vocoder.programs, VocoderPrograms) else 0
            check.report(f"{what}: number, seconds to prepare", [made, round(seconds, 1)])
            return


def _record(check: Check) -> Record | None:
    return CudaGraphs(torch.device(check.device)) if check.on_gpu else None


def _program_parts(check: Check, backend: TorchBackend, most_streams: int) -> ProgramParts:
    """Return the kernels that a worker would use here; report those that a GPU should have and has not."""
    if not check.on_gpu:
        return ProgramParts()
    flow, device = backend.flow, torch.device(check.device)
    with torch.cuda.device(device):
        parts = program_parts(flow)
        fastest, *others = launched_fastest(flow, parts, most_streams, device)
    name = f"{name_of(flow.solver.estimator.dtype)}: "
    check.expect(f"{name}attention reads the blocks in place", parts.attention is not PlainAttention)
    check.expect(f"{name}the fused layers are used", parts.network is not None)
    check.report(f"{name}kernels of the Euler steps are launched", EARLY if others else LATE)
    return fastest


@dataclass(frozen=True)
class Batch:
    """Streams of one voice that speak the same tokens with different seeds."""

    backend: TorchBackend
    states: list[TorchState]
    tokens: list[int]

    @classmethod
    def open(cls, backend: TorchBackend, streams: int, voice: str) -> Batch:
        """Open streams that share the prompt's state under the name `voice`; an empty name shares nothing."""
        generator = np.random.default_rng(0)
        tokens = [int(token) for token in generator.integers(0, backend.format.vocab_size, SPEECH_TOKENS)]
        spec = replace(made_up_voice(backend, PROMPT_TOKENS, generator), voice=voice)
        return cls(backend, [backend.open(replace(spec, seed=seed)) for seed in range(streams)], tokens)

    def hop(self, end: int) -> None:
        """Decode every stream up to absolute token `end`. Raises the error of a failed stream."""
        results = self.backend.run([Hop(state, self.tokens, end, False) for state in self.states], lambda: None)
        for result in results:
            if isinstance(result, Exception):
                raise result


def decode_exact(check: Check) -> None:
    """Compare mels by kind of step and precision, and the vocoder's audio in pieces and whole."""
    exact = _mels(check, torch.float32)
    if check.on_gpu:
        rounded = _mels(check, torch.bfloat16)
        check.report("bfloat16 against float32: mean difference", _short((rounded - exact).abs().mean()))
    check.report("deviation of the mel", round(float(exact.std()), 2))
    _vocoder(check)


def _mels(check: Check, dtype: torch.dtype) -> Tensor:
    """Decode a mel twice in plain steps and once by programs; return the last one."""
    plain = load_decode(check, dtype, dtype)
    first, second = probe_mel(plain.flow), probe_mel(plain.flow)
    del plain
    found = probe_mel(load_decode(check, dtype, dtype, programs=4).flow)
    name = name_of(dtype)
    check.report(f"{name}: largest difference of two plain mels", _short((second - first).abs().max()))
    difference = (found - first).abs()
    figures = f"mean {_short(difference.mean())}, largest {_short(difference.max())}"
    check.expect(f"{name}: programs give the plain mel", float(difference.mean()) <= LARGEST_DIFFERENCE[dtype], figures)
    return found


def _vocoder(check: Check) -> None:
    """Compare streamed and whole audio in float32 with the project's settings, and on a GPU also with TF32."""
    backend = load_decode(check, torch.float32, torch.float32)
    mel = probe_mel(backend.flow)
    difference = _report_vocoder(check, backend.vocoder, mel, "float32")
    met = difference <= STREAMED_DIFFERENCE
    check.expect("vocoder: streamed audio equals whole audio", met, f"largest difference {difference:.1e}")
    _record_vocoder(check, backend, PROFILED_STREAMS if check.on_gpu else 1)
    if backend.vocoder.programs is not None:
        difference = _report_vocoder(check, backend.vocoder, mel, "float32, as programs")
        met = difference <= STREAMED_DIFFERENCE
        check.expect("vocoder as programs: streamed audio equals whole audio", met, f"{difference:.1e}")
        check.report("vocoder as programs: batches without one", backend.vocoder.programs.unprepared)
        backend.vocoder.programs = None
    if check.on_gpu:
        allow_tf32(True)
        backend.warm_up()  # measures the context again
        _report_vocoder(check, backend.vocoder, mel, "TF32")


def _report_vocoder(check: Check, vocoder: Vocoder, mel: Tensor, name: str) -> float:
    """Report context, difference and time; return the largest difference of streamed from whole audio."""
    difference = _seam(vocoder, mel)
    check.report(f"vocoder in {name}: frames of context", [vocoder.context.left, vocoder.context.right])
    check.report(f"vocoder in {name}: largest difference of streamed audio", f"{difference:.1e}")
    streams = 16 if check.on_gpu else 1
    milliseconds = check.milliseconds(
        lambda: vocoder.append_all([(vocoder.open(seed), mel, True) for seed in range(streams)]), 5
    )
    check.report(f"vocoder in {name}: {streams} streams of {len(mel)} frames, ms", milliseconds)
    return difference


def _seam(vocoder: Vocoder, mel: Tensor, frames: int = 25) -> float:
    """Return the largest difference between a mel's audio in pieces of `frames` and in one piece."""
    whole = vocoder.append(vocoder.open(0), mel, True)
    state, ends = vocoder.open(0), range(frames, len(mel) + frames, frames)
    pieces = [vocoder.append(state, mel[end - frames : end], end >= len(mel)) for end in ends]
    return float((torch.cat(pieces) - whole).abs().max())


def decode_speed(check: Check) -> None:
    """Time hops of 25 tokens by number of streams and the first hop of new voices; profile a hop of 16 streams."""
    streams = (1, 2, 4, 8, 16, 32) if check.on_gpu else (2,)
    backend = load_decode(check, check.compute, check.compute, programs=max(streams))
    context = backend.vocoder.context
    check.report("vocoder: frames of context, left and right", [context.left, context.right])
    for count in streams:
        _time_hops(check, backend, count)
    _time_launches(check, backend)
    _time_vocoder(check, backend)
    for number in (1, 2):
        batch = Batch.open(backend, 1, f"new voice {number}")
        seconds = check.seconds(lambda batch=batch: batch.hop(FIRST_END))  # type: ignore[misc]
        check.report(f"first hop of new voice {number}, ms", round(seconds * 1e3))
    check.report("batches without a prepared program", backend.counts().unprepared_batches)
    recomputed = backend.counts().recomputed_frames
    check.expect("states of all streams fit into memory", recomputed == 0, f"{recomputed} frames recomputed")
    check.report("GPU memory reserved, MiB", check.reserved_mib())


def _time_hops(check: Check, backend: TorchBackend, streams: int) -> None:
    batch = Batch.open(backend, streams, "known voice")
    batch.hop(FIRST_END)
    batch.hop(FIRST_END + TOKEN_RATE)
    rows = []
    for end in range(FIRST_END + 2 * TOKEN_RATE, LAST_END + 1, TOKEN_RATE):
        before = backend.counts()
        seconds = check.seconds(lambda end=end: batch.hop(end))  # type: ignore[misc]
        after = backend.counts()
        rows.append((seconds, after.flow_s - before.flow_s, after.vocoder_s - before.vocoder_s))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    check.report(f"{streams} streams: hop, flow, vocoder, ms", [round(one * 1e3, 1) for one in medians])
    check.report(f"{streams} streams: Euler steps of a hop without past, ms", _euler_steps(check, backend, streams))
    check.report(f"{streams} streams: encoder of a hop without past, ms", _encoder(check, backend, streams))
    check.report(f"{streams} streams: streams in real time", round(streams / medians[0], 1))
    if streams == PROFILED_STREAMS:
        _profile(check, batch)


def _time_launches(check: Check, backend: TorchBackend) -> None:
    """Time the Euler steps of a hop with their kernels launched one after the other, and early."""
    flow, programs = backend.flow, backend.flow.programs
    parts = ProgramParts()
    if programs is not None and not isinstance(programs.network, EstimatorNetwork):
        parts = ProgramParts(programs.attention, programs.network)
    forms = {LATE: launched(parts, early=False)}
    if check.on_gpu and torch.cuda.get_device_capability(check.device) >= CAPABILITY:
        forms[EARLY] = launched(parts, early=True)
    for streams in (1, 4, PROFILED_STREAMS) if check.on_gpu else (1,):
        expected = None
        for name, form in forms.items():
            what = f"{streams} streams: Euler steps of a hop after one chunk, kernels launched {name}"
            try:
                seconds, mels = steps_seconds(flow, form, streams, _record(check))
            except Exception as error:  # noqa: BLE001 - drivers and compilers raise errors of their own types
                check.expect(f"{what}: they run", False, first_line(error))
                continue
            check.report(f"{what}, ms", round(1e3 * seconds, 2))
            expected = mels[0] if expected is None else expected
            check.expect(f"{what}: the mel is always the same", all(torch.equal(mel, expected) for mel in mels))


def _time_vocoder(check: Check, backend: TorchBackend) -> None:
    """Time one batch of windows with each form of the vocoder's convolutions."""
    forms: dict[str, ConvolveJoin | None] = {"plain operations": None, **(vocoder_forms() if check.on_gpu else {})}
    for streams in (1, 4, PROFILED_STREAMS) if check.on_gpu else (1,):
        parts = backend.vocoder, streams, backend.chunk_frames
        for name, form in forms.items():
            what = f"vocoder: {streams} streams of {backend.chunk_frames} new frames with {name}"
            try:
                seconds = batch_seconds(*parts, _record(check), form)
            except Exception as error:  # noqa: BLE001 - drivers and compilers raise errors of their own types
                check.expect(f"{what}: they run", False, first_line(error))
            else:
                check.report(f"{what}, ms", round(1e3 * seconds, 2))


@torch.inference_mode()
def _euler_steps(check: Check, backend: TorchBackend, streams: int) -> float | str:
    """Return the milliseconds of a hop's Euler steps as a program over padding, without attention over the past."""
    flow = backend.flow
    frames, blocks = TOKEN_RATE * flow.config.mel_frames_per_token, LAST_END // TOKEN_RATE
    program = flow.programs.find(streams, frames, blocks) if flow.programs is not None else None
    if program is None:
        return "no program"
    zeros = torch.zeros(program.shape.streams, program.shape.frames, flow.config.output_size, device=flow.device)
    start, numbers = Start(zeros, zeros, zeros[:, 0], zeros), program.numbers([]).to(flow.device)
    return check.milliseconds(lambda: program.solve(start, numbers, lambda: None), 10, 2)


@torch.inference_mode()
def _encoder(check: Check, backend: TorchBackend, streams: int) -> float | str:
    """Return the milliseconds of a hop's encoder as a program over padding."""
    flow = backend.flow
    frames, blocks = TOKEN_RATE * flow.config.mel_frames_per_token, LAST_END // TOKEN_RATE
    program = flow.programs.find_front(streams, frames, blocks) if flow.programs is not None else None
    if program is None:
        return "no program"
    numbers = program.numbers([], torch.zeros(0, 0, dtype=torch.int64)).to(flow.device)
    return check.milliseconds(lambda: program.run(numbers), 10, 2)


def _profile(check: Check, batch: Batch) -> None:
    """Write the kernels of the next hop to hop16.txt, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        batch.hop(LAST_END + TOKEN_RATE)
        check.synchronize()
    table = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=45)
    (check.out / "hop16.txt").write_text(table, encoding="utf-8")
    kernels: Sequence[float] = [
        event.self_device_time_total for event in profiler.events() if event.device_type.name == "CUDA"
    ]
    check.report("kernels of a hop of 16 streams: number, ms", [len(kernels), round(sum(kernels) / 1e3, 1)])


def _short(value: Tensor) -> str:
    return f"{float(value):.1e}"
