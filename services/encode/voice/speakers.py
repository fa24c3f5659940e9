"""Reads registered speakers, `spk2info.pt` of a model directory, as voices (spec section 3.6).

An entry is either an embedding only ("sft": the llm runs without a prompt and the flow without a prompt mel) or a
complete zero-shot prompt saved by upstream. The official checkpoints have no such file; fine-tuned ones do.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDir, ModelDirError
from services.common.voices.voice import Voice, voice_hash, voice_identity
from services.encode.voice.alignment import align

FILE = "spk2info.pt"
_PROMPT = ("prompt_text", "flow_prompt_speech_token", "prompt_speech_feat")


def read_speakers(path: Path, model: ModelDir) -> dict[str, Voice]:
    """Return the speakers of a file by name; none if the file does not exist.

    Raises ModelDirError if the file is damaged, or an entry has neither form or does not fit the model.
    """
    if not path.is_file():
        return {}
    identity = voice_identity(model)
    speakers: dict[str, Voice] = {}
    for name, entry in _read(path).items():
        try:
            speakers[str(name)] = _speaker(str(name), entry, model, identity)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ModelDirError(f"{path}: speaker {name!r} is unusable ({error}); register it again") from error
    return speakers


def _read(path: Path) -> Mapping[Any, Any]:
    # Imported here because the encode service needs torch only for directories with registered speakers.
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelDirError(f"{path} is damaged or has more than tensors ({first_line}); remove it") from error
    if not isinstance(data, dict):
        raise ModelDirError(f"{path} is not a dictionary of speakers; remove it")
    return data


def _speaker(name: str, entry: Mapping[str, Any], model: ModelDir, identity: str) -> Voice:
    whole = all(key in entry for key in _PROMPT)
    embedding = _floats(entry["flow_embedding" if "flow_embedding" in entry else "embedding"]).reshape(-1)
    if embedding.shape != (model.flow.speaker_dim,) or not np.isfinite(embedding).all():
        raise ValueError(f"its embedding is not a row of {model.flow.speaker_dim} numbers")
    text, tokens = np.zeros(0, np.int32), np.zeros(0, np.int32)
    mel = np.zeros((0, model.mel.bins), np.float32)
    if whole:
        text = _ids(entry["prompt_text"], model.llm.text_vocab)
        tokens = _ids(entry["flow_prompt_speech_token"], model.llm.speech_tokens)
        mel = _floats(entry["prompt_speech_feat"]).reshape(-1, model.mel.bins)
        tokens, mel = align(tokens, mel, model.flow.mel_frames_per_token)
    content = b"".join(array.tobytes() for array in (embedding, text, tokens, mel))
    return Voice(
        hash=voice_hash(content, name, identity),
        transcript="",
        prompt_text_ids=text,
        speech_tokens=tokens.copy(),
        mel=mel.copy(),
        embedding=embedding,
        seconds=len(tokens) / model.token_rate,
    )


def _floats(tensor: Any) -> NDArray[np.float32]:
    return np.array(tensor.float().numpy(), dtype=np.float32)


def _ids(tensor: Any, bound: int) -> NDArray[np.int32]:
    ids = np.array(tensor.numpy(), dtype=np.int32).reshape(-1)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < bound:
        raise ValueError(f"it has ids outside 0 to {bound - 1}")
    return ids
