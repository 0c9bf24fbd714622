"""evaluate: run one of its modules without copying the module's file into the user's home."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

from vlpeft.benchmark.core.libraries.changes import require_arguments

LIBRARY = "evaluate"
TRIED = ("0.4.6",)


def run_module(module: type[Any], predictions: Any, references: Any) -> dict[str, Any]:
    """Return the result of a module; `evaluate.load` would copy its file into a cache first.

    The library always makes a cache folder. A private one keeps simultaneous processes apart.
    """
    with TemporaryDirectory(prefix="vlpeft-evaluate-") as folder:
        options = {"keep_in_memory": True, "cache_dir": folder, "num_process": 1, "process_id": 0}
        require_arguments(LIBRARY, module.__init__, options)
        made = module(**options)
        found: dict[str, Any] = made.compute(predictions=predictions, references=references)
    return found
