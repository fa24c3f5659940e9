"""What clients of other products send without being asked: their own names of voices and models, instructions, and
CosyVoice3's preamble."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from lighttts.compat import cosyvoice_pb2, cosyvoice_pb2_grpc, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import llm_pb2, tts_pb2
from tests.support.fake_stages import Rig, ids_of, rig

PREAMBLE = "You are a helpful assistant.<|endofprompt|>"
WAV = ("prompt.wav", b"RIFF a recording", "audio/wav")


async def openai(r: Rig, **fields: Any) -> httpx.Response:
    return await r.http.post("/v1/audio/speech", json={"input": "One.", "response_format": "pcm"} | fields)


async def riva(r: Rig, voice: str) -> None:
    stub = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
    await stub.Synthesize(riva_tts_pb2.SynthesizeSpeechRequest(text="One.", voice_name=voice, language_code="en-US"))


def spoken_by(r: Rig) -> str:
    return r.llm.calls[-1].start.voice_hash.removeprefix("hash of ")


@pytest.mark.parametrize(
    "voice", ["Magpie-Multilingual.EN-US.Leo", "Magpie-Multilingual.EN-US.Aria", "English-US.Female-1", "alloy"]
)
async def test_default_voices_of_other_products_mean_the_default_voice(voice: str) -> None:
    async with rig(default_voice="anna") as r:
        await riva(r, voice)
        assert spoken_by(r) == "anna"
        assert (await openai(r, voice=voice)).status_code == 200


async def test_aliases_of_voices() -> None:
    rules = "alloy=anna, magpie-*.leo=anna, !magpie-*, echo=absent"
    async with rig(default_voice="hugo", voice_aliases=rules) as r:
        for name, voice in (
            ("alloy", "anna"),
            ("ALLOY", "anna"),
            ("Magpie-Multilingual.EN-US.Leo", "anna"),
            ("nova", "hugo"),
        ):
            assert (await openai(r, voice=name)).status_code == 200
            assert spoken_by(r) == voice, name
        refused = await openai(r, voice="Magpie-Multilingual.EN-US.Aria")
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "voice")
        unknown = (await openai(r, voice="echo")).json()["error"]["message"]
        assert "'absent'" in unknown
        assert "'echo'" in unknown


async def test_aliases_of_models() -> None:
    async with rig(model_aliases="tts-1-hd=calm,kokoro=") as r:
        for name, style in (("tts-1", ""), ("tts-1-hd", "calm"), ("kokoro", ""), ("gpt-4o-mini-tts-2025-12-15", "")):
            assert (await openai(r, model=name)).status_code == 200
            assert r.llm.calls[-1].start.style == style, name
            assert (await r.http.get(f"/v1/models/{name}")).json()["id"] == name
        for path in ("/v1/models", "/v1/audio/models"):
            answer = (await r.http.get(path)).json()
            names = [model["id"] for model in answer["data"]]
            assert names[:2] == ["fake", "calm"]
            assert {"tts-1", "tts-1-hd", "gpt-4o-mini-tts", "kokoro"} <= set(names)
            assert answer["models"] == answer["data"]


@pytest.mark.parametrize("rules", ["alloy", "=anna", "a=b=c", "!"])
async def test_rules_that_are_none_are_refused_at_the_start(rules: str) -> None:
    with pytest.raises(ValueError, match="PATTERN"):
        async with rig(voice_aliases=rules):
            pass


async def test_instructions_that_the_model_cannot_follow_are_ignored_with_a_warning() -> None:
    async with rig(end_of_prompt=False) as r:
        answer = await openai(r, instructions="Speak sadly.")
        assert answer.status_code == 200
        assert "instructions" in answer.headers["x-light-tts-warning"]
        assert r.llm.calls[-1].start.prompt_use == llm_pb2.PROMPT_USE_ZERO_SHOT
        mode: Any = {"mode": tts_pb2.SPEECH_MODE_INSTRUCT, "instruct_text": "sadly"}
        request = tts_pb2.SynthesizeRequest(text="One.", config=tts_pb2.SynthesisConfig(**mode))
        events = [response async for response in r.tts.Synthesize(request)]
        assert [event.warning.code for event in events if event.HasField("warning")][:1] == ["instructions_ignored"]
        # A prompt without transcript has only its timbre to speak with.
        mode["prompt"] = tts_pb2.Prompt(audio=b"RIFF a recording")
        request = tts_pb2.SynthesizeRequest(text="One.", config=tts_pb2.SynthesisConfig(**mode))
        assert [response async for response in r.tts.Synthesize(request)]
        assert r.llm.calls[-1].start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE


async def test_instructions_that_the_model_can_follow_are_followed() -> None:
    async with rig(end_of_prompt=True) as r:
        answer = await openai(r, instructions="Speak sadly.")
        assert "instructions" not in answer.headers.get("x-light-tts-warning", "")
        assert r.llm.calls[-1].start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE


async def test_a_strict_gateway_refuses_instructions_that_the_model_cannot_follow() -> None:
    async with rig(end_of_prompt=False, strict_instructions=True) as r:
        answer = await openai(r, instructions="Speak sadly.")
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["type"]) == (400, "instructions", "invalid_request_error")


@pytest.mark.parametrize(("known", "kept"), [(False, ""), (True, PREAMBLE), (None, PREAMBLE)])
async def test_cosyvoice3_s_preamble_is_dropped_if_the_model_lacks_its_token(known: bool | None, kept: str) -> None:
    async with rig(end_of_prompt=known, cosyvoice_port=0) as r:
        form = {"tts_text": "One.", "prompt_text": f"{PREAMBLE}hello", "stream": "true"}
        answer = await r.http.post("/inference_zero_shot", data=form, files={"prompt_wav": WAV})
        assert (answer.status_code, r.encode.uploads[-1][0].transcript) == (200, f"{kept}hello")
        assert ("preamble" in answer.headers.get("x-light-tts-warning", "")) is (known is False)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{r.gateway.cosyvoice_port}") as channel:
            stub = cosyvoice_pb2_grpc.CosyVoiceStub(channel)
            cross = cosyvoice_pb2.crosslingualRequest(tts_text=f"{PREAMBLE}Two.", prompt_audio=b"RIFF another")
            assert [part async for part in stub.Inference(cosyvoice_pb2.Request(cross_lingual_request=cross))]
            assert r.llm.calls[-1].ids[-4:] == ids_of("Two.")
            assert (len(r.llm.calls[-1].ids) > 4) is (known is not False)


async def test_an_instruction_before_the_token_is_ignored_or_refused_as_one() -> None:
    form = {"tts_text": "One.", "instruct_text": "sadly<|endofprompt|>", "spk_id": "anna"}
    for strict, status in ((False, 200), (True, 400)):
        async with rig(end_of_prompt=False, strict_instructions=strict, cosyvoice_port=0) as r:
            url = f"http://127.0.0.1:{r.gateway.cosyvoice_port}"
            answer = await r.http.post(f"{url}/inference_instruct", data=form)
            assert answer.status_code == status
            if strict:
                assert "instruct_text" in answer.json()["message"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt_text": " "}, "prompt_text"),
        ({"tts_text": "!?"}, "tts_text"),
        ({"tts_model_name": "x" * 300}, "tts_model"),
    ],
)
async def test_errors_name_the_field_that_the_client_sent(fields: dict[str, str], named: str) -> None:
    async with rig() as r:
        form = {"tts_text": "One.", "prompt_text": "hello"} | fields
        answer = await r.http.post("/inference_zero_shot", data=form, files={"prompt_wav": WAV})
        assert answer.status_code == 400
        assert named in answer.json()["message"]
        assert "transcript is" not in answer.json()["message"]
