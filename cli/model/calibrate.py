"""`light-tts calibrate-alignment`: finds the heads that align speech with text, and declares them in the directory."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import structlog
import torch

from cli.console import err, out, output_errors
from cli.model.verify import CHINESE, SENTENCES, Pipeline
from services.common.checkpoint.model_dir import CARD, AlignmentHead, ModelDir, ModelDirError, open_model_dir
from services.common.errors import InvalidInput
from services.common.start_error import StartError
from services.encode.text.text_encoder import SentenceEncoder
from services.llm.alignment.calibration import Scores, Spoken, score_heads
from services.llm.engine.layout import InputCodes, LengthRule, Prompt, WholeText
from services.llm.model.model import SpeechLM, load_speech_lm

CHINESE_TEXTS = (CHINESE, "请问附近有没有好吃的餐厅？", "这本书我已经看了三遍了。", "他每天早上都去河边跑步。")
VOICES = 2
_BLOCK = re.compile(r"(?m)^(?:# [^\n]*\n)?alignment:[^\n]*\n(?:[ \t-][^\n]*(?:\n|\Z))*")
_COMMENT = "# Heads of the llm whose attention follows the text; `light-tts calibrate-alignment` found them.\n"


def calibrate(directory: Path, device: str, texts: int) -> Scores:
    """Return the scores of the heads over `texts` generated sentences of each language.

    Raises ModelDirError, StartError or InvalidInput.
    """
    model = open_model_dir(directory)
    pipeline = Pipeline(model, device, "")
    try:
        network = load_speech_lm(model, device)
        scores = Scores()
        languages = set(model.card.languages)
        sentences = [*(SENTENCES[:texts] if "en" in languages else ()), *(CHINESE_TEXTS if "zh" in languages else ())]
        voices = list(islice(pipeline.voices(""), VOICES))
        for number, text in enumerate(sentences or SENTENCES[:texts]):
            _, voice = voices[number % len(voices)]
            prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
            encoder = SentenceEncoder(pipeline.frontend)
            for piece in (piece for step in chain(encoder.push(text), encoder.finish()) for piece in step):
                tokens, _ = pipeline.generate(piece.ids, prompt)
                if len(tokens) > 1:
                    scores.add(score_heads(network, _spoken(model, network, prompt, piece.ids, tokens)))
        return scores
    finally:
        pipeline.close()


def _spoken(model: ModelDir, network: SpeechLM, prompt: Prompt, ids: Sequence[int], tokens: Sequence[int]) -> Spoken:
    layout = WholeText(network.config, prompt, LengthRule(0, len(tokens) + 1, len(tokens) + 1, 10**6))
    layout.add_text(ids)
    layout.end_text()
    codes = InputCodes(model.llm)
    first = len(layout.inputs) - 1
    return Spoken([*layout.inputs, *map(codes.speech, tokens)], layout.text_slots, first)


def declare(card: Path, heads: Sequence[AlignmentHead]) -> None:
    """Write the heads into the card and leave the rest of it as it is; without heads, remove those declared before."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    text = _BLOCK.sub("", text)
    if heads:
        text += "" if not text or text.endswith("\n") else "\n"
        entries = (f"  - {{layer: {head.layer}, head: {head.head}, score: {head.score:g}}}\n" for head in heads)
        text += f"{_COMMENT}alignment:\n{''.join(entries)}"
    if text.strip():
        card.write_text(text, encoding="utf-8")
    else:  # an empty card is no card
        card.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if heads were found, 1 if none is good enough or the directory cannot be used."""
    parser = argparse.ArgumentParser(prog="light-tts calibrate-alignment", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=int, default=len(SENTENCES))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_num_threads(1)
    try:
        scores = calibrate(options.directory, options.device, options.texts)
        heads = scores.best()
        if not options.dry_run:
            declare(options.directory / CARD, heads)
    except (ModelDirError, StartError, InvalidInput, ArithmeticError, OSError) as error:
        err.print(f"calibration failed: {error}", markup=False, soft_wrap=True)
        return 1
    for head in heads:
        out.print(f"layer {head.layer}, head {head.head}: score {head.score:.3f}", soft_wrap=True)
    if not heads:
        out.print(
            f"no head is good enough (the best has {scores.top():.3f}): words of this checkpoint get no times, only"
            " utterances do",
            soft_wrap=True,
        )
        return 1
    what = "would be declared" if options.dry_run else "are declared"
    out.print(f"{len(heads)} heads {what} in {options.directory / CARD}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    with output_errors():
        sys.exit(main())
