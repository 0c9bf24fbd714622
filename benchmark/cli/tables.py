"""The commands that read results: `table`, `diff`, `keep`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import UserError


def table(options: argparse.Namespace) -> int:
    from vlpeft.results.papers.published import published_names
    from vlpeft.results.tables.render import render

    _place(options)
    if (options.rows or options.columns) and (
        options.costs or options.details or options.significance or options.tidy
    ):
        raise UserError(
            "--rows and --columns arrange the scores; leave out --costs, --details, --significance and --tidy"
        )
    if options.tidy:
        return _tidy(options)
    if options.format == "parquet":
        raise UserError("--format parquet: goes with --tidy, the table of single cells")
    other = (
        options.costs or options.details or options.significance or options.rows or options.columns
    )
    made = (
        _board(options) if other or options.sweep not in published_names() else _published(options)
    )
    form = {"md": "markdown"}.get(options.format, options.format)
    if form == "csv":
        _note(made.said)
    _write(options, render(made, form, colour=options.out is None and sys.stdout.isatty()).encode())
    return 0


def _note(remarks: Iterable[str]) -> None:
    """Say apart from the table what its format has no caption for."""
    for line in remarks:
        print(f"vlpeft: {line}", file=sys.stderr)


def _place(options: argparse.Namespace) -> None:
    """With --measured, results are read from the shipped evidence."""
    from vlpeft.results.evidence import find_shipped_evidence
    from vlpeft.results.papers.published import sweep_name_of

    if options.measured:
        options.root, options.asked = (
            find_shipped_evidence(sweep_name_of(options.sweep), options.scale),
            True,
        )


def _write(options: argparse.Namespace, content: bytes) -> None:
    if options.out is None:
        sys.stdout.write(content.decode())
        return
    try:
        options.out.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"-o {options.out}: {error.strerror}; name a file in a folder that you may write to"
        ) from error


def _tidy(options: argparse.Namespace) -> int:
    from vlpeft.results.evidence import open_results
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.tables.table import one_line
    from vlpeft.results.tables.tidy import FORMS, tidy

    form = "csv" if options.format == "text" else options.format
    if form not in FORMS:
        raise UserError(
            f"--tidy --format {form}: the table of single cells is for programs; choose {', '.join(FORMS)}"
        )
    if form == "parquet" and options.out is None:
        raise UserError("--format parquet: not text; name a file by -o")
    board = leaderboard(
        *open_results(options.sweep, options.root, options.scale), mixed=options.mixed_environments
    )
    _note(map(one_line, board.remarks))
    _write(options, tidy(board.frame, form))
    return 0


def _published(options: argparse.Namespace) -> Any:
    """A paper's table beside what the sweep's cells have measured, if it was launched."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.sweep import plan_file, sweep_names
    from vlpeft.results.evidence import open_results
    from vlpeft.results.papers.compare import published_table
    from vlpeft.results.papers.published import load_published, sweep_name_of

    sweep = sweep_name_of(options.sweep)
    asked = options.asked and sweep in sweep_names()  # results that were asked for must be there
    launched = asked or plan_file(options.root, sweep, options.scale).exists()
    plan, store = (
        open_results(sweep, options.root, options.scale)
        if launched
        else (None, Store(options.root))
    )
    table = load_published(options.sweep)
    return published_table(options.sweep, table, plan, store, mixed=options.mixed_environments)


def _board(options: argparse.Namespace) -> Any:
    from vlpeft.results.evidence import open_results
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.statistics.comparisons import significance_table
    from vlpeft.results.statistics.significance import significance
    from vlpeft.results.tables.pivot import pivot_table, sides
    from vlpeft.results.tables.table import cost_table, score_table

    plan, store = open_results(options.sweep, options.root, options.scale)
    board = leaderboard(plan, store, mixed=options.mixed_environments)
    if options.rows or options.columns:
        return pivot_table(
            board, sides(options.rows or "method"), sides(options.columns or "task,dataset")
        )
    if options.costs:
        return cost_table(board)
    tests = significance(board, store)
    return (
        significance_table(board, tests)
        if options.significance
        else score_table(board, tests, details=options.details)
    )


def diff(options: argparse.Namespace) -> int:
    """0 where results are equal, 1 where they differ, as diff(1) does."""
    from dataclasses import asdict

    from vlpeft.benchmark.cli.cells import print_text
    from vlpeft.results.difference import diff, diff_table

    found = diff(options.a, options.b, options.name or "", options.scale)
    if options.json:
        versions = [asdict(each) for each in found.versions]
        print(
            json.dumps(
                {"versions": versions, "equal": found.equal, **asdict(found)},
                indent=1,
                ensure_ascii=False,
            )
        )
    else:
        print_text(diff_table(options.a, options.b, found))
    return 0 if found.equal else 1


def keep(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.plan.sweep import as_typed
    from vlpeft.results.evidence import MEASURED, keep

    out: Path = options.out or MEASURED
    path = keep(options.sweep, options.root, out, options.scale, mixed=options.mixed_environments)
    print(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB); read it with `vlpeft table {as_typed(options.sweep, path, options.scale)}`"
    )
    return 0
