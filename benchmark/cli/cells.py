"""The commands that run cells, watch them and stop them: `run`, `sweep`, `retry`, `status`, `cancel`, `logs`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import UserError

WATCH_SECONDS = 5.0
CAUSES = {
    "oom": "out of memory",
    "timeout": "time limit",
    "node": "node failure",
    "disk": "disk full",
}  # short words for `retry --cause`


def run(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.launch.interrupts import run_interruptible
    from vlpeft.benchmark.launch.screen import CellProgress
    from vlpeft.benchmark.plan.check import plan, save_plan

    runtime = _runtime(options)
    made = plan(options.sweep, need_data=True, scale=options.scale)
    cell = made.find(options.cell)
    if not Store(options.root).has_record(cell.id):
        runtime = _verified(options, runtime, [cell])
    save_plan(made, options.root)
    with CellProgress(cell) as progress:
        outcome = run_interruptible(cell.id, options.root, runtime, progress)
    if outcome == "running elsewhere":
        raise UserError(
            f"cell {cell.id} is being run by another process (see `vlpeft status {options.sweep} --root {options.root}`)"
        )
    print(
        json.dumps(
            {
                "id": cell.id,
                "outcome": outcome,
                "metrics": Store(options.root).record(cell.id).metrics,
            },
            indent=1,
        )
    )
    return 0


def sweep(options: argparse.Namespace) -> int:
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


def _launch(options: argparse.Namespace, way: Any, made: Any, cells: Any) -> int:
    """Run cells of a plan, then print its tables and why cells failed."""
    from vlpeft.benchmark.launch.failed import count_failures, failures, group_by_cause
    from vlpeft.benchmark.launch.presence import show_presence
    from vlpeft.benchmark.launch.screen import SweepProgress

    way = replace(way, runtime=_verified(options, way.runtime, cells))
    with (
        SweepProgress(made, cells, options.root) as progress,
        show_presence(options.root, made.sweep, options.on),
    ):
        way.run(cells, options.root, progress)
    if options.detach:
        print(f"vlpeft: the jobs go on by themselves{_how_to_watch(options)}", file=sys.stderr)
        return 0
    failed = list(failures(cells, options.root))
    try:
        _print_tables(options, made)
    finally:  # tables may be refused, and then the causes matter all the more
        for line in group_by_cause(failed):
            print(f"vlpeft: failed: {line}", file=sys.stderr)
        if failed:
            print(f"vlpeft: {count_failures(failed, len(cells))}", file=sys.stderr)
    return 1 if failed else 0


def _verified(options: argparse.Namespace, runtime: Any, cells: Any) -> Any:
    """The runtime, once what the cells use is verified here. Raises UserError where a check fails."""
    if options.unverified or not cells:
        return runtime
    from vlpeft.benchmark.verify.gate import require

    here = (
        getattr(options, "on", "inline") != "slurm"
    )  # jobs verify the devices that a login node lacks
    require([each.cell for each in cells], runtime.torch_device().type if here else "cpu")
    return replace(runtime, verified=True)


def _how_to_watch(options: argparse.Namespace) -> str:
    from vlpeft.benchmark.plan.sweep import as_typed

    where = as_typed(options.sweep, options.root, options.scale)
    return f"; watch them with `vlpeft status {where}`; `vlpeft sweep` again submits what the cluster has lost"


def retry(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.cells.attempts import failure
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.cli.ways import select_way
    from vlpeft.benchmark.plan.sweep import load_plan

    way = select_way(options, lambda: _runtime(options))
    made, store = load_plan(options.sweep, options.root, options.scale), Store(options.root)
    waiting = [
        (cell, failure(store, cell.id)) for cell in made.runnable() if not store.has_record(cell.id)
    ]
    failed = [(cell, why.cause) for cell, why in waiting if why is not None]
    cells = [
        cell for cell, cause in failed if CAUSES.get(options.cause, options.cause or "") in cause
    ]
    if not cells:
        causes = sorted({cause for _, cause in failed})
        print(
            f"vlpeft: nothing to retry; causes of failure: {', '.join(causes) or 'none'}{_missing(options, made)}",
            file=sys.stderr,
        )
        return 0
    return _launch(options, way, made, cells)


def _missing(options: argparse.Namespace, made: Any) -> str:
    """The cells that have not failed and that nothing will bring: those that were cancelled while no launcher waited, say."""
    from vlpeft.benchmark.plan.sweep import as_typed

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


def _print_tables(options: argparse.Namespace, made: Any) -> None:
    """Scores and costs, once there are any."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.statistics.significance import significance
    from vlpeft.results.tables.table import cost_table, score_table

    store = Store(options.root)
    if not any(store.has_record(cell.id) for cell in made.runnable()):
        return
    board = leaderboard(made, store)
    print_text(score_table(board, significance(board, store)))
    print()
    print_text(cost_table(board))


def _runtime(options: argparse.Namespace) -> Any:
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.run.runtime import Runtime

    given = {
        name: getattr(options, name)
        for name in ("device", "threads", "micro_batch", "checkpoint_seconds", "compile")
    }
    if options.ranks is not None:
        given["ranks"] = options.ranks
    try:
        runtime = parse(Runtime, given, "options")
    except UserError as error:
        name, _, message = str(error).removeprefix("options: ").partition(":")
        raise UserError(f"--{name.replace('_', '-')}:{message}") from error
    if getattr(options, "on", "inline") != "slurm":
        runtime.torch_device()  # a missing GPU is found before anything starts
    return runtime


def how_to_go_on(options: argparse.Namespace) -> str:
    if options.command == "data download":
        return "; run the same command again: what was fetched is kept"
    if options.command not in ("sweep", "retry", "run"):
        return ""
    if options.command in ("sweep", "retry") and options.on == "slurm":
        return f"; jobs that are submitted go on{_how_to_watch(options)}"
    seconds = f"{options.checkpoint_seconds:g}"
    return (
        "; run the same command again: finished cells are kept, those in training were saved (after a second Ctrl-C they are "
        f"at most {seconds} s back, see --checkpoint-seconds), the others go on from their last checkpoint or start afresh"
    )


def print_text(table: Any) -> None:
    from vlpeft.results.tables.render import render

    print(render(table, "text", colour=sys.stdout.isatty()), end="")
