"""Training goes on where it stopped, and sequences have the llm service's order."""

from __future__ import annotations

import ast
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from services.llm.engine.layout import InterleavedText, LengthRule, Prompt, WholeText
from training.codes import Codes, Encoding, load_codes, save_codes, source_of
from training.fit import Fit, load_averaged, read_checkpoint
from training.plan import FULL, QUICK, Round
from training.run import STAGES, parse, read_rounds
from training.sequences import NOTHING, Spoken, align, batch, can_interleave, interleaved, join, whole
from training.sizes import llm_config
from training.stages import pack
from training.work import Work

ROOT = Path(__file__).parents[3]
CONFIG = replace(llm_config(), text_vocab=50, speech_tokens=40)
RULE = LengthRule(0, 100, 1000, 10**6)


def numbers(draw: random.Random) -> torch.Tensor:
    return torch.tensor([[draw.random() for _ in range(3)] for _ in range(4)])


def train(work: Work, until: int, stop_after: int | None = None, workers: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    fit = Fit(work, "line", net, until=until, rate=0.1, seed=1, device=torch.device("cpu"), average=0.9)
    for draw, made in fit.batches(numbers, workers):
        if fit.step == stop_after:
            fit.save()
            break
        fit.update(((net(made + torch.randn(4, 3)) - draw.random()) ** 2).mean())
    return net.state_dict()


def test_a_resumed_run_sees_the_same_batches(tmp_path: Path) -> None:
    """Up to the schedule: the rate depends on the total, so both runs have the same one."""
    at_once = train(Work(tmp_path / "a"), 6)

    train(Work(tmp_path / "b"), 6, stop_after=3)
    resumed = train(Work(tmp_path / "b"), 6)
    for key, value in at_once.items():
        torch.testing.assert_close(resumed[key], value)


def test_other_processes_make_the_same_batches(tmp_path: Path) -> None:
    alone, together = train(Work(tmp_path / "a"), 6), train(Work(tmp_path / "b"), 6, workers=2)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value)


def test_training_ends_well_when_its_time_is_up(tmp_path: Path) -> None:
    """The rate falls with the time, and the last step is saved."""
    work, net, now = Work(tmp_path), nn.Linear(3, 1), 0.0
    device = torch.device("cpu")
    fit = Fit(work, "line", net, until=10**6, rate=1.0, seed=1, device=device, minutes=1, clock=lambda: now)
    shares = []
    for _, made in fit.batches(numbers):
        shares.append(fit.share)
        fit.update(net(made).mean())
        now += 20.0
    assert shares == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-5)
    assert fit.done
    assert read_checkpoint(work.checkpoint("line"))["step"] == 3


def test_a_finished_stage_does_nothing_until_there_is_more_to_do(tmp_path: Path) -> None:
    work = Work(tmp_path)
    train(work, 4)
    before = work.checkpoint("line").read_bytes()
    train(work, 4)
    assert work.checkpoint("line").read_bytes() == before
    train(work, 5)
    assert [line["step"] for line in work.logged("line")] == [4, 5]


def test_a_checkpoint_without_an_optimizer_gives_its_weights(tmp_path: Path) -> None:
    """A copy for another machine."""
    work = Work(tmp_path)
    torch.save(
        {
            "step": 70,
            "net": {"weight": torch.full((1, 1), 3.0), "bias": torch.zeros(1)},
            "means": {},
            "optimizer": {},
            "beside": {},
        },
        work.checkpoint("line"),
    )
    net = nn.Linear(1, 1)
    fit = Fit(work, "line", net, until=1, rate=0.1, seed=1, device=torch.device("cpu"))
    assert (fit.step, net.weight.item()) == (0, 3.0)
    for _, made in fit.batches(lambda draw: torch.ones(1, 1)):
        fit.update(net(made).mean())
    assert net.weight.item() < 3.0


