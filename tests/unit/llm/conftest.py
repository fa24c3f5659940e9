"""Engines over a small real model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.llm.engine.backends import Backend
from services.llm.engine.engine import LlmEngine
from services.llm.engine.scheduler import EngineLimits, Order, fifo
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend
from tests.unit.llm.llm_support import ROOT, MakeEngine


@pytest.fixture(scope="session")
def mini_dir() -> ModelDir:
    return open_model_dir(ROOT / "tests" / "data" / "cosyvoice2-mini")


@pytest.fixture(scope="session")
def mini_model(mini_dir: ModelDir) -> SpeechLM:
    torch.set_num_threads(1)
    return load_speech_lm(mini_dir)


@pytest.fixture(scope="session")
def make_engine(mini_dir: ModelDir, mini_model: SpeechLM) -> MakeEngine:
    """Make an engine over the mini model for a `with` block; at its end no K/V block may be in use."""

    @contextmanager
    def make(
        limits: EngineLimits | None = None, backend: Backend | None = None, order: Order = fifo
    ) -> Iterator[LlmEngine]:
        engine = LlmEngine(backend or TorchBackend(mini_model), mini_dir, limits, order)
        try:
            yield engine
        finally:
            engine.close()
        stats = engine.stats()
        assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)

    return make
