"""Checks everything that needs a GPU, step by step: `python -m benchmarks.gpu_check --help`."""
