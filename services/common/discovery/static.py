"""`static:///host:port,host:port`: a fixed list of workers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from urllib.parse import SplitResult

from services.common.discovery.addresses import join_address, split_address


class StaticDiscovery:
    """A fixed list, one worker per address. gRPC resolves a host name and uses one of its addresses."""

    def __init__(self, addresses: Iterable[str]) -> None:
        """Raises ValueError for an address that is not `host:port`."""
        self._addresses = frozenset(join_address(*split_address(address)) for address in addresses)

    @classmethod
    def from_url(cls, url: SplitResult) -> StaticDiscovery:
        if url.netloc:
            raise ValueError(f"write static:///{url.netloc}{url.path}, with three slashes")
        return cls(part.strip() for part in url.path.removeprefix("/").split(","))

    @property
    def target(self) -> str:
        return "static:///" + ",".join(sorted(self._addresses))

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        yield self._addresses
