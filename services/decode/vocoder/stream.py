"""HiFT as a stream: mel frames in, samples out, equal to one run over the whole mel.

The generator depends on a few frames on either side. A stream keeps some frames as left context and holds back some as
right context; each call runs the generator over one window and returns the middle, which is exact. There is no
cross-fade: phase continues in float64 and noise is a function of the absolute sample, so adjacent windows agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.common.checkpoint.weights import load_strict
from services.decode.vocoder.activation import Snake
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.pitch import PitchPredictor, accumulate, cycles_per_frame
from services.decode.vocoder.source import HarmonicSource, NoiseTable


@dataclass(frozen=True)
class Context:
    """Frames that a sample needs on either side to be the same as with the whole mel."""

    left: int
    right: int


@dataclass
class VocoderState:
    """The vocoder state of one stream; small (about 20 kB) and never evicted.

    emitted  frames whose samples have been returned
    start    absolute frame of `mel`'s first row
    mel      float32 [n, mel]: left context, then frames still held back
    phase    float64 [harmonics], turns at the end of the frame before `Vocoder.source_start`
    """

    seed: int
    phase: Tensor = field(repr=False)
    mel: Tensor = field(repr=False)
    emitted: int = 0
    start: int = 0


@dataclass(frozen=True)
class Window:
    """What one call computes for a stream: the frames of its state, then new ones [n, mel], all on the device.

    The first `behind` frames are context of the pitch alone; the samples begin after them.
    """

    state: VocoderState
    new: Tensor
    behind: int
    ready: int
    """Absolute frame before which all samples are then determined."""
    start: int
    """Absolute first frame that later windows need."""

    @property
    def frames(self) -> int:
        """Frames that give samples."""
        return self.state.mel.shape[0] + self.new.shape[0] - self.behind

    @property
    def source_start(self) -> int:
        """The absolute frame of the first sample."""
        return self.state.start + self.behind

    @property
    def kept(self) -> int:
        """Frames that later windows need."""
        return self.source_start + self.frames - self.start


@dataclass(frozen=True)
class Spoken:
    """What a window gives: the determined samples [n], and the `mel` and `phase` of the stream's next state."""

    samples: Tensor
    mel: Tensor
    phase: Tensor


class WindowPrograms(Protocol):
    """Another way to compute windows, with equal results; see `services.decode.vocoder.programs`."""

    unprepared: int

    def run(self, windows: Sequence[Window]) -> list[Spoken | None]:
        """Compute windows; None for those that fit no program, which are counted."""
        ...


