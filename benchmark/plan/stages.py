"""The stages of a sweep with `tune:`: what runs now, and what runs next."""

from __future__ import annotations

from typing import NamedTuple

from vlpeft.benchmark.cells.attempts import DIVERGED, failure
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.plan.best import score_all
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import searches
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.tuning import DIVERGED_ALL, STAGE, WAITING


class Stage(NamedTuple):
    """A plan, and those of its cells that are to run now."""

    plan: Plan
    cells: list[Planned]


def waits(made: Plan) -> bool:
    """Return whether cells of the plan wait for the comparison of their settings."""
    return any(cell.skipped.startswith(WAITING) for cell in made.cells)


def is_lost(made: Plan) -> bool:
    """Return whether a method has no setting left, because all of them have diverged."""
    return any(cell.skipped.startswith(DIVERGED_ALL) for cell in made.cells)


def first_stage(sweep: SweepHandle, store: Store) -> Stage:
    """Plan a sweep, with the best settings that are on record already.

    The searches of a `tune:` choose their next trials first.

    Raises UserError as `plan` does.
    """
    _advance(sweep, store)
    made = plan(sweep, need_data=True, results=store)
    return Stage(made, unfinished(made, store))


def next_stage(sweep: SweepHandle, store: Store, before: Stage) -> Stage | None:
    """Plan a sweep again after cells have run; None if nothing new can run.

    Cells that have just failed are not tried again.
    """
    if not waits(before.plan):
        return None
    _advance(sweep, store)
    made = plan(sweep, need_data=True, results=store)
    known = {cell.id for cell in before.cells}
    cells = [cell for cell in unfinished(made, store) if cell.id not in known]
    if not cells:
        return None
    return Stage(made, cells)


def _advance(sweep: SweepHandle, store: Store) -> None:
    """Let the searches of a sweep choose their next trials, from what is on record."""
    for compared in searches(sweep, store):
        assert compared.study is not None
        compared.study.advance(score_all(compared.tuning, compared.tried(), store))


def unfinished(made: Plan, store: Store) -> list[Planned]:
    """Return the runnable cells without a record, but those that have lost already."""
    undone = [cell for cell in made.runnable() if not store.has_record(cell.id)]
    return [cell for cell in undone if not has_lost(cell, store)]


def has_lost(cell: Planned, store: Store) -> bool:
    """Return whether a cell that compares settings has diverged, which is its result."""
    if cell.stage != STAGE:
        return False
    failed = failure(store, cell.id)
    return failed is not None and failed.cause == DIVERGED
