"""The heaps of the C library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAPS = """
import ctypes, os, sys, tempfile, threading
from services.common.malloc_arenas import limit_arenas

limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
barrier = threading.Barrier(9)

def allocate():
    libc.malloc(ctypes.c_size_t(1000))
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
barrier.wait()
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(file.read().decode().count("<heap nr="))
"""


def heaps(**environment: str) -> int:
    """Return the number of heaps of a process with nine threads that allocate."""
    kept = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    ran = subprocess.run([sys.executable, "-c", HEAPS], env={**kept, **environment}, capture_output=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the heaps are glibc's")
def test_threads_share_two_heaps_unless_the_environment_says_otherwise() -> None:
    assert heaps() == 2
    assert heaps(MALLOC_ARENA_MAX="4") == 4
