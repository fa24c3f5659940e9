"""Which device each process of a stack gets."""

from __future__ import annotations

import pytest

from cli.stack import Stack, StackConfig


def flag(flags: tuple[str, ...], name: str) -> str | None:
    return flags[flags.index(name) + 1] if name in flags else None


@pytest.mark.parametrize(
    ("devices", "workers", "placed", "shares"),
    [
        ((), 2, [None, None], [None, None]),
        (("cuda:0", "cuda:1", "cuda:2"), 3, ["cuda:0", "cuda:1", "cuda:2"], ["0.5", "0.95", "0.95"]),
        (("cuda:0",), 3, ["cuda:0"] * 3, ["0.25"] * 3),
    ],
)
def test_workers_take_devices_by_turns_and_share_them(
    devices: tuple[str, ...], workers: int, placed: list[str | None], shares: list[str | None]
) -> None:
    stack = Stack(StackConfig(decode_workers=workers, devices=devices))
    assert [flag(worker.spec.flags, "--device") for worker in stack.decode] == placed
    assert [flag(worker.spec.flags, "--decode-memory-fraction") for worker in stack.decode] == shares
    assert flag(stack.llm.spec.flags, "--device") == (devices[0] if devices else None)
