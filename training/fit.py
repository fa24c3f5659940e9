"""The loop of every training stage: schedule, checkpoint, averaged weights, progress."""

from __future__ import annotations

import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from training.work import Progress, Work

SAVE_EVERY, SAVE_EVERY_ON_GPU, LOG_EVERY = 100, 1000, 25
"""Steps. A step on a GPU takes milliseconds, and a checkpoint takes the time of many steps."""
_WARM_UP = 100
_CONSTANT, _LAST = 0.5, 0.03
"""The rate stays for this share of the steps and then falls along a cosine to this share of itself."""
T = TypeVar("T")


class _Steps(Dataset[T]):
    """The batch of each step, by the step's number, for PyTorch's loader."""

    def __init__(self, make: Callable[[random.Random], T], draws: Callable[[int], random.Random]) -> None:
        self._make, self._draws = make, draws

    def __getitem__(self, step: int) -> T:
        return self._make(self._draws(step))


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
        minutes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`average` is the decay of an exponential average of the weights; `beside` are modules saved with the net.

        Modules of `beside` are not trained here; their owner trains them. After `minutes` training is done whatever its
        steps, and everything that depends on the share of the steps follows the time where that is further.
        """
        self.net, self._work, self._name, self._until, self._rate = net.to(device), work, name, until, rate
        self._seed, self._clip, self._average = seed, clip, average
        self._beside = {key: module.to(device) for key, module in (beside or {}).items()}
        self._optimizer = adam(net, rate, betas, decay)
        self._means: dict[str, Tensor] = {}
        self._minutes, self._clock, self._begin = minutes, clock, clock()
        self._on_gpu = device.type != "cpu"
        self._save_every = SAVE_EVERY_ON_GPU if self._on_gpu else SAVE_EVERY
        self.step = 0
        self.judge: Callable[[], Mapping[str, Tensor]] | None = None
        """Measures the net on utterances held back; called without gradients whenever a checkpoint is written."""
        self._sums: dict[str, list[Tensor]] = defaultdict(list)
        self._resume()
        values = net.state_dict()
        self._followed = {key: value for key, value in values.items() if value.is_floating_point()}

    @property
    def done(self) -> bool:
        """Whether the checkpoint has all steps."""
        return self.share >= 1.0

    @property
    def share(self) -> float:
        """How much of the steps, or of the time where it is limited, has passed; 1 at the end."""
        return self.share_of(self._until)

    def share_of(self, steps: int) -> float:
        """The same for another total of steps."""
        passed = 0.0 if self._minutes is None else (self._clock() - self._begin) / (60 * self._minutes)
        return max(self.step / max(1, steps), passed)

    def batches(self, make: Callable[[random.Random], T], workers: int = 0) -> Iterator[tuple[random.Random, T]]:
        """Yield a source of random numbers and a batch for each step; the body of the loop calls `update`.

        `make` draws the batch of a step, in as many processes as there are workers. It leaves its tensors on the host.
        Checkpoints are saved now and then.
        """
        progress = Progress(self._name, self.step, self._until, "steps")
        if self.done:
            return
        made = DataLoader(
            _Steps(make, lambda step: self._draw("batch", step)),
            batch_size=None,
            sampler=range(self.step, self._until),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        for batch in made:
            draw = self._draw("step", self.step)
            torch.manual_seed(draw.randrange(2**31))
            set_rate(self._optimizer, self._rate * self._schedule())
            yield draw, batch
            self.step += 1
            ended = self.done  # once: with a limit of time the answer changes
            logs = self.step % LOG_EVERY == 0 or ended
            if logs or not self._on_gpu:  # reading a figure waits for the GPU
                means = {name: float(torch.stack(values).mean()) for name, values in self._sums.items()}
                figures = means | self._judged(ended)
                progress.show(self.step, figures, now=ended)
            if logs:
                self._work.log(self._name, step=self.step, **figures)
                self._sums.clear()
            if self.step % self._save_every == 0 or ended:
                self.save()
            if ended:
                return

    def _draw(self, use: str, step: int) -> random.Random:
        return random.Random(f"{self._seed}/{self._name}/{use}/{step}")

    def update(self, loss: Tensor, **figures: Tensor) -> None:
        """Take one step down the loss, and note the figures."""
        self.advance(self.descend(loss, **figures))

    def descend(self, loss: Tensor, **figures: Tensor) -> dict[str, Tensor]:
        """Take one step down the loss and return all figures; a step with a gradient that is not finite is left out.

        On a GPU this reads nothing back, so it can be recorded (`recorded.py`).
        """
        descend(self._optimizer, self.net, loss, self._clip)
        return {name: value.detach() for name, value in {"loss": loss, **figures}.items()}

    def advance(self, figures: Mapping[str, Tensor]) -> None:
        """End a step whose `descend` was called or replayed: follow the weights, and note the figures."""
        self._follow()
        for name, value in figures.items():
            self._sums[name].append(value.clone())

    def _judged(self, ended: bool) -> dict[str, float]:
        if self.judge is None or not (self.step % self._save_every == 0 or ended):
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
        if not saved["optimizer"]:  # a copy without it has half of the size; training begins again from its weights
            return
        load_optimizer(self._optimizer, saved["optimizer"])
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
        values = self._followed
        if not self._means:
            self._means = {key: value.clone() for key, value in values.items()}
        decay = min(self._average, (1 + self.step) / (10 + self.step))
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        follow([self._means[key] for key in values], list(values.values()), self.step)


def adam(net: nn.Module, rate: float, betas: tuple[float, float], decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW over all weights; on a GPU, as one kernel that a graph can hold: it reads the rate from a tensor."""
    weight = next(net.parameters())
    if not weight.is_cuda:
        return torch.optim.AdamW(net.parameters(), rate, betas=betas, weight_decay=decay)
    on_gpu = torch.tensor(rate, device=weight.device)
    return torch.optim.AdamW(net.parameters(), on_gpu, betas=betas, weight_decay=decay, fused=True, capturable=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, whatever device wrote it."""
    for own, read in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        read.update({name: own[name] for name in ("lr", "fused", "capturable", "foreach")})
    optimizer.load_state_dict(saved)


def descend(optimizer: torch.optim.Optimizer, net: nn.Module, loss: Tensor, clip: float = math.inf) -> None:
    """Take one step down the loss with the gradient clipped to a norm; a gradient that is not finite leaves it out."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
    if norm.is_cuda:
        # The fused kernel reads this flag; a branch here would wait for the GPU.
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(torch.isfinite(norm)):
        optimizer.step()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `Fit.save` wrote."""
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def load_averaged(net: nn.Module, path: Path) -> nn.Module:
    """Load the averaged weights of a checkpoint, or its plain ones, for use without training."""
    saved = read_checkpoint(path)
    net.load_state_dict({**saved["net"], **saved["means"]})
    return net.eval().requires_grad_(False)
