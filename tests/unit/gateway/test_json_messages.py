"""Messages as JSON: whatever a frame holds is read or refused by name, and what is read comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.native.json_messages import parse_object, to_fields, to_message
from lighttts.v1 import audio_pb2, lexicon_pb2, llm_pb2, tts_pb2
from services.common.errors import InvalidInput

KINDS = (
    tts_pb2.StreamingSynthesizeRequest,
    tts_pb2.SynthesisConfig,
    audio_pb2.AudioOutput,
    lexicon_pb2.LexiconEntry,
    llm_pb2.SamplingOptions,
)
NAMES = sorted({name for kind in KINDS for field in kind.DESCRIPTOR.fields for name in (field.name, field.json_name)})
SPECIAL = ["", "NaN", "Infinity", "1e400", "AAAA", "\ud800", "-1", "0x1", "SPEECH_MODE_INSTRUCT"]
text = st.text(max_size=8) | st.sampled_from(SPECIAL)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | text, inner, max_size=4),
    max_leaves=5,
)


def refusal(frame: str) -> InvalidInput | None:
    """Return why a frame is refused; check that a message that is read is the same after its way through JSON."""
    kind = tts_pb2.StreamingSynthesizeRequest
    try:
        message = to_message(parse_object(frame), kind)
    except InvalidInput as error:
        return error
    again = to_message(json.loads(json.dumps(to_fields(message))), kind)
    assert again.SerializeToString() == message.SerializeToString()  # NaN differs from itself
    return None


@given(st.dictionaries(st.sampled_from(NAMES) | text, values, max_size=3))
def test_any_object_is_read_or_refused_with_a_field(fields: dict[str, Any]) -> None:
    error = refusal(json.dumps(fields))
    assert error is None or error.field is not None, error


@given(st.text(max_size=30) | st.sampled_from(["[" * 5000, '{"a":' * 5000, "1" * 5000, "NaN", "null", '"text"']))
def test_any_text_is_an_object_or_refused(frame: str) -> None:
    error = refusal(frame)
    assert error is None or "JSON" in error.message or error.field is not None


integers = st.integers(0, 2**63 - 1)
words = st.builds(audio_pb2.Word, text_offset=st.integers(0, 2**32 - 1), first_sample=integers, samples=integers)
events = st.one_of(
    st.builds(
        tts_pb2.StreamingSynthesizeResponse,
        audio=st.builds(audio_pb2.AudioChunk, first_sample=integers, words=st.lists(words, max_size=2)),
    ),
    st.builds(
        tts_pb2.StreamingSynthesizeResponse,
        started=st.builds(tts_pb2.Started, seed=st.integers(0, 2**64 - 1), max_lead_seconds=st.floats(0, 1e9)),
    ),
    st.builds(tts_pb2.StreamingSynthesizeResponse, mark=st.builds(tts_pb2.Mark, flush=st.integers(0, 9))),
)


@given(events)
def test_an_event_is_the_same_message_after_its_way_through_json(event: tts_pb2.StreamingSynthesizeResponse) -> None:
    fields = json.loads(json.dumps(to_fields(event)))
    assert to_message(fields, tts_pb2.StreamingSynthesizeResponse) == event


def test_wide_integers_are_numbers_and_defaults_are_there() -> None:
    word = audio_pb2.Word(text_offset=3, samples=2**40)
    event = tts_pb2.StreamingSynthesizeResponse(audio=audio_pb2.AudioChunk(words=[word]))
    audio = to_fields(event)["audio"]
    assert (audio["first_sample"], audio["sequence"], audio["words"][0]["samples"]) == (0, 0, 2**40)
    assert audio["words"][0]["open"] is False


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"config": {"audio": {"encoding": "MP3"}}}, "config.audio.encoding", "AUDIO_ENCODING_MP3"),
        ({"config": {"audio": {"sample_rate": -(2**40)}}}, "config.audio.sample_rate", "32 bits"),
        ({"config": {"sampling": {"top_p": [1]}}}, "config.sampling.top_p", "a number"),
        ({"configure": {"config": {"lexicon": {}}}}, "configure.config.lexicon", "a list"),
        ({"position": {"seconds": {}}}, "position.seconds", "a number"),
    ],
)
def test_the_first_fault_is_named_with_what_is_expected(fields: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_message(fields, tts_pb2.StreamingSynthesizeRequest)
    assert caught.value.field == field
    assert rule in caught.value.message
