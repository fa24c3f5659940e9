"""Runs in a pod of the cluster: one long stream and short calls on one channel, one line of JSON per call.

It gets the gateway's address and the pause between two calls as arguments, and runs until it is ended. It imports only
what the gateway's image has.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio

from lighttts.v1 import tts_pb2, tts_pb2_grpc

SHORT = "We do not tell."
LONG = "And who is this person you are speaking of? " * 6
LIMIT_SECONDS = 120.0


def report(kind: str, began: float, error: str = "") -> None:
    line: dict[str, Any] = {"kind": kind, "began": began, "seconds": round(time.time() - began, 3), "error": error}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def speak(stub: tts_pb2_grpc.TextToSpeechAsyncStub, kind: str, text: str) -> None:
    """Speak a text and report how it ended."""
    began, finished = time.time(), False
    try:
        call: Any = stub.Synthesize(tts_pb2.SynthesizeRequest(text=text), timeout=LIMIT_SECONDS)
        async for response in call:
            finished = finished or response.WhichOneof("event") == "finished"
    except grpc.aio.AioRpcError as error:
        report(kind, began, f"{error.code().name}: {error.details()}")
    else:
        report(kind, began, "" if finished else "the stream ended before its text")


async def repeat(stub: tts_pb2_grpc.TextToSpeechAsyncStub, kind: str, text: str, pause: float) -> None:
    while True:
        await speak(stub, kind, text)
        await asyncio.sleep(pause)


async def main(address: str, pause: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stub: Any = tts_pb2_grpc.TextToSpeechStub(channel)
        group.create_task(repeat(stub, "long", LONG, 0.0))
        group.create_task(repeat(stub, "short", SHORT, pause))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
