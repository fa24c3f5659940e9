"""Float32 on a GPU with the full 23 bits of mantissa, never TF32.

Imports only torch.
"""

from __future__ import annotations

import torch


def forbid_tf32() -> None:
    """Switch off TF32, in this process, for every matrix product and convolution of float32 tensors.

    By default PyTorch lets cuDNN's convolutions round their inputs to TF32's 10 bits of mantissa. A window of the
    vocoder then differs from the whole by more than streaming promises (1e-4), and no context measured at the start
    is enough (`services.decode.vocoder.context`). Call this before loading a network that is promised in float32;
    CUDA graphs and compiled code keep the setting that was active when they were created.

    The cost: the vocoder computes 47 GFLOP per stream and hop of 25 tokens outside the tensor cores:
    1.3 ms in batches of 16 on an H100, about four times what TF32 needs. Numbers of 16 bits are not affected.
    """
    # One call for products on a GPU and on a CPU, because torch refuses to read settings that contradict each other.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if hasattr(torch.backends, "fp32_precision"):
        # From torch 2.9 on the line above leaves convolutions to torch.backends.fp32_precision, which may allow TF32.
        # It also covers recurrent layers, and torch refuses to read allow_tf32 where the two differ.
        for operation in ("conv", "rnn"):
            getattr(torch.backends.cudnn, operation).fp32_precision = "ieee"
