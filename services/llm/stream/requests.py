"""Converts the start message of a call into the engine's request, and the engine's errors into those of the API."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Literal

import structlog

from lighttts.v1 import audio_pb2, llm_pb2, voice_pb2
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.flow_config import FlowConfig
from services.common.checkpoint.model_dir import ModelDir, ModelDirError
from services.common.engine.places import Place
from services.common.engine.shell import EngineClosed, EngineFull
from services.common.errors import (
    Internal,
    InvalidInput,
    NotFound,
    Overloaded,
    StateMismatch,
    Unavailable,
    listed,
    quoted,
)
from services.common.voices.message import from_message
from services.common.voices.voice import Voice
from services.llm.engine.backends import NonFiniteLogits
from services.llm.engine.layout import Prompt, RequestError
from services.llm.engine.sequence import MAX_SPEED, MIN_SPEED, Request, SamplingOptions, check_request
from services.llm.settings import LlmSettings
from services.llm.stream.hops import HopPlan

log = structlog.get_logger(__name__)

TextOrder = Literal["whole", "interleaved"]
RAW_IDS_VERSION = b"\1"
"""First byte of an origin. Raise it when the same raw ids no longer give the same input of the model."""
END_OF_PROMPT = 3
"""`<|endofprompt|>` is the fourth token after the base vocabulary (spec section 2.4)."""


def check_start(start: llm_pb2.GenerateStart, model: ModelDir, styles: Collection[str]) -> None:
    """Raise InvalidInput or NotFound for a start message that cannot be served."""
    if not start.voice_hash:
        raise InvalidInput("start names no voice", field="start.voice_hash")
    if start.style and start.style not in styles:
        raise NotFound(f"there is no style {quoted(start.style)}; choose one of {listed(styles)}", field="start.style")
    if start.instruct_ids and start.prompt_use != llm_pb2.PROMPT_USE_TIMBRE:
        raise InvalidInput(
            "an instruction replaces the prompt's text; use the prompt's timbre alone",
            field="start.instruct_ids",
        )
    if not MIN_SPEED <= speed_of(start) <= MAX_SPEED:  # NaN fails every comparison too
        raise InvalidInput(f"speed is {start.speed:g}; it must be {MIN_SPEED:g} to {MAX_SPEED:g}", field="start.speed")
    target = start.urgency.first_audio_target
    if not 0 <= target < math.inf:
        raise InvalidInput(
            f"the target is {target:g}; it must be a number of seconds, 0 for the default",
            field="start.urgency.first_audio_target",
        )
    interleaved = start.text_order == llm_pb2.TEXT_ORDER_INTERLEAVED
    if interleaved and model.card.text_streaming != "interleaved":
        raise InvalidInput("this model speaks sentence by sentence; its text order is whole", field="start.text_order")
    if start.HasField("resume"):
        if start.text_order == llm_pb2.TEXT_ORDER_UNSPECIFIED:
            raise InvalidInput("to resume, send the text order that the first run reported", field="start.text_order")
        if start.resume.next_sample < 0:
            raise InvalidInput("the next sample cannot be negative", field="start.resume.next_sample")


def check_position(seconds: float) -> None:
    """Raise InvalidInput for a playback position that is not a finite number of seconds."""
    if not math.isfinite(seconds):
        raise InvalidInput(f"position {seconds} is not a number of seconds", field="position.seconds")


def check_origin(resume: llm_pb2.GenerateResume, origin: bytes) -> None:
    """Raise StateMismatch for raw ids of another origin; older peers send none, and theirs are not checked."""
    if resume.origin in (b"", origin):
        return
    what = "weights" if resume.origin[:1] == origin[:1] else "version"
    raise StateMismatch(f"the ids to resume from are of another {what}; start the utterance again", retry_after=1.0)


def engine_style(start: llm_pb2.GenerateStart, styles: Sequence[str]) -> str:
    """Return the engine's name of the style; that of the default style, the first one, is empty."""
    return "" if start.style == styles[0] else start.style


def may_interleave(start: llm_pb2.GenerateStart, model: ModelDir) -> bool:
    """Whether generation may start before the text is complete."""
    if start.text_order == llm_pb2.TEXT_ORDER_UNSPECIFIED:
        return model.card.text_streaming == "interleaved"
    return start.text_order == llm_pb2.TEXT_ORDER_INTERLEAVED


def text_order(start: llm_pb2.GenerateStart, model: ModelDir, *, text_complete: bool) -> TextOrder:
    """Return the text order; `text_complete` says whether the text was complete before the start."""
    if start.text_order == llm_pb2.TEXT_ORDER_UNSPECIFIED and text_complete:
        return "whole"
    return "interleaved" if may_interleave(start, model) else "whole"


