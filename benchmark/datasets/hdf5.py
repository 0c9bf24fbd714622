"""Precomputed visual features in HDF5 files, one per image, as in the release of VL-Adapter."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.base import Features
from vlpeft.benchmark.datasets.sources import unreadable_error


def read_features(path: Path) -> Features:
    """Read the features of one image, (tokens, width), as float32.

    They are the HDF5 dataset `features` of the group that has the name of the file. VL-Adapter's
    release stores float16.

    Raises:
        DataError: The file is missing, truncated or has another layout, or a value is NaN or
            infinite; names the file.
    """
    if not path.is_file():
        raise unreadable_error(path, FileNotFoundError())
    name = f"{path.stem}/features"
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(name), h5py.Dataset):
                raise DataError(
                    f"{path}: has no dataset '{name}', only {', '.join(file) or 'nothing'};"
                    " replace the file"
                )
            stored = np.asarray(file[name])
    except OSError as error:  # truncated, or not an HDF5 file
        reason = " ".join(str(error).split())[:90]
        raise DataError(f"cannot read features {path} ({reason}); replace the file") from error
    if stored.ndim != 2 or stored.dtype.kind != "f" or not stored.size:
        raise DataError(
            f"{path}: '{name}' must be numbers of shape (tokens, width),"
            f" found {stored.dtype} {stored.shape}; replace the file"
        )
    if not np.isfinite(stored).all():
        raise DataError(f"{path}: '{name}' holds NaN or infinity; replace the file")
    return stored.astype(np.float32)
