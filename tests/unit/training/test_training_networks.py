"""What is trained is what is served: the same weights give the same results in the services' engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.flow_config import ConformerConfig, FlowConfig, SolverConfig, UNetConfig
from services.common.checkpoint.model_dir import LlmConfig
from services.common.checkpoint.weights import fold_weight_norm, load_strict
from services.decode.flow.model import Flow, FlowHop
from services.decode.flow.solver import euler_times, noise_table
from services.decode.vocoder.context import layer_bound
from services.decode.vocoder.stream import Vocoder
from services.llm.engine.layout import InputCodes
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM
from training.networks.discriminators import Discriminators, adversarial, real_or_made
from training.networks.flow import FlowTrainer, Windows
from training.networks.lm import CHARACTERS, LmTrainer, Sequences
from training.networks.spectra import Spectra
from training.networks.tokenizer import TokenEncoder, digits_of
from training.networks.vocoder import VocoderTrainer
from training.sizes import flow_config, llm_config, vocoder_config
from training.stages.export import with_weight_norm
from training.stages.lm import spelling

LLM = replace(
    llm_config(), hidden_size=32, num_layers=4, head_dim=8, intermediate_size=48, text_vocab=20, speech_tokens=30
)
FLOW = FlowConfig(
    vocab_size=30,
    output_size=8,
    speaker_dim=6,
    lookahead_tokens=3,
    mel_frames_per_token=2,
    chunk_tokens=5,
    solver=SolverConfig(steps=3, schedule="cosine", cfg_rate=0.7),
    front=ConformerConfig(input_size=16, width=16, heads=2, units=24, blocks=1, up_blocks=1),
    estimator=UNetConfig(channels=16, heads=2, head_dim=8, blocks=1, mid_stages=1),
)


def lm_trainer(config: LlmConfig = LLM) -> LmTrainer:
    torch.manual_seed(0)
    trainer = LmTrainer(
        config, phones=5, spelling=spelling([chr(97 + number) * 3 for number in range(config.text_vocab)])
    )
    torch.nn.init.normal_(trainer.characters.weight, std=0.1)
    return trainer.eval()


def test_the_language_model_predicts_in_training_what_it_predicts_in_service() -> None:
    trainer, codes = lm_trainer(), InputCodes(LLM)
    inputs = [codes.sos, 3, 7, 11, codes.task, *(codes.speech(number) for number in (4, 4, 9))]
    hidden, seen, _ = trainer.run(torch.tensor([inputs]))
    served = SpeechLM(LLM)
    load_strict(served, trainer.exported(), "test")
    served.fuse()
    cache = KVCache(LLM, 1, 16, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        expected = served(build_batch([SequenceInput(inputs, 0, (0,))], 16, torch.device("cpu")), cache)
    torch.testing.assert_close(hidden[0][-len(expected) :].detach(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.sum(-1), torch.ones(1, 2, len(inputs)))


def test_attention_to_the_spoken_text_lowers_the_guiding_loss() -> None:
    trainer = lm_trainer()
    _, seen, _ = trainer.run(torch.tensor([[1, 2, 3, 4]]))
    best = seen[0, :, 3].argmax(-1)
    empty = torch.full((1, 4, 2), -1)

    def guide(place: int) -> float:
        spans = empty.clone()
        spans[0, 3] = torch.tensor([place, place + 1])
        target = torch.tensor([[-100, -100, -100, 5]])
        phones = torch.where(spans >= 0, 1, -1)
        return float(trainer(Sequences(torch.tensor([[1, 2, 3, 4]]), target, spans, spans, phones)).guide.detach())

    assert guide(int(best[0])) < guide(int(seen[0, 0, 3].argmin()))


def test_characters_are_folded_into_the_text_table() -> None:
    trainer = lm_trainer()
    exported = trainer.exported()["llm.model.model.embed_tokens.weight"]
    own = trainer.model.llm.model.model.embed_tokens.weight
    assert not torch.allclose(exported, own)
    torch.testing.assert_close(trainer.embed(torch.tensor([[2]]))[0, 0], exported[2])


def test_words_of_the_same_letters_share_what_letters_learn() -> None:
    table = spelling(["ab", "abc", "xb"])
    assert table.shape == (3, CHARACTERS)
    assert table[1, :2].tolist() == table[0, :2].tolist()
    assert table[2, 1] == table[0, 1]
    assert table[2, 0] != table[0, 0]


def windows(chunk: int | None, tokens: int = 10) -> Windows:
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(1, 2 * tokens, FLOW.output_size, generator=generator)
    cond = torch.zeros_like(mel)
    cond[:, :10] = mel[:, :10]
    ids = torch.randint(0, FLOW.vocab_size, (1, tokens), generator=generator)
    ids = torch.cat((ids, torch.full((1, FLOW.lookahead_tokens), -1)), 1)
    return Windows(ids, mel, cond, torch.randn(1, FLOW.speaker_dim, generator=generator), chunk)


@pytest.mark.parametrize("chunk", [5, None])
@torch.no_grad()
def test_the_flow_makes_in_training_the_mel_that_it_makes_in_service(chunk: int | None) -> None:
    torch.manual_seed(2)
    trainer, given = FlowTrainer(FLOW).eval(), windows(chunk)
    flow = Flow(FLOW, trainer.exported())
    prompt, tokens = 5, given.tokens[0, :10]
    plan = ChunkPlan(5, 5) if chunk else ChunkPlan(10, 10)
    state = flow.open(tokens[:prompt], given.cond[0, : 2 * prompt], given.speakers[0], plan)
    state.tokens = tokens[prompt:].tolist()
    [served] = flow.append([FlowHop(state, 10, final=True)])
    x = noise_table(FLOW.output_size)[None, :20]
    context = trainer.given(given)
    for t, dt in euler_times(FLOW.solver.steps):
        x = x + dt * trainer.guided(x, t.reshape(1), context)
    torch.testing.assert_close(x[0, 2 * prompt :], served, atol=2e-5, rtol=1e-4)


def test_every_part_of_the_flow_learns() -> None:
    trainer, given = FlowTrainer(FLOW), windows(5)
    context = trainer.given(given)
    velocity = trainer.velocity(torch.randn_like(given.mel), torch.rand(1), context, torch.ones(1))
    (velocity**2).mean().backward()  # type: ignore[no-untyped-call]
    without = [name for name, value in trainer.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    # A shift of all scores of a query changes no attention, so the bias of keys has no gradient.
    assert not [name for name in without if not name.endswith("linear_k.bias")]


def test_the_vocoder_and_its_critics_learn_and_the_service_loads_it() -> None:
    torch.manual_seed(3)
    config = replace(vocoder_config(), base_channels=16, nb_harmonics=2, f0_channels=8)
    trainer, critics, spectra = VocoderTrainer(config), Discriminators(), Spectra()
    mel, real = torch.randn(2, 80, 6), torch.randn(2, 6 * 480) * 0.1
    made = trainer(mel, trainer.pitch(mel).detach())
    assert made.shape == real.shape
    spectral, mels = spectra.distance(made, real)
    fooled, features = adversarial(critics(real), critics(made))
    (spectral + mels + fooled + features).backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None for value in trainer.generator.parameters())
    assert real_or_made(critics(real), critics(made.detach())).item() > 0
    official = with_weight_norm(trainer.exported())
    assert sum(name.endswith("original0") for name in official) > 40
    folded = fold_weight_norm({key: value.detach() for key, value in official.items()})
    for key, value in trainer.exported().items():
        torch.testing.assert_close(folded[key], value.detach())
    Vocoder(config, folded, layer_bound(config))


def test_a_sound_is_at_no_distance_from_itself() -> None:
    sound = torch.randn(1, 4800) * 0.1
    assert [float(part) for part in Spectra().distance(sound, sound)] == [0, 0]
    assert all(float(part) > 0 for part in Spectra().distance(sound * 0.5, sound))


def test_a_token_is_the_number_of_its_digits() -> None:
    encoder, mel = TokenEncoder(width=8), torch.randn(1, 128, 40)
    tokens = encoder.tokens(mel).long()
    assert tokens.shape == (1, 10)
    torch.testing.assert_close(digits_of(tokens), encoder.soft(mel).round())
    assert set(np.unique(encoder(mel).detach().numpy().round(4))) <= {-1, 0, 1}


def test_the_template_has_sizes_that_fit_each_other() -> None:
    assert flow_config().vocab_size == llm_config().speech_tokens == 3**6
