"""Which cells and records may share a table. What must not be averaged together is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.environments import UNKNOWN

JOINT = " (joint: "  # follows the dataset's name in the frame, for cells trained on several tasks
ResultGroup = tuple[str, str, str]  # backbone, task, dataset
Versions = list[tuple[Planned, object]]  # of something recorded, by cell


def iterate_parts(cells: Iterable[Planned]) -> Iterator[tuple[Planned, int]]:
    """Yield every task of every cell by its index. A joint cell has several."""
    for planned in cells:
        for part in range(len(planned.cell.parts)):
            yield planned, part


def group_of(planned: Planned, part: int) -> ResultGroup:
    """Return backbone, task and dataset of one task of a cell, as the frame names them."""
    parts = planned.cell.parts
    dataset = parts[part].dataset.name
    if planned.cell.also:
        dataset += f"{JOINT}{' + '.join(each.name for each in parts)})"
    return planned.backbone, parts[part].task, dataset


def reject_duplicates(cells: Iterable[Planned]) -> None:
    """Raise UserError if two cells have the same label and seed: they would count as two seeds."""
    places = Counter(
        (planned.row, *group_of(planned, part), planned.seed)
        for planned, part in iterate_parts(cells)
    )
    for (row, backbone, task, dataset, seed), count in places.items():
        if count > 1:
            where = f"{row}, {backbone}, {task}/{dataset}, seed {seed}"
            raise UserError(
                f"the plan holds {count} cells for ({where}), which would count as {count} seeds; "
                "remove all but one"
            )


def reject_recipes(cells: Iterable[Planned]) -> None:
    """Raise UserError if cells that are averaged differ in more than their seed."""
    first: dict[tuple[str, ResultGroup], Planned] = {}
    for planned in cells:
        other = first.setdefault((planned.row, group_of(planned, 0)), planned)
        if replace(planned.cell, seed=other.seed) != other.cell:
            where = f"{planned.row}, {planned.backbone}, {planned.task}/{planned.dataset}"
            raise UserError(
                f"{where}: seeds {other.seed} and {planned.seed} differ in more than their seed "
                f"({other.id}, {planned.id}); use one protocol"
            )


def reject_mixtures(plan: Plan, records: Mapping[str, Record]) -> None:
    """Raise UserError if records were made from different data or versions of the science."""
    done = [planned for planned in plan.runnable() if planned.id in records]
    by_dataset: dict[str, Versions] = {}
    for planned in done:
        for dataset, version in _dataset_versions(planned, records[planned.id]):
            by_dataset.setdefault(dataset, []).append((planned, version))
    for dataset, versions in by_dataset.items():
        _reject_mixture(f"dataset '{dataset}'", "data", versions)
    science: Versions = []
    for planned in done:
        version = records[planned.id].provenance.get("science", UNKNOWN)
        science.append((planned, version))
    _reject_mixture("this sweep", "science", science)


def _dataset_versions(planned: Planned, record: Record) -> list[tuple[str, str]]:
    """Return each dataset of a cell with the fingerprint of its data, without repetition."""
    names = [part.dataset.name for part in planned.cell.parts]
    return list(dict.fromkeys(zip(names, _fingerprints(planned, record), strict=True)))


def _fingerprints(planned: Planned, record: Record) -> list[str]:
    """Return one fingerprint per task. The record of a joint cell joins them by "+"."""
    count = len(planned.cell.parts)
    recorded = record.provenance.get("data", UNKNOWN)
    if isinstance(recorded, str):
        each = recorded.split("+")
        if len(each) == count:
            return each
    return [json.dumps(recorded, sort_keys=True)] * count


def _reject_mixture(what: str, key: str, recorded: Versions) -> None:
    """Raise UserError if there is more than one version."""
    versions: dict[str, list[str]] = {}
    for planned, version in recorded:
        label = f"{planned.id} ({planned.row}, {planned.backbone}, seed {planned.seed})"
        versions.setdefault(str(version), []).append(label)
    if len(versions) > 1:
        listed = "; ".join(f"{version} in {', '.join(ids)}" for version, ids in versions.items())
        raise UserError(
            f"{what}: the records differ in provenance.{key} and cannot share a table: {listed}; "
            "delete record.json of the outdated cells and run them again"
        )
