"""What all tests share: one torch thread, so that figures do not depend on the machine's cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
