"""Which names of `vlpeft list` fit a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.tasks import TASKS, metric_names

Row = dict[str, Any]


def select_fitting(what: str, rows: Sequence[Row], backbone: str) -> list[Row]:
    """Return the rows of a list that fit a backbone with its default settings.

    Args:
        what: What the rows are.
        rows: What `vlpeft.results.tables.listing.listing` returns.
        backbone: The name of the backbone.

    Raises:
        UserError: The backbone is unknown, or `what` does not depend on a backbone.
    """
    if what not in FITS:
        raise UserError(f"--fits: {what} do not depend on a backbone; list {', '.join(FITS)}")
    fits = FITS[what](backbone)
    return [row for row in rows if fits(row)]


def _method(backbone: str) -> Callable[[Row], bool]:
    """Return whether the backbone offers what a method needs."""
    offers = parse(BACKBONES.load(backbone), {}, f"backbone {backbone}").offers()
    return lambda row: offers.issuperset(METHODS.load(row["name"]).needs)


def _tasks(backbone: str) -> set[str]:
    able = set(BACKBONES.load(backbone).abilities)
    return {name for name in TASKS.entries if able.issuperset(TASKS.load(name).needs)}


def _task(backbone: str) -> Callable[[Row], bool]:
    tasks = _tasks(backbone)
    return lambda row: row["name"] in tasks


def _metric(backbone: str) -> Callable[[Row], bool]:
    """Return whether a task of the backbone can be scored by a metric."""
    names: set[str] = set()
    for task in _tasks(backbone):
        names.update(metric_names(task, None), TASKS.load(task).optional)
    return lambda row: row["name"] in names


def _dataset(backbone: str) -> Callable[[Row], bool]:
    """Return whether a dataset is for a task of the backbone."""
    tasks = _tasks(backbone)
    return lambda row: not tasks.isdisjoint(row["tasks"])


def _protocol(backbone: str) -> Callable[[Row], bool]:
    """Return whether a protocol was made for the backbone; the keys of any recipe fit, too."""
    BACKBONES.entry(backbone)  # raises for an unknown name
    return lambda row: backbone in row.get("covers", {backbone: ()})


FITS: dict[str, Callable[[str], Callable[[Row], bool]]] = {
    "methods": _method,
    "tasks": _task,
    "metrics": _metric,
    "datasets": _dataset,
    "protocols": _protocol,
}
