"""HiFT as a stream: mel frames in, samples out, equal to one run over the whole mel.

The generator depends on a few frames on either side. A stream keeps some frames as left context and holds back some as
right context; each call runs the generator over one window and returns the middle, which is exact. There is no
cross-fade: phase continues in float64 and noise is a function of the absolute sample, so adjacent windows agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.common.checkpoint.weights import load_strict
from services.decode.vocoder.hift import Generator, Snake
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

    def append(self, state: VocoderState, mel: Tensor, last: bool) -> Tensor:
        """Append mel frames [n, mel]; return the samples that are now determined, [frames * hop], possibly none.

        With `last`, return the samples of the frames held back too.
        """
        return self.append_all([(state, mel, last)])[0]

    @torch.inference_mode()
    def append_all(self, pieces: Sequence[tuple[VocoderState, Tensor, bool]]) -> list[Tensor]:
        """`append` for several streams; windows of equal length, as in mid-stream, run as one batch.

        If it raises, no state has changed.
        """
        windows = [torch.cat((state.mel, mel.to(self.device))) for state, mel, _ in pieces]
        ready, groups = [], defaultdict(list)
        for index, ((state, _, last), window) in enumerate(zip(pieces, windows, strict=True)):
            end = state.start + window.shape[0]
            ready.append(end if last else max(state.emitted, end - self.context.right))
            if ready[index] > state.emitted:
                groups[window.shape[0] - (self.source_start(state) - state.start)].append(index)
        made: dict[int, tuple[Tensor, Tensor]] = {}
        for group in groups.values():
            made.update(zip(group, self.run_windows([(pieces[i][0], windows[i]) for i in group]), strict=True))
        after = [replace(state) for state, _, _ in pieces]
        samples = [
            self._take(state, window, ready[index], made.get(index))
            for index, (state, window) in enumerate(zip(after, windows, strict=True))
        ]
        for (state, _, _), advanced in zip(pieces, after, strict=True):
            vars(state).update(vars(advanced))
        return samples

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

    def _take(self, state: VocoderState, window: Tensor, ready: int, made: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the samples that are now determined; advance `state`."""
        if made is None:
            state.mel = window
            return window.new_zeros(0)
        audio, phase = made
        hop, source_start = self.config.hop, self.source_start(state)
        samples = audio[(state.emitted - source_start) * hop : (ready - source_start) * hop].clone()
        state.emitted = ready
        self._trim(state, window, phase, source_start)
        return samples

    def _trim(self, state: VocoderState, window: Tensor, phase: Tensor, source_start: int) -> None:
        """Drop the frames that no later window needs; `phase` starts at `source_start`."""
        start = max(state.start, state.emitted - self.context.left - self.pitch.left)
        state.mel = window[start - state.start :].clone()
        state.start = start
        ahead = self.source_start(state) - source_start
        if ahead > 0:
            state.phase = torch.remainder(phase[ahead - 1], 1.0)