def test_packed_checkpoints_have_the_averaged_weights_alone(tmp_path: Path) -> None:
    work, net = Work(tmp_path), nn.Linear(2, 1)
    fit = Fit(work, "flow", net, until=2, rate=0.1, seed=1, device=torch.device("cpu"), average=0.9)
    for _, made in fit.batches(lambda draw: torch.ones(1, 2)):
        fit.update(net(made).mean())
    [packed] = pack.run(work)
    saved = read_checkpoint(packed)
    assert (saved["step"], saved["optimizer"], saved["means"]) == (2, {}, {})
    assert torch.equal(saved["net"]["weight"], fit.averaged()["weight"].half())
    again = Fit(Work(packed.parent), "flow", nn.Linear(2, 1), until=2, rate=0.1, seed=1, device=torch.device("cpu"))
    assert (again.step, again.done) == (0, False)


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    before = net.weight.detach().clone()
    fit = Fit(Work(tmp_path), "line", net, until=1, rate=0.1, seed=1, device=torch.device("cpu"))
    for _ in fit.batches(numbers):
        fit.update((net(torch.full((1, 1), float("inf"))) ** 2).mean())
    torch.testing.assert_close(net.weight.detach(), before)


def test_a_checkpoint_comes_with_a_measurement_on_what_is_held_back(tmp_path: Path) -> None:
    """It is taken in evaluation mode and without gradients, and changes nothing."""
    work, net = Work(tmp_path), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9), nn.Linear(2, 1))
    fit = Fit(work, "line", net, until=2, rate=0.1, seed=1, device=torch.device("cpu"))
    seen = []

    def judge() -> dict[str, torch.Tensor]:
        seen.append((net.training, torch.is_grad_enabled(), fit.step))
        return {"value": torch.tensor(0.25)}

    fit.judge = judge
    for _ in fit.batches(numbers):
        assert net.training
        fit.update((net(torch.ones(1, 2)) ** 2).mean())
    assert seen == [(False, False, 2)]
    assert work.logged("line")[-1]["held back: value"] == 0.25


def test_averaged_weights_are_used_for_export(tmp_path: Path) -> None:
    last = train(Work(tmp_path), 6)
    mean = load_averaged(nn.Linear(3, 1), Work(tmp_path).checkpoint("line")).state_dict()
    assert not torch.allclose(mean["weight"], last["weight"])


def spoken(text: int, tokens: int) -> Spoken:
    """Each text token is spoken for an equal part of the speech."""
    place = np.arange(tokens) * text // tokens
    spans = np.stack((place, place + 1), axis=1)
    return Spoken(np.arange(text) + 1, np.arange(tokens) % 40, np.zeros((tokens, 2), dtype=np.int64), spans, spans)


@pytest.mark.parametrize(("text", "tokens"), [(3, 20), (5, 15), (10, 41), (12, 50), (17, 90), (10, 30)])
def test_interleaved_sequences_have_the_services_order(text: int, tokens: int) -> None:
    """The service's layout, given the tokens to learn, feeds exactly the sequence that is learnt from."""
    one = spoken(text, tokens)
    row = interleaved(CONFIG, one, one.tokens)
    layout = InterleavedText(CONFIG, Prompt(), RULE)
    layout.add_text(one.text.tolist())
    layout.end_text()
    wanted = [target for target in row.target if target != NOTHING]
    for number, target in enumerate(wanted):
        forced = layout.constraint().forced
        assert forced in (None, target), number
        outcome = layout.accept(target)
    assert outcome.finish == "stop"
    assert layout.inputs == row.codes
    assert [target for target in wanted if target < CONFIG.speech_tokens] == one.tokens.tolist()


def test_speech_that_is_too_short_for_its_text_is_not_interleaved() -> None:
    assert can_interleave(CONFIG, spoken(12, 30))
    assert not can_interleave(CONFIG, spoken(12, 29))


def test_whole_sequences_have_the_services_order() -> None:
    one = spoken(4, 20)
    row = whole(CONFIG, one, one.tokens)
    layout = WholeText(CONFIG, Prompt(), RULE)
    layout.add_text(one.text.tolist())
    layout.end_text()
    for target in (target for target in row.target if target != NOTHING):
        layout.accept(target)
    assert layout.inputs == row.codes
    assert row.target[-1] == CONFIG.eos


def test_the_model_sees_noise_but_learns_the_true_tokens() -> None:
    one = spoken(4, 20)
    heard = one.tokens.copy()
    heard[5] = 39
    row = whole(CONFIG, one, heard)
    assert row.target == whole(CONFIG, one, one.tokens).target
    assert row.codes != whole(CONFIG, one, one.tokens).codes


