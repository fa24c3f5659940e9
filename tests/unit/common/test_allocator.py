"""Freed memory of tensors is used again, without being returned to the system in between."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from services.common.engine.allocator import keep_freed_memory

PAGES = 3 * 8 * 2**20 // 4096
ROUNDS = 10
SCRIPT = f"""
import ctypes, resource
from services.common.engine.allocator import keep_freed_memory
assert keep_freed_memory()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    blocks = [malloc(8 * 2**20) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, 8 * 2**20)
    for block in blocks:
        free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    made = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(made.stdout) < 2 * PAGES, f"each of {ROUNDS} rounds took its {PAGES} pages from the system again"


def test_a_c_library_without_the_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
