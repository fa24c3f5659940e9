"""Markup, pauses and languages through the APIs: a real encode service, and an llm that speaks its ids."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from websockets.asyncio.client import connect

from lighttts.compat import riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import audio_pb2, lexicon_pb2, text_pb2, tts_pb2
from services.encode.settings import EncodeSettings
from tests.support.fake_stages import Conversation, Rig, rig, samples

TINY = Path(__file__).parents[2] / "models" / "tiny"
SEED = 7
RATE = 24000
SSML = '<speak><prosody pitch="-0.1" rate="100%">Good morning.</prosody></speak>'


@asynccontextmanager
async def stack(**settings: Any) -> AsyncIterator[Rig]:
    # A short idle time only shortens the tests: nothing depends on which event comes first.
    encode = EncodeSettings(port=0, model_dir=TINY, normaliser="builtin", text_idle_seconds=0.02)
    async with rig(encode_settings=encode, **settings) as r:
        yield r


def config(**fields: Any) -> tts_pb2.SynthesisConfig:
    output = audio_pb2.AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE, keep_leading_silence=True)
    return tts_pb2.SynthesisConfig(seed=SEED, audio=output, **fields)


async def synthesize(r: Rig, text: str, start_sample: int = 0, **fields: Any) -> list[Any]:
    request = tts_pb2.SynthesizeRequest(config=config(**fields), text=text, start_sample=start_sample)
    return [getattr(response, response.WhichOneof("event") or "") async for response in r.tts.Synthesize(request)]


async def converse(r: Rig, *fragments: str) -> list[Any]:
    client = await Conversation(r, config()).begin()
    for fragment in fragments:
        await client.text(fragment)
    await client.end()
    return await client.rest()


def warnings_of(events: list[Any]) -> list[str]:
    return [event.code for event in events if isinstance(event, tts_pb2.Warning) and event.code]


async def test_pauses_are_exact_silence_and_keep_all_positions() -> None:
    text = "[pause:250ms]One. [pause:500ms] Two."
    async with stack() as r:
        plain = samples(await synthesize(r, "One. Two."))
        one = len(samples(await synthesize(r, "One.")))
        events = await synthesize(r, text)
        audio = samples(events)
        assert len(audio) == len(plain) + 0.75 * RATE
        quiet = np.zeros(int(0.25 * RATE), np.float32)
        assert np.array_equal(audio, np.concatenate([quiet, plain[:one], quiet, quiet, plain[one:]]))
        (finished,) = [event for event in events if isinstance(event, tts_pb2.Finished)]
        assert finished.audio_seconds == pytest.approx(len(audio) / RATE)
        for start in (1000, 6000 + one + 3000, len(audio) - 10):
            resumed = await synthesize(r, text, start)
            pcm = b"".join(event.pcm for event in resumed if isinstance(event, audio_pb2.AudioChunk))
            assert np.array_equal(np.frombuffer(pcm, "<f4"), audio[start:])
        streamed = await converse(r, "[pause:25", "0ms]One. [pau", "se:500ms] Two.")
        assert np.array_equal(samples(streamed), audio)
        spoken = [(event.text_offset, event.sample) for event in streamed if isinstance(event, tts_pb2.Spoken)]
        ends = [text.index("One"), text.index(" [pause:5"), text.index(" Two"), len(text)]
        assert spoken == list(zip(ends, [6000, 6000 + one, 18000 + one, len(audio)], strict=True))


async def test_a_pause_after_a_cut_has_no_words_of_the_text_that_was_cut() -> None:
    text = "One and two and three and four and five."
    async with stack(max_lead_seconds=0.05) as r:
        r.llm.aligns = True
        client = await Conversation(r, config(word_times=True)).begin()
        await client.position(0)
        await client.text(text)
        await client.flush()
        await client.next_of(audio_pb2.AudioChunk)
        await r.llm.calls[0].ended.wait()  # the gateway has more words than it has sent
        await client.cancel()
        cut = await client.next_of(tts_pb2.Spoken)
        assert cut.cut
        await client.position(10)
        await client.text("[pause:2s]Six.")
        await client.end()
        events = await client.rest()
        after = events[events.index(cut) :]
        words = [word.text_offset for event in after if isinstance(event, audio_pb2.AudioChunk) for word in event.words]
        assert set(words) == {len(text) + len("[pause:2s]")}


async def test_rate_and_volume_change_the_utterances_of_a_document() -> None:
    inner = 'One. <prosody rate="80%" volume="-6dB">Two.</prosody>'
    async with stack() as r:
        one = len(samples(await synthesize(r, "One.", speed=2.0)))
        plain = samples(await synthesize(r, "<speak>One. <s>Two.</s></speak>", speed=2.0))
        audio = samples(await synthesize(r, f"<speak>{inner}</speak>", speed=2.0))
        assert [call.start.speed for call in r.llm.calls] == [2.0, 2.0, 2.0, 2.0, 1.6]
    assert np.array_equal(audio[:one], plain[:one])
    assert np.allclose(audio[one:], plain[one:] * 10 ** (-6 / 20), atol=1e-6)


async def test_every_api_takes_markup() -> None:
    async with stack() as r:
        plain = samples(await synthesize(r, "Good morning."))
        events = await synthesize(r, SSML)
        assert np.array_equal(samples(events), plain)
        assert warnings_of(events) == ["attribute_ignored"]

        riva = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
        request = riva_tts_pb2.SynthesizeSpeechRequest(
            text=SSML, language_code="en-US", sample_rate_hz=RATE, custom_configuration={"seed": str(SEED)}
        )
        assert len((await riva.Synthesize(request)).audio) == 2 * len(plain)

        speech = {"input": SSML, "response_format": "pcm", "seed": SEED}
        answer = await r.http.post("/v1/audio/speech", json=speech)
        assert len(answer.content) == 2 * len(plain)
        assert answer.headers["x-light-tts-warning"].startswith("attribute_ignored: <prosody pitch='-0.1'>")
        files = {"prompt_wav": ("a.wav", (TINY / "prompt_anna.wav").read_bytes())}
        form = {"tts_text": "<x/>Good morning.", "prompt_text": "hello there", "stream": "true"}
        answer = await r.http.post("/inference_zero_shot", data=form, files=files)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == 2 * len(plain)
        assert "tag_dropped: <x/>" in answer.headers["x-light-tts-warning"]


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("<|a\x00b|>", "<|a\\x00b|>"),
        ("<|a\x7fb|>", "<|a\\x7fb|>"),
        ("<|\x1b[31mé|>", "<|\\x1b[31m\\xe9|>"),
        ('<break time="\x00"/>', "\\x00"),
    ],
)
async def test_a_warning_that_quotes_any_character_does_not_break_the_answer(tag: str, shown: str) -> None:
    text = f"Good {tag}morning."
    async with stack() as r:
        answer = await r.http.post("/v1/audio/speech", json={"input": text, "response_format": "pcm"})
        assert shown in answer.headers["x-light-tts-warning"]
        call = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel).Synthesize(
            riva_tts_pb2.SynthesizeSpeechRequest(text=text, language_code="en-US", sample_rate_hz=RATE)
        )
        assert len((await call).audio) == len(answer.content) > 0
        (note,) = [value for key, value in await call.trailing_metadata() or () if key == "x-light-tts-warning"]
        assert shown in note


async def test_malformed_ssml_is_refused_with_its_place() -> None:
    bad = "<speak>one\n<p>two</speak>"
    async with stack() as r:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await synthesize(r, bad)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "line 2, position 9" in (refusal.value.details() or "")
        answer = await r.http.post("/v1/audio/speech", json={"input": bad})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "input"
        assert "line 2, position 9" in answer.json()["error"]["message"]


async def test_a_finished_sentence_is_spoken_while_the_client_is_silent() -> None:
    async with stack() as r:
        expected = samples(await synthesize(r, "One moment please."))
        client = await Conversation(r, config()).begin()
        await client.text("One moment please.")
        spoken = await client.next_of(tts_pb2.Spoken)  # nothing else was sent
        assert (spoken.text_offset, spoken.sample) == (18, len(expected))
        await client.text(" It leaves at 9.")
        await client.end()
        assert len(samples(await client.rest())) > len(expected)

        url = f"ws://127.0.0.1:{r.gateway.http_port}/inference_zero_shot_bistream"
        async with connect(url, max_size=None, proxy=None) as socket:
            await socket.send(json.dumps({"prompt_text": "hello there"}))
            await socket.send((TINY / "prompt_anna.wav").read_bytes())
            await socket.send(json.dumps({"tts_text": "One moment please."}))
            received = 0
            while received < 2 * len(expected):
                received += len(await socket.recv())
            assert received == 2 * len(expected)


async def test_the_language_decides_how_numbers_are_read() -> None:
    text = "Es sind 22 Grad."
    async with stack() as r:
        for language in ("", "de-DE", "en"):
            await synthesize(r, text, language=language)
        await r.http.post("/v1/audio/speech", json={"input": text, "language": "de", "seed": SEED})
        english, german, named, over_http = (bytes(str(call.ids), "ascii") for call in r.llm.calls)
        assert english == named
        assert german == over_http != english
        with pytest.raises(grpc.aio.AioRpcError, match="tag of BCP-47"):
            await synthesize(r, text, language="not a language")
        answer = await r.http.post("/v1/audio/speech", json={"input": text, "language": "12"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "language")


async def test_a_preview_shows_sentences_readings_and_ids() -> None:
    text = "Room 007. [pause:1s]Bye [laugh] Nguyen."
    entry = {"phrase": "nguyen", "pronunciation": "W IH1 N", "alphabet": "arpabet"}
    async with stack() as r:
        answer = await r.http.post("/v1/text/preview", json={"text": text, "language": "en-US", "lexicon": [entry]})
        assert answer.status_code == 200, answer.text
        one, pause, two = answer.json()["utterances"]
        assert (one["written"], one["reading"]) == ("Room 007.", "Room zero zero seven.")
        assert "".join(one["tokens"]).strip() == one["reading"].lower()
        assert len(one["tokens"]) == len(one["ids"])
        assert (pause["written"], pause["silence_seconds"], pause["ids"]) == ("[pause:1s]", 1.0, [])
        assert two["reading"] == "Bye wihn."
        assert [note["code"] for note in answer.json()["warnings"]] == ["sound_dropped", "phones_respelled"]
        assert r.llm.calls == []
        spoken = await r.tts.PreviewText(text_pb2.PreviewTextRequest(text="Room 007."))
        assert [list(one.ids) for one in spoken.utterances] == [one["ids"]]
        for bad, field in (
            ({"text": " "}, "text"),
            ({"text": "<speak>"}, "text"),
            ({"text": "a\ud800"}, "text"),
            ({"text": "a", "language": "?"}, "language"),
            ({"text": "a", "lexicon": [entry | {"pronunciation": "?"}]}, "lexicon"),
        ):
            headers = {"content-type": "application/json"}
            answer = await r.http.post("/v1/text/preview", content=json.dumps(bad), headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text


async def test_earlier_encode_workers_are_named_as_the_reason() -> None:
    async with rig(encodes=2) as r:
        r.encodes[0].reads_text = False
        for _ in range(2):  # the workers get calls in turn
            assert (await r.http.post("/v1/text/preview", json={"text": "One."})).status_code == 200
        r.encodes[1].reads_text = False
        answer = await r.http.post("/v1/text/preview", json={"text": "One."})
        assert (answer.status_code, "upgrade the encode service" in answer.text) == (501, True)
        answer = await r.http.post("/v1/lexicon", json={"phrase": "nguyen", "pronunciation": "win"})
        assert (answer.status_code, "upgrade the encode service" in answer.text) == (501, True)
        with pytest.raises(grpc.aio.AioRpcError, match="upgrade the encode service") as refused:
            await r.tts.PreviewText(text_pb2.PreviewTextRequest(text="One."))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_s_lexicon_is_used_by_every_request() -> None:
    async with stack() as r:
        spoken = samples(await synthesize(r, "Ask win now."))
        entry = {"phrase": "nguyen", "pronunciation": "win"}
        answer = await r.http.post("/v1/lexicon", json=entry)
        assert answer.status_code == 200, answer.text
        assert np.array_equal(samples(await synthesize(r, "Ask Nguyen now.")), spoken)
        assert np.array_equal(samples(await converse(r, "Ask Ngu", "yen now.")), spoken)
        speech = {"input": "Ask Nguyen now.", "response_format": "pcm", "seed": SEED}
        assert len((await r.http.post("/v1/audio/speech", json=speech)).content) == 2 * len(spoken)
        own = [lexicon_pb2.LexiconEntry(phrase="Nguyen", pronunciation="noo-yen")]
        assert not np.array_equal(samples(await synthesize(r, "Ask Nguyen now.", lexicon=own)), spoken)

        listed = await r.lexicon.ListPronunciations(tts_pb2.ListPronunciationsRequest())
        assert [(one.phrase, one.pronunciation) for one in listed.entries] == [("nguyen", "win")]
        created = await r.lexicon.CreatePronunciation(
            tts_pb2.CreatePronunciationRequest(
                entry=lexicon_pb2.LexiconEntry(
                    phrase="nguyen",
                    pronunciation="n uw1 y eh0 n",
                    alphabet=lexicon_pb2.PHONETIC_ALPHABET_ARPABET,
                )
            )
        )
        assert created.existed
        (shown,) = (await r.http.get("/v1/lexicon")).json()["data"]
        assert (shown["phrase"], shown["alphabet"]) == ("nguyen", "arpabet")
        answer = await r.http.post("/v1/text/preview", json={"text": "Nguyen."})
        assert answer.json()["utterances"][0]["reading"] == "noo-yehn."
        assert (await r.http.delete("/v1/lexicon/nguyen")).json()["deleted"] is True
        assert (await r.http.delete("/v1/lexicon/nguyen")).status_code == 404
        assert not np.array_equal(samples(await synthesize(r, "Ask Nguyen now.")), spoken)
        bad = await r.http.post("/v1/lexicon", json=entry | {"alphabet": "ipa", "pronunciation": "☃"})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "pronunciation")
        many = [lexicon_pb2.LexiconEntry(phrase=f"word{n}", pronunciation="x") for n in range(101)]
        with pytest.raises(grpc.aio.AioRpcError, match="at most 100"):
            await synthesize(r, "Hello.", lexicon=many)


async def test_a_changed_lexicon_is_not_answered_from_the_result_cache() -> None:
    async with stack(result_cache="memory") as r:
        first = samples(await synthesize(r, "Ask Nguyen now."))
        await r.http.post("/v1/lexicon", json={"phrase": "nguyen", "pronunciation": "win"})
        second = samples(await synthesize(r, "Ask Nguyen now."))
        assert not np.array_equal(first, second)
        assert np.array_equal(samples(await synthesize(r, "Ask Nguyen now.")), second)
        assert len(r.llm.calls) == 2


async def test_riva_s_dictionary_is_a_lexicon() -> None:
    async with stack() as r:
        riva = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)

        async def ids(dictionary: str) -> list[int]:
            request = riva_tts_pb2.SynthesizeSpeechRequest(
                text="A tomato.", language_code="en-US", sample_rate_hz=RATE, custom_dictionary=dictionary
            )
            await riva.Synthesize(request)
            return r.llm.calls[-1].ids

        plain = await ids("")
        phones = await ids("tomato  təˈmeɪtoʊ,potato  pəˈteɪtoʊ")
        assert phones == await ids("tomato  {@T}{@AH0}{@M}{@EY1}{@T}{@OW0}")
        assert phones != plain
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await ids("tomato  ☃")
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_cut_inside_a_pause_tells_how_much_text_was_heard() -> None:
    async with stack(max_lead_seconds=1.0) as r:
        client = await Conversation(r, config()).begin()
        await client.position(0)
        await client.text("One. [pause:10s]Two.")
        await client.flush()
        while len(samples(client.events)) < RATE // 2:  # half a second: inside the pause
            await client.next_of(audio_pb2.AudioChunk)
        await client.position(0.5)
        await client.cancel()
        cut = await client.next_of(tts_pb2.Spoken)
        while not cut.cut:
            cut = await client.next_of(tts_pb2.Spoken)
        assert 4 <= cut.text_offset <= len("One. [pause:10s]"), "nothing of the text after it"
        assert cut.sample == RATE // 2
        await client.text("Three.")
        await client.end()
        assert [event for event in await client.rest() if isinstance(event, tts_pb2.Finished)]
