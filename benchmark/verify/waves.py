"""Numbers that depend on no random generator: sines, and fingerprints of tensors along them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LINES = 2  # projections of a fingerprint


def wave(name: str, shape: Sequence[int], scale: float = 1.0) -> Tensor:
    """A float64 tensor of sines that differ from name to name, on the CPU."""
    count = int(np.prod(shape, dtype=np.int64))
    phase = zlib.crc32(name.encode()) % 9973
    # Steps of an angle that is no fraction of a turn: no two entries of a small tensor are equal.
    angles = np.arange(count, dtype=np.float64) * 2.399963229728653 + phase
    return torch.from_numpy(scale * np.sin(angles)).reshape(tuple(shape))


def fingerprint(name: str, tensor: Tensor) -> list[float]:
    """The norm of a tensor, and its products with LINES waves of unit length: none is above the norm."""
    flat = tensor.detach().double().cpu().flatten()
    found = [float(flat.norm())]
    for line in range(LINES):
        along = wave(f"{name}/{line}", flat.shape)
        found.append(float(flat @ (along / along.norm())))
    return found
