"""Peers of the last release, as far as the wire shows them: its protos, and a proxy that passes on nothing else.

The released code is not in the tree, its protos are (tests/data/released_protos). A proxy in front of a worker parses
every message with the released protos, drops the fields they do not have, and answers methods they do not have with
UNIMPLEMENTED. So the worker receives what a released client can send, and the client what a released worker can send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import grpc_tools
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from services.common.rpc import channel_options

RELEASES = Path(__file__).parents[1] / "data" / "released_protos"
MAX_MESSAGE_BYTES = 64 * 2**20


def last_release() -> Path:
    """Return the folder with the protos of the last release."""
    return max(RELEASES.iterdir(), key=lambda folder: [int(part) for part in folder.name.split(".")])


class Protos:
    """The protos of a folder, compiled apart from the generated package `lighttts`."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        compiled = scratch / "protos.binpb"
        sources = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
        common = Path(grpc_tools.__file__).parent / "_proto"
        code = protoc.main(
            ["protoc", f"-I{folder}", f"-I{common}", "--include_imports", f"--descriptor_set_out={compiled}", *sources]
        )
        assert code == 0, "protoc failed; its message is on stderr"
        files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
        pool = DescriptorPool()
        for file in files:
            pool.Add(file)
        self.files = [pool.FindFileByName(name) for name in sources]
        self.methods = {
            f"/{service.full_name}/{method.name}": method
            for file in self.files
            for service in file.services_by_name.values()
            for method in service.methods
        }

    def elements(self) -> Iterator[str]:
        """Yield a line for every field, enum value and method, with all that the wire depends on."""
        for file in self.files:
            for message in file.message_types_by_name.values():
                yield from _fields(message)
            for enum in file.enum_types_by_name.values():
                yield from _values(enum)
        for path, method in self.methods.items():
            kinds = [method.client_streaming, method.server_streaming]
            yield f"{path} {method.input_type.full_name} {method.output_type.full_name} {kinds}"


def _fields(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        named = field.message_type or field.enum_type
        kind = named.full_name if named else ""
        oneof = field.containing_oneof.name if field.containing_oneof else ""
        yield f"{field.full_name} = {field.number}: {_types[field.type]} {kind} {field.is_repeated} {oneof}"
    for nested in message.nested_types:
        yield from _fields(nested)
    for enum in message.enum_types:
        yield from _values(enum)


def _values(enum: EnumDescriptor) -> Iterator[str]:
    for value in enum.values:
        yield f"{enum.full_name}.{value.name} = {value.number}"


_types = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


class _Proxy(grpc.GenericRpcHandler):
    """Handle every method as a stream of bytes: on the wire a single message is a stream of one."""

    def __init__(self, channel: grpc.aio.Channel, protos: Protos) -> None:
        self._channel = channel
        self._protos = protos

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = str(handler_call_details.method)
        method = self._protos.methods.get(path)
        if method is None and not path.startswith("/grpc."):
            return None
        request = None if method is None else GetMessageClass(method.input_type)
        response = None if method is None else GetMessageClass(method.output_type)

        async def call(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async def outgoing() -> AsyncIterator[bytes]:
                async for message in messages:
                    yield _released(message, request)

            metadata = grpc.aio.Metadata(*_own(context.invocation_metadata()))
            relay: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(path)
            forwarded = relay(outgoing(), metadata=metadata)
            try:
                async for message in forwarded:
                    yield _released(message, response)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))
            finally:
                forwarded.cancel()
            context.set_trailing_metadata(tuple(await forwarded.trailing_metadata()))

        return grpc.stream_stream_rpc_method_handler(call)


def _own(metadata: Any) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in metadata or () if key != "user-agent"]


def _released(message: bytes, kind: type[Message] | None) -> bytes:
    if kind is None:
        return message
    parsed = kind.FromString(message)
    parsed.DiscardUnknownFields()
    return parsed.SerializeToString()


@asynccontextmanager
async def released_peer(protos: Protos, address: str) -> AsyncIterator[str]:
    """Run a proxy in front of the server at `address`; yield the proxy's address."""
    options = channel_options(MAX_MESSAGE_BYTES)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers([_Proxy(channel, protos)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)
