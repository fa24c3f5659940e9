"""Importing this package registers every check."""

from tests.parity.checks import bistream, directory, features, flow, llm, ras, text, token2wav, vocoder

__all__ = ["bistream", "directory", "features", "flow", "llm", "ras", "text", "token2wav", "vocoder"]
