"""Precomputed visual features, one HDF5 file an image, as VL-Adapter's release lays them out."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.base import Features
from vlpeft.benchmark.datasets.sources import unreadable_error


def read_features(path: Path) -> Features:
    """Dataset `features` of the group that has the file's name, (tokens, width), as float32 (the release stores float16).

    Raises DataError naming the file where it is missing, cut short, laid out otherwise, or holds NaN or infinity.
    """
    if not path.is_file():
        raise unreadable_error(path, FileNotFoundError())
    name = f"{path.stem}/features"
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(name), h5py.Dataset):
                raise DataError(
                    f"{path}: has no dataset '{name}', only {', '.join(file) or 'nothing'}; replace the file"
                )
            stored = np.asarray(file[name])
    except OSError as error:  # cut short, or no HDF5 at all
        raise DataError(
            f"cannot read features {path} ({' '.join(str(error).split())[:90]}); replace the file"
        ) from error
    if stored.ndim != 2 or stored.dtype.kind != "f" or not stored.size:
        raise DataError(
            f"{path}: '{name}' must be numbers of shape (tokens, width), found {stored.dtype} {stored.shape}; replace the file"
        )
    if not np.isfinite(stored).all():
        raise DataError(f"{path}: '{name}' holds NaN or infinity; replace the file")
    return stored.astype(np.float32)
