"""`light-tts text`: shows how a text is read, by a running gateway or with a model directory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import grpc.aio
import typer
from rich.table import Table
from rich.text import Text

from cli.access import LOCAL, ApiKey, Authority, Server, Tls, access
from cli.client import Access, ClientError, check_text, client_error, connect
from cli.console import examples, fail, out
from lighttts.v1 import encode_pb2, text_pb2, tts_pb2_grpc
from services.common.checkpoint.model_dir import ModelDirError, open_model_dir
from services.common.errors import InvalidInput

MAX_CHARACTERS = 1_000_000
"""A command's own text: a file at most."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "text",
        epilog=examples(
            'text "It costs $12.75 at 3:00 PM."',
            'text "Es sind 22 Grad." --language de',
            'text "Zip 02134" --model-dir models/tiny',
        ),
    )(text)


def text(
    written: Annotated[str, typer.Argument(metavar="TEXT", help="The text.")],
    language: Annotated[
        str, typer.Option(help="Language of the text, such as en, de-DE or zh. Default: that of its letters.")
    ] = "",
    model_dir: Annotated[
        Path | None, typer.Option(help="Read with this model directory, without a gateway.", exists=True)
    ] = None,
    server: Server = LOCAL,
    tls: Tls = False,
    ca: Authority = None,
    api_key: ApiKey = "",
) -> None:
    """Show the sentences of a text, how they are read, and their token ids. Nothing is spoken."""
    try:
        check_text("TEXT", written)
        check_text("--language", language)
        if model_dir is None:
            request = text_pb2.PreviewTextRequest(text=written, language=language)
            answer = asyncio.run(_ask(access(server, tls, ca, api_key), request))
        else:
            answer = read_with(model_dir, written, language)
    except (ClientError, InvalidInput, ModelDirError) as error:
        fail(str(error))
    show(answer)


def read_with(model_dir: Path, written: str, language: str) -> text_pb2.PreviewTextResponse:
    """Read a text with a model directory. Raises InvalidInput, ModelDirError."""
    # Here: they need the packages of the encode service, which a client of a gateway may lack.
    from services.encode.text.frontend import TextFrontend
    from services.encode.text.normalise import Normaliser
    from services.encode.text.pronunciation.lexicon import NO_LEXICON
    from services.encode.text.text_encoder import SentenceEncoder
    from services.encode.text_request import TextRequests, previewed

    frontend = TextFrontend(open_model_dir(model_dir), Normaliser())
    request = TextRequests(frontend).checked(encode_pb2.EncodeTextStart(language=language), NO_LEXICON)
    encoder = SentenceEncoder(frontend, MAX_CHARACTERS, request)
    pieces = [piece for step in (*encoder.push(written), *encoder.finish()) for piece in step]
    warnings = [text_pb2.TextWarning(code=one.code, message=one.message) for one in encoder.warnings.take()]
    return text_pb2.PreviewTextResponse(utterances=[previewed(frontend, piece) for piece in pieces], warnings=warnings)


async def _ask(gateway: Access, request: text_pb2.PreviewTextRequest) -> text_pb2.PreviewTextResponse:
    async with gateway.open() as channel:
        await connect(channel, gateway)
        call = tts_pb2_grpc.TextToSpeechStub(channel).PreviewText(request, metadata=gateway.metadata, timeout=30)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise client_error(error, gateway) from error


def show(answer: text_pb2.PreviewTextResponse) -> None:
    """Print the utterances, one in a row, and the warnings."""
    table = Table("from", "to", "read as", "ids", box=None, pad_edge=False)
    for one in answer.utterances:
        reading = f"[{one.silence_seconds:g} s of silence]" if one.silence_seconds else one.reading
        table.add_row(str(one.start), str(one.end), Text(reading), Text(" ".join(map(str, one.ids))))
    out.print(table)
    for warning in answer.warnings:
        out.print(Text(f"{warning.code}: {warning.message}"))
