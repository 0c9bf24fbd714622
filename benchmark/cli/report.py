"""`vlpeft report`: of one sweep, or of all that were launched in a result folder."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import UserError


def report(options: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from vlpeft.results.report.page import write_report

    gc.disable()  # many small objects and no cycles among them: to look for some takes a third of the time
    try:
        for path in write_report(
            _sweeps(options), options.out, options.examples, mixed=options.mixed_environments
        ):
            print(path)
    finally:
        gc.enable()
    return 0


def _sweeps(options: argparse.Namespace) -> list[Any]:
    """Plans and results of what was named: a result folder, a file of evidence, or a sweep."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.sweep import launched_plans, sweep_names
    from vlpeft.results.evidence import SUFFIX, open_results, read_evidence

    named = Path(options.sweep)
    if options.asked or options.sweep in sweep_names():
        return [open_results(options.sweep, options.root, options.scale)]
    if named.is_dir():
        if plans := launched_plans(named):
            return [(plan, Store(named)) for plan in plans]
        raise UserError(
            f"{named} holds no launched sweep; give a folder that `vlpeft sweep --root` has filled, or a sweep's name"
        )
    if named.suffix == SUFFIX:
        evidence = read_evidence(named)
        return [(evidence.plan, evidence)]
    return [open_results(options.sweep, options.root, options.scale)]
