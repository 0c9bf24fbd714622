"""The commands that run cells: `run`, `sweep` and `retry`."""

from __future__ import annotations

import argparse
from typing import Any

from vlpeft.benchmark.cli.printing import print_json, print_note, print_table, print_text
from vlpeft.benchmark.core.cores import check_number
from vlpeft.benchmark.core.errors import UserError

# Short words for `retry --cause`, and the causes of failure that they stand for.
CAUSES = {
    "oom": "out of memory",
    "timeout": "time limit",
    "node": "node failure",
    "disk": "disk full",
}


def run(options: argparse.Namespace) -> int:
    """Run one cell in this process, and print its metrics."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.launch.interrupts import run_interruptible
    from vlpeft.benchmark.launch.launch import verify
    from vlpeft.benchmark.launch.presence import RUN, show_presence
    from vlpeft.benchmark.launch.screen import CellProgress
    from vlpeft.benchmark.plan.check import plan_cell, save_planned_cell

    runtime, store = _runtime(options), Store(options.root)
    made, cell = plan_cell(options.handle, options.cell)
    if not store.has_record(cell.id) and not options.unverified:
        runtime = verify(runtime, [cell], runtime.torch_device().type)
    save_planned_cell(made, cell, options.root)
    with show_presence(options.root, made.sweep, RUN), CellProgress(cell) as progress:
        outcome = run_interruptible(cell.id, options.root, runtime, progress)
    if outcome == "running elsewhere":
        raise UserError(
            f"cell {cell.id} is being run by another process "
            f"(see `vlpeft status {options.handle.as_typed()}`)"
        )
    metrics = store.record(cell.id).metrics
    print_json({"id": cell.id, "outcome": outcome, "metrics": metrics})
    return 0


def sweep(options: argparse.Namespace) -> int:
    """Run all cells that are not done, then print the tables. Return 1 if a cell failed."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.cli.prune import prune
    from vlpeft.benchmark.cli.ways import select_way
    from vlpeft.benchmark.launch.launch import launch_sweep
    from vlpeft.benchmark.plan.stages import first_stage, waits
    from vlpeft.slurm.way import Slurm

    if options.delete and not options.prune:
        raise UserError("--delete: deletes what --prune finds; add --prune")
    if options.prune and options.dry_run:
        raise UserError("--dry-run: --prune cancels jobs; leave one of the two out")
    way = select_way(options, lambda: _runtime(options))
    if options.prune:
        prune(options)
    if isinstance(way, Slurm) and options.dry_run:
        stage = first_stage(options.handle, Store(options.root))
        print_text(way.dry_run(stage.cells, options.root).rstrip("\n"))
        return 0
    launched = launch_sweep(
        way,
        options.handle,
        options.root,
        unverified=options.unverified,
        mixed=options.mixed_environments,
    )
    if waits(launched.plan):
        print_note(
            "the best settings are tested once all settings are compared: "
            f"{options.handle.launch_command()} again"
        )
    return _report(options, way, *launched)


def retry(options: argparse.Namespace) -> int:
    """Run failed cells again: all, or those with one cause. Return 1 if a cell failed again."""
    from vlpeft.benchmark.cells.attempts import failure
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.cli.ways import select_way

    way = select_way(options, lambda: _runtime(options))
    made = options.handle.load_plan()
    store = Store(options.root)
    wanted = CAUSES.get(options.cause, options.cause or "")  # "" is part of every cause
    cells, causes = [], set()
    for cell in made.runnable():
        if store.has_record(cell.id):
            continue
        found = failure(store, cell.id)
        if found is None:
            continue
        causes.add(found.cause)
        if wanted in found.cause:
            cells.append(cell)
    if not cells:
        listed = ", ".join(sorted(causes)) or "none"
        missing = _missing_note(options, made)
        print_note(f"nothing to retry; causes of failure: {listed}{missing}")
        return 0
    return _launch(options, way, made, cells)


def _launch(options: argparse.Namespace, way: Any, made: Any, cells: Any) -> int:
    """Run cells of a plan, then print its tables and the causes of failure."""
    from vlpeft.benchmark.launch.launch import launch

    failed = launch(way, made, cells, options.root, unverified=options.unverified)
    return _report(options, way, made, len(cells), failed)


