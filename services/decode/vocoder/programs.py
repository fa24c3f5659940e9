"""Windows of the vocoder as programs over tensors of fixed shape: CUDA graphs on a GPU.

Launching the generator's hundreds of small kernels one by one takes longer than running them, and windows of different
lengths cannot share a launch. A program has places for some streams with windows of at most some frames: shorter ones
end where `frames` says (`Generator.forward`), so the result is that of the window alone. The program also selects the
noise, cuts out what the next window needs and continues the phase, so a batch is a few launches, however many streams.
Without CUDA the same program runs as ordinary operations.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.decode.flow.program import Record
from services.decode.flow.programs import device_in_force
from services.decode.flow.upload import uploaded
from services.decode.vocoder.activation import ConvolveJoin
from services.decode.vocoder.pitch import accumulate, cycles_per_frame
from services.decode.vocoder.stream import Context, Spoken, Vocoder, Window

log = logging.getLogger(__name__)

STREAMS = (1, 2, 4, 6, 8, 12, 16)
"""Streams of a program; more run one after the other: these already use a whole GPU."""
CHUNKS = (0.5, 1, 2, 4, 8)
"""New frames of a window, in chunks. A first window has no context: the frames of half a chunk and of the context are a
first hop. 4 is the largest hop of `HopPolicy`, 8 such a hop at half speed."""
MOST_FRAMES = 2048
"""Frames of all streams of a program, which bounds the memory of its layers (about 0.5 GB at full size)."""
LARGEST_DIFFERENCE = 1e-4
"""Of a sample: what windows over one mel may differ."""
_PLACE, _FRAMES, _BEHIND, _KEEP, _AHEAD = range(5)


@dataclass(frozen=True)
class WindowShape:
    """Streams, and the largest number of frames that give samples."""

    streams: int
    frames: int


def window_shapes(most_streams: int, chunk_frames: int, context: Context) -> list[WindowShape]:
    """The shapes of batches of at most `most_streams` streams, the largest first."""
    most = min(most_streams, STREAMS[-1])
    streams = (*(count for count in STREAMS if count < most), most)
    around = context.left + context.right
    shapes = [
        WindowShape(count, around + int(chunks * chunk_frames))
        for chunks in CHUNKS
        for count in streams
        if count == 1 or count * (around + int(chunks * chunk_frames)) <= MOST_FRAMES
    ]
    return sorted(shapes, key=lambda shape: (shape.streams * shape.frames, shape.frames))[::-1]


class WindowProgram:
    """Computes batches of windows up to one shape. Used by one thread at a time."""

    def __init__(self, vocoder: Vocoder, shape: WindowShape) -> None:
        self.shape = shape
        self._vocoder, device = vocoder, vocoder.device
        self._left, self._kept = vocoder.pitch.left, kept_frames(vocoder)
        mel = torch.zeros(shape.streams * (self._left + shape.frames), vocoder.config.in_channels, device=device)
        self._mel, self._zeros = mel, torch.zeros_like(mel[: self._left + shape.frames])
        self._before = torch.zeros(shape.streams, vocoder.source.harmonics, dtype=torch.float64, device=device)
        self._table = torch.zeros(shape.streams, 5, dtype=torch.int64, device=device)
        self._results: list[Tensor] = []
        self._repeat: Callable[[], None] = self._run

    def record(self, record: Record) -> None:
        """Replace the operations by their recording. Raises RuntimeError if they cannot be recorded."""
        self._repeat = record(self._run)

    def run(self, windows: Sequence[Window]) -> list[Spoken]:
        """Compute windows, at most as many as the shape has streams."""
        self.fill(windows)
        self.step()
        # Copies, because the next batch overwrites the results.
        samples, mel, phase = (result[: len(windows)].clone() for result in self._results)
        made, hop = [], self._vocoder.config.hop
        for row, window in enumerate(windows):
            begin, end = (hop * (frame - window.source_start) for frame in (window.state.emitted, window.ready))
            made.append(Spoken(samples[row, begin:end], mel[row, : window.kept], phase[row]))
        return made

    def step(self) -> None:
        """Compute the results of the inputs."""
        self._repeat()

    def fill(self, windows: Sequence[Window]) -> None:
        """Fill the inputs; places without a window have no frames."""
        vocoder, shape = self._vocoder, self.shape
        missing = shape.streams - len(windows)
        pieces, numbers, zeros = [], [], self._zeros
        for window in windows:
            state, before = window.state, self._left - window.behind
            pieces += [zeros[:before], state.mel, window.new, zeros[: shape.frames - window.frames]]
            place = vocoder.noise.place(state.seed, window.source_start * vocoder.config.hop)
            keep = before + window.start - state.start
            numbers.append([place, window.frames, window.behind, keep, vocoder.ahead(window)])
        torch.cat([*pieces, *[zeros] * missing], out=self._mel)
        idle = [torch.zeros_like(self._before[0])] * missing
        torch.stack([*(window.state.phase for window in windows), *idle], out=self._before)
        table = torch.tensor([*numbers, *[[0] * 5] * missing], dtype=torch.int64)
        self._table.copy_(uploaded(table, self._table.device))

    def _run(self) -> None:
        vocoder, left = self._vocoder, self._left
        config = vocoder.config
        mel = self._mel.view(self.shape.streams, left + self.shape.frames, -1)
        place, frames, behind, keep, ahead = self._table[:, :, None].unbind(1)
        row = torch.arange(mel.shape[1], device=mel.device)
        known = (row >= left - behind) & (row < left + frames)
        f0 = vocoder.pitch(mel.mT.double(), known)[:, left:]
        turns = cycles_per_frame(f0, vocoder.source.harmonics, config.sample_rate, config.hop)
        phase = accumulate(turns, self._before)  # constant after the end
        before = torch.where(behind > 0, self._before, phase[:, 0])
        noise = vocoder.noise.gather(place, self.shape.frames * config.hop)
        source = vocoder.source(f0, phase, before, noise)
        samples = vocoder.generator(mel[:, left:].mT, source, frames)
        kept = (keep + torch.arange(self._kept, device=mel.device)).clamp_(max=mel.shape[1] - 1)
        next_mel = mel.gather(1, kept[:, :, None].expand(-1, -1, mel.shape[2]))
        last = phase.gather(1, (ahead - 1).clamp_(min=0)[:, :, None].expand(-1, -1, phase.shape[2]))[:, 0]
        self._results = [samples, next_mel, torch.where(ahead > 0, last.remainder_(1.0), self._before)]


def kept_frames(vocoder: Vocoder) -> int:
    """The most frames that a stream keeps between windows that give samples."""
    return vocoder.pitch.left + vocoder.context.left + vocoder.context.right


class VocoderPrograms:
    """The programs of one vocoder, made at the start. Used by one thread at a time."""

    def __init__(self, vocoder: Vocoder, *, most_streams: int, chunk_frames: int, record: Record | None = None) -> None:
        """`record` makes a program fast; without it, programs run as ordinary operations.

        The shapes follow the vocoder's present context.
        """
        self.unprepared = 0
        """Number of batches with a window that had no program."""
        self._vocoder, self._record = vocoder, record
        self._shapes = window_shapes(most_streams, chunk_frames, vocoder.context)
        self._kept = kept_frames(vocoder)
        self._prepared: dict[WindowShape, WindowProgram] = {}
        self._streams: dict[int, list[int]] = {}
        self._reported = False

    def __len__(self) -> int:
        return len(self._prepared)

    @torch.inference_mode()
    def prepare(self) -> None:
        """Make a program of every shape; skip shapes that lack memory.

        Raises RuntimeError if one cannot be recorded, or no program fits into memory.
        """
        began, lack = time.perf_counter(), ""
        for shape in self._shapes:
            try:
                program = WindowProgram(self._vocoder, shape)
                if self._record is not None:
                    program.record(self._record)
            except torch.OutOfMemoryError as error:
                lack = str(error).splitlines()[0]
            else:
                self._prepared[shape] = program
        if lack:
            if not self._prepared:
                raise RuntimeError(lack)
            details = {"programs": len(self._shapes) - len(self), "reason": lack}
            log.warning("no memory for some of the vocoder's programs; their batches run without", extra=details)
        streams = defaultdict(list)
        for shape in self._prepared:
            streams[shape.frames].append(shape.streams)
        self._streams = {frames: sorted(streams[frames]) for frames in sorted(streams)}
        seconds = round(time.perf_counter() - began, 1)
        log.info("the vocoder's programs prepared", extra={"programs": len(self), "seconds": seconds})

    def run(self, windows: Sequence[Window]) -> list[Spoken | None]:
        """Compute windows; None for those that fit no program, which are counted and logged once."""
        made: list[Spoken | None] = [None] * len(windows)
        lengths, groups, missed = list(self._streams), defaultdict(list), []
        for index, window in enumerate(windows):
            place = bisect_left(lengths, window.frames)
            if place < len(lengths) and window.kept <= self._kept:
                groups[lengths[place]].append(index)
            else:
                missed.append(window)
        if missed:
            self._report(missed[0])
        for frames, group in groups.items():
            counts = self._streams[frames]
            for begin in range(0, len(group), counts[-1]):
                part = group[begin : begin + counts[-1]]
                program = self._prepared[WindowShape(counts[bisect_left(counts, len(part))], frames)]
                for index, spoken in zip(part, program.run([windows[i] for i in part]), strict=True):
                    made[index] = spoken
        return made

    def _report(self, window: Window) -> None:
        self.unprepared += 1
        if not self._reported:
            self._reported = True
            details = {"frames": window.frames, "kept": window.kept}
            log.warning("no prepared program for a vocoder's window; kernels are launched one by one", extra=details)


@torch.inference_mode()
def use_vocoder_programs(
    vocoder: Vocoder, most_streams: int, chunk_frames: int, record: Record | None, convolve: ConvolveJoin | None = None
) -> None:
    """Compute windows of up to `most_streams` streams as programs, recorded by `record`.

    Makes all of them now. `convolve` computes the residual blocks' convolutions. Raises RuntimeError if the programs
    give other samples, or whatever the recording or `convolve` raises.
    """
    vocoder.generator.convolve = convolve
    try:
        _use(vocoder, most_streams, chunk_frames, record)
    except Exception:
        vocoder.programs = vocoder.generator.convolve = None
        raise


def _use(vocoder: Vocoder, most_streams: int, chunk_frames: int, record: Record | None) -> None:
    programs = VocoderPrograms(vocoder, most_streams=most_streams, chunk_frames=chunk_frames, record=record)
    streams = max(2, min(most_streams, STREAMS[-1]))  # kernels may have other tiles for many streams
    with device_in_force(vocoder.device):
        expected = _probe(vocoder, streams, chunk_frames)
        torch.cuda.empty_cache()  # recordings need their own memory and cannot use what the allocator has cached
        programs.prepare()
        torch.cuda.empty_cache()  # memory of the runs before the recordings
        vocoder.programs = programs
        difference = float((_probe(vocoder, streams, chunk_frames) - expected).abs().max())
        if not difference <= LARGEST_DIFFERENCE:  # NaN too
            raise RuntimeError(f"its samples differ from the plain ones by up to {difference:.2g}")


def _probe(vocoder: Vocoder, streams: int, chunk_frames: int) -> Tensor:
    """Samples of streams of a random mel, in a first, a middle and a last hop; one stream's have other lengths."""
    generator = torch.Generator("cpu").manual_seed(0)
    mel = torch.randn(2 * chunk_frames + 20, vocoder.config.in_channels, generator=generator).to(vocoder.device) - 5.0
    first, *others = [vocoder.open(seed) for seed in range(streams)]
    samples, cuts = [], [chunk_frames - 15, 2 * chunk_frames - 15, len(mel)]
    for begin, end in zip([0, *cuts], cuts, strict=False):
        last = end == len(mel)
        piece = mel[begin : end if last else end - 7]
        hops = [(first, mel[begin:end], last), *((state, piece, last) for state in others)]
        samples += vocoder.append_all(hops)
    return torch.cat(samples)
