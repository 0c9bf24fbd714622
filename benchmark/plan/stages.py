"""The stages of a sweep with `tune:`: what runs now, and what runs next."""

from __future__ import annotations

from typing import NamedTuple

from vlpeft.benchmark.cells.attempts import DIVERGED, failure
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.plan.best import score_all
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import list_searches
from vlpeft.benchmark.plan.search import append_points
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.tuning import DIVERGED_ALL, STAGE, WAITING


class Stage(NamedTuple):
    """A plan, and those of its cells that are to run now.

    begun: the ids of all cells that this launch has run.
    """

    plan: Plan
    cells: list[Planned]
    begun: frozenset[str] = frozenset()


def waits(made: Plan) -> bool:
    """Return whether cells of the plan wait for the comparison of their settings."""
    return any(cell.skipped.startswith(WAITING) for cell in made.cells)


def is_lost(made: Plan) -> bool:
    """Return whether a method has no setting left, because all of them have diverged."""
    return any(cell.skipped.startswith(DIVERGED_ALL) for cell in made.cells)


def first_stage(sweep: SweepHandle, store: Store, *, choose: bool = False) -> Stage:
    """Plan a sweep, with the best settings that are on record already.

    Args:
        sweep: The sweep.
        store: Its result folder.
        choose: Let the searches of a `tune:` choose their next trials.

    Raises:
        UserError: As `plan` does.
    """
    made = _plan(sweep, store, choose=choose)
    return Stage(made, unfinished(made, store))


def next_stage(sweep: SweepHandle, store: Store, before: Stage) -> Stage | None:
    """Plan a sweep again after cells have run; None if nothing new can run.

    Cells that have failed in this launch are not tried again. The stage has no cells if all that
    was waited for is on record already.
    """
    if not waits(before.plan):
        return None
    made = _plan(sweep, store, choose=True)
    begun = before.begun | {cell.id for cell in before.cells}
    cells = [cell for cell in unfinished(made, store) if cell.id not in begun]
    if not cells and waits(made):
        return None
    return Stage(made, cells, begun)


def _plan(sweep: SweepHandle, store: Store, *, choose: bool) -> Plan:
    """Plan a sweep; with `choose`, again after each time that a search has chosen trials.

    The trials that were chosen may all be on record, and then the next ones follow at once.
    """
    made = plan(sweep, need_data=True, results=store)
    while choose and waits(made) and _choose_trials(sweep, store):
        made = plan(sweep, need_data=True, results=store)
    return made


def _choose_trials(sweep: SweepHandle, store: Store) -> bool:
    """Let each search of a sweep choose its next trials. Returns whether one has chosen any."""
    has_chosen = False
    for compared in list_searches(sweep, store):
        assert compared.study is not None
        scores = score_all(compared.tuning, compared.list_tried(), store)
        if points := compared.study.choose(scores):
            append_points(sweep.root, compared.study, points)
            has_chosen = True
    return has_chosen


def unfinished(made: Plan, store: Store) -> list[Planned]:
    """Return the runnable cells without a record, but those that have lost already."""
    # Two searches may try the same cell.
    different = {cell.id: cell for cell in reversed(made.runnable())}
    undone = [cell for cell in reversed(different.values()) if not store.has_record(cell.id)]
    return [cell for cell in undone if not has_lost(cell, store)]


def has_lost(cell: Planned, store: Store) -> bool:
    """Return whether a cell that compares settings has diverged, which is its result."""
    if cell.stage != STAGE:
        return False
    failed = failure(store, cell.id)
    return failed is not None and failed.cause == DIVERGED
