"""The result cache: what is cached, what is not, and one synthesis for equal requests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gateway.auth.keys import key_hash
from gateway.cache import synthesis
from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from services.common.errors import Internal
from tests.support.fake_stages import Rig, Script, chunks, ids_of, rig, until
from tests.support.redis_server import redis_server
from tests.support.second_gateway import second_gateway

FORM = {"tts_text": "One. Two.", "prompt_text": "hello"}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.system)])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Any]]:
    """Settings that turn the cache on."""
    if request.param == "memory":
        yield {"result_cache": "memory"}
        return
    async with redis_server() as url:
        yield {"result_cache": "redis", "redis_url": url}


async def say(r: Rig, text: str = "One. Two.", seed: int | None = 7, **config: Any) -> list[Any]:
    request = tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=seed, **config), text=text)
    return [getattr(response, response.WhichOneof("event") or "") async for response in r.tts.Synthesize(request)]


def pcm(events: list[Any]) -> list[bytes]:
    return [chunk.SerializeToString() for chunk in chunks(events)]


async def test_the_same_request_is_spoken_once(cache: dict[str, Any]) -> None:
    async with rig(**cache) as r:
        first, again = await say(r), await say(r)
        assert len(r.llm.calls) == 2, "two sentences, once"
        assert pcm(first) == pcm(again)
        assert first[0].request_id != again[0].request_id
        assert (again[0].seed, again[0].voice_hash) == (7, first[0].voice_hash)
        assert [event.message for event in again if isinstance(event, tts_pb2.Warning)] == ["a bit quiet"]
        assert again[-1].audio_seconds == first[-1].audio_seconds
        assert again[-1].real_time_factor == 0
        assert 'lighttts_gateway_results_total{how="remembered"}' in (await r.http.get("/metrics")).text


@pytest.mark.parametrize("aligns", [True, False])
async def test_a_replay_has_the_times_and_all_audio_of_the_first_answer(cache: dict[str, Any], aligns: bool) -> None:
    async with rig(**cache) as r:
        r.llm.aligns = aligns
        lines, events = [], []
        for _ in range(2):
            answer = await r.http.post(
                "/v1/text-to-speech/anna/stream/with-timestamps?output_format=pcm_24000",
                json={"text": "One. And two.", "seed": 5},
            )
            parts = [json.loads(line) for line in answer.text.splitlines()]
            pcm_ = b"".join(base64.b64decode(part["audio_base64"]) for part in parts)
            lines.append((pcm_, [part["alignment"] for part in parts]))
            sse = {"stream_format": "sse", "timestamps": True, "response_format": "pcm", "seed": 5}
            answer = await r.http.post("/v1/audio/speech", json=sse | {"input": "One. And two."})
            events.append([event for event in answer.text.split("\n\n") if "speech.audio.done" not in event])
        assert len(r.llm.calls) == 4, "two sentences for each API, once"
        assert lines[0] == lines[1]
        assert len(lines[0][0]) == 2 * 240 * len(ids_of("One. And two."))
        assert events[0] == events[1]
        assert sum("speech.audio.utterance" in event for event in events[0]) == 2


async def test_results_in_the_form_of_another_version_are_not_read(
    cache: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(**cache) as r:
        for form, calls in ((1, 1), (1, 1), (2, 2)):
            monkeypatch.setattr(synthesis, "RESULT_FORMAT", form)
            await say(r, "One.")
            assert len(r.llm.calls) == calls


async def test_an_option_that_changes_the_audio_changes_the_key() -> None:
    async with rig(result_cache="memory", default_voice="hugo") as r:
        different: list[dict[str, Any]] = [
            {},
            {"seed": 8},
            {"text": "One. Two"},
            {"voice_name": "anna"},
            {"speed": 1.5},
            {"style": "calm"},
            {"sampling": llm_pb2.SamplingOptions(top_k=3)},
            {"format": audio_pb2.SAMPLE_FORMAT_F32LE},
            {"audio": audio_pb2.AudioOutput(sample_rate=8000)},
            {"audio": audio_pb2.AudioOutput(keep_leading_silence=True)},
        ]
        for request in different:
            before = len(r.llm.calls)
            await say(r, **request)
            assert len(r.llm.calls) > before, request
        before = len(r.llm.calls)
        for request in [*different, {"priority": audio_pb2.Urgency.PRIORITY_OFFLINE}, {"voice_name": "hugo"}]:
            await say(r, **request)
        assert len(r.llm.calls) == before


@pytest.mark.parametrize(("any_seed", "calls"), [(False, 2), (True, 1)])
async def test_requests_without_a_seed_are_cached_only_if_allowed(any_seed: bool, calls: int) -> None:
    async with rig(result_cache="memory", result_cache_any_seed=any_seed) as r:
        first, again = await say(r, "One.", seed=None), await say(r, "One.", seed=None)
        assert len(r.llm.calls) == calls
        assert (first[0].seed == again[0].seed) is any_seed


async def test_off_is_the_default_and_long_texts_are_always_spoken() -> None:
    cases: list[dict[str, Any]] = [{}, {"result_cache": "memory", "result_cache_text_chars": 3}]
    for settings in cases:
        async with rig(**settings) as r:
            await say(r, "One.")
            await say(r, "One.")
            assert len(r.llm.calls) == 2


async def test_failed_and_cancelled_speech_is_not_cached(cache: dict[str, Any]) -> None:
    async with rig(**cache) as r:
        r.llm.scripts = {
            0: Script(fail_at_hop=1, error=Internal("broken", repeated=True)),
            1: Script(hold={1: asyncio.Event()}),
        }
        with pytest.raises(grpc.aio.AioRpcError, match="broken"):
            await say(r, "A long sentence.")
        call = r.tts.Synthesize(
            tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=7), text="A long sentence.")
        )
        await until(lambda: len(r.llm.calls) == 2 and r.llm.calls[1].hops == 1)
        call.cancel()
        await r.llm.calls[1].cancelled.wait()
        whole = await say(r, "A long sentence.")
        assert len(r.llm.calls) == 3
        assert pcm(await say(r, "A long sentence.")) == pcm(whole)
        assert len(r.llm.calls) == 3
        assert r.gateway._context.speech_cache is not None
        await until(lambda: not r.gateway._context.speech_cache.shared_syntheses)  # type: ignore[union-attr]


async def test_equal_requests_share_one_synthesis_even_if_the_first_leaves(cache: dict[str, Any]) -> None:
    async with rig(**cache) as r:
        r.llm.scripts[0] = Script(hold={2: asyncio.Event()})
        text = "A long sentence to be shared."
        leader = asyncio.create_task(say(r, text))
        await until(lambda: bool(r.llm.calls) and r.llm.calls[0].hops == 2)
        follower: Any = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=7), text=text))
        while not (await follower.read()).HasField("audio"):
            pass  # Started, before the audio that exists already
        leader.cancel()
        await asyncio.wait({leader})
        r.llm.scripts[0].hold[2].set()
        while not (await follower.read()).HasField("finished"):
            pass
        assert len(r.llm.calls) == 1
        assert not r.llm.calls[0].cancelled.is_set()
        await say(r, text)
        assert len(r.llm.calls) == 1


async def test_sharers_get_their_own_ids() -> None:
    async with rig(result_cache="memory") as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        request = tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=7), text="One.")
        ids = [f"request-{number:09}" for number in range(3)]
        calls = [r.tts.Synthesize(request, metadata=(("x-request-id", each),)) for each in ids]
        cache = r.gateway._context.speech_cache
        assert cache is not None
        await until(lambda: [one._readers for one in cache.shared_syntheses.values()] == [3])
        r.llm.scripts[0].hold[0].set()
        started = [[event.started async for event in call if event.HasField("started")] for call in calls]
        assert [[each.request_id for each in one] for one in started] == [[each] for each in ids]
        assert len(r.llm.calls) == 1


async def test_a_failure_reaches_all_sharers_and_the_next_request_is_spoken() -> None:
    async with rig(result_cache="memory") as r:
        r.llm.scripts[0] = Script(fail_at_hop=1, error=Internal("broken", repeated=True), hold={1: asyncio.Event()})
        both = [asyncio.create_task(say(r, "A long sentence.")) for _ in range(2)]
        cache = r.gateway._context.speech_cache
        assert cache is not None
        await until(lambda: [one._readers for one in cache.shared_syntheses.values()] == [2])
        await until(lambda: bool(r.llm.calls) and r.llm.calls[0].hops == 1)
        r.llm.scripts[0].hold[1].set()
        failures = await asyncio.gather(*both, return_exceptions=True)
        assert all("broken" in str(failure) for failure in failures)
        await say(r, "A long sentence.")
        assert len(r.llm.calls) == 2


async def test_http_listeners_share_the_cache() -> None:
    async with rig(result_cache="memory", result_cache_any_seed=True) as r:
        answers = [
            await r.http.post("/inference_zero_shot", data=FORM, files={"prompt_wav": ("a", b"RIFF")}) for _ in "ab"
        ]
        assert answers[0].content == answers[1].content
        assert len(r.llm.calls) == 2


@pytest.mark.parametrize("shared", [False, True])
async def test_results_of_one_key_are_another_keys_only_if_shared(
    cache: dict[str, Any], tmp_path: Path, shared: bool
) -> None:
    names = ("a", "b")
    path = tmp_path / "keys.yaml"
    path.write_text("\n".join(["keys:", *(f"- {{name: {name}, sha256: {key_hash(name)}}}" for name in names)]))
    async with rig(**cache, api_keys_file=path, result_cache_shared=shared) as r:
        for name in (*names, *names):
            request = tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=7), text="One.")
            async for _ in r.tts.Synthesize(request, metadata=(("x-api-key", name),)):
                pass
        assert len(r.llm.calls) == (1 if shared else 2)


async def test_a_deleted_voice_leaves_no_results(cache: dict[str, Any], tmp_path: Path) -> None:
    async with rig(**cache, voices_dir=tmp_path) as r:
        header = tts_pb2.CreateVoiceHeader(name="Mine", transcript="hello", consent=True)
        requests = [tts_pb2.CreateVoiceRequest(header=header), tts_pb2.CreateVoiceRequest(audio=b"audio")]
        for calls in (1, 2):
            await r.voices.CreateVoice(iter(requests))
            await say(r, "One.", voice_name="Mine")
            await say(r, "One.", voice_name="Mine")
            assert len(r.llm.calls) == calls
            await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))


async def test_a_voice_deleted_at_one_gateway_leaves_no_results_at_the_other(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"result_cache": "memory", "voices_dir": tmp_path, "model_poll_seconds": 0.02}
    async with rig(**settings) as one, second_gateway(one, **settings, voice_cache_bytes=0) as other:
        header = tts_pb2.CreateVoiceHeader(name="Mine", transcript="hello", consent=True)
        requests = [tts_pb2.CreateVoiceRequest(header=header), tts_pb2.CreateVoiceRequest(audio=b"audio")]
        await one.voices.CreateVoice(iter(requests))
        await say(other, "One.", voice_name="Mine")
        results = other.gateway._context.speech_cache
        assert results is not None
        assert results.store.holds("hash of hello")
        await one.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        await until(lambda: not results.store.holds("hash of hello"))


async def test_speech_that_runs_while_its_voice_is_deleted_is_not_cached(tmp_path: Path) -> None:
    async with rig(result_cache="memory", voices_dir=tmp_path) as r:
        header = tts_pb2.CreateVoiceHeader(name="Mine", transcript="hello", consent=True)
        requests = [tts_pb2.CreateVoiceRequest(header=header), tts_pb2.CreateVoiceRequest(audio=b"audio")]
        await r.voices.CreateVoice(iter(requests))
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        speaking = asyncio.create_task(say(r, "One.", voice_name="Mine"))
        await until(lambda: bool(r.llm.calls))
        await r.voices.DeleteVoice(tts_pb2.DeleteVoiceRequest(voice="Mine"))
        r.llm.scripts[0].hold[0].set()
        assert isinstance((await speaking)[-1], tts_pb2.Finished)
        results = r.gateway._context.speech_cache
        assert results is not None
        await until(lambda: not results.store.holds("hash of hello") and not r.gateway._context.voices._deletion_checks)


@pytest.mark.system
async def test_gateways_share_results_in_redis() -> None:
    async with redis_server() as url:
        settings: dict[str, Any] = {"result_cache": "redis", "redis_url": url}
        async with rig(**settings) as one, second_gateway(one, **settings) as other:
            assert pcm(await say(one)) == pcm(await say(other))
            assert len(one.llm.calls) == 2
    async with rig(**settings) as alone:
        await say(alone)
        assert len(alone.llm.calls) == 2, "an unreachable cache does not stop a request"
