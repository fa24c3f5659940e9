"""The kernels of an Euler step on a GPU, counted on a CPU; docs/benchmarks.md has estimates from them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.decode_ops import DIT, UNET, count_step, count_vocoder, flow_config, narrow, vocoder_config
from benchmarks.op_count import OpCounter
from services.common.checkpoint.flow_config import DiTConfig, UNetConfig
from services.decode.engine.backends import Hop, HopAudio
from services.decode.estimators.fused_unet import FusedUNet
from tests.unit.decode import decode_support as support

MOST_KERNELS = 350
SMALL, SMALL_DIT = narrow(UNET), narrow(DIT)


@pytest.mark.parametrize(("estimator", "most"), [(SMALL, MOST_KERNELS), (SMALL_DIT, 250)], ids=["cosyvoice2", "3"])
def test_an_euler_step_has_few_kernels(estimator: UNetConfig | DiTConfig, most: int) -> None:
    count = count_step(flow_config(estimator), 1, past=1)
    assert count.kernels["attend"] == (56 if isinstance(estimator, UNetConfig) else 22)
    assert count.kernels.total() <= most


@pytest.mark.parametrize(("family", "single"), [("cosyvoice2", 600), ("cosyvoice3", 680)])
def test_the_vocoder_has_few_kernels_and_reads_nothing_back(family: str, single: int) -> None:
    config = vocoder_config(family, channels=8)
    forms = ((1, "single"), (1, "between"), (1, "whole"), (2, "whole"))
    counts = [count_vocoder(config, streams, form=form) for streams, form in forms]
    assert [count.read_backs for count in counts] == [0, 0, 0, 0]
    totals = [count.kernels.total() for count in counts]
    assert totals[0] <= single
    assert totals[1] <= 310
    assert totals[2] == totals[3] <= 235
    assert counts[1].kernels["join"] == counts[2].kernels["convolve"] == 84  # 72 convolutions, and 12 blocks' starts


@pytest.mark.parametrize("family", support.FAMILIES)
def test_the_host_waits_once_for_a_batch(family: str) -> None:
    """Two streams at different places, one of them with another speed, and an utterance that ends."""
    backend, counter = support.mini_backend(family), OpCounter()
    voices = [support.voice(30, voice="known"), support.voice(30, voice="known", speed=1.2)]
    states, tokens = [backend.open(voice) for voice in voices], support.speech(90)
    for ends in ((50, 50), (75, 100), (120, 120)):
        hops = [Hop(state, tokens, end, final=True) for state, end in zip(states, ends, strict=True)]
        counter.clear()
        with counter.read_backs_counted():
            made = backend.run(hops, lambda: None)
        assert all(isinstance(audio, HopAudio) and audio.samples.size for audio in made)
        # The first batch also computes the voice's prompt, and reads whether that is finite.
        assert counter.read_backs == (2 if ends == (50, 50) else 1)


def test_every_operation_of_a_layer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = flow_config(SMALL, depth=1)
    before = count_step(config, 2, past=1)
    run = FusedUNet.__call__
    monkeypatch.setattr(FusedUNet, "__call__", lambda own, x, *rest: run(own, x.neg().neg(), *rest))
    after = count_step(config, 2, past=1)
    assert after.kernels.total() == before.kernels.total() + 2
    assert after.bytes.total() == before.bytes.total() + 4 * (2 * 2 * 50 * 320) * 4


def test_bytes_are_those_of_weights_keys_and_values() -> None:
    config = flow_config(SMALL, depth=1)
    short, long = (count_step(config, 1, past=past) for past in (1, 2))
    block = 3 * 2 * 2 * 50 * 16  # layers, keys and values, guidance rows, frames, channels
    assert long.bytes["attend"] - short.bytes["attend"] == 4 * block
    assert long.bytes["product"] == short.bytes["product"]
    packed = [count_step(config, 1, past=past, stored=torch.float8_e4m3fn) for past in (1, 2)]
    assert packed[1].bytes["attend"] - packed[0].bytes["attend"] == block + 2 * block // 16  # a scale per head
