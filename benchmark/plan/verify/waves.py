"""Numbers that depend on no random generator: sines, and fingerprints of tensors along them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LINES = 2  # projections in a fingerprint
# An angle that is not a fraction of a turn, so no two entries of a small tensor are equal.
ANGLE = 2.399963229728653


def wave(name: str, shape: Sequence[int], scale: float = 1.0) -> Tensor:
    """Return a float64 tensor of sines on the CPU. Each name has another phase."""
    count = int(np.prod(shape, dtype=np.int64))
    phase = zlib.crc32(name.encode()) % 9973
    angles = np.arange(count, dtype=np.float64) * ANGLE + phase
    return torch.from_numpy(scale * np.sin(angles)).reshape(tuple(shape))


def fingerprint(name: str, tensor: Tensor) -> list[float]:
    """Return the norm of a tensor, and its products with LINES waves of unit length.

    No product is larger than the norm, so all numbers have one scale.
    """
    flat = tensor.detach().double().cpu().flatten()
    found = [float(flat.norm())]
    for line in range(LINES):
        along = wave(f"{name}/{line}", flat.shape)
        found.append(float(flat @ (along / along.norm())))
    return found
