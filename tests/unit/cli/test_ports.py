from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cli.local.ports import PortError, default_ports, free_ports, is_free, require_free


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_free_ports_are_free_and_distinct() -> None:
    ports = free_ports(decode_workers=5)
    numbers = [port for _, port in ports.named()]
    assert len(set(numbers)) == len(numbers) == 8 + 2 * 5
    assert all(is_free(port) for port in numbers)
    require_free(ports)


def test_a_taken_port_is_named_with_its_use(taken_port: int) -> None:
    ports = replace(free_ports(decode_workers=1), http=taken_port)
    with pytest.raises(PortError, match=rf"{taken_port} \(gateway HTTP\).*--ports free"):
        require_free(ports)


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(PortError, match="two services would use port 50051"):
        require_free(default_ports(decode_workers=2).with_gateway(50051, None, None))
