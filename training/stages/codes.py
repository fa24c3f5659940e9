"""Stage codes: text tokenizer, speech tokens and speaker embedding of every utterance."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.codes import Codes, Encoding, save_codes, source_of
from training.fit import load_averaged
from training.networks.speaker import SpeakerClassifier
from training.networks.tokenizer import Tokenizer
from training.sizes import llm_config
from training.stages import tokenizer
from training.start import continued
from training.store import Store, Utterance
from training.teacher.speakers import SPEAKERS
from training.work import Progress, Work

F32 = NDArray[np.float32]
END_OF_TEXT = "<|endoftext|>"
_ENCODINGS, _DROPOUT = 4, 0.15
"""Each text also has encodings with merges left out at random (BPE dropout, Provilkov 2020): so pieces of every size,
down to single letters, are learnt, and unknown words can be read."""


def run(work: Work, sentences: Sequence[str], device: torch.device) -> None:
    """Write the codes of all utterances, unless they exist for the same tokenizer, encoder and speech.

    Without a tokenizer trained here, the tokenizers and the speaker encoder of the directory of `--start` are used.
    """
    store, path, given = Store(work.speech), work.codes / "codes.npz", continued(work)
    networks = [work.checkpoint(name) for name in ("tokenizer", "speaker")]
    if given is not None:
        networks = [given / "speech_tokenizer_v2.onnx", given / "campplus.onnx"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(given / "CosyVoice-BlankEN" / "tokenizer.json", work.codes / "tokenizer.json")
    source = " ".join([*map(_digest, networks), str(len(store))])
    text_tokenizer = train_text_tokenizer(work.codes, sentences)
    if source_of(path) == source:
        return
    tokens, embeddings = _speech(store, _trained(work, device) if given is None else _exported(*networks))
    encodings = _texts(text_tokenizer, [place.utterance for place in store.places])
    save_codes(path, Codes(tokens, embeddings, encodings), source)


def train_text_tokenizer(folder: Path, sentences: Sequence[str]) -> Any:
    """Return the byte-level BPE of the sentences: lower case, a space before each word. An existing one stays."""
    from tokenizers import Tokenizer as Bpe
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    path = folder / "tokenizer.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        bpe = Bpe(models.BPE())
        bpe.normalizer = normalizers.Lowercase()
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=llm_config().text_vocab,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[END_OF_TEXT],
            show_progress=False,
        )
        bpe.train_from_iterator(sentences, trainer)
        bpe.save(str(path))
    return Bpe.from_file(str(path))


def text_strings(folder: Path) -> list[str]:
    """The pieces of the text tokenizer by number; the byte-level mark of a space is left out."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    strings = [""] * llm_config().text_vocab
    for piece, number in vocabulary.items():
        strings[number] = piece.replace("Ġ", "")
    return strings


_Read = Callable[[F32, F32], tuple[Tensor, Tensor]]
"""From whisper [T, 128] and bank [T, 80], whose mean is zero, to tokens int64 [T / 4] and an embedding [192]."""


def _trained(work: Work, device: torch.device) -> _Read:
    """Read speech by the checkpoints."""
    speech, speaker = tokenizer.make(), SpeakerClassifier(len(SPEAKERS))
    load_averaged(speech, work.checkpoint("tokenizer")).to(device)
    load_averaged(speaker, work.checkpoint("speaker")).to(device)
    assert isinstance(speech, Tokenizer)

    def read(whisper: F32, bank: F32) -> tuple[Tensor, Tensor]:
        tokens = speech.encoder.tokens(torch.from_numpy(whisper.T[None]).to(device))[0].round().long()
        return tokens, speaker.encoder(torch.from_numpy(bank[None]).to(device))[0]

    return read


def _exported(speech: Path, speaker: Path) -> _Read:
    """Read speech by a model directory's graphs."""
    runtime: Any = importlib.import_module("onnxruntime")
    tokens, embed = (
        runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (speech, speaker)
    )

    def read(whisper: F32, bank: F32) -> tuple[Tensor, Tensor]:
        length = np.array([len(whisper)], dtype=np.int32)
        (numbers,) = tokens.run(None, {"feats": whisper.T[None], "feats_length": length})
        (embedding,) = embed.run(None, {"input": bank[None]})
        return torch.from_numpy(numbers[0]).long(), torch.from_numpy(embedding[0])

    return read


@torch.no_grad()
def _speech(store: Store, read: _Read) -> tuple[list[NDArray[np.int64]], F32]:
    tokens: list[Tensor] = []
    embeddings: list[Tensor] = []
    progress = Progress("codes", 0, len(store), "utterances")
    for index in range(len(store)):
        bank = store.read(index, "kaldi").astype(np.float32)
        numbers, embedding = read(store.read(index, "whisper").astype(np.float32), bank - bank.mean(0))
        tokens.append(numbers)
        embeddings.append(embedding)
        progress.show(index + 1)
    # One copy for all: a copy waits for the GPU.
    lengths = [len(one) for one in tokens]
    split = np.split(torch.cat(tokens).cpu().numpy(), np.cumsum(lengths)[:-1])
    return split, torch.stack(embeddings).float().cpu().numpy()


def _texts(bpe: Any, utterances: Sequence[Utterance]) -> list[list[Encoding]]:
    """Several encodings of each text; BPE dropout draws from the library's own random numbers."""
    found = [[_encode(bpe, utterance)] for utterance in utterances]
    bpe.model.dropout = _DROPOUT
    for several, utterance in zip(found, utterances, strict=True):
        several.extend(_encode(bpe, utterance) for _ in range(_ENCODINGS - 1))
    bpe.model.dropout = None
    return found


def _encode(bpe: Any, utterance: Utterance) -> Encoding:
    encoded = bpe.encode(utterance.text)
    spans: list[tuple[int, int]] = []
    for begin, end in utterance.words:
        touched = [
            number
            for number, (first, last) in enumerate(encoded.offsets)
            if first < end and last > begin and utterance.text[first:last].strip(" .,?!")
        ]
        before = spans[-1] if spans else (0, 1)
        spans.append((touched[0], touched[-1] + 1) if touched else before)
    return Encoding(np.array(encoded.ids, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
