"""Plan + records -> one tidy frame: a row for every (cell, metric) that the plan promises, finished or not.

Columns of `Leaderboard.frame`, in this order:

    method             the sweep's row label          backbone, task, dataset, seed, id    the rest of the cell
    scale              "full size", or what makes the cell small: "tiny towers, embedded data" (`vlpeft.results.scale`)
    metric             its name; `vqa_accuracy/exist` is a breakdown of `vqa_accuracy` by question type
    value              percent units (CIDEr, BLEU x 100), NaN unless the state is "done"
    state              "done" | "missing" (no record) | "failed: cause" (nor will there be one unless it is mended)
                       | "absent: reason" (the metric could not be computed) | "skipped: reason" (the grid rules the cell out)
    trainable, head, total, trainable_percent    parameters as the record counted them, else as the plan did;
                       empty where neither has; the percentage is of `total`
    steps, train_seconds, eval_seconds, cpu_seconds, step_ms, peak_memory_mb, delta_bytes, flops_per_step,
    tokens_per_second, images_per_second, gpu_hours    measured, NaN if not (older records lack the last four)
    verified           of the environment: "yes", "no" (run with --unverified), "not recorded"; empty without a record
    environment        the versions of the libraries that can change a number, as recorded; empty without a record

Rows stand in the plan's order whatever the order of the records on disk, so equal records give an equal frame.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from vlpeft.benchmark.cells.attempts import failure
from vlpeft.benchmark.cells.cell import Part, Plan, Planned
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.tasks import metric_names
from vlpeft.results.environments import UNKNOWN, environment, remarks, verified
from vlpeft.results.scale import FULL, label_title, scale_notes

COSTS = (
    *(
        "steps",
        "train_seconds",
        "eval_seconds",
        "cpu_seconds",
        "step_ms",
        "peak_memory_mb",
        "delta_bytes",
    ),
    *("flops_per_step", "tokens_per_second", "images_per_second", "gpu_hours"),
)
PARAMETERS = ("trainable", "head", "total")
SCHEMA = {
    **dict.fromkeys(("method", "backbone", "task", "dataset", "scale"), "str"),
    "seed": "int64",
    **dict.fromkeys(("id", "metric"), "str"),
    "value": "float64",
    "state": "str",
    **dict.fromkeys(PARAMETERS, "Int64"),
    "trainable_percent": "float64",
    **dict.fromkeys(COSTS, "float64"),
    **dict.fromkeys(("verified", "environment"), "str"),
}
NAN = float("nan")
JOINT = (
    " (joint: "  # stands behind a dataset's name in the frame where a cell was trained on several
)
Group = tuple[str, str, str]  # backbone, task, dataset


@dataclass(frozen=True)
class Leaderboard:
    """A sweep's results, tidy (see the module's docstring for the columns).

    remarks: what each table must say in its caption, one sentence each: cells that failed or are missing,
    different environments, cells that were run unverified.
    """

    title: str
    notes: str
    frame: pd.DataFrame
    remarks: tuple[str, ...] = ()


def leaderboard(plan: Plan, store: Store, *, mixed: bool = False) -> Leaderboard:
    """Join a plan with the records of its cells; records of other sweeps in the same folder are not even opened.

    Raises UserError for an unreadable record, for a plan that holds a cell twice under one label, where records
    were made from different data or by different versions of the science, and where they come from different
    environments that are not all verified, unless `mixed`.
    """
    _reject_duplicates(plan.cells)
    _reject_recipes(plan.cells)
    records = {p.id: store.record(p.id) for p in plan.runnable() if store.has_record(p.id)}
    _reject_mixtures(plan, records)
    made = [(p, records[p.id]) for p in plan.runnable() if p.id in records]
    said = remarks(made, mixed=mixed)
    metrics = _metrics(plan, records)
    undone = {p.id: failure(store, p.id) for p in plan.runnable() if p.id not in records}
    failures = {cell_id: found.reason for cell_id, found in undone.items() if found is not None}
    rows = [
        row
        for p, part in _parts(plan)
        for row in _rows(
            p, part, records.get(p.id), failures.get(p.id, ""), metrics[_group(p, part)]
        )
    ]
    frame = pd.DataFrame(rows, columns=list(SCHEMA)).astype(SCHEMA)
    title = label_title(plan.title or plan.sweep, [p.cell for p in plan.cells])
    return Leaderboard(
        title, plan.notes, frame, (*_progress(plan, len(records), len(failures)), *said)
    )


def _progress(plan: Plan, done: int, failed: int) -> Iterator[str]:
    """Say how many cells are not done, if there are any."""
    # At another scale a cell may repeat an earlier one, whose id it has.
    missing = len({p.id for p in plan.runnable()}) - done - failed
    counts = [
        f"{number} {what}" for number, what in ((failed, "failed"), (missing, "missing")) if number
    ]
    if counts:
        yield f"Cells: {', '.join([f'{done} done', *counts])}."


def _parts(plan: Plan) -> Iterator[tuple[Planned, int]]:
    """Every task of every cell: a joint cell stands in several columns."""
    return ((p, i) for p in plan.cells for i in range(len(p.cell.parts)))


def _group(planned: Planned, part: int) -> Group:
    parts = planned.cell.parts
    together = f"{JOINT}{' + '.join(each.name for each in parts)})" if planned.cell.also else ""
    return planned.backbone, parts[part].task, f"{parts[part].dataset.name}{together}"


def _rows(
    planned: Planned, part: int, record: Record | None, failed: str, metrics: Iterable[str]
) -> Iterator[dict[str, Any]]:
    backbone, task, dataset = _group(planned, part)
    size = ", ".join(scale_notes(planned.cell)) or FULL
    cell = {
        "method": planned.row,
        "backbone": backbone,
        "task": task,
        "dataset": dataset,
        "scale": size,
    }
    shared = {
        **cell,
        "seed": planned.seed,
        "id": planned.id,
        **_parameters(planned, record),
        **_costs(record),
        **_made(record),
    }
    prefix = planned.cell.metric_prefix(part)
    for metric in metrics:
        value, state = _outcome(planned, record, failed, prefix + metric)
        yield {**shared, "metric": metric, "value": value, "state": state}


def _outcome(
    planned: Planned, record: Record | None, failed: str, metric: str
) -> tuple[float, str]:
    if planned.skipped:
        return NAN, f"skipped: {planned.skipped}"
    if record is None:
        return NAN, f"failed: {failed}" if failed else "missing"
    value = record.metrics.get(metric, {"absent": "the record does not report it"})
    if isinstance(value, Mapping):
        return NAN, f"absent: {value.get('absent', 'no reason given')}"
    return value, "done"


def _parameters(planned: Planned, record: Record | None) -> dict[str, Any]:
    # A plan counts before the data is opened; a classifier's head can turn out smaller, so the record is believed first.
    known = planned.total > 0
    counts: dict[str, Any] = {
        name: getattr(planned, name) if known else None for name in PARAMETERS
    }
    if record is not None:
        counts |= {name: int(record.cost[name]) for name in PARAMETERS if name in record.cost}
    trainable, total = counts["trainable"], counts["total"]
    return {
        **counts,
        "trainable_percent": 100 * trainable / total if trainable is not None and total else NAN,
    }


def _costs(record: Record | None) -> dict[str, float]:
    return {name: NAN if record is None else record.cost.get(name, NAN) for name in COSTS}


def _made(record: Record | None) -> dict[str, str]:
    if record is None:
        return {"verified": "", "environment": ""}
    return {"verified": verified(record), "environment": environment(record)}


def _metrics(plan: Plan, records: Mapping[str, Record]) -> dict[Group, list[str]]:
    """Metric names of each (backbone, task, dataset): those its records report, or else those its cells will."""
    found: dict[Group, set[str]] = {_group(p, part): set() for p, part in _parts(plan)}
    expected: dict[Group, set[str]] = {group: set() for group in found}
    order: dict[Group, list[tuple[str, ...]]] = {}
    for p, part in _parts(plan):
        group, declared = _group(p, part), _declared(p.cell.parts[part])
        order.setdefault(group, declared)
        expected[group] |= {value for _, *values in declared for value in values}
        prefix = p.cell.metric_prefix(part)
        reported = records[p.id].metrics if p.id in records else {}
        found[group] |= {name.removeprefix(prefix) for name in reported if name.startswith(prefix)}
    return {
        group: _in_order(names or expected[group], order[group]) for group, names in found.items()
    }


def _declared(part: Part) -> list[tuple[str, ...]]:
    """The metrics that are computed: each name, and the names of the numbers it gives."""
    names = metric_names(part.task, part.protocol.metrics)
    return [
        (name, *METRICS.load(name)().value_names(part.protocol.metric_tokenizer)) for name in names
    ]


def _in_order(names: Iterable[str], declared: Sequence[Sequence[str]]) -> list[str]:
    """The declared order of metrics; a breakdown stands behind its metric, what is not declared comes last."""

    def place(name: str) -> tuple[int, str]:
        ranks = [i for i, known in enumerate(declared) if name.partition("/")[0] in known]
        return min(ranks, default=len(declared)), name

    return sorted(names, key=place)


def _reject_duplicates(cells: Iterable[Planned]) -> None:
    places = Counter(
        (p.row, *_group(p, part), p.seed) for p in cells for part in range(len(p.cell.parts))
    )
    for (row, backbone, task, dataset, seed), times in places.items():
        if times > 1:
            where = f"{row}, {backbone}, {task}/{dataset}, seed {seed}"
            raise UserError(
                f"the plan holds {times} cells for ({where}), which would count as {times} seeds; remove all but one"
            )


def _reject_recipes(cells: Iterable[Planned]) -> None:
    """Seeds that are averaged may differ by their seed alone."""
    first: dict[tuple[str, Group], Planned] = {}
    for p in cells:
        other = first.setdefault((p.row, _group(p, 0)), p)
        if replace(p.cell, seed=other.seed) != other.cell:
            where = f"{p.row}, {p.backbone}, {p.task}/{p.dataset}"
            raise UserError(
                f"{where}: seeds {other.seed} and {p.seed} differ in more than their seed ({other.id}, {p.id}); use one protocol"
            )


def _reject_mixtures(plan: Plan, records: Mapping[str, Record]) -> None:
    done = [p for p in plan.runnable() if p.id in records]
    by_data: dict[str, list[tuple[Planned, object]]] = {}
    for p in done:
        versions = _data_versions(p, records[p.id])
        for name, version in dict.fromkeys(
            (part.dataset.name, version)
            for part, version in zip(p.cell.parts, versions, strict=True)
        ):
            by_data.setdefault(name, []).append((p, version))
    for dataset, made in by_data.items():
        _reject_mixture(f"dataset '{dataset}'", "data", made)
    _reject_mixture(
        "this sweep",
        "science",
        [(p, records[p.id].provenance.get("science", UNKNOWN)) for p in done],
    )


def _data_versions(planned: Planned, record: Record) -> list[str]:
    """Of each task's data; a joint cell's fingerprints are joined by "+"."""
    parts, found = planned.cell.parts, record.provenance.get("data", UNKNOWN)
    each = found.split("+") if isinstance(found, str) else []
    return each if len(each) == len(parts) else [json.dumps(found, sort_keys=True)] * len(parts)


def _reject_mixture(what: str, key: str, made: Iterable[tuple[Planned, object]]) -> None:
    versions: dict[str, list[str]] = {}
    for p, version in made:
        versions.setdefault(str(version), []).append(
            f"{p.id} ({p.row}, {p.backbone}, seed {p.seed})"
        )
    if len(versions) > 1:
        listed = "; ".join(f"{version} in {', '.join(ids)}" for version, ids in versions.items())
        raise UserError(
            f"{what}: the records differ in provenance.{key} and cannot share a table: {listed}; "
            "delete record.json of the outdated cells and run them again"
        )
