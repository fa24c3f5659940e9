"""Styles: the checkpoints the llm service speaks with."""

from __future__ import annotations

import grpc.aio

from gateway.downstream import call_with_retry
from lighttts.v1 import llm_pb2, llm_pb2_grpc
from services.common.pool import Pool


async def list_styles(llm: Pool) -> tuple[str, ...]:
    """Their names, the default one first. Asked anew every time: it is seldom wanted and costs a millisecond.

    Raises Unavailable when no llm worker can be asked.
    """

    async def ask(channel: grpc.aio.Channel) -> llm_pb2.ListStylesResponse:
        return await llm_pb2_grpc.LlmStub(channel).ListStyles(llm_pb2.ListStylesRequest())

    answer = await call_with_retry(llm, ask, may_repeat=lambda: True)
    return tuple(answer.styles)
