"""Precomputed visual features in HDF5 files, one per image, as in the release of VL-Adapter."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.base import Features
from vlpeft.benchmark.datasets.sources import open_file, shorten

LARGEST = 1 << 28  # bytes of the features of one image
LISTED = 9  # names that a message shows


def read_features(path: Path) -> Features:
    """Read the features of one image, (tokens, width), as float32.

    They are the HDF5 dataset `features` of the group that has the name of the file. VL-Adapter's
    release stores float16.

    Raises:
        DataError: The file is missing, damaged or has another layout, or a value is NaN or
            infinite; names the file.
    """
    open_file(path).close()  # HDF5 itself would wait for the writer of a pipe
    try:
        with h5py.File(path, "r") as file:
            stored = _read(file, f"{path.stem}/features", path)
    except DataError:
        raise
    except Exception as error:
        # On damaged bytes h5py raises OSError, RuntimeError, KeyError, ValueError and others.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:90]
        raise DataError(
            f"cannot read features {shorten(path)} ({reason}); replace the file"
        ) from error
    with np.errstate(over="ignore"):  # found below: an overflow becomes infinity
        found: Features = stored.astype(np.float32)
    if not np.isfinite(found).all():
        raise DataError(
            f"{shorten(path)}: '{path.stem}/features' holds NaN or infinity, as float32;"
            " replace the file"
        )
    return found


def _read(file: h5py.File, name: str, path: Path) -> Any:
    """Return the array of a dataset, after all that can be checked before it is read."""
    dataset = _open_dataset(file, name, path)
    shape, kind = dataset.shape, dataset.dtype
    if shape is None or len(shape) != 2 or kind.kind != "f" or not dataset.size:
        raise DataError(
            f"{path}: '{name}' must be numbers of shape (tokens, width),"
            f" found {kind} {shape}; replace the file"
        )
    size = dataset.size * kind.itemsize
    if size > LARGEST:
        raise DataError(
            f"{path}: '{name}' declares {shape}, {size:,} bytes; at most {LARGEST:,} are read;"
            " replace the file"
        )
    if not _is_written(dataset):
        raise DataError(
            f"{path}: '{name}' declares {shape}, but not all of its values were written;"
            " replace the file"
        )
    return np.asarray(dataset[()])


def _open_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset that the file itself holds.

    Raises:
        DataError: There is none, or its values are in other files.
    """
    group, _, _ = name.partition("/")
    for part in (group, name):
        link = file.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
            raise DataError(f"{path}: '{part}' is a link; store the features in the file itself")
        if not isinstance(file.get(part), h5py.Group):
            break
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        names = ", ".join(islice(file, LISTED)) or "nothing"
        raise DataError(f"{path}: has no dataset '{name}', only {names}; replace the file")
    if found.external or found.is_virtual:
        raise DataError(
            f"{path}: '{name}' keeps its values in other files;"
            " store the features in the file itself"
        )
    return found


def _is_written(dataset: h5py.Dataset) -> bool:
    """Return whether the file holds all values: the others would be read as a fill value."""
    if dataset.chunks is None:
        return int(dataset.id.get_storage_size()) > 0
    chunks = zip(dataset.shape, dataset.chunks, strict=True)
    expected = math.prod(-(-length // part) for length, part in chunks)
    return bool(dataset.id.get_num_chunks() == expected)
