"""`vlpeft report`: a page about one sweep, or about all sweeps in a result folder."""

from __future__ import annotations

import argparse
import gc
from typing import Any

from vlpeft.benchmark.cli.printing import print_line


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
    """Return the plans and results of a sweep, of a result folder, or of a file of evidence."""
    from vlpeft.benchmark.plan.launched import launched_sweeps
    from vlpeft.results.evidence import open_results

    if options.handle is None:
        return [open_results(each) for each in launched_sweeps(options.place)]
    return [open_results(options.handle)]
