"""easy_vqa: the folder of its data, found without importing the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

LIBRARY = "easy-vqa"
TRIED = ("1.0",)


def data_folder() -> Path | None:
    """Return the folder with the images and questions; None if the package is not installed."""
    package = find_spec("easy_vqa")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "data"