def _report(options: argparse.Namespace, way: Any, made: Any, count: int, failed: Any) -> int:
    """Print the tables of a launch and the causes of failure; return the exit code."""
    from vlpeft.benchmark.launch.failed import count_failures, group_by_cause

    if not way.waits:
        print_note(f"the jobs continue on their own{_how_to_watch(options)}")
        return 0
    try:
        _print_tables(options, made)
    finally:  # the causes are printed even if the tables are refused
        for line in group_by_cause(failed):
            print_note(f"failed: {line}")
        if failed:
            print_note(count_failures(failed, count))
    if failed:
        return 1
    return 0


def _launcher(options: argparse.Namespace) -> str:
    """Return the value of `--on`; `run` has no such option and runs in this process."""
    return getattr(options, "on", "inline")


def _how_to_watch(options: argparse.Namespace) -> str:
    """Return how to follow jobs on a cluster, for messages."""

    where = options.handle.as_typed()
    return (
        f"; watch them with `vlpeft status {where}`; "
        "`vlpeft sweep` again submits what the cluster has lost"
    )


def _missing_note(options: argparse.Namespace, made: Any) -> str:
    """Return how to run cells that did not fail but that nothing will run; "" if there are none.

    Cells are in this state if they were cancelled while no launcher was waiting for them.
    """
    from vlpeft.benchmark.cli.watching import look

    number = sum(cell.state == "missing" for cell in look(made, options.root, ""))
    if not number:
        return ""
    where = options.handle.as_typed()
    command, verb = f"`vlpeft sweep {where}`", "runs"
    if options.on == "slurm":
        command, verb = f"`vlpeft sweep {where} --on slurm --profile {options.profile}`", "submits"
    missing = "1 cell is missing" if number == 1 else f"{number} cells are missing"
    them = "it" if number == 1 else "them"
    return f"; {missing}, which is not a failure: {command} {verb} {them}"


def _print_tables(options: argparse.Namespace, made: Any) -> None:
    """Print costs, then scores, if there are any. What is printed last is what one sees."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.statistics.significance import significance
    from vlpeft.results.tables.table import cost_table, score_table

    store = Store(options.root)
    if not any(store.has_record(cell.id) for cell in made.runnable()):
        return
    board = leaderboard(made, store, mixed=options.mixed_environments)
    costs = cost_table(board)
    if costs.blocks:
        print_table(costs)
        print()
    print_table(score_table(board, significance(board, store)))


def _runtime(options: argparse.Namespace) -> Any:
    """Read the options that say how cells run. Raises UserError with the option's name."""
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.run.runtime import Runtime

    names = ("device", "threads", "micro_batch", "eval_batch", "checkpoint_seconds", "compile")
    given = {name: getattr(options, name) for name in names}
    if options.ranks is not None:
        given["ranks"] = options.ranks
    try:
        runtime = parse(Runtime, given, "options")
    except UserError as error:
        name, _, message = str(error).removeprefix("options: ").partition(":")
        raise UserError(f"--{name.replace('_', '-')}:{message}") from error
    if _launcher(options) != "slurm":
        for name in ("threads", "ranks"):
            check_number(getattr(runtime, name) or 1, f"--{name}")
        runtime.torch_device()  # raises for a missing GPU before anything starts
    return runtime


def how_to_continue(options: argparse.Namespace) -> str:
    """Return what to do after an interrupt, for the message; "" if there is nothing to say."""
    if options.command == "data download":
        return "; run the same command again: what was fetched is kept"
    if options.command not in ("sweep", "retry", "run"):
        return ""
    if _launcher(options) == "slurm":
        return f"; submitted jobs continue{_how_to_watch(options)}"
    seconds = f"{options.checkpoint_seconds:g}"
    return (
        "; run the same command again: finished cells are kept, and cells in training were "
        f"saved (after a second Ctrl-C they are at most {seconds} s back, see "
        "--checkpoint-seconds); the others continue from their last checkpoint, or start over"
    )
