"""How a checkpoint expects the pixels of its images: their mean and standard deviation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from vlpeft.benchmark.backbones.files import PIXELS, read_json
from vlpeft.benchmark.backbones.weights import WeightSource, reads_weights
from vlpeft.benchmark.core.errors import WeightsError

Triple = tuple[float, float, float]


def normalisation(source: WeightSource, otherwise: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Return mean and standard deviation of the pixels, from the checkpoint's preprocessor.

    A checkpoint without one gets `otherwise`. Raises WeightsError for a damaged one.
    """
    folder = source.folder
    if source.random or (folder is None and not reads_weights()):
        return otherwise
    file: str | None = None
    if folder is None:
        file = source.find(PIXELS)
    elif (folder / PIXELS).exists():
        file = str(folder / PIXELS)
    if file is None:
        return otherwise
    values = read_json(Path(file))
    mean = _read_triple(values, "image_mean", file)
    std = _read_triple(values, "image_std", file)
    if min(std) <= 0:
        raise WeightsError(f"{file}: image_std: {list(std)} must be above 0; fix the file")
    return mean, std


def _read_triple(values: dict[str, Any], key: str, file: str) -> Triple:
    """Return the three numbers of a key. Raises WeightsError for anything else."""
    found = values.get(key)
    if isinstance(found, list) and len(found) == 3 and all(map(_is_number, found)):
        return float(found[0]), float(found[1]), float(found[2])
    raise WeightsError(
        f"{file}: {key} must be three numbers, found {str(found)[:60]}; fix or restore the file"
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast("float", value))
