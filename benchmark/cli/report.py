"""`vlpeft report`: a page about one sweep, or about all sweeps in a result folder."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cli.printing import print_line
from vlpeft.benchmark.core.errors import UserError


def report(options: argparse.Namespace) -> int:
    """Write the page, and print the paths of its files."""
    from vlpeft.results.report.page import write_report

    # A report makes many small objects without cycles. Searching these for cycles would take a
    # third of the time.
    gc.disable()
    try:
        paths = write_report(
            _results(options), options.out, options.examples, mixed=options.mixed_environments
        )
        for path in paths:
            print_line(str(path))
    finally:
        gc.enable()
    return 0


def _results(options: argparse.Namespace) -> list[Any]:
    """Return the plans and results of a sweep, a result folder, or a file of evidence."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.sweep import launched_plans, sweep_names
    from vlpeft.results.evidence import SUFFIX, open_results, read_evidence

    named = Path(options.sweep)
    is_sweep = options.asked or options.sweep in sweep_names()
    if not is_sweep and named.is_dir():
        plans = launched_plans(named)
        if not plans:
            raise UserError(
                f"{named} holds no launched sweep; give a folder that `vlpeft sweep --root` "
                "has filled, or a sweep's name"
            )
        return [(plan, Store(named)) for plan in plans]
    if not is_sweep and named.suffix == SUFFIX:
        evidence = read_evidence(named)
        return [(evidence.plan, evidence)]
    return [open_results(options.handle)]
