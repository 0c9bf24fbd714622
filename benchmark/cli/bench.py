"""`vlpeft bench`: compare time and memory with other implementations and with limits."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlpeft.benchmark.cli.printing import print_message
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import write_output

if TYPE_CHECKING:
    from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
    from vlpeft.results.report.growth import GrowthCurve


def bench(options: argparse.Namespace) -> int:
    """Measure rows, or read kept ones; print them, and keep them if asked to.

    Return 1 if a ratio falls short. Raises UserError last for benches that cannot run here, so
    that the others are measured nonetheless.
    """
    from vlpeft.benchmark.bench import names
    from vlpeft.benchmark.bench._rows import keep, new_file, newest_rows

    chosen = list(dict.fromkeys(options.names))
    if "all" in options.names:
        chosen = names()
    setting, before = _setting(options, chosen), os.getloadavg()
    problems: list[str] = []
    if options.kept:
        rows = newest_rows(options.kept, chosen, setting.device)
    else:
        rows, path = [], new_file(options.keep, setting) if options.keep else None
        for name in chosen:
            rows += _measure(name, setting, problems)
            if path and rows:  # now, so that a later bench that is killed costs no rows
                keep(path, rows, setting, before)
        if path and rows:
            print_message(f"kept in {path}")
    _print(rows, options)
    if options.plot:
        _plot(rows, options.plot)
    if problems:
        raise UserError("; ".join(problems))
    return int(any(row.verdict == "FAIL" for row in rows))


def _print(rows: Sequence[BenchRow], options: argparse.Namespace) -> None:
    """Print rows as JSON, Markdown or text."""
    from vlpeft.benchmark.bench._rows import as_dict, markdown, text
    from vlpeft.benchmark.cli.printing import print_json

    if options.json:
        print_json([as_dict(row) for row in rows])
    elif options.markdown:
        print(markdown(rows), end="")
    else:
        print(text(rows), end="")


def _plot(rows: Sequence[BenchRow], path: Path) -> None:
    """Draw the curves of `growth`. Raises UserError if there are none, or the file is refused."""
    from vlpeft.results.report.growth import draw_growth

    curves = list(_curves(rows))
    if not curves:
        raise UserError(
            "--plot: no curve of `growth` was measured; measure it, or leave --plot out"
        )
    try:
        write_output(path, draw_growth(curves).encode())
    except OSError as error:
        raise UserError(f"--plot {path}: {error.strerror}; choose another file") from error
    print_message(f"drawn in {path}")


def _curves(rows: Sequence[BenchRow]) -> Iterator[GrowthCurve]:
    """Yield the rows that have points."""
    from vlpeft.results.report.growth import GrowthCurve

    for row in rows:
        if row.points:
            name = row.name.partition(",")[0]
            points = list(row.points.items())
            yield GrowthCurve(name, row.unit, row.ratio, row.required, points)


def _setting(options: argparse.Namespace, chosen: Sequence[str]) -> BenchSetting:
    """Return how to measure.

    Raises UserError for options that do not go together, and for folders that cannot be
    written, before time is spent on measuring.
    """
    from vlpeft.benchmark.bench._rows import BenchSetting, check_folder
    from vlpeft.benchmark.run.runtime import Runtime

    if options.quick and (options.keep or options.kept):
        raise UserError(
            "--quick: its numbers mean nothing, and none are kept; "
            "leave out --quick, or --keep and --kept"
        )
    if options.plot and "growth" not in chosen:
        raise UserError(
            "--plot: only `growth` measures curves; add it to the names, or leave --plot out"
        )
    if options.plot and (options.plot.suffix != ".svg" or options.plot.is_dir()):
        raise UserError(f"--plot {options.plot}: name a file that ends in .svg")
    if options.keep:
        check_folder(options.keep)
    if options.plot:
        check_folder(options.plot.parent)
    device = options.device
    # Kept rows of a named device can be shown on a machine that has no such device.
    if not options.kept or device == "auto":
        device = str(Runtime(device=device).torch_device())
    return BenchSetting(device, options.turns, options.quick)


def _measure(name: str, setting: BenchSetting, problems: list[str]) -> Iterator[BenchRow]:
    """Measure a bench, and print each row on stderr at once.

    A bench may need what is not here, such as peft or a compiler, or its sides may differ. This
    is added to `problems`, and the next bench runs.
    """
    from vlpeft.benchmark.bench._rows import run, text

    try:
        for row in run(name, setting):
            shown = row
            if setting.quick:  # such numbers allow no verdict
                shown = replace(row, required=None)
            print_message(text([shown]).splitlines()[1])
            yield shown
    except (UserError, RuntimeError) as error:
        problems.append(f"{name}: {error}")
