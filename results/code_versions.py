"""Which code made the cells of a table: seeds of different code are not averaged.

A record holds hashes of the code that computed it (`vlpeft.benchmark.run.sources`). Records of
earlier versions hold none; a hash that is not recorded is not a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.core.errors import UserError

Made = tuple[Planned, Record]
# What the cells that share a piece of code have in common, for pieces that several methods share.
SHARED: Mapping[str, Callable[[Planned], str]] = {
    "backbone": lambda planned: planned.cell.backbone.name,
    "task": lambda planned: planned.task,
    "metrics": lambda planned: planned.task,
    "format": lambda planned: planned.dataset,
    "training": lambda _: "",
}


def code_remarks(cells: Sequence[Made], *, mixed: bool = False) -> Iterator[str]:
    """Yield what a caption must say about the code of finished cells, one sentence each.

    Args:
        cells: The finished cells.
        mixed: The user has asked for a table of seeds of different code.

    Raises:
        UserError: The seeds of a row were computed by different code, unless `mixed`.
    """
    rows: dict[tuple[str, ...], list[Made]] = {}
    for planned, record in cells:
        row = (planned.row, planned.backbone, planned.task, planned.dataset)
        rows.setdefault(row, []).append((planned, record))
    for (method, backbone, task, dataset), seeds in rows.items():
        if differences := list(_differences(seeds)):
            found = f"{method} on {backbone}, {task}/{dataset}: {'; '.join(differences)}"
            if not mixed:
                raise UserError(
                    f"{found}: the seeds were computed by different code and cannot be averaged: "
                    "delete record.json of the outdated cells and run them again, or pass "
                    "--mixed-environments, which notes this"
                )
            yield f"Seeds of different code: {found}."
    yield from _between_rows(cells)


def recorded_code(record: Record) -> Mapping[str, str]:
    """Return the hashes of a record by kind of code; empty for records of earlier versions."""
    found = record.provenance.get("code")
    if isinstance(found, Mapping):
        return found
    return {}


def _differences(seeds: Sequence[Made]) -> Iterator[str]:
    """Yield each kind of code in which the seeds of a row differ, with the seeds."""
    kinds = dict.fromkeys(kind for _, record in seeds for kind in recorded_code(record))
    for kind in kinds:
        versions: dict[str, list[str]] = {}
        for planned, record in seeds:
            if kind in recorded_code(record):
                cell = f"seed {planned.seed} ({planned.id})"
                versions.setdefault(recorded_code(record)[kind], []).append(cell)
        if len(versions) > 1:
            listed = [f"{version} in {', '.join(found)}" for version, found in versions.items()]
            yield f"code of the {kind} {' and '.join(listed)}"


def _between_rows(cells: Sequence[Made]) -> Iterator[str]:
    """Yield a sentence for each piece of shared code of which the table has several versions."""
    versions: dict[tuple[str, str], set[str]] = {}
    for planned, record in cells:
        for kind, version in recorded_code(record).items():
            if kind in SHARED:
                versions.setdefault((kind, SHARED[kind](planned)), set()).add(version)
    for (kind, name), found in versions.items():
        if len(found) > 1:
            what = f"{kind} {name}".strip()
            yield f"More than one version of the code of: {what} ({', '.join(sorted(found))})."
