"""The cache of visual features: one array on disk for a frozen tower and a set of images.

A frozen tower gives the same features in every epoch and for every method that leaves it frozen.
Computing them once saves a pass through the vision tower in every step.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import open_regular, replacement
from vlpeft.benchmark.core.terminal import print_message
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.memory import PartsInMemory

Kept = Literal["float32", "float16"]  # the type of cached features on disk
Compute = Callable[[Sequence[str]], Tensor]  # names of images -> their features
FILE = "features.npy"
CHUNK = 64  # images that pass through the tower at once


def open_cache(
    backbone: Backbone,
    stamps: Sequence[str],
    names: Sequence[str],
    compute: Compute,
    folder: Path,
    kept: Kept,
) -> Compute:
    """Return a function that reads features of `names` from the cache.

    The first process that comes computes the features of all names. Others wait for it.

    Args:
        backbone: its vision tower, its device and the number of threads are part of the key.
        stamps: texts that change with the data.
        names: of images, or of views.
        compute: computes features: (names, tokens, width).
        folder: where caches are kept, one folder for each key.
        kept: float16 halves the space and rounds the features.

    Raises:
        UserError: the folder cannot be written, a feature is not finite, or float16 cannot
            hold one.
    """
    key = folder / _key(backbone, stamps, names, kept)
    array = _open_or_build(key, names, compute, kept)
    rows = {name: i for i, name in enumerate(names)}

    def read(wanted: Sequence[str]) -> Tensor:
        # Only these rows are read: the cache may be larger than the memory.
        found = np.asarray(array[[rows[name] for name in wanted]], np.float32)
        if not np.isfinite(found).all():
            raise UserError(
                f"{key / FILE}: damaged, it holds features that are not finite; "
                "delete it to compute them again"
            )
        return torch.from_numpy(found)

    return read


def _key(backbone: Backbone, stamps: Sequence[str], names: Sequence[str], kept: Kept) -> str:
    """Return a hash of everything that the features depend on."""
    tower = backbone.vision
    described = [
        list(stamps),
        # CPUs and GPUs round differently.
        backbone.device.type,
        tower.size,
        tower.resample,
        tower.mean,
        tower.std,
        # The architecture. The weights are hashed below.
        repr(tower),
        list(names),
    ]
    digest = hashlib.sha256(json.dumps(described).encode())
    if kept != "float32":
        digest.update(kept.encode())
    pool, tokens = getattr(tower, "pool", ""), getattr(tower, "tokens", "")
    # Sums on several threads are rounded differently.
    digest.update(f"{pool} {tokens} {torch.get_num_threads()}".encode())
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _open_or_build(
    folder: Path, names: Sequence[str], compute: Compute, kept: Kept
) -> NDArray[np.floating]:
    """Return the array of a key, mapped into memory: (names, tokens, width).

    A damaged one is computed again.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Many cells start together; one computes, the others wait.
        with FileLock(folder / "lock"):
            if not os.path.lexists(path):
                _build(path, names, compute, kept)
            elif damage := _damage(path, len(names), kept):
                print_message(
                    f"vlpeft: {path}: damaged ({damage}); its features are computed again"
                )
                _build(path, names, compute, kept)
    except OSError as error:
        raise UserError(
            f"cannot write the feature cache {folder}: {error.strerror or error}; delete it, or "
            "choose a writable --root with free space"
        ) from error
    array: NDArray[np.floating] = np.load(path, mmap_mode="r")
    return array


def _damage(path: Path, rows: int, kept: Kept) -> str:
    """Return why a file cannot be the cache of so many images; "" if it can."""
    try:
        open_regular(path).close()
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, which may raise anything
        return " ".join(str(error).split())
    if not isinstance(found, np.ndarray):
        return "several arrays"
    if found.dtype != np.dtype(kept) or found.ndim < 2 or len(found) != rows:
        return f"{found.dtype} of shape {found.shape}, not {kept} of {rows} images"
    return ""


@torch.inference_mode()
def _build(path: Path, names: Sequence[str], compute: Compute, kept: Kept) -> None:
    """Write the array to a temporary file, then move it: a killed process leaves no half array."""
    array: Any = None
    parts = PartsInMemory(CHUNK, "features: images")
    with replacement(path) as temporary:
        for start, chunk in _chunks(names):
            # Compiled and other cells share a cache, so features are always computed eagerly.
            with eager():
                found = parts.run(chunk, lambda part: compute(part).float().cpu().numpy())
                features = np.concatenate(list(found))
            if array is None:
                # The shape is known only once the tower has run.
                shape = (len(names), *features.shape[1:])
                array = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=np.dtype(kept), shape=shape
                )
                _allocate(temporary)
            _check_range(features, kept)
            array[start : start + len(chunk)] = features
        array.flush()


def _allocate(path: Path) -> None:
    """Reserve the space on disk. On a full disk, writing to mapped memory would raise SIGBUS."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _check_range(features: NDArray[np.floating], kept: Kept) -> None:
    """Raise UserError for a feature that is not finite, or that float16 would make infinite."""
    if not np.isfinite(features).all():
        raise UserError(
            "the vision tower computes features that are not finite; "
            "check its weights, or choose others"
        )
    if kept != "float16":
        return
    largest = np.abs(features).max()
    if largest > np.finfo(np.float16).max:
        raise UserError(
            f"cached_features: {kept} cannot hold a feature of {largest:.3g}; "
            "set `cached_features: float32`"
        )


def _chunks(names: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    for start in range(0, len(names), CHUNK):
        yield start, names[start : start + CHUNK]
