"""`vlpeft bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlpeft.benchmark.core.errors import UserError

if TYPE_CHECKING:
    from vlpeft.benchmark.bench._rows import BenchRow, Setting


def bench(options: argparse.Namespace) -> int:
    """Measure, show and keep rows, or show what was kept. What cannot be measured here is said behind all that can."""
    from vlpeft.benchmark.bench import names
    from vlpeft.benchmark.bench._plot import plot
    from vlpeft.benchmark.bench._rows import as_dict, keep, markdown, newest_rows, text

    chosen = names() if "all" in options.names else list(dict.fromkeys(options.names))
    setting, before, cannot = _setting(options, chosen), os.getloadavg(), list[str]()
    rows = (
        newest_rows(options.kept, chosen, setting.device)
        if options.kept
        else [*_measured(chosen, setting, cannot)]
    )
    print(
        json.dumps([*map(as_dict, rows)], indent=1) + "\n"
        if options.json
        else (markdown if options.markdown else text)(rows),
        end="",
    )
    if options.plot:
        if not any(row.points for row in rows):
            raise UserError(
                "--plot: there is no curve of `growth`; measure it, or leave --plot out"
            )
        try:
            options.plot.write_text(plot(rows), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--plot {options.plot}: {error.strerror}; choose another file"
            ) from error
        print(f"drawn in {options.plot}", file=sys.stderr)
    if options.keep and rows:
        print(f"kept in {keep(options.keep, rows, setting, before)}", file=sys.stderr)
    if cannot:
        raise UserError("; ".join(cannot))
    return int(any(row.verdict == "FAIL" for row in rows))


def _setting(options: argparse.Namespace, chosen: Sequence[str]) -> Setting:
    """How to measure. Raises UserError for options that do not go together, and for folders that cannot be written."""
    from vlpeft.benchmark.bench._rows import Setting, check_folder
    from vlpeft.benchmark.run.runtime import Runtime

    if options.quick and (options.keep or options.kept):
        raise UserError(
            "--quick: its numbers mean nothing, and none are kept; leave out --quick, or --keep and --kept"
        )
    if options.plot and "growth" not in chosen:
        raise UserError(
            "--plot: only `growth` measures curves; add it to the names, or leave --plot out"
        )
    if options.plot and (options.plot.suffix != ".svg" or options.plot.is_dir()):
        raise UserError(f"--plot {options.plot}: name a file that ends in .svg")
    for folder in (options.keep, options.plot and options.plot.parent):
        if folder:
            check_folder(folder)
    named = (
        options.kept and options.device != "auto"
    )  # what was kept is shown where there is no such device, too
    return Setting(
        options.device if named else str(Runtime(device=options.device).torch_device()),
        options.turns,
        options.quick,
    )


def _measured(chosen: Sequence[str], setting: Setting, cannot: list[str]) -> Iterator[BenchRow]:
    """Rows as they are measured; a bench that needs what is not here (peft, a compiler) does not keep the others from running."""
    from vlpeft.benchmark.bench._rows import run, text

    for name in chosen:
        try:
            for row in run(name, setting):
                shown = (
                    replace(row, required=None) if setting.quick else row
                )  # such numbers are no ground for a verdict
                print(text([shown]).splitlines()[1], file=sys.stderr, flush=True)
                yield shown
        except UserError as error:
            cannot.append(f"{name}: {error}")
