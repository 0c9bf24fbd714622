"""The commands that watch and stop running cells: `status`, `cancel` and `logs`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cli.printing import (
    print_json,
    print_line,
    print_note,
    print_table,
    print_text,
    terminal_width,
)
from vlpeft.benchmark.core.errors import UserError

WATCH_SECONDS = 5.0  # between two looks of `status --watch`


def status(options: argparse.Namespace) -> int:
    """Print the state of each cell."""
    from vlpeft.results.status import as_dicts, select_shown, status_table

    made = _wait_for_plan(options)
    changed = options.handle.reason_outdated(made)
    if changed:
        again = options.handle.launch_command()
        print_note(f"{changed}; {again} for what is new or changed")
    if options.json:
        print_json(as_dicts(look(made, options.root, changed)))
    elif options.watch:
        _watch(made.title, partial(look, made, options.root, changed))
    else:
        cells = look(made, options.root, changed)
        print_table(status_table(made.title, cells, select_shown(cells), terminal_width()))
    return 0


def _wait_for_plan(options: argparse.Namespace) -> Any:
    """Return the plan. With --watch, wait for the launch of a sweep that has not begun."""
    from vlpeft.benchmark.plan.plan_files import plan_file

    handle = options.handle
    file = plan_file(handle.root, handle.name)
    if options.watch and not file.exists():
        print_note(f"waiting for the launch: there is not a plan in {file} yet (Ctrl-C ends this)")
        while not file.exists():
            time.sleep(WATCH_SECONDS)
    return handle.read_plan()


def look(made: Any, root: Path, changed: str) -> Any:
    """Return the state of each cell of a plan, then of cells of settings that no longer exist.

    Args:
        made: The plan.
        root: The result folder.
        changed: Why the plan no longer matches its sweep; "" if it does.
    """
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.launch.presence import RUN, launchers
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
    begun = [cell.id for cell in cells if has_begun(cell)]
    launched = any(each.way != RUN for each in launchers(root, made.sweep))
    found = add_cluster_notes(cells, notes(root, waiting, begun), launched=launched)
    if changed:
        found = mark_stale(found, "the sweep has changed since")
    return [*found, *foreign]


def _watch(title: str, look: Callable[[], Any]) -> None:
    """Print the states again and again, until no cell runs or waits any more.

    On a terminal it shows the cells that run, have failed, or have something to say. Otherwise
    it prints a line whenever the numbers change.
    """
    from rich.live import Live

    from vlpeft.results.status import COMING, summary

    screen: Any = nullcontext()
    if sys.stdout.isatty():
        screen = Live(auto_refresh=False, vertical_overflow="ellipsis")
    before = None
    with screen as live:
        while True:
            cells = look()
            numbers = summary(cells)
            if live is not None:
                _update(live, title, cells)
            elif numbers != before:
                counts = [f"{number} {state}" for state, number in numbers.items() if number]
                print(", ".join(counts), flush=True)
            before = numbers
            if not any(numbers[state] for state in COMING):
                return
            time.sleep(WATCH_SECONDS)


def _update(live: Any, title: str, cells: Any) -> None:
    """Show the active cells on the terminal."""
    from rich.text import Text

    from vlpeft.results.status import is_active, select_shown, status_table
    from vlpeft.results.tables.render import render

    active = [cell for cell in select_shown(cells) if is_active(cell)]
    table = status_table(title, cells, active, terminal_width())
    live.update(Text.from_ansi(render(table, "text", colour=True), no_wrap=True), refresh=True)


def cancel(options: argparse.Namespace) -> int:
    """Stop the jobs and local workers of a sweep."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.results.status import find_unplanned
    from vlpeft.slurm.control import cancel

    made = options.handle.read_plan()
    ids = {cell.id for cell in made.runnable()}
    ids |= {cell.id for cell in find_unplanned(made, Store(options.root))}
    stopped = cancel(options.root, made.sweep, ids)
    counts = [
        f"{stopped.jobs} jobs cancelled",
        f"{stopped.launchers} local launchers interrupted",
    ]
    if stopped.workers:
        counts.append(f"{stopped.workers} processes without a launcher stopped")
    print_line(f"{', '.join(counts)}; what is done stays, `vlpeft sweep` continues")
    if stopped.elsewhere:
        hosts = ", ".join(stopped.elsewhere)
        print_note(f"local launchers also run on {hosts}: run this command there")
    return 0


def logs(options: argparse.Namespace) -> int:
    """Print the output of all attempts at a cell."""
    from vlpeft.slurm.control import sections

    cell = options.handle.read_plan().find(options.cell)
    found = list(sections(options.root, cell.id))
    if not found:
        raise UserError(
            f"no log of cell {cell.id} in {options.root}: "
            "it was not started, or ran in the process of its launcher"
        )
    for log, text in found:
        print_line(f"--> {log}")
        # A progress bar returns to the start of its line.
        print_text(text.rstrip().replace("\r\n", "\n").replace("\r", "\n") + "\n")
    return 0
