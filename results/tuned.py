"""What tables say about a sweep whose settings were chosen by `tune:`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vlpeft.benchmark.cells.cell import Plan, Planned, Tuned
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import is_number
from vlpeft.benchmark.plan.tuning import STAGE
from vlpeft.benchmark.plan.vary import show

ORACLE = (
    "ORACLE: settings were chosen on the split that is tested, so these scores are too high to be "
    "compared with others."
)


def tuning_sentences(plan: Plan, store: Results) -> Iterator[str]:
    """Yield what a table of the tested cells must say, for each way that settings were chosen."""
    rows = _rows(plan.at_stage(""))
    tuned = [(cell, cell.tuned) for cell in rows if cell.tuned is not None]
    if not tuned:
        return
    if any(how.selector == "oracle" for _, how in tuned):
        yield ORACLE
    groups: dict[str, list[str]] = {}
    for cell, how in tuned:
        groups.setdefault(_budget(how), []).append(_chosen(cell, how))
    for budget, chosen in groups.items():
        yield f"{budget}: {'; '.join(chosen)}."
    if len(groups) > 1:
        yield "The budgets differ, so methods with more settings have an advantage."
    untuned = dict.fromkeys(cell.row for cell in rows if cell.tuned is None and not cell.skipped)
    if untuned:
        yield f"Not tuned: {', '.join(untuned)}."
    edges = [f"{_place(cell)}: {', '.join(how.edges)}" for cell, how in tuned if how.edges]
    if edges:
        yield (
            f"At the edge of what was tried: {'; '.join(edges)}. A wider range may give a better "
            "score (`vlpeft plan --widen`)."
        )
    if compared := _compared(plan, store):
        yield f"Comparing the settings took {len(compared)} more cells."


def search_costs(plan: Plan, store: Results) -> str:
    """Return what a table of costs says about the cells that compared settings; "" without any.

    Times differ from run to run, so the tables of scores do not have this sentence.
    """
    compared = _compared(plan, store)
    if not compared:
        return ""
    seconds = sum(store.record(cell.id).cost.get("train_seconds", 0.0) for cell in compared)
    return (
        f"Comparing the settings took {len(compared)} more cells and {seconds:,.0f} s of "
        "training, which are not in the table."
    )


def _compared(plan: Plan, store: Results) -> list[Planned]:
    """Return the cells that compared settings and are done."""
    return [cell for cell in plan.at_stage(STAGE).runnable() if store.has_record(cell.id)]


def _rows(plan: Plan) -> list[Planned]:
    """Return one cell of each row, without its other seeds."""
    found: dict[tuple[str, ...], Planned] = {}
    for cell in plan.cells:
        found.setdefault((cell.row, cell.backbone, cell.task, cell.dataset), cell)
    return list(found.values())


def _budget(tuned: Tuned) -> str:
    seeds = "1 seed" if tuned.seeds == 1 else f"{tuned.seeds} seeds"
    text = f"Tuned on '{tuned.on}' over {tuned.tried} settings, {seeds} each"
    if tuned.sampler:
        return f"{text}, chosen one after the other by {tuned.sampler} (an adaptive search)"
    return text


def _chosen(cell: Planned, tuned: Tuned) -> str:
    settings = ", ".join(f"{key}={show(value)}" for key, value in tuned.settings.items())
    lost = f" ({tuned.diverged} diverged)" if tuned.diverged else ""
    return f"{_place(cell)}: {settings}{lost}"


def _place(cell: Planned) -> str:
    return f"{cell.row} on {cell.backbone}, {cell.task}/{cell.dataset}"


def widened(plan: Plan) -> Iterable[str]:
    """Yield the next value for each number that was chosen at the edge of what was tried."""
    tried: dict[tuple[str, ...], set[float]] = {}
    for cell in plan.at_stage(STAGE).cells:
        for key, value in cell.varied.items():
            if is_number(value):
                family = cell.families.get("method", cell.row)
                place = (family, cell.backbone, cell.task, cell.dataset, key)
                tried.setdefault(place, set()).add(value)
    for cell in _rows(plan.at_stage("")):
        if cell.tuned is None:
            continue
        for edge in cell.tuned.edges:
            key = edge.partition(":")[0]
            place = (cell.row, cell.backbone, cell.task, cell.dataset, key)
            values = sorted(tried.get(place, ()))
            if len(values) > 1:
                yield f"{_place(cell)}: {key}: add {_next(values, cell.tuned.settings[key])}"


def _next(values: Sequence[float], edge: float) -> str:
    """Return the value beyond an edge, at the distance that the outermost two values have."""
    outer, inner = (values[0], values[1]) if edge == values[0] else (values[-1], values[-2])
    if outer > 0 and inner > 0:
        return f"{outer * outer / inner:.3g}"
    return f"{2 * outer - inner:.3g}"
