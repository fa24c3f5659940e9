"""What a worker's failure means to a client of the gateway."""

from __future__ import annotations

import grpc
import grpc.aio

from services.common.errors import LightTtsError, Unavailable, from_rpc_error


def meaning(error: grpc.aio.AioRpcError) -> LightTtsError:
    """The error to raise for a failed call. A call we cancel ourselves never gets here: CANCELLED is the worker's."""
    if error.code() == grpc.StatusCode.CANCELLED:
        return Unavailable("a worker was stopped while it served this; try again", retry_after=1.0)
    return from_rpc_error(error)
