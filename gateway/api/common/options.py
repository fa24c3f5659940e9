"""The options of a request, adapted to what the served checkpoint can do. Every API gets its options here."""

from __future__ import annotations

import dataclasses

from gateway.api.common import provenance
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from lighttts.v1 import tts_pb2
from services.common.errors import InvalidInput

END_OF_PROMPT = "<|endofprompt|>"
"""Ends what precedes a text or a transcript in CosyVoice's format: the name of the assistant's role, an instruction."""
PREAMBLE = "You are a helpful assistant."
"""What CosyVoice3's clients send before it without an instruction."""
INSTRUCTIONS_IGNORED = "instructions_ignored"
PREAMBLE_DROPPED = "preamble_dropped"


def speech_options(
    context: GatewayContext, config: tts_pb2.SynthesisConfig, *warnings: tts_pb2.Warning
) -> SpeechOptions:
    """Return the checked options of a request. `warnings`: notes for its sender, besides those that arise here.

    What the checkpoint cannot do is left out with a warning, or refused if the settings say so. Raises InvalidInput.
    """
    notes = list(warnings)
    if _lacks_end_of_prompt(context):
        adapted = tts_pb2.SynthesisConfig()
        adapted.CopyFrom(config)
        if config.WhichOneof("voice") == "prompt":
            adapted.prompt.transcript, dropped = without_preamble(context, config.prompt.transcript, "transcript")
            notes += dropped
        if config.mode == tts_pb2.SPEECH_MODE_INSTRUCT and config.instruct_text.strip():
            notes.append(_ignore_instruction(context, adapted))
        config = adapted
    options = SpeechOptions.from_config(config, context.settings.max_prompt_bytes)
    return provenance.stated(context, dataclasses.replace(options, warnings=(*options.warnings, *notes)))


def without_preamble(context: GatewayContext, text: str, field: str) -> tuple[str, list[tts_pb2.Warning]]:
    """Return a whole text or transcript without what precedes `<|endofprompt|>`, if the checkpoint lacks that token.

    Raises InvalidInput for an instruction there, if the settings refuse instructions that cannot be followed.
    """
    before, token, rest = text.rpartition(END_OF_PROMPT)
    if not token or not _lacks_end_of_prompt(context):
        return text, []
    if before.strip() == PREAMBLE or not before.strip():
        message = f"the model has no token {END_OF_PROMPT}: the preamble before it was dropped"
        return rest, [tts_pb2.Warning(code=PREAMBLE_DROPPED, message=message)]
    _refuse_if_strict(context, field)
    message = f"the model follows no instructions: the text before {END_OF_PROMPT} was dropped"
    return rest, [tts_pb2.Warning(code=INSTRUCTIONS_IGNORED, message=message)]


def _lacks_end_of_prompt(context: GatewayContext) -> bool:
    model = context.voices.model
    return model.HasField("end_of_prompt") and not model.end_of_prompt


def _ignore_instruction(context: GatewayContext, config: tts_pb2.SynthesisConfig) -> tts_pb2.Warning:
    """Remove the instruction from `config`; return the note about it."""
    _refuse_if_strict(context, "instruct_text")
    timbre = config.WhichOneof("voice") == "prompt" and not config.prompt.transcript.strip()
    config.mode = tts_pb2.SPEECH_MODE_CROSS_LINGUAL if timbre else tts_pb2.SPEECH_MODE_ZERO_SHOT
    config.ClearField("instruct_text")
    return tts_pb2.Warning(
        code=INSTRUCTIONS_IGNORED, message="the model follows no instructions: they were ignored; it speaks as usual"
    )


def _refuse_if_strict(context: GatewayContext, field: str) -> None:
    if context.settings.strict_instructions:
        raise InvalidInput(
            "the model follows no instructions (strict_instructions); leave them out", field=f"config.{field}"
        )
