"""The teacher's speech becomes labelled utterances, and shards of them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from services.common.checkpoint.model_dir import SplitConfig, open_model_dir
from services.common.settings import EMBEDDED_MODEL
from training.codes import load_codes
from training.stages import codes, export
from training.stages.export import FORMER_NAMES, prompt_of, write_card
from training.stages.flow import FEW_STEPS
from training.start import remember
from training.store import RATES, Store, Utterance, write_shard
from training.teacher.kokoro import DURATION_SAMPLES, RATE, Kokoro, Spoken
from training.teacher.labels import FRAME, NO_WORD, PHONES, SILENCE, Labelled, label
from training.teacher.pronounce import Pronunciation, SpokenWord
from training.teacher.speakers import SPEAKERS, pace_of, speaker_of
from training.work import Work

SAID = Pronunciation("hˈA ju.", (SpokenWord(0, 3, "hˈA"), SpokenWord(4, 7, "ju")), ((0, 3), (4, 6)))
LENGTHS = {"h": 3, "ˈ": 2, "A": 5, " ": 1, "j": 4, "u": 6, ".": 12}
"""Frames of each character of SAID."""
LEAD = 10


def spoken() -> Spoken:
    """SAID as a tone that sounds in its phones only, with silence around it."""
    ends = (LEAD + np.cumsum([LENGTHS[character] for character in SAID.phones])) * FRAME
    samples = np.zeros(int(ends[-1]) + 5 * FRAME, dtype=np.float32)
    loud = np.arange(LEAD * FRAME, ends[5])
    samples[loud] = 0.3 * np.sin(2 * np.pi * 200 * loud / RATE)
    return Spoken(samples, LEAD * FRAME, ends.astype(np.int64))


def runs(labelled: Labelled) -> list[tuple[str, int]]:
    """Phones one after the other, each with its word."""
    pairs = list(zip(labelled.phones.tolist(), labelled.words.tolist(), strict=True))
    return [(PHONES[phone], word) for i, (phone, word) in enumerate(pairs) if i == 0 or pairs[i - 1] != (phone, word)]


def test_the_times_of_the_teachers_phones_are_those_of_its_sound() -> None:
    """Sums of Kokoro's durations are three units late; pocketsphinx finds its words 20 ms earlier than these times."""
    kokoro = Kokoro.__new__(Kokoro)
    kokoro._vocabulary = {"h": 1, "A": 2}
    kokoro._run = lambda inputs: (np.zeros(22 * DURATION_SAMPLES), np.array([6.0, 2.0, 4.0, 10.0]))
    said = kokoro.speak("hA", np.zeros((3, 256), dtype=np.float32), 1.0)
    assert said.begin == 3 * DURATION_SAMPLES
    assert said.ends.tolist() == [5 * DURATION_SAMPLES, 9 * DURATION_SAMPLES]


def test_every_frame_has_its_phone_and_word() -> None:
    """The stress mark's time is the vowel's, the space's the phone's before it."""
    labelled = label(spoken(), SAID)
    sounding = [run for run in runs(labelled) if run[0] != PHONES[SILENCE]]
    assert sounding == [("h", 0), ("A", 0), ("j", 1), ("u", 1)]
    counts = Counter(PHONES[phone] for phone in labelled.phones)
    assert [counts[phone] for phone in "hAju"] == pytest.approx([3, 8, 4, 6], abs=1)


def test_an_utterance_begins_at_once_and_has_whole_tokens() -> None:
    labelled = label(spoken(), SAID)
    loud = np.flatnonzero(np.abs(labelled.samples) > 0.02)
    assert loud[0] < 0.02 * RATE
    assert len(labelled.samples) % (2 * FRAME) == 0
    assert len(labelled.samples) == FRAME * len(labelled.phones) == FRAME * len(labelled.words)
    assert labelled.words[-1] == NO_WORD


def test_a_long_pause_inside_a_word_is_silence() -> None:
    made = spoken()
    vowel = slice((LEAD + 4) * FRAME, (LEAD + 10) * FRAME)
    made.samples[vowel] = 0
    labelled = label(made, SAID)
    assert (labelled.phones[: 3 + 7] == SILENCE).sum() >= 5


def test_loudness_is_equal() -> None:
    quiet = spoken()
    quiet.samples[:] *= 0.01
    np.testing.assert_allclose(label(quiet, SAID).samples, label(spoken(), SAID).samples, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_empty_speech_is_refused(value: float) -> None:
    made = spoken()
    made.samples[:] = value
    with pytest.raises(ValueError, match="empty"):
        label(made, SAID)


def test_half_of_the_set_is_the_products_voices() -> None:
    drawn = Counter(speaker_of(sentence, seed=1) for sentence in range(4000))
    assert sum(drawn[speaker] for speaker in (0, 1)) == pytest.approx(2000, rel=0.1)
    assert set(drawn) == set(range(len(SPEAKERS)))
    assert speaker_of(7, 1) == speaker_of(7, 1)
    assert all(0.9 < pace_of(sentence, 1) < 1.1 for sentence in range(50))


def utterance(sentence: int, frames: int) -> Utterance:
    return Utterance(sentence, f"Sentence {sentence}.", 1, ((0, 8), (9, 10)), frames)


def shard(folder: Path, *utterances: Utterance) -> None:
    arrays = {
        name: [np.arange(one.frames * rate, dtype=np.float32) + 1000 * one.sentence for one in utterances]
        for name, rate in RATES.items()
    }
    write_shard(folder, utterances, arrays)


def test_a_store_reads_what_shards_hold(tmp_path: Path) -> None:
    shard(tmp_path / "00000", utterance(1, 4), utterance(2, 6))
    shard(tmp_path / "00001", utterance(5, 2))
    store = Store(tmp_path)
    assert [place.utterance for place in store.places] == [utterance(1, 4), utterance(2, 6), utterance(5, 2)]
    assert store.hours == pytest.approx(12 / 50 / 3600)
    np.testing.assert_array_equal(store.read(1, "mel", 2, 4), [2002, 2003])
    np.testing.assert_array_equal(store.read(2, "kaldi"), [5000, 5001, 5002, 5003])


def test_an_unfinished_shard_is_ignored_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "00000.part").mkdir(parents=True)
    assert len(Store(tmp_path)) == 0
    shard(tmp_path / "00000", utterance(1, 4))
    assert len(Store(tmp_path)) == 1


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrays = {name: [np.zeros(3)] for name in RATES}
    with pytest.raises(ValueError, match="has 3 rows, expected"):
        write_shard(tmp_path / "00000", [utterance(1, 4)], arrays)
    assert len(Store(tmp_path)) == 0


