"""Settings that all tests share: torch threads, gRPC's log, and the profiles of property tests."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

# One thread, so that figures do not depend on the machine's cores.
torch.set_num_threads(1)

# gRPC's C++ core writes handshake failures and the like to stderr. Tests cause them on purpose. This must be set before
# grpc is imported, and child processes inherit it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# "ci" makes the same examples in every run on every machine. "fuzz" makes new ones in every run, keeps those that fail
# and tries them first the next time (tests/fuzz.py).
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
FOUND = DirectoryBasedExampleDatabase(Path(__file__).parent.parent / ".hypothesis" / "examples")
settings.register_profile("fuzz", deadline=None, derandomize=False, max_examples=1000, database=FOUND, print_blob=True)
settings.load_profile("ci")
