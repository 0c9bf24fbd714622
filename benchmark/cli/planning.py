"""The commands that look at a sweep before it runs.

These are `list`, `plan`, `prefetch`, `params` and `measure`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from vlpeft.benchmark.cli.printing import (
    print_error,
    print_json,
    print_line,
    print_message,
    print_note,
    print_table,
    print_text,
    terminal_width,
)
from vlpeft.benchmark.core.errors import UserError

if TYPE_CHECKING:
    from vlpeft.benchmark.cells.cell import Plan
    from vlpeft.benchmark.plan.sweep import SweepHandle


def list_names(options: argparse.Namespace) -> int:
    """List what a sweep can name."""
    from vlpeft.benchmark.run.plugins import load_plugins
    from vlpeft.results.tables.fits import select_fitting
    from vlpeft.results.tables.listing import listing, listing_text

    load_plugins(options.plugin)
    rows = listing(options.what)
    if options.fits:
        rows = select_fitting(options.what, rows, options.fits)
    if options.json:
        print_json(rows)
    else:
        print_text(listing_text(rows, terminal_width() or 110).rstrip("\n"))
    return 0


def plan(options: argparse.Namespace) -> int:
    """List the cells of a sweep, explain one of them, estimate their cost, or print commands."""
    _check_plan_options(options)
    if options.explain is not None:
        return _explain(options)
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.check import plan
    from vlpeft.results.tables.listing import plan_rows, plan_table

    if options.root is not None and not options.root.exists() and not options.commands:
        raise UserError(
            f"--root {options.root}: no such folder; leave --root out, or run "
            f"`vlpeft sweep {options.handle.as_typed()}`"
        )
    results = None
    if options.root is not None or options.widen or options.commands:
        results = Store(options.handle.root)
    made = plan(options.handle, need_data=False, results=results)
    if options.widen:
        return _widen(made, options.handle)
    if options.commands:
        return _print_commands(made, options.handle)
    if options.cost:
        return _cost(made, options)
    if options.json:
        print_json(plan_rows(made, options.root))
    else:
        print_table(plan_table(made, options.root))
    return 0


def _widen(made: Plan, sweep: SweepHandle) -> int:
    """Print which values a wider `tune:` would try next."""
    from vlpeft.benchmark.plan.stages import waits
    from vlpeft.results.tuned import widened

    if waits(made):
        raise UserError(f"--widen: the settings are still to be compared; {sweep.launch_command()}")
    lines = list(widened(made))
    for line in lines or ["no number that was chosen is at the edge of what was tried"]:
        print_line(line)
    return 0


def _print_commands(made: Plan, sweep: SweepHandle) -> int:
    """Print a command for each cell that is not done. They may run anywhere, in any order."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.stages import unfinished, waits

    words = sweep.absolute().as_typed()
    for cell in unfinished(made, Store(sweep.root)):
        print_line(f"vlpeft run {words} --cell {cell.id}")
    if waits(made):
        print_note(
            "the best settings of `tune:` are tested after these; plan again for the rest "
            "(the trials of a search are chosen by `vlpeft sweep` alone)"
        )
    return 0


def _check_plan_options(options: argparse.Namespace) -> None:
    """Raise UserError for options of `plan` that do not go together."""
    views = ("explain", "cost", "widen", "commands")
    chosen = [f"--{name}" for name in views if getattr(options, name)]
    if len(chosen) > 1:
        raise UserError(f"{', '.join(chosen)}: choose one of them")
    if options.commands and options.json:
        raise UserError("--commands, --json: commands are lines of text; leave out --json")
    if options.cost:
        return
    if options.batch or options.threads or options.compile or options.device != "auto":
        raise UserError(
            "--batch, --threads, --device, --compile: a plan measures nothing without --cost; "
            "add --cost, or leave them out"
        )


def _cost(made: Plan, options: argparse.Namespace) -> int:
    """Measure a few steps of each kind of cell. Return 1 if one could not be measured."""
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.plan.forecast import forecasts
    from vlpeft.benchmark.run.runtime import Runtime
    from vlpeft.results.tables.steps import forecast_table

    given = {"device": options.device, "threads": options.threads, "compile": options.compile}
    runtime = parse(Runtime, given, "options")
    found = []
    for each in forecasts(made, options.batch, runtime):
        found.append(each)
        result = each.failed or f"{each.step_seconds:.3g} s a step, {each.hours:.3g} hours"
        kind = f"{each.backbone}, {each.method}, {each.task}/{each.dataset}"
        print_message(f"{kind}: {result}")
    if options.json:
        print_json([asdict(each) for each in found])
    else:
        print_table(forecast_table(options.sweep, runtime.torch_device().type, found))
    return int(any(each.failed for each in found))


def _explain(options: argparse.Namespace) -> int:
    """Print every setting of one cell, and where it comes from."""
    from vlpeft.results.tables.explain import explain_rows, explain_table, find

    cell = find(options.handle, options.explain)
    if options.json:
        print_json(explain_rows(cell))
    else:
        print_table(explain_table(cell))
    return 0


def prefetch(options: argparse.Namespace) -> int:
    """Print a line for each thing a sweep needs. Return 2 if something is still missing.

    Why it is missing, and the fix, go to stderr.
    """
    from vlpeft.benchmark.plan.prefetch import prefetch

    print_state = print_line
    if options.json:
        print_state = print_message
    fetch = not options.dry_run
    found = []
    for each in prefetch(options.handle, fetch=fetch, accepted=options.yes):
        found.append(each)
        print_state(f"{each.kind} {each.name}: {each.message}")
    if options.json:
        print_json([asdict(each) for each in found])
    for each in found:
        if each.problem and each.state != "to fetch":
            print_error(each.problem)
    if any(each.problem for each in found):
        return 2
    return 0


def params(options: argparse.Namespace) -> int:
    """Print what each method trains at full size."""
    from vlpeft.results.tables.parameters import parameter_rows, parameter_table

    rows = parameter_rows(options.handle)
    if options.json:
        print_json(rows)
    else:
        print_table(parameter_table(options.handle, rows))
    return 0


def measure(options: argparse.Namespace) -> int:
    """Measure one training step of each method. Return 1 if one could not run."""
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.plan.measure import measure
    from vlpeft.benchmark.run.runtime import Runtime
    from vlpeft.results.tables.steps import step_table

    runtime = parse(Runtime, {"device": options.device, "threads": options.threads}, "options")
    steps = []
    for step in measure(options.handle, options.batch, runtime):
        steps.append(step)
        result = step.failed or f"{step.step_seconds:.1f} s"
        print_message(f"{step.backbone}, {step.method}: {result}")
    if options.json:
        print_json([asdict(step) for step in steps])
    else:
        print_table(step_table(options.sweep, options.batch, steps))
    return int(any(step.failed for step in steps))