def test_the_prompt_of_a_voice_has_a_good_length_and_many_words(tmp_path: Path) -> None:
    def said(sentence: int, speaker: int, frames: int, words: int) -> Utterance:
        return replace(utterance(sentence, frames), speaker=speaker, words=((0, 1),) * words)

    shard(tmp_path / "00000", said(1, 0, 90, 9), said(2, 0, 120, 4), said(3, 0, 160, 6), said(4, 1, 150, 8))
    store = Store(tmp_path)
    assert store.places[prompt_of(store, 0)].utterance.sentence == 3
    assert store.places[prompt_of(store, 1)].utterance.sentence == 4
    with pytest.raises(ValueError, match=SPEAKERS[2].name):
        prompt_of(store, 2)


def test_a_prompt_ends_where_the_first_audio_is_early(tmp_path: Path) -> None:
    def said(sentence: int, frames: int, words: int) -> Utterance:
        return replace(utterance(sentence, frames), speaker=0, words=((0, 1),) * words)

    # A prompt of 83 tokens leaves 17 to the border at 100; one of 70 leaves 5, and one of 77 leaves 23.
    shard(tmp_path / "00000", said(1, 140, 9), said(2, 154, 8), said(3, 166, 6), said(4, 167, 5))
    store = Store(tmp_path)
    assert store.places[prompt_of(store, 0)].utterance.sentence == 3


def test_without_an_utterance_of_a_good_length_the_prompt_is_the_nearest(tmp_path: Path) -> None:
    shard(tmp_path / "00000", replace(utterance(1, 40), speaker=0), replace(utterance(2, 70), speaker=0))
    assert Store(tmp_path).places[prompt_of(Store(tmp_path), 0)].utterance.sentence == 2


def test_a_card_names_voices_with_their_prompts_and_their_former_names(tmp_path: Path) -> None:
    work, folder = Work(tmp_path / "work"), tmp_path / "exported"
    shard(work.speech / "00000", replace(utterance(1, 120), speaker=0), replace(utterance(2, 130), speaker=1))
    work.log("lm", guide=0.5)
    work.log("lm", guide=0.1)
    shutil.copytree(EMBEDDED_MODEL, folder, copy_function=os.link)
    for path in (*folder.glob("prompt_*"), folder / "light-tts.yaml", folder / "heldout25.txt"):
        path.unlink()
    write_card(work, folder)
    card = open_model_dir(folder).card
    voices = {voice.name: voice for voice in card.voices}
    assert list(voices) == ["anna", "hugo", *FORMER_NAMES]
    assert all(voices[former].audio == voices[name].audio for former, name in FORMER_NAMES.items())
    assert (voices["anna"].transcript, voices["hugo"].transcript) == ("Sentence 1.", "Sentence 2.")
    assert soundfile.info(voices["hugo"].audio).duration == pytest.approx(130 / 50)
    assert (card.languages, card.text_streaming) == (("en",), "interleaved")
    assert card.split == SplitConfig(max_length=1, min_length=0, merge_length=0, longest=29)
    assert [head.score for head in card.alignment] == pytest.approx([0.905, 0.905])
    sentences = (folder / "heldout25.txt").read_text(encoding="utf-8").splitlines()
    assert (len(sentences), sentences[0]) == (25, "The truth will out.")


def test_networks_that_were_not_trained_here_come_from_the_directory_of_start(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    utterances = [replace(utterance(1, 120), speaker=0), replace(utterance(2, 130), speaker=1)]
    columns = {"mel": 80, "whisper": 128, "kaldi": 80}
    arrays = {
        name: [np.zeros((rate * one.frames, *([columns[name]] if name in columns else []))) for one in utterances]
        for name, rate in RATES.items()
    }
    write_shard(work.speech / "00000", utterances, arrays)
    with pytest.raises(FileNotFoundError, match="--start names nothing"):
        export.run(work)
    remember(work, EMBEDDED_MODEL)
    codes.run(work, ["Sentence 1.", "Sentence 2."], torch.device("cpu"))
    made = load_codes(work.codes / "codes.npz")
    assert [len(tokens) for tokens in made.tokens] == [60, 65]
    assert made.speakers.shape == (2, 192)
    exported = export.run(work)
    for name in ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v2.onnx"):
        assert (exported / name).read_bytes() == (EMBEDDED_MODEL / name).read_bytes()
    ours, theirs = open_model_dir(exported), open_model_dir(EMBEDDED_MODEL)
    assert (ours.flow, ours.llm, ours.vocoder) == (theirs.flow, theirs.llm, theirs.vocoder)
    assert ours.flow.solver.steps == FEW_STEPS
