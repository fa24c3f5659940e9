"""The loop of every training stage: schedule, checkpoint, averaged weights, progress."""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.work import Progress, Work

SAVE_EVERY, LOG_EVERY = 100, 25
"""Steps."""
_WARM_UP = 100
_CONSTANT, _LAST = 0.5, 0.03
"""The rate stays for this share of the steps and then falls along a cosine to this share of itself."""


class Fit:
    """Trains `net` up to a total of steps, from the checkpoint of an earlier run where there is one.

    The draws of a step depend on the seed and the step alone, so a run that is stopped and resumed sees the same
    batches. With a higher total later the rate rises again.
    """

    def __init__(
        self,
        work: Work,
        name: str,
        net: nn.Module,
        *,
        until: int,
        rate: float,
        seed: int,
        device: torch.device,
        betas: tuple[float, float] = (0.9, 0.98),
        decay: float = 0.01,
        clip: float = 1.0,
        average: float = 0.0,
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """`average` is the decay of an exponential average of the weights; `beside` are modules saved with the net.

        Modules of `beside` are not trained here; their owner trains them.
        """
        self.net, self._work, self._name, self._until, self._rate = net.to(device), work, name, until, rate
        self._seed, self._clip, self._average = seed, clip, average
        self._beside = {key: module.to(device) for key, module in (beside or {}).items()}
        self._optimizer = torch.optim.AdamW(net.parameters(), rate, betas=betas, weight_decay=decay)
        self._means: dict[str, Tensor] = {}
        self.step = 0
        self.judge: Callable[[], Mapping[str, Tensor]] | None = None
        """Measures the net on utterances held back; called without gradients whenever a checkpoint is written."""
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._resume()

    @property
    def done(self) -> bool:
        """Whether the checkpoint has all steps."""
        return self.step >= self._until

    @property
    def share(self) -> float:
        """How much of the steps is done, 0 to 1."""
        return self.step / max(1, self._until)

    def steps(self) -> Iterator[random.Random]:
        """Yield a source of random numbers per step; the body of the loop calls `update`. Saves now and then."""
        progress = Progress(self._name, self.step, self._until, "steps")
        while not self.done:
            draw = random.Random(f"{self._seed}/{self._name}/{self.step}")
            torch.manual_seed(draw.randrange(2**31))
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * self._schedule()
            yield draw
            self.step += 1
            figures = {name: sum(values) / len(values) for name, values in self._sums.items()} | self._judged()
            progress.show(self.step, figures, now=self.done)
            if self.step % LOG_EVERY == 0 or self.done:
                self._work.log(self._name, step=self.step, **figures)
                self._sums.clear()
            if self.step % SAVE_EVERY == 0 or self.done:
                self.save()

    def update(self, loss: Tensor, **figures: Tensor | float) -> None:
        """Take one step down the loss; a step with a gradient that is not finite is left out."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self._clip)
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
        self._follow()
        for name, value in {"loss": loss, **figures}.items():
            self._sums[name].append(float(value.detach()) if isinstance(value, Tensor) else value)

    def _judged(self) -> dict[str, float]:
        if self.judge is None or not (self.step % SAVE_EVERY == 0 or self.done):
            return {}
        self.net.eval()
        with torch.no_grad():
            judged = {f"held back: {name}": float(value) for name, value in self.judge().items()}
        self.net.train()
        return judged

    def averaged(self) -> dict[str, Tensor]:
        """Return the averaged weights, or the present ones if nothing is averaged."""
        return {key: self._means.get(key, value).clone() for key, value in self.net.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint; it is complete whenever it exists."""
        path = self._work.checkpoint(self._name)
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "step": self.step,
                "net": self.net.state_dict(),
                "means": self._means,
                "optimizer": self._optimizer.state_dict(),
                "beside": {key: module.state_dict() for key, module in self._beside.items()},
            },
            part,
        )
        os.replace(part, path)

    def _resume(self) -> None:
        path = self._work.checkpoint(self._name)
        if not path.is_file():
            return
        saved = read_checkpoint(path)
        self.net.load_state_dict(saved["net"])
        self._optimizer.load_state_dict(saved["optimizer"])
        for key, module in self._beside.items():
            if key in saved["beside"]:
                module.load_state_dict(saved["beside"][key])
        device = next(self.net.parameters()).device
        self._means = {key: value.to(device) for key, value in saved["means"].items()}
        self.step = int(saved["step"])

    def _schedule(self) -> float:
        falling = max(0.0, (self.share - _CONSTANT) / (1 - _CONSTANT))
        fall = _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
        return min(1.0, (self.step + 1) / _WARM_UP) * fall

    @torch.no_grad()
    def _follow(self) -> None:
        if not self._average:
            return
        decay = min(self._average, (1 + self.step) / (10 + self.step))
        for key, value in self.net.state_dict().items():
            if not value.is_floating_point():
                continue
            if key in self._means:
                self._means[key].lerp_(value, 1 - decay)
            else:
                self._means[key] = value.clone()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `Fit.save` wrote."""
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def load_averaged(net: nn.Module, path: Path) -> nn.Module:
    """Load the averaged weights of a checkpoint, or its plain ones, for use without training."""
    saved = read_checkpoint(path)
    net.load_state_dict({**saved["net"], **saved["means"]})
    return net.eval().requires_grad_(False)
