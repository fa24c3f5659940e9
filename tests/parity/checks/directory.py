"""The model directory itself: it opens, its shapes are the listed ones, every network takes its weights whole."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

from services.encode.voice.speakers import read_speakers
from tests.parity.golden import Golden
from tests.parity.registry import check
from tests.parity.report import Row, close, equal, same


@check("model directory")
def opens(golden: Golden) -> Iterator[Row]:
    yield same("model directory: opens", golden.model.path.name, golden.path.name)


@check("llm.pt")
def llm(golden: Golden) -> Iterator[Row]:
    yield same("llm.pt: loads whole", golden.speech_lm.training, False)


@check("flow.pt")
def flow(golden: Golden) -> Iterator[Row]:
    yield same("flow.pt: loads whole", golden.flow.training, False)


@check("hift.pt")
def hift(golden: Golden) -> Iterator[Row]:
    yield same("hift.pt: loads whole", golden.vocoder.generator.training, False)


@check("state_dict_shapes.json")
def shapes(golden: Golden) -> Iterator[Row]:
    golden.require("state_dict_shapes.json")
    listed = json.loads((golden.path / "state_dict_shapes.json").read_text(encoding="utf-8"))
    for part, expected in listed.items():
        file = part if part.endswith(".pt") else f"{part}.pt"
        golden.require(file)
        state = torch.load(golden.path / file, map_location="cpu", weights_only=True)
        actual = {name: list(tensor.shape) for name, tensor in state.items()}
        yield same(f"state_dict_shapes.json: {part}", actual, {name: list(shape) for name, shape in expected.items()})


@check("spk2info.pt")
def speakers(golden: Golden) -> Iterator[Row]:
    golden.require("spk2info.pt")
    stored = torch.load(golden.path / "spk2info.pt", map_location="cpu", weights_only=True)
    voices = read_speakers(golden.path / "spk2info.pt", golden.model)
    yield same("spk2info.pt: names", sorted(voices), sorted(stored))
    for name, voice in voices.items():
        entry = stored[name]
        embedding = entry.get("embedding", entry.get("flow_embedding")).reshape(-1)
        yield close(f"spk2info.pt: {name} embedding", voice.embedding, embedding, 0)
        if "flow_prompt_speech_token" in entry:
            expected = entry["flow_prompt_speech_token"].reshape(-1)
            yield equal(f"spk2info.pt: {name} tokens", voice.speech_tokens, expected[: len(voice.speech_tokens)])
