"""The code of a cell: hashes of what computes its numbers.

A record holds them, so that tables can refuse to average seeds that different code has computed.
What counts:

- the method, the backbone, and the tasks, metrics and data formats of the cell: each file, and what
  it imports of the project (of `benchmark/core` only `libraries`) or of its own package,
- the training loop and what it draws on: optimizer, data order, augmentation, features, evaluation
  and the choice of the best epoch; without what these import.

What only runs cells, such as caches, checkpoints, ranks and launchers, does not count: it may
change no number, and tests say so. `SCIENCE` in `benchmark/cells/cell.py` covers the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.core.source_hash import hash_code, hash_versions
from vlpeft.benchmark.datasets import FORMATS
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.tasks import TASKS, metric_names

TRAINING = tuple(
    f"vlpeft.benchmark.run.{name}"
    for name in (
        *("loop", "optimizer", "inputs", "augmentation", "features", "evaluation", "selection"),
        *("model", "finite"),
    )
)


def cell_code(cell: Cell) -> dict[str, str]:
    """Return a hash of each kind of code that computes the numbers of a cell.

    The files are read once a process, when the first cell asks: a process does not run what is
    edited later.
    """
    parts = cell.parts
    metrics: list[str] = []
    for part in parts:
        metrics += metric_names(part.task, part.protocol.metrics)
    return {
        "method": _hash_entries(METHODS, [cell.method.name]),
        "backbone": _hash_entries(BACKBONES, [cell.backbone.name]),
        "task": _hash_entries(TASKS, [part.task for part in parts]),
        "metrics": _hash_entries(METRICS, metrics),
        "format": _hash_entries(FORMATS, [part.dataset.format for part in parts]),
        "training": hash_code(TRAINING, follow=False),
    }


def _hash_entries(registry: Registry[Any], names: Iterable[str]) -> str:
    """Return the hash of the code of some entries of a registry."""
    entries = [registry.entry(name) for name in names]
    return hash_versions(
        hash_code((entry.module,), version=entry.distribution) for entry in entries
    )
