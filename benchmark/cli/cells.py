"""The commands that run cells: `run`, `sweep` and `retry`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from vlpeft.benchmark.cli.printing import print_note, print_table
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
    from vlpeft.benchmark.launch.screen import CellProgress
    from vlpeft.benchmark.plan.check import plan_cell, save_planned_cell

    runtime, store = _runtime(options), Store(options.root)
    made, cell = plan_cell(options.sweep, options.cell, options.scale)
    if not store.has_record(cell.id):
        runtime = _verified(options, runtime, [cell])
    save_planned_cell(made, cell, options.root)
    with CellProgress(cell) as progress:
        outcome = run_interruptible(cell.id, options.root, runtime, progress)
    if outcome == "running elsewhere":
        raise UserError(
            f"cell {cell.id} is being run by another process "
            f"(see `vlpeft status {options.sweep} --root {options.root}`)"
        )
    metrics = store.record(cell.id).metrics
    print(json.dumps({"id": cell.id, "outcome": outcome, "metrics": metrics}, indent=1))
    return 0


def sweep(options: argparse.Namespace) -> int:
    """Run all cells that are not done, then print the tables. Return 1 if a cell failed."""
    from vlpeft.benchmark.cli.ways import select_way
    from vlpeft.benchmark.launch.local import unfinished_cells
    from vlpeft.benchmark.plan.check import plan, save_plan
    from vlpeft.slurm.way import Slurm

    way = select_way(options, lambda: _runtime(options))
    made = plan(options.sweep, need_data=True, scale=options.scale)
    if isinstance(way, Slurm) and options.dry_run:
        print(way.dry_run(unfinished_cells(made, options.root), options.root), end="")
        return 0
    save_plan(made, options.root)
    return _launch(options, way, made, unfinished_cells(made, options.root))


def retry(options: argparse.Namespace) -> int:
    """Run failed cells again: all, or those with one cause. Return 1 if a cell failed again."""
    from vlpeft.benchmark.cells.attempts import failure
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.cli.ways import select_way
    from vlpeft.benchmark.plan.sweep import load_plan

    way = select_way(options, lambda: _runtime(options))
    made = load_plan(options.sweep, options.root, options.scale)
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
<<<<<<< HEAD
    """Run cells of a plan, then print its tables and why cells failed."""
    from vlpeft.benchmark.launch.failed import count_failures, failures, group_by_cause
=======
    """Run cells of a plan, then print its tables and the causes of failure."""
    from vlpeft.benchmark.launch.local import count_failures, failures, group_by_cause
>>>>>>> h_plan
    from vlpeft.benchmark.launch.presence import show_presence
    from vlpeft.benchmark.launch.screen import SweepProgress

    way = replace(way, runtime=_verified(options, way.runtime, cells))
    with (
        SweepProgress(made, cells, options.root) as progress,
        show_presence(options.root, made.sweep, options.on),
    ):
        way.run(cells, options.root, progress)
    if options.detach:
        print_note(f"the jobs continue on their own{_how_to_watch(options)}")
        return 0
    failed = list(failures(cells, options.root))
    try:
        _print_tables(options, made)
    finally:  # the causes are printed even if the tables are refused
        for line in group_by_cause(failed):
            print_note(f"failed: {line}")
        if failed:
            print_note(count_failures(failed, len(cells)))
    if failed:
        return 1
    return 0


def _verified(options: argparse.Namespace, runtime: Any, cells: Any) -> Any:
    """Verify what the cells use, and return a runtime that says so.

    Raises UserError if a check fails.
    """
    if options.unverified or not cells:
        return runtime
    from vlpeft.benchmark.verify.gate import require

    device = "cpu"
    # A login node may lack the GPUs of the jobs, so each job verifies its own device.
    if _launcher(options) != "slurm":
        device = runtime.torch_device().type
    require([each.cell for each in cells], device)
    return replace(runtime, verified=True)


def _launcher(options: argparse.Namespace) -> str:
    """Return the value of `--on`; `run` has no such option and runs in this process."""
    return getattr(options, "on", "inline")


def _how_to_watch(options: argparse.Namespace) -> str:
    """Return how to follow jobs on a cluster, for messages."""
    from vlpeft.benchmark.plan.sweep import as_typed

    where = as_typed(options.sweep, options.root, options.scale)
    return (
        f"; watch them with `vlpeft status {where}`; "
        "`vlpeft sweep` again submits what the cluster has lost"
    )


def _missing_note(options: argparse.Namespace, made: Any) -> str:
    """Return how to run cells that did not fail but that nothing will run; "" if there are none.

    Cells are in this state if they were cancelled while no launcher was waiting for them.
    """
    from vlpeft.benchmark.cli.watching import look
    from vlpeft.benchmark.plan.sweep import as_typed

<<<<<<< HEAD
    number = sum(cell.state == "missing" for cell in _look(made, options.root, ""))
    way = f" --on slurm --profile {options.profile}" if options.on == "slurm" else ""
    again = f"`vlpeft sweep {as_typed(options.sweep, options.root, options.scale)}{way}` {'submits' if way else 'runs'}"
    return f"; {number} cells are missing, which is no failure: {again} them" if number else ""


def status(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.plan.sweep import launch_command, read_plan, reason_outdated
    from vlpeft.results.status import as_dicts, select_shown, status_table

    made = read_plan(options.sweep, options.root, options.scale)
    if changed := reason_outdated(made, options.sweep, options.scale):
        again = launch_command(options.sweep, options.root, options.scale)
        print(f"vlpeft: {changed}; {again} for what is new or changed", file=sys.stderr)
    look = partial(_look, made, options.root, changed)
    if options.json:
        print(json.dumps(as_dicts(look()), indent=1, ensure_ascii=False))
    elif options.watch:
        _watch(made.title, look)
    else:
        cells = look()
        print_text(status_table(made.title, cells, select_shown(cells), _columns()))
    return 0


def _columns() -> int | None:
    """How wide the terminal is that is printed to, if it is one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _look(made: Any, root: Path, changed: str) -> Any:
    """The state of each cell, with all that is known of it here; then what the folder holds of settings that are no more."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.launch.presence import launchers
    from vlpeft.results.status import (
        add_cluster_notes,
        find_unplanned,
        has_begun,
        mark_stale,
        status,
    )
    from vlpeft.slurm.states import notes

    store = Store(root)
    cells, foreign = status(made, store), find_unplanned(made, store)
    waiting = [cell.id for cell in cells if cell.state == "missing"]
    found = add_cluster_notes(
        cells,
        notes(root, waiting, [cell.id for cell in cells if has_begun(cell)]),
        launched=bool(launchers(root, made.sweep)),
    )
    return [*(mark_stale(found, "the sweep has changed since") if changed else found), *foreign]


def _watch(title: str, look: Callable[[], Any]) -> None:
    """What runs, waits with something to say, or has failed, until nothing changes by itself; piped: a line when the numbers change."""
    from rich.live import Live
    from rich.text import Text

    from vlpeft.results.status import COMING, is_active, select_shown, status_table, summary
    from vlpeft.results.tables.render import render

    before = None
    with (
        Live(auto_refresh=False, vertical_overflow="ellipsis")
        if sys.stdout.isatty()
        else nullcontext() as live
    ):
        while True:
            cells = look()
            numbers = summary(cells)
            if live is not None:
                shown = status_table(
                    title,
                    cells,
                    [cell for cell in select_shown(cells) if is_active(cell)],
                    _columns(),
                )
                live.update(
                    Text.from_ansi(render(shown, "text", colour=True), no_wrap=True), refresh=True
                )
            elif numbers != before:
                print(
                    ", ".join(f"{number} {state}" for state, number in numbers.items() if number),
                    flush=True,
                )
            before = numbers
            if not any(numbers[state] for state in COMING):
                return
            time.sleep(WATCH_SECONDS)


def cancel(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.sweep import read_plan
    from vlpeft.results.status import find_unplanned
    from vlpeft.slurm.control import cancel

    made = read_plan(options.sweep, options.root, options.scale)
    stale = (cell.id for cell in find_unplanned(made, Store(options.root)))
    jobs, local, elsewhere = cancel(
        options.root, made.sweep, {*(cell.id for cell in made.runnable()), *stale}
    )
    print(
        f"{jobs} jobs cancelled, {local} local launchers interrupted; what is done stays, `vlpeft sweep` goes on"
    )
    if elsewhere:
        print(
            f"vlpeft: local launchers are at work on {', '.join(elsewhere)}, too: run this command there",
            file=sys.stderr,
        )
    return 0


def logs(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.plan.sweep import read_plan
    from vlpeft.slurm.control import sections

    cell = read_plan(options.sweep, options.root, options.scale).find(options.cell)
    found = list(sections(options.root, cell.id))
    if not found:
        raise UserError(
            f"no log of cell {cell.id} in {options.root}: it was not started, or ran with --on inline"
        )
    for log, text in found:
        print(f"--> {log}\n{text.rstrip()}\n")
    return 0
=======
    number = sum(cell.state == "missing" for cell in look(made, options.root, ""))
    if not number:
        return ""
    where = as_typed(options.sweep, options.root, options.scale)
    command, verb = f"`vlpeft sweep {where}`", "runs"
    if options.on == "slurm":
        command, verb = f"`vlpeft sweep {where} --on slurm --profile {options.profile}`", "submits"
    return f"; {number} cells are missing, which is not a failure: {command} {verb} them"
>>>>>>> h_plan


def _print_tables(options: argparse.Namespace, made: Any) -> None:
    """Print scores and costs, if there are any."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.statistics.significance import significance
    from vlpeft.results.tables.table import cost_table, score_table

    store = Store(options.root)
    if not any(store.has_record(cell.id) for cell in made.runnable()):
        return
    board = leaderboard(made, store)
    print_table(score_table(board, significance(board, store)))
    print()
    print_table(cost_table(board))


def _runtime(options: argparse.Namespace) -> Any:
    """Read the options that say how cells run. Raises UserError with the option's name."""
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.run.runtime import Runtime

    names = ("device", "threads", "micro_batch", "checkpoint_seconds", "compile")
    given = {name: getattr(options, name) for name in names}
    if options.ranks is not None:
        given["ranks"] = options.ranks
    try:
        runtime = parse(Runtime, given, "options")
    except UserError as error:
        name, _, message = str(error).removeprefix("options: ").partition(":")
        raise UserError(f"--{name.replace('_', '-')}:{message}") from error
    if _launcher(options) != "slurm":
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
