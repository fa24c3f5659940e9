"""Errors of the gateway that repeat names of requests and voices keep their meaning, however long these are."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from lighttts.compat import riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import tts_pb2
from services.common.errors import MAX_MESSAGE_BYTES
from tests.integration.test_gateway_voices import create
from tests.support.fake_stages import Rig, rig

Status = grpc.StatusCode
LONG = "語" * 9000


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return caught.value


def synthesize(r: Rig, **config: Any) -> Any:
    return r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(**config), text="Hi."))


async def test_an_unknown_voice_next_to_60_long_names_is_not_found() -> None:
    async with rig() as r:
        for number in range(60):
            await create(r, name=f"{number:02}" + "語" * 62, transcript=f"hello {number}")
        error = await refusal(synthesize(r, voice_name="nobody"))
        assert error.code() is Status.NOT_FOUND, error.details()
        assert "no voice 'nobody'; known voices: 00" in (error.details() or "")
        assert "more" in (error.details() or "")


@pytest.mark.parametrize("field", ["style", "voice_name"])
async def test_a_name_of_thousands_of_characters_is_invalid(field: str) -> None:
    async with rig() as r:
        error = await refusal(synthesize(r, **{field: LONG}))
        assert error.code() is Status.INVALID_ARGUMENT, error.details()
        assert f"{field} has 9000 characters; at most 256" in (error.details() or "")
        assert not r.llm.calls


async def test_long_values_of_every_grpc_api_are_refused_with_their_own_status() -> None:
    async with rig() as r:
        riva = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
        request = riva_tts_pb2.SynthesizeSpeechRequest
        calls: dict[grpc.StatusCode, list[Any]] = {
            Status.NOT_FOUND: [
                r.voices.GetVoice(tts_pb2.GetVoiceRequest(voice=LONG)),
                r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice=LONG)),
            ],
            Status.INVALID_ARGUMENT: [
                riva.Synthesize(request(text="Hi.", language_code=LONG)),
                riva.Synthesize(request(text="Hi.", custom_configuration={LONG: "1"})),
                riva.Synthesize(request(text="Hi.", custom_configuration={"seed": LONG})),
                r.voices.CreateVoice(
                    iter([tts_pb2.CreateVoiceRequest(header=tts_pb2.CreateVoiceHeader(name=LONG, consent=True))])
                ),
            ],
        }
        for code, of_this_code in calls.items():
            for call in of_this_code:
                error = await refusal(call)
                assert error.code() is code, error.details()


async def test_error_answers_over_http_are_short() -> None:
    async with rig() as r:
        answers = [
            await r.http.get(f"/v1/models/{'x' * 9000}"),
            await r.http.delete(f"/v1/audio/voices/{'x' * 9000}"),
            await r.http.post("/synthesize_batch", json={"texts": [0] * 64}),
            await r.http.post("/v1/audio/speech", json={"input": "Hi.", "response_format": "x" * 9000}),
        ]
        assert [answer.status_code for answer in answers] == [404, 404, 422, 400]
        assert all(len(answer.content) < 2 * MAX_MESSAGE_BYTES for answer in answers), [len(a.content) for a in answers]


async def test_the_trailers_of_a_text_spoken_by_many_workers_stay_small() -> None:
    async with rig() as r:
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(text=" ".join(f"{n} it is." for n in range(20))))
        finished = [response.finished async for response in call][-1]
        assert len(finished.decode_workers) == 20
        trailers = dict(await call.trailing_metadata())
        assert trailers["lighttts-decode-workers"] == ",".join(finished.decode_workers[:16])
