"""Whole texts at the gateway over fake stages, and the samples that their answers must have."""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway.session.turn import utterance_seed
from lighttts.v1 import audio_pb2, tts_pb2
from tests.support.fake_stages import Rig, ids_of, speech

SEED = 7


def config(**fields: Any) -> tts_pb2.SynthesisConfig:
    return tts_pb2.SynthesisConfig(seed=SEED, format=audio_pb2.SAMPLE_FORMAT_F32LE, **fields)


def expected(*sentences: str, turn: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the samples [n] of the sentences of one turn, which are spoken with SEED."""
    return np.concatenate(
        [speech(ids_of(text), utterance_seed(SEED, turn, number)) for number, text in enumerate(sentences)]
    )


async def synthesize(
    r: Rig, text: str, configuration: tts_pb2.SynthesisConfig | None = None, start_sample: int = 0
) -> list[Any]:
    """Return all events of a whole text. Raises the error of the call."""
    request = tts_pb2.SynthesizeRequest(config=configuration or config(), text=text, start_sample=start_sample)
    return [getattr(response, response.WhichOneof("event") or "") async for response in r.tts.Synthesize(request)]
