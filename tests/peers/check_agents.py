"""The plugins of LiveKit Agents and Pipecat as the examples set them up: python check_agents.py EXAMPLES_FOLDER.

They find the gateway by LIGHTTTS_HTTP and LIGHTTTS_SERVER.
"""

from __future__ import annotations

import asyncio
import runpy
import sys

from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

SENTENCES = ("Good morning, Alice.", "Welcome to London.")
LEAST_BYTES = 16000


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


async def main() -> None:
    livekit = runpy.run_path(f"{sys.argv[1]}/livekit_agent.py")
    pipecat = runpy.run_path(f"{sys.argv[1]}/pipecat_bot.py")
    for name in ("over_http", "over_grpc"):
        await check_livekit(livekit[name])
        await check_pipecat(pipecat[name])


asyncio.run(main())
