"""The vocoder, each part fed with the golden input of that part (spec sections 7 and 9)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from services.decode.vocoder.pitch import accumulate, cycles_per_frame, voiced
from tests.parity.golden import Arrays, Golden
from tests.parity.registry import check
from tests.parity.report import Row, Verdict, close, equal
from tests.parity.upstream import no_noise, zero_noise_source


@check("hift.npz: source")
@torch.inference_mode()
def source(golden: Golden) -> Iterator[Row]:
    arrays, vocoder, tolerance = golden.arrays("hift.npz"), golden.vocoder, golden.tolerance
    mel, config = torch.from_numpy(arrays["mel"]), golden.model.vocoder
    f0 = vocoder.pitch(mel.double())
    yield close("hift.npz: f0", f0, arrays["f0"], tolerance["f0"])
    uv = voiced(f0[0], config.voiced_threshold, config.hop)[:: config.hop]
    yield equal("hift.npz: f0 above the voiced threshold", uv[:, 0], arrays["f0"][0] > config.voiced_threshold)
    if "uv" in arrays:
        yield _voicing(uv[None].float(), arrays)
    if "rand_ini" in arrays:
        yield _no_initial_phase(golden, f0[0])
    for match in arrays.matching(r"sine_zero_noise_first(\d+)"):
        ours = _sines(golden, f0[0], None)[None, : int(match.group(1))]
        yield close(f"hift.npz: {match.group()}", ours, arrays[match.group()], tolerance["source"])
    silent = zero_noise_source(vocoder, mel[0].T)[None, None]
    yield close("hift.npz: source_zero_noise", silent, arrays["source_zero_noise"], tolerance["source"])
    for match in arrays.matching(r"noise|uniform_noise_first\d+"):
        draws = torch.from_numpy(arrays[match.group()][0])
        count = draws.shape[0]
        noisy = vocoder.source.l_linear(_sines(golden, f0[0], draws)).tanh().T[None, :, :count]
        note = f"the first {count} samples, from the golden's noise"
        for name in ("source_with_noise", f"source_with_noise_first{count}"):
            if name in arrays:
                yield close(f"hift.npz: {name}", noisy, arrays[name][..., :count], tolerance["source"], note)


def _no_initial_phase(golden: Golden, f0: Tensor) -> Row:
    """Upstream adds `rand_ini` (turns) to the first sample, then reads the two samples in each frame's middle."""
    config, harmonics = golden.model.vocoder, golden.vocoder.source.harmonics
    turns = cycles_per_frame(f0, harmonics, config.sample_rate, config.hop)
    per_sample = (turns / config.hop).repeat_interleave(config.hop, dim=0)
    per_sample[0] += torch.from_numpy(golden.arrays("hift.npz")["rand_ini"])[0]
    read = F.interpolate(per_sample.T[None], scale_factor=1 / config.hop, mode="linear")[0].T * config.hop
    return close("hift.npz: rand_ini", turns, read, 1e-9, "turns per frame with and without it")


def _voicing(uv: Tensor, arrays: Arrays) -> Row:
    """Known of one golden folder: its `uv` is zero throughout, while its own f0 and sines are voiced."""
    if not arrays["uv"].any() and arrays["source_zero_noise"].std() > 0.01 and bool(uv.any()):
        note = "all zero, against the folder's own f0 and source: upstream's unused second output, not voicing"
        return Row("hift.npz: uv", Verdict.INFORMATIVE, note=note)
    return equal("hift.npz: uv", uv, arrays["uv"])


def _sines(golden: Golden, f0: Tensor, draws: Tensor | None) -> Tensor:
    """Per-harmonic signal [M * hop, harmonics]; `draws` are the first samples' noise, the rest is 0."""
    source, config = golden.vocoder.source, golden.model.vocoder
    turns = cycles_per_frame(f0, source.harmonics, config.sample_rate, config.hop)
    noise = torch.zeros(config.hop * f0.shape[0], source.harmonics)
    if draws is not None:
        noise[: draws.shape[0]] = draws
    return source.sines(f0, accumulate(turns, turns.new_zeros(source.harmonics)), None, noise)


@check("hift.npz: waveform")
@torch.inference_mode()
def waveform(golden: Golden) -> Iterator[Row]:
    arrays, generator, tolerance = golden.arrays("hift.npz"), golden.vocoder.generator, golden.tolerance["waveform"]
    spectrum = generator.source_spectrum(torch.from_numpy(arrays["source_with_noise"])[:, 0])
    half = spectrum.shape[1] // 2
    for name, part in (("stft_real", spectrum[:, :half]), ("stft_imag", spectrum[:, half:])):
        if name in arrays:
            yield close(f"hift.npz: {name}", part[..., : arrays[name].shape[-1]], arrays[name], tolerance)
    mel = torch.from_numpy(arrays["mel"])
    before = arrays["conv_pre_out"]
    yield close("hift.npz: conv_pre_out", generator.conv_pre(mel)[..., : before.shape[-1]], before, tolerance)
    for match in arrays.matching(r"wav_from_(source_\w+)"):
        audio = generator(mel, torch.from_numpy(arrays[match.group(1)])[:, 0])
        yield close(f"hift.npz: {match.group()}", audio, arrays[match.group()], tolerance)


@check("hift.npz: stream")
@torch.inference_mode()
def stream(golden: Golden) -> Iterator[Row]:
    """Causal vocoders: the samples of a mel that goes on are exactly the first ones of a mel that ends."""
    arrays, vocoder, tolerance = golden.arrays("hift.npz"), golden.vocoder, golden.tolerance["audio"]
    final, ongoing = "wav_final_zero_noise", "wav_nonfinal_zero_noise"
    if final not in arrays and not vocoder.config.causal:
        return
    mel = torch.from_numpy(arrays["mel"])[0].T
    with no_noise(vocoder):
        whole, begun = (vocoder.append(vocoder.open(seed=0), mel, last=last)[None] for last in (True, False))
    yield close(f"hift.npz: {final}", whole, arrays[final], tolerance)
    expected = arrays[ongoing]
    yield close(f"hift.npz: {ongoing}", begun[:, : expected.shape[1]], expected, tolerance)
    yield close("hift.npz: begun stream and whole", begun, whole[:, : begun.shape[1]], 0)
