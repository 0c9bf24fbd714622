"""Launch the cells of a plan in one of the ways, and report those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.processes import interrupt_at_end_signals
from vlpeft.benchmark.launch.failed import FailedCell, failures
from vlpeft.benchmark.launch.presence import show_presence
from vlpeft.benchmark.launch.screen import SweepProgress
from vlpeft.benchmark.launch.ways import Way
from vlpeft.benchmark.plan.check import save_plan
from vlpeft.benchmark.plan.stages import Stage, first_stage, has_lost, is_lost, next_stage
from vlpeft.benchmark.plan.sweep import SweepHandle


class Launched(NamedTuple):
    """What a sweep has run: its plan, how many cells, and those that failed."""

    plan: Plan
    number: int
    failed: list[FailedCell]


def launch_sweep(
    way: Way, sweep: SweepHandle, root: Path, *, unverified: bool = False, mixed: bool = False
) -> Launched:
    """Run the unfinished cells of a sweep, and then those that a `tune:` lets follow.

    A cell that compares a setting and diverges has not failed, unless no setting is left.

    Args:
        way: where they run.
        sweep: the sweep.
        root: the result folder; the plan is saved there.
        unverified: as for `launch`.
        mixed: run seeds of rows whose other seeds were run by different code.

    Raises:
        UserError: as `plan`, `save_plan` and `launch` do.
        KeyboardInterrupt: the launch was interrupted.
    """
    store = Store(root)
    stage: Stage | None = first_stage(sweep, store, choose=True)
    assert stage is not None
    made, number = stage.plan, 0
    failed: list[FailedCell] = []
    while stage is not None:
        made = stage.plan
        save_plan(made, root, mixed=mixed)
        failed += launch(way, made, stage.cells, root, unverified=unverified)
        number += len(stage.cells)
        if not way.waits:
            break
        stage = next_stage(sweep, store, stage)
    real = [each for each in failed if not has_lost(each[0], store)]
    if len(real) < len(failed):
        made = first_stage(sweep, store).plan  # a method may have no setting left
        save_plan(made, root, mixed=mixed)
        if is_lost(made):
            real = failed
    return Launched(made, number, real)


def launch(
    way: Way, plan: Plan, cells: Sequence[Planned], root: Path, *, unverified: bool = False
) -> list[FailedCell]:
    """Verify the environment, run cells of a plan, and return those that failed.

    Args:
        way: where they run.
        plan: the plan that they belong to; it is saved in `root`.
        cells: the cells to run.
        root: the result folder.
        unverified: run in an environment that fails `vlpeft verify`; records say so.

    Returns:
        Nothing where the way does not wait for the cells.

    Raises:
        UserError: the environment fails verification, or the way cannot begin.
        KeyboardInterrupt: the launch was interrupted, also by SIGTERM or a closed terminal.
    """
    if not unverified:
        runtime = verify(way.runtime, cells, way.device())
        way = replace(cast("Any", way), runtime=runtime)
    with (
        interrupt_at_end_signals(),
        SweepProgress(plan, cells, root) as progress,
        show_presence(root, plan.sweep, way.name),
    ):
        way.run(cells, root, progress)
    if not way.waits:
        return []
    return list(failures(cells, root))


def verify(runtime: Any, cells: Sequence[Planned], device: str) -> Any:
    """Verify what the cells use on a type of device, and return a runtime that says so.

    Raises UserError if a check fails.
    """
    from vlpeft.benchmark.plan.verify.gate import require

    if not cells:
        return runtime
    require([each.cell for each in cells], device)
    return replace(runtime, verified=True)
