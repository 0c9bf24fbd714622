"""The commands that run cells, watch them and stop them: `run`, `sweep`, `retry`, `status`, `cancel`, `logs`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmark.errors import UserError

WATCH_SECONDS = 5.0


def run(options: argparse.Namespace) -> int:
    from benchmark.planning import plan, save_plan
    from benchmark.progress import CellProgress
    from benchmark.records import Store
    from benchmark.runner import run_cell

    runtime = _runtime(options)
    made = plan(options.sweep, need_data=True, scale=options.scale)
    cell = made.find(options.cell)
    save_plan(made, options.root)
    with CellProgress(cell) as progress:
        outcome = run_cell(cell.id, options.root, runtime, progress)
    if outcome == "running elsewhere":
        raise UserError(f"cell {cell.id} is being run by another process (see `vlpeft status {options.sweep} --root {options.root}`)")
    print(json.dumps({"id": cell.id, "outcome": outcome, "metrics": Store(options.root).record(cell.id).metrics}, indent=1))
    return 0


def sweep(options: argparse.Namespace) -> int:
    from benchmark.planning import plan, save_plan
    from slurm.launcher import unfinished
    from slurm.ways import Slurm, chosen

    way = chosen(options, lambda: _runtime(options))
    made = plan(options.sweep, need_data=True, scale=options.scale)
    if isinstance(way, Slurm) and options.dry_run:
        print(way.dry_run(unfinished(made, options.root), options.root), end="")
        return 0
    save_plan(made, options.root)
    return _launch(options, way, made, unfinished(made, options.root))


def _launch(options: argparse.Namespace, way: Any, made: Any, cells: Any) -> int:
    """Run cells of a plan, then print its tables and why cells failed."""
    from benchmark.progress import SweepProgress
    from slurm.launcher import by_cause, failures

    with SweepProgress(made, cells, options.root) as progress:
        way.run(cells, options.root, progress)
    if options.detach:
        print(f"vlpeft: the jobs go on by themselves{_how_to_watch(options)}", file=sys.stderr)
        return 0
    _print_tables(options, made)
    failed = list(failures(cells, options.root))
    for line in by_cause(failed):
        print(f"vlpeft: failed: {line}", file=sys.stderr)
    if failed:
        print(f"vlpeft: {len(failed)} of {len(cells)} cells failed; mend the cause and run the same command again", file=sys.stderr)
    return 1 if failed else 0


def _how_to_watch(options: argparse.Namespace) -> str:
    where = f"{options.sweep} --root {options.root}{f' --scale {options.scale}' if options.scale else ''}"
    return f"; watch them with `vlpeft status {where}`; `vlpeft sweep` again submits what the cluster has lost"


def retry(options: argparse.Namespace) -> int:
    from benchmark.records import Store
    from benchmark.sweep import load_plan
    from results.attempts import failure
    from slurm.ways import chosen

    way = chosen(options, lambda: _runtime(options))
    made, store = load_plan(options.sweep, options.root, options.scale), Store(options.root)
    waiting = [(cell, failure(store, cell.id)) for cell in made.runnable() if not store.has_record(cell.id)]
    failed = [(cell, why.cause) for cell, why in waiting if why is not None]
    cells = [cell for cell, cause in failed if (options.cause or "") in cause]
    if not cells:
        causes = sorted({cause for _, cause in failed})
        print(f"vlpeft: nothing to retry; causes of failure: {', '.join(causes) or 'none'}", file=sys.stderr)
        return 0
    return _launch(options, way, made, cells)


def status(options: argparse.Namespace) -> int:
    from benchmark.records import Store
    from benchmark.sweep import load_plan
    from results.status import as_dicts, noted, status, status_table
    from slurm.states import notes

    made, store = load_plan(options.sweep, options.root, options.scale), Store(options.root)

    def look() -> Any:
        cells = status(made, store)
        return noted(cells, notes(options.root, [cell.id for cell in cells if cell.state == "pending"]))

    if options.json:
        print(json.dumps(as_dicts(look()), indent=1, ensure_ascii=False))
    elif options.watch:
        _watch(made.title, look)
    else:
        print_text(status_table(made.title, look()))
    return 0


def _watch(title: str, look: Any) -> None:
    """What runs, waits with something to say, or has failed, until all has ended; piped: a line when the numbers change."""
    from results.status import busy, status_table, summary

    before = None
    while True:
        cells = look()
        numbers = summary(cells)
        if sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
            print_text(status_table(title, cells, shown=[cell for cell in cells if busy(cell)]))
        elif numbers != before:
            print(", ".join(f"{number} {state}" for state, number in numbers.items() if number), flush=True)
        before = numbers
        if not numbers["running"] and not numbers["pending"]:
            return
        time.sleep(WATCH_SECONDS)


def cancel(options: argparse.Namespace) -> int:
    from benchmark.sweep import load_plan
    from slurm.control import cancel

    jobs, local = cancel(options.root, {cell.id for cell in load_plan(options.sweep, options.root, options.scale).runnable()})
    print(f"{jobs} jobs cancelled, {local} local launchers interrupted; what is done stays, `vlpeft sweep` goes on")
    return 0


def logs(options: argparse.Namespace) -> int:
    from benchmark.sweep import load_plan
    from slurm.control import sections

    cell = load_plan(options.sweep, options.root, options.scale).find(options.cell)
    found = list(sections(options.root, cell.id))
    if not found:
        raise UserError(f"no log of cell {cell.id} in {options.root}: it was not started, or ran with --on inline")
    for log, text in found:
        print(f"--> {log}\n{text.rstrip()}\n")
    return 0


def _print_tables(options: argparse.Namespace, made: Any) -> None:
    """Scores and costs, once there are any."""
    from benchmark.records import Store
    from results.leaderboard import leaderboard
    from results.tables import cost_table, score_table

    store = Store(options.root)
    if not any(store.has_record(cell.id) for cell in made.runnable()):
        return
    board = leaderboard(made, store)
    print_text(score_table(board))
    print()
    print_text(cost_table(board))


def _runtime(options: argparse.Namespace) -> Any:
    from benchmark.config import parse
    from benchmark.runner import Runtime

    given = {name: getattr(options, name) for name in ("device", "threads", "micro_batch", "checkpoint_seconds")}
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
        "; run the same command again: finished cells are kept, unfinished ones go on from their last checkpoint "
        f"(at most {seconds} s back, see --checkpoint-seconds) or start afresh if they have none"
    )


def print_text(table: Any) -> None:
    from results.render import render

    print(render(table, "text", colour=sys.stdout.isatty()), end="")
