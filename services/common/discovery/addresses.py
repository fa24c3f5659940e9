"""Parse and format `host:port`, with IPv6 hosts in brackets."""

from __future__ import annotations


def split_address(address: str) -> tuple[str, int]:
    """Return host (without brackets) and port of `host:port` or `[v6]:port`. Raises ValueError with the reason."""
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r} has no port; write host:port")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"{address!r} has the port {port!r}; a port is a number from 1 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or host != host.strip():
        raise ValueError(f"{address!r} has no host; write host:port")
    if ":" in host and not bracketed:
        raise ValueError(f"{address!r} is ambiguous; write an IPv6 address in brackets, [::1]:50053")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
