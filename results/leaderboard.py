"""Plan + records -> one tidy frame with a row for every (cell, metric) that the plan promises.

Columns of `Leaderboard.frame`, in this order:

    method             the sweep's row label
    backbone, task, dataset
    scale              "full size", or what makes the cell small, such as
                       "tiny towers, embedded data" (`vlpeft.results.scale`)
    seed, id           the rest of the cell
    metric             its name; `vqa_accuracy/exist` is the part of `vqa_accuracy` for one
                       question type
    value              percent units (CIDEr, BLEU x 100), NaN unless the state is "done"
    state              text of a `vlpeft.results.states.State`:
                       "done"
                       | "missing" (no record)
                       | "failed: cause" (no record until the cause is fixed)
                       | "absent: reason" (the metric could not be computed)
                       | "skipped: reason" (the grid rules the cell out)
    trainable, head, total, trainable_percent
                       parameters as the record counted them, otherwise as the plan did;
                       empty where neither has them; the percentage is of `total`
    steps, train_seconds, eval_seconds, cpu_seconds, step_ms, peak_memory_mb, delta_bytes,
    flops_per_step, tokens_per_second, images_per_second, gpu_hours
                       measured, NaN if not (older records lack the last four)
    verified           of the environment: "yes", "no" (run with --unverified),
                       "not recorded"; empty without a record
    environment        the recorded versions of the libraries that can change a number;
                       empty without a record
    varied.KEY         one column for each setting that the sweep varies: its value as text,
                       empty in rows of entries that do not vary it

Rows follow the order of the plan, not that of the records on disk. So equal records give an
equal frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from vlpeft.benchmark.cells.attempts import failure
from vlpeft.benchmark.cells.cell import Part, Plan, Planned
from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.paths import hide_folders
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.tasks import metric_names
from vlpeft.results.code_versions import Made
from vlpeft.results.compatible import (
    ResultGroup,
    group_of,
    iterate_parts,
    reject_duplicates,
    reject_mixtures,
    reject_recipes,
)
from vlpeft.results.environments import environment, remarks, verified
from vlpeft.results.images import image_remarks
from vlpeft.results.scale import FULL, label_title, scale_notes
from vlpeft.results.scored import scored_sentences
from vlpeft.results.states import DONE, MISSING, State
from vlpeft.results.tuned import search_costs, tuning_sentences
from vlpeft.results.varied import VARIED, families, show_varied, varied_columns

COSTS = (
    "steps",
    "train_seconds",
    "eval_seconds",
    "cpu_seconds",
    "step_ms",
    "peak_memory_mb",
    "delta_bytes",
    "flops_per_step",
    "tokens_per_second",
    "images_per_second",
    "gpu_hours",
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


@dataclass(frozen=True)
class Leaderboard:
    """The tidy results of a sweep (see the module's docstring for the columns).

    remarks: what each table must say in its caption, one sentence each: cells that failed or
    are missing, different environments, cells that were run unverified.
    families: labels -> the label without what varies, by "method", "backbone" and "dataset".
    search: what a table of costs says about the cells that compared settings.
    """

    title: str
    notes: str
    frame: pd.DataFrame
    remarks: tuple[str, ...] = ()
    families: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    search: str = ""

    def family(self, side: str, label: str) -> str:
        """Return a label of a side without what varies; most labels vary nothing."""
        return self.families.get(side, {}).get(label, label)

    @property
    def varied(self) -> tuple[str, ...]:
        """The settings that the sweep varies."""
        columns = [name for name in self.frame.columns if name.startswith(VARIED)]
        return tuple(name.removeprefix(VARIED) for name in columns)


def leaderboard(plan: Plan, store: Results, *, mixed: bool = False, stage: str = "") -> Leaderboard:
    """Join a plan with the records of its cells.

    Records of other sweeps in the same folder are not opened.

    Args:
        plan: the cells of a sweep.
        store: the result folder or evidence with their records.
        mixed: accept records of different environments; `remarks` then names them.
        stage: "tune" for the cells that compare settings, in place of those that test them.

    Raises:
        UserError: a record is unreadable, the plan has a cell twice under one label, records
            were made from different data or by different versions of the science, or they
            come from different environments that are not all verified (unless `mixed`).
    """
    chosen: tuple[str, ...] = ()
    search = ""
    if not stage:
        chosen = tuple(tuning_sentences(plan, store))
        search = search_costs(plan, store)
    plan = plan.at_stage(stage)
    reject_duplicates(plan.cells)
    reject_recipes(plan.cells)
    records = _read_records(plan, store)
    reject_mixtures(plan, records)
    finished = _finished(plan, records)
    notes = (*remarks(finished, mixed=mixed), *image_remarks(finished, mixed=mixed))
    metrics = _metrics(plan, records)
    failures = _read_failures(plan, store, records)
    rows: list[dict[str, Any]] = []
    columns = varied_columns(plan)
    for planned, part in iterate_parts(plan.cells):
        group = group_of(planned, part)
        failed = failures.get(planned.id, "")
        own = {column: show_varied(planned, key) for column, key in columns.items()}
        made = _rows(planned, part, records.get(planned.id), failed, metrics[group])
        rows += [{**row, **own} for row in made]
    schema = {**SCHEMA, **dict.fromkeys(columns, "str")}
    frame = pd.DataFrame(rows, columns=list(schema)).astype(schema)
    title = label_title(plan.title or plan.sweep, [planned.cell for planned in plan.cells])
    progress = _progress(plan, len(records), len(failures))
    scored = scored_sentences(records.values())
    said = (*progress, *chosen, *scored, *notes)
    return Leaderboard(title, plan.notes, frame, said, families(plan), search)


def _read_records(plan: Plan, store: Results) -> dict[str, Record]:
    """Read the records of a plan's finished cells, by id."""
    records = {}
    for planned in plan.runnable():
        if store.has_record(planned.id):
            records[planned.id] = store.record(planned.id)
    return records


def _read_failures(plan: Plan, store: Results, records: Mapping[str, Record]) -> dict[str, str]:
    """Read why cells without a record failed, by id."""
    reasons = {}
    for planned in plan.runnable():
        if planned.id in records:
            continue
        failed = failure(store, planned.id)
        if failed is not None:
            reasons[planned.id] = failed.reason
    return reasons


def _finished(plan: Plan, records: Mapping[str, Record]) -> list[Made]:
    """Return the cells of a plan that have a record, with it."""
    return [(cell, records[cell.id]) for cell in plan.runnable() if cell.id in records]


def _progress(plan: Plan, done: int, failed: int) -> Iterator[str]:
    """Yield a sentence about cells that are not done, if there are any."""
    # At another scale a cell may repeat an earlier one and have the same id.
    missing = len({planned.id for planned in plan.runnable()}) - done - failed
    counts = [f"{done} done"]
    if failed:
        counts.append(f"{failed} failed")
    if missing:
        counts.append(f"{missing} missing")
    if len(counts) > 1:
        yield f"Cells: {', '.join(counts)}."


def _rows(
    planned: Planned, part: int, record: Record | None, failed: str, metrics: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield one row for each metric of one task of a cell."""
    backbone, task, dataset = group_of(planned, part)
    shared = {
        "method": planned.row,
        "backbone": backbone,
        "task": task,
        "dataset": dataset,
        "scale": ", ".join(scale_notes(planned.cell)) or FULL,
        "seed": planned.seed,
        "id": planned.id,
        **_parameters(planned, record),
        **_costs(record),
        **_environment(record),
    }
    prefix = planned.cell.metric_prefix(part)
    for metric in metrics:
        value, state = _value(planned, record, failed, prefix + metric)
        yield {**shared, "metric": metric, "value": value, "state": str(state)}


def _value(
    planned: Planned, record: Record | None, failed: str, metric: str
) -> tuple[float, State]:
    """Return a metric's value and state."""
    if planned.skipped:
        roots = [part.dataset.root for part in planned.cell.parts]
        return NAN, State("skipped", hide_folders(planned.skipped, *roots))
    if record is None and failed:
        return NAN, State("failed", hide_folders(failed))
    if record is None:
        return NAN, MISSING
    value = record.metrics.get(metric, {"absent": "the record does not report it"})
    if isinstance(value, Mapping):
        return NAN, State("absent", hide_folders(value.get("absent", "no reason given")))
    return value, DONE


def _parameters(planned: Planned, record: Record | None) -> dict[str, Any]:
    """Return parameter counts and the trainable share in percent of `total`.

    A plan counts before the data is opened, and a classifier's head can turn out smaller. So the
    counts of the record take precedence.
    """
    counts: dict[str, Any] = dict.fromkeys(PARAMETERS)
    if planned.total > 0:
        counts = {name: getattr(planned, name) for name in PARAMETERS}
    if record is not None:
        counts |= {name: int(record.cost[name]) for name in PARAMETERS if name in record.cost}
    trainable, total = counts["trainable"], counts["total"]
    share = NAN
    if trainable is not None and total:
        share = 100 * trainable / total
    return {**counts, "trainable_percent": share}


def _costs(record: Record | None) -> dict[str, float]:
    """Return the measured costs, NaN for those that are not recorded."""
    if record is None:
        return dict.fromkeys(COSTS, NAN)
    return {name: record.cost.get(name, NAN) for name in COSTS}


def _environment(record: Record | None) -> dict[str, str]:
    """Return the columns about the environment."""
    if record is None:
        return {"verified": "", "environment": ""}
    return {"verified": verified(record), "environment": environment(record)}


def _metrics(plan: Plan, records: Mapping[str, Record]) -> dict[ResultGroup, list[str]]:
    """Return the metric names of each (backbone, task, dataset), in order.

    They are those that the records report. Without records they are those that the cells will.
    """
    reported: dict[ResultGroup, set[str]] = {}
    expected: dict[ResultGroup, set[str]] = {}
    order: dict[ResultGroup, list[tuple[str, ...]]] = {}
    for planned, part in iterate_parts(plan.cells):
        group = group_of(planned, part)
        declared = _declared(planned.cell.parts[part])
        order.setdefault(group, declared)
        reported.setdefault(group, set()).update(_reported(planned, part, records))
        for _, *values in declared:
            expected.setdefault(group, set()).update(values)
    names = {}
    for group, found in reported.items():
        names[group] = _in_order(found or expected.get(group, ()), order[group])
    return names


def _reported(planned: Planned, part: int, records: Mapping[str, Record]) -> Iterator[str]:
    """Yield the metrics that the record of a cell reports for one of its tasks."""
    if planned.id not in records:
        return
    prefix = planned.cell.metric_prefix(part)
    for name in records[planned.id].metrics:
        if name.startswith(prefix):
            yield name.removeprefix(prefix)


def _declared(part: Part) -> list[tuple[str, ...]]:
    """Return each metric that will be computed: its name and the names of its values."""
    declared = []
    for name in metric_names(part.task, part.protocol.metrics):
        values = METRICS.load(name)().value_names(part.protocol.metric_tokenizer)
        declared.append((name, *values))
    return declared


def _in_order(names: Iterable[str], declared: Sequence[Sequence[str]]) -> list[str]:
    """Sort metrics in the declared order.

    A breakdown follows its metric. Metrics that are not declared come last.
    """

    def place(name: str) -> tuple[int, str]:
        base = name.partition("/")[0]
        ranks = [rank for rank, known in enumerate(declared) if base in known]
        return min(ranks, default=len(declared)), name

    return sorted(names, key=place)
