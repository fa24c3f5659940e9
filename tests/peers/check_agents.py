"""The plugins of LiveKit Agents and Pipecat, as the examples set them up and with the address alone:

    python check_agents.py EXAMPLES_FOLDER

They find the gateway by LIGHTTTS_HTTP and LIGHTTTS_SERVER.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import sys

from livekit.agents.utils import http_context
from livekit.plugins import nvidia, openai
from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.nvidia.tts import NvidiaTTSService, NvidiaTTSSynthesisMode
from pipecat.services.openai.tts import OpenAITTSService

SENTENCES = ("Good morning, Alice.", "Welcome to London.")
LEAST_BYTES = 8000


class Listener(FrameProcessor):
    """Counts the audio that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = 0
        self.errors: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.audio += len(frame.audio)
        if isinstance(frame, ErrorFrame):
            self.errors.append(str(frame))
        await self.push_frame(frame, direction)


async def check_pipecat(service: FrameProcessor) -> None:
    listener = Listener()
    task = PipelineTask(Pipeline([service, listener]))
    await task.queue_frames([*map(TTSSpeakFrame, SENTENCES), EndFrame()])
    await PipelineRunner(handle_sigint=False).run(task)
    assert not listener.errors, listener.errors
    assert listener.audio > LEAST_BYTES


async def check_livekit(tts: object) -> None:
    async with tts.synthesize(SENTENCES[0]) as stream:  # type: ignore[attr-defined]
        assert sum([len(event.frame.data) async for event in stream]) > LEAST_BYTES
    if tts.capabilities.streaming:  # type: ignore[attr-defined]
        stream = tts.stream()  # type: ignore[attr-defined]
        for sentence in SENTENCES:
            stream.push_text(sentence + " ")
        stream.end_input()
        assert sum([len(event.frame.data) async for event in stream]) > LEAST_BYTES
        await stream.aclose()
    await tts.aclose()  # type: ignore[attr-defined]


def with_the_address_alone() -> tuple[list[object], list[FrameProcessor]]:
    """The plugins with their own voices, models and instructions."""
    http, server = os.environ["LIGHTTTS_HTTP"] + "/v1", os.environ["LIGHTTTS_SERVER"]
    said = "Speak in a calm voice."
    livekit: list[object] = [
        openai.TTS(base_url=http, api_key="none"),
        openai.TTS(base_url=http, api_key="none", instructions=said),
        nvidia.TTS(server=server, use_ssl=False),
    ]
    pipecat: list[FrameProcessor] = [
        OpenAITTSService(base_url=http, api_key="none"),
        OpenAITTSService(base_url=http, api_key="none", settings=OpenAITTSService.Settings(instructions=said)),
        NvidiaTTSService(server=server, use_ssl=False),
        NvidiaTTSService(
            server=server,
            use_ssl=False,
            settings=NvidiaTTSService.Settings(synthesis_mode=NvidiaTTSSynthesisMode.STITCHED),
        ),
    ]
    return livekit, pipecat


def check_voices(tts: nvidia.TTS) -> None:
    listed = tts.list_voices()
    assert list(listed) == ["en-US"], listed
    assert all(name.startswith("lighttts.") for name in listed["en-US"]["voices"])


async def main() -> None:
    livekit = runpy.run_path(f"{sys.argv[1]}/livekit_agent.py")
    pipecat = runpy.run_path(f"{sys.argv[1]}/pipecat_bot.py")
    check_voices(livekit["over_grpc"])
    for name in ("over_http", "over_grpc", "over_websocket"):
        async with http_context.open():  # within an agent's job, the framework opens it
            await check_livekit(livekit[name])
        await check_pipecat(pipecat[name])
    plain_livekit, plain_pipecat = with_the_address_alone()
    for tts in plain_livekit:
        await check_livekit(tts)
    for service in plain_pipecat:
        await check_pipecat(service)


asyncio.run(main())
