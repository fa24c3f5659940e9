"""The speech of one text, over as many calls as it takes: no sample is lost and none comes twice."""

from __future__ import annotations

from lighttts.v1.audio_pb2 import SAMPLE_FORMAT_F32LE, SAMPLE_FORMAT_UNSPECIFIED, AudioChunk, Word
from lighttts.v1.tts_pb2 import Finished, Started, SynthesisConfig, SynthesizeRequest, SynthesizeResponse
from lighttts_client.errors import Internal, LightTtsError, check_text
from lighttts_client.retry import Retry


class SpeechState:
    """What has been received of a text's speech. It makes requests and takes answers; the subclasses make the calls."""

    def __init__(self, text: str, config: SynthesisConfig, retry: Retry) -> None:
        self._text = text
        self._config = config
        self._retry = retry
        self._failures = 0
        self._sequence = 0
        self._resumable = True
        self._spoken_to = self._opened = -1
        """Offsets of the last word that has its length, and of the last one that began."""
        self.samples = 0
        """Samples received so far, if the encoding is PCM."""
        self.resumes = 0
        """How often a call was made that continues the one before it."""
        self.started: Started | None = None
        """Request id, seed, sample rate and limits; None until the gateway has accepted the request."""
        self.finished: Finished | None = None
        """The figures of the whole; None until the end."""
        self.warnings: list[str] = []

    @property
    def sample_rate(self) -> int:
        """Samples per second; 0 until the gateway has accepted the request."""
        return self.started.sample_rate if self.started else 0

    def request(self) -> SynthesizeRequest:
        """Return the request for what is missing. Raises InvalidInput for a text that no request can hold."""
        check_text("text", self._text)
        request = SynthesizeRequest(config=self._config, text=self._text, start_sample=self.samples)
        if self.started is not None:  # the same speech again: the seed may have been the gateway's choice
            request.config.seed = self.started.seed
        return request

    def take(self, response: SynthesizeResponse) -> AudioChunk | None:
        """Note an answer; return its audio, if it has any that is new."""
        match response.WhichOneof("event"):
            case "started":
                self.started = response.started
            case "audio":
                return self._audio(response.audio)
            case "warning" if response.warning.message not in self.warnings:
                self.warnings.append(response.warning.message)
            case "finished":
                self.finished = response.finished
        return None

    def failed(self, error: LightTtsError) -> float:
        """Return the seconds until the next call. Raises `error` if there is none."""
        if not self._resumable:
            raise error
        self._failures += 1
        delay = self._retry.delay(self._failures, error)
        self.resumes += bool(self.samples)
        return delay

    def _audio(self, received: AudioChunk) -> AudioChunk | None:
        chunk = AudioChunk()
        chunk.CopyFrom(received)
        del chunk.words[:]
        chunk.words.extend(word for word in received.words if self._is_new(word))
        if chunk.format == SAMPLE_FORMAT_UNSPECIFIED:  # a file format, which cannot start in the middle
            self._resumable = False
        else:
            width = 4 if chunk.format == SAMPLE_FORMAT_F32LE else 2
            repeated = self.samples - chunk.first_sample
            if repeated < 0:
                raise Internal(f"the gateway left out {-repeated} samples after sample {self.samples}")
            chunk.pcm = chunk.pcm[repeated * width :]
            if repeated and not chunk.pcm and not chunk.words:
                return None
            chunk.first_sample = self.samples
            self.samples += len(chunk.pcm) // width
        if chunk.pcm:
            self._failures = 0
        chunk.sequence = self._sequence
        self._sequence += 1
        return chunk

    def _is_new(self, word: Word) -> bool:
        """Note a word; return False for one that came with an earlier call."""
        if word.text_offset <= self._spoken_to or (word.open and word.text_offset <= self._opened):
            return False
        if word.open:
            self._opened = word.text_offset
        else:
            self._spoken_to = word.text_offset
        return True
