"""The options of commands that call a gateway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.client import Access

LOCAL = "127.0.0.1:50050"
"""Address of a gateway that `light-tts up` starts."""

Server = Annotated[
    str, typer.Option(envvar="LIGHTTTS_SERVER", help="gRPC address of the gateway: host:port or https://host:port.")
]
Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS; https:// before the address does the same.")]
Authority = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="LIGHTTTS_SERVER_CA",
        help="PEM file of the authority that signed the gateway's certificate; implies --tls. "
        "Default: the authorities that this system trusts.",
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        envvar="LIGHTTTS_API_KEY",
        show_default=False,
        help="API key, if the gateway asks for one. Prefer the variable: other users can see command lines.",
    ),
]


def access(server: str, tls: bool, ca: Path | None, api_key: str) -> Access:
    """Return the access that the options describe. Raises ClientError."""
    secure = (tls or ca is not None) and not server.startswith("https://")
    return replace(Access.of(f"https://{server}" if secure else server), authority=ca, key=api_key)
