"""A process that its supervisor cannot tell from a service: `python -m tests.unit.cli.fake_service --port N`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

GATEWAY_END_TO_END = "lighttts.v1.TextToSpeech/EndToEnd"
"""As in services.common.end_to_end, whose import takes longer than all others together."""


async def serve(port: int, ready: bool, able: bool, deaf: bool, linger: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, (lambda: None) if deaf else stop.set)
    servicer = health.aio.HealthServicer()
    for name, serves in (("", ready), (GATEWAY_END_TO_END, able)):
        status = health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING
        await servicer.set(name, status)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await stop.wait()
    await asyncio.sleep(linger)
    await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fail", help="end at once with this JSON line in the log")
    parser.add_argument("--say", help="write this line into the log and go on")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--unable", action="store_true", help="report that not all services can serve")
    parser.add_argument("--linger", type=float, default=0.0, help="seconds from SIGTERM to the end")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    if options.say:
        logging.error(options.say)
    if options.fail:
        logging.error(options.fail)
        sys.exit(1)
    asyncio.run(serve(options.port, not options.never_ready, not options.unable, options.deaf, options.linger))