@pytest.mark.parametrize("order", [whole, interleaved])
def test_spans_point_at_the_text_in_the_sequence(order: object) -> None:
    assert callable(order)
    one = spoken(12, 50)
    row = order(CONFIG, one, one.tokens)
    made = batch([(row, one), (whole(CONFIG, spoken(2, 6), np.arange(6)), spoken(2, 6))])
    assert made.codes.shape == made.target.shape
    checked = 0
    for position, speech in enumerate(row.speech):
        begin, end = made.fine[0, position].tolist()
        if speech < 0 or begin < 0:
            continue
        assert row.codes[begin] == one.text[one.fine[speech][0]]
        assert begin < end <= position + 1
        checked += 1
    assert checked > 40 if order is whole else checked > 20


def test_joined_utterances_move_their_spans() -> None:
    both = join([spoken(3, 9), spoken(4, 8)])
    assert both.fine[-1].tolist() == [6, 7]
    assert len(both.text) == 7
    assert len(both.tokens) == 17


def test_words_are_aligned_with_their_text_tokens() -> None:
    """Word 0 has text tokens 0 and 1 (2 and 4 characters), word 1 has text token 2; silence keeps the word before."""
    words = np.repeat([-1, 0, -1, 1, -1], [4, 12, 4, 8, 4])
    spans, lengths = np.array([[0, 2], [2, 3]]), np.array([2, 4, 1])
    coarse, fine = align(words, spans, lengths, 16)
    assert coarse[:2].tolist() == [[-1, -1]] * 2
    assert coarse[2:10].tolist() == [[0, 2]] * 8
    assert coarse[10:].tolist() == [[2, 3]] * 6
    assert fine[2].tolist() == [0, 1]
    assert fine[9].tolist() == [1, 2]


def test_codes_are_read_as_they_were_written(tmp_path: Path) -> None:
    encodings = [[Encoding(np.array([1, 2]), np.array([[0, 2]])), Encoding(np.array([3]), np.array([[0, 1]]))], []]
    encodings[1].append(Encoding(np.array([4, 5, 6]), np.array([[0, 1], [1, 3]])))
    path = tmp_path / "codes" / "codes.npz"
    assert source_of(path) == ""
    save_codes(path, Codes([np.array([7, 8]), np.array([9])], np.ones((2, 4), dtype=np.float32), encodings), "a b 2")
    assert source_of(path) == "a b 2"
    read = load_codes(path)
    assert [row.tolist() for row in read.tokens] == [[7, 8], [9]]
    assert [[one.ids.tolist() for one in several] for several in read.encodings] == [[[1, 2], [3]], [[4, 5, 6]]]
    assert read.encodings[1][0].spans.tolist() == [[0, 1], [1, 3]]


def test_the_command_line() -> None:
    options = parse(["--quick", "--rounds", "0.5:0.1,2:1", "--device", "cpu"])
    assert options.plan == replace(QUICK, rounds=(Round(0.5, 0.1), Round(2.0, 1.0)))
    assert parse(["--rate", "0.4", "--plain-steps", "--device", "cpu"]).plan == replace(
        FULL, rate_share=0.4, records=False
    )
    assert [*options.stages, "pack"] == list(STAGES)
    assert read_rounds("1:0.5") == (Round(1.0, 0.5),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "text,flaw"], "no stage is named flaw"),
        (["--rounds", "5"], "--rounds"),
        (["--start", "/no"], "--start"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


def test_training_stages_need_torch_and_numpy_alone() -> None:
    """So they run on a GPU machine that has little else; the other stages' packages are imported when those run."""
    allowed = {"torch", "numpy", "yaml"}
    seen: set[str] = set()
    todo = ["training.run", *(f"training.stages.{name}" for name in ("tokenizer", "speaker", "flow", "vocoder", "lm"))]
    while todo:
        module = todo.pop()
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        path = path if path.is_file() else ROOT / Path(*module.split(".")) / "__init__.py"
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        for name in top_imports(path):
            package = name.split(".")[0]
            assert package in allowed | {"training", "services"} | sys.stdlib_module_names, f"{module} imports {name}"
            todo.append(name)
    assert "services.decode.flow.model" in seen


def top_imports(path: Path) -> Iterator[str]:
    """What a file imports when it is imported, names of packages' modules included."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