class Vocoder:
    """The vocoder of one checkpoint. Not thread-safe: one engine thread owns it."""

    def __init__(
        self, config: VocoderConfig, weights: Mapping[str, Tensor], context: Context, device: torch.device | None = None
    ) -> None:
        """Raises ModelDirError if the weights do not fit the configuration."""
        self.config, self.context = config, context
        self.device = device or torch.device("cpu")
        self.generator = Generator(config)
        self.source = HarmonicSource(config)
        self.pitch = PitchPredictor(config)
        prefixes = {"m_source.": self.source, "f0_predictor.": self.pitch}
        for prefix, module in prefixes.items():
            part = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            load_strict(module, part, f"hift.pt ({prefix}*)")
        load_strict(self.generator, weights, "hift.pt", ignore=tuple(prefixes))
        for module in (self.generator, self.source, self.pitch):
            module.to(self.device).eval().requires_grad_(False)
        self.pitch.double()
        for snake in self.generator.modules():
            if isinstance(snake, Snake):
                snake.fold()
        self.noise = NoiseTable(self.source.harmonics, uniform=config.causal)
        self.noise.to(self.device)
        self.programs: WindowPrograms | None = None
        """Compute the windows that fit one of their shapes; see `services.decode.vocoder.programs`."""

    def open(self, seed: int) -> VocoderState:
        """Return a stream's state before its first frame."""
        return VocoderState(
            seed=seed,
            phase=torch.zeros(self.source.harmonics, dtype=torch.float64, device=self.device),
            mel=torch.zeros(0, self.config.in_channels, device=self.device),
        )

    def source_start(self, state: VocoderState) -> int:
        """The first frame whose pitch the window determines: the frames before it are only context."""
        return state.start + self.pitch.left if state.start else 0

    def ahead(self, window: Window) -> int:
        """Frames from the window's first sample to that of the stream's next window."""
        return self.source_start(replace(window.state, start=window.start)) - window.source_start

    def append(self, state: VocoderState, mel: Tensor, last: bool) -> Tensor:
        """Append mel frames [n, mel]; return the samples that are now determined, [frames * hop], possibly none.

        With `last`, return the samples of the frames held back too.
        """
        return self.append_all([(state, mel, last)])[0]

    @torch.inference_mode()
    def append_all(self, pieces: Sequence[tuple[VocoderState, Tensor, bool]]) -> list[Tensor]:
        """`append` for several streams: as programs or, without them, windows of equal length as one batch.

        If it raises, no state has changed.
        """
        windows = [self._window(*piece) for piece in pieces]
        wanted = [index for index, window in enumerate(windows) if window.ready > window.state.emitted]
        made = dict(zip(wanted, self._speak([windows[index] for index in wanted]), strict=True))
        samples = []
        for index, window in enumerate(windows):
            state, spoken = window.state, made.get(index)
            if spoken is None:
                spoken = Spoken(window.new.new_zeros(0), torch.cat((state.mel, window.new)), state.phase)
            made[index] = spoken
            samples.append(spoken.samples)
        for index, window in enumerate(windows):
            state, spoken = window.state, made[index]
            state.mel, state.phase, state.start = spoken.mel, spoken.phase, window.start
            state.emitted = window.ready
        return samples

    def _window(self, state: VocoderState, mel: Tensor, last: bool) -> Window:
        end = state.start + state.mel.shape[0] + mel.shape[0]
        ready = end if last else max(state.emitted, end - self.context.right)
        start = state.start
        if ready > state.emitted:
            start = max(start, ready - self.context.left - self.pitch.left)
        return Window(state, mel.to(self.device), self.source_start(state) - state.start, ready, start)

    def _speak(self, windows: Sequence[Window]) -> list[Spoken]:
        done: list[Spoken | None] = [None] * len(windows) if self.programs is None else self.programs.run(windows)
        groups = defaultdict(list)
        for index, window in enumerate(windows):
            if done[index] is None:
                groups[window.frames].append(index)
        for group in groups.values():
            mels = [torch.cat((windows[i].state.mel, windows[i].new)) for i in group]
            made = self.run_windows([(windows[i].state, mel) for i, mel in zip(group, mels, strict=True)])
            for index, mel, (audio, phase) in zip(group, mels, made, strict=True):
                done[index] = self._cut(windows[index], mel, audio, phase)
        return [one for one in done if one is not None]

    def _cut(self, window: Window, mel: Tensor, audio: Tensor, phase: Tensor) -> Spoken:
        """The results in a window's samples [n * hop] and phase [n, harmonics]."""
        state, hop, first = window.state, self.config.hop, window.source_start
        # Copies: a stream must not keep what a whole batch has computed.
        samples = audio[(state.emitted - first) * hop : (window.ready - first) * hop].clone()
        ahead = self.ahead(window)
        after = torch.remainder(phase[ahead - 1], 1.0) if ahead > 0 else state.phase
        return Spoken(samples, mel[window.start - state.start :].clone(), after)

    def run_window(self, state: VocoderState, window: Tensor) -> tuple[Tensor, Tensor]:
        """Return the window's samples [n * hop] from frame `source_start(state)` on, and their phase [n, harmonics]."""
        return self.run_windows([(state, window)])[0]

    def run_windows(self, windows: Sequence[tuple[VocoderState, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """`run_window` of windows that give equally many frames."""
        groups = defaultdict(list)  # streams at their start have no frames before the ones that they give
        for index, (state, _) in enumerate(windows):
            groups[self.source_start(state) - state.start].append(index)
        order, mels, sources = [], [], []
        phases: list[Tensor] = []
        for first, group in groups.items():
            states = [windows[index][0] for index in group]
            stacked = torch.stack([windows[index][1] for index in group]).mT
            source, phase = self._excite(states, stacked, first)
            order += group
            mels.append(stacked[..., first:])
            sources.append(source)
            phases += phase.unbind()
        made = zip(self.generator(torch.cat(mels), torch.cat(sources)), phases, strict=True)
        return [one for _, one in sorted(zip(order, made, strict=True), key=lambda item: item[0])]

    def _excite(self, states: Sequence[VocoderState], mel: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Return excitation [S, n * hop] and phase [S, n, harmonics] from frame `first` of mel [S, mel, first + n]."""
        config = self.config
        f0 = self.pitch(mel.double())[:, first:]
        turns = cycles_per_frame(f0, self.source.harmonics, config.sample_rate, config.hop)
        before = torch.stack([state.phase for state in states])
        phase = accumulate(turns, before)
        count = f0.shape[1] * config.hop
        noise = [self.noise.read(state.seed, self.source_start(state) * config.hop, count) for state in states]
        return self.source(f0, phase, before if first else None, torch.stack(noise)), phase