def prompt_of(start: llm_pb2.GenerateStart, voice: Voice, order: TextOrder, end_of_prompt: int | None) -> Prompt:
    """Return what precedes the text. In interleaved order an instruction before `<|endofprompt|>` follows sos directly.

    Raises InvalidInput for zero-shot use of a voice without a transcript.
    """
    text, speech = tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist())
    if start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE:
        text, speech = tuple(start.instruct_ids), ()
    elif speech and not text:
        raise InvalidInput(
            "this voice has no transcript; send the transcript of its prompt, or use its timbre alone",
            field="start.prompt_use",
        )
    if order == "whole" or end_of_prompt not in text:
        return Prompt(text, speech)
    boundary = text.index(end_of_prompt) + 1
    return Prompt(text[boundary:], speech, text[:boundary])


def end_of_prompt_id(model: ModelDir) -> int | None:
    """Return the id of `<|endofprompt|>`; None if the model's prompts have none (CosyVoice2). Raises ModelDirError."""
    if not model.family.text.prompts_end:
        return None
    path = model.tokenizer_dir / "vocab.json"
    try:
        return len(json.loads(path.read_text(encoding="utf-8"))) + END_OF_PROMPT
    except (OSError, ValueError, TypeError) as error:
        raise ModelDirError(f"{path} is not readable ({error}); fetch the checkpoint again") from error


def sampling_of(start: llm_pb2.GenerateStart) -> SamplingOptions:
    options = start.sampling
    return SamplingOptions(
        seed=start.seed,
        temperature=options.temperature if options.HasField("temperature") else 1.0,
        top_p=options.top_p if options.HasField("top_p") else None,
        top_k=options.top_k if options.HasField("top_k") else None,
        ras=options.repetition_aware if options.HasField("repetition_aware") else True,
    )


def longest_seconds(start: llm_pb2.GenerateStart, settings: LlmSettings) -> float:
    """Return the request's maximum, limited by the service's. NaN stays, and the engine refuses it."""
    requested = start.sampling.max_seconds
    return min(requested, settings.max_seconds) if start.sampling.HasField("max_seconds") else settings.max_seconds


def speed_of(start: llm_pb2.GenerateStart) -> float:
    """Playback speed relative to the model's speech."""
    return start.speed or 1.0


def text_position(start: llm_pb2.GenerateStart) -> int | None:
    """Return the text id at which the speech is; None if an utterance to resume does not say so."""
    if start.resume.HasField("text_position"):
        return start.resume.text_position
    return None if start.resume.raw_ids else 0


def offline(start: llm_pb2.GenerateStart) -> bool:
    """Whether the utterance has offline priority."""
    return start.urgency.priority == audio_pb2.Urgency.PRIORITY_OFFLINE


def first_audio_after(start: llm_pb2.GenerateStart, settings: LlmSettings) -> float:
    """Seconds from the start message to the deadline of the first audio."""
    if offline(start):
        return settings.offline_patience_seconds
    return start.urgency.first_audio_target or settings.first_audio_target_seconds


def hop_plan(start: llm_pb2.GenerateStart, flow: FlowConfig) -> HopPlan:
    """Return the hops of the request's chunk plan, or of the checkpoint's own. Raises InvalidInput."""
    plan = ChunkPlan(flow.chunk_tokens, flow.chunk_tokens)
    try:
        if start.HasField("chunk_plan"):
            plan = ChunkPlan(start.chunk_plan.first_border, start.chunk_plan.chunk)
        return HopPlan(plan, flow.lookahead_tokens)
    except ValueError as error:
        raise InvalidInput(str(error), field="start.chunk_plan") from error


def place_of(start: llm_pb2.GenerateStart) -> Place:
    """Return the utterance's place; a worker has accepted an utterance to resume before, so its session is admitted."""
    return Place(start.place.session, start.place.admitted or start.HasField("resume"))


def map_engine_error(error: Exception) -> Exception:
    """Return the API's error for an engine's error; other errors are defects and stay unchanged."""
    match error:
        case RequestError():
            return InvalidInput(str(error))
        case EngineFull():
            return Overloaded(str(error), stage="llm")
        case EngineClosed():
            return Unavailable(str(error), retry_after=1.0)
        case NonFiniteLogits():
            log.error("generation failed", reason=str(error))
            return Internal(str(error))
        case _:
            return error


def checked_voice(content: voice_pb2.VoiceContent, model_id: str, model: ModelDir) -> Voice:
    """Return a voice after checks for every later utterance with it. Raises InvalidInput."""
    voice = from_message(content, model_id, model.flow)
    prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
    try:
        check_request(Request((), prompt), model.llm)
    except RequestError as error:
        raise InvalidInput(str(error), field="voice") from error
    return voice
