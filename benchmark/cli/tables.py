"""The commands that read results: `table`, `seeds`, `diff` and `keep`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from vlpeft.benchmark.cli.printing import (
    print_json,
    print_line,
    print_note,
    print_table,
    terminal_width,
)
from vlpeft.benchmark.core.errors import UserError


def table(options: argparse.Namespace) -> int:
    """Print or write the scores of a sweep, or a published table next to them."""
    from vlpeft.results.papers.published import published_names
    from vlpeft.results.tables.render import render

    _open_measured(options)
    content = options.costs or options.details or options.significance
    arranged = options.rows or options.columns
    if arranged and (content or options.tidy):
        raise UserError(
            "--rows and --columns arrange the scores; "
            "leave out --costs, --details, --significance and --tidy"
        )
    if options.tidy:
        return _tidy(options)
    if options.format == "parquet":
        raise UserError("--format parquet: only with --tidy, the table of single cells")
    if options.published and (content or arranged):
        raise UserError("--published is a table of its own; leave out what arranges the scores")
    if options.published:
        made = _own_published(options)
    elif content or arranged or options.sweep not in published_names():
        made = _board(options)
    else:
        made = _published(options)
    form = options.format
    if form == "md":
        form = "markdown"
    if form == "csv":
        _print_notes(made.remark_lines)
    width = None
    if options.out is None:
        width = terminal_width()
    shown = render(made, form, colour=width is not None, width=width)
    _write(options, shown.encode(errors="backslashreplace"))
    return 0


def _print_notes(remarks: Iterable[str]) -> None:
    """Print the caption of a table on stderr, if its format has none."""
    for line in remarks:
        print_note(line)


def _open_measured(options: argparse.Namespace) -> None:
    """With --measured, set the root to the evidence that ships with vlpeft."""
    from vlpeft.results.evidence import find_shipped_evidence
    from vlpeft.results.papers.published import sweep_name_of

    if options.measured:
        sweep = replace(options.handle, named=sweep_name_of(options.sweep))
        options.root = find_shipped_evidence(sweep)
        options.handle = replace(options.handle, root=options.root)
        options.asked = True


def _write(options: argparse.Namespace, content: bytes) -> None:
    """Write to the file of `-o`, or to stdout."""
    if options.out is None:
        sys.stdout.write(content.decode())
        return
    from vlpeft.benchmark.core.files import write_output

    try:
        write_output(options.out, content)
    except OSError as error:
        raise UserError(
            f"-o {options.out}: {error.strerror}; name a file in a folder that you may write to"
        ) from error


def _tidy(options: argparse.Namespace) -> int:
    """Write one row for each cell and metric."""
    from vlpeft.results.evidence import open_results
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.tables.blocks import one_line
    from vlpeft.results.tables.tidy import FORMS, add_settings, tidy

    form = options.format
    if form == "text":  # the default, which has no tidy form
        form = "csv"
    if form not in FORMS:
        raise UserError(
            f"--tidy --format {form}: the table of single cells is for programs; "
            f"choose {', '.join(FORMS)}"
        )
    if form == "parquet" and options.out is None:
        raise UserError("--format parquet: a binary format; name a file with -o")
    plan, store = open_results(options.handle)
    board = leaderboard(plan, store, mixed=options.mixed_environments, stage=_stage(options, plan))
    _print_notes(map(one_line, board.remarks))
    _write(options, tidy(add_settings(board.frame, plan), form))
    return 0


def _published(options: argparse.Namespace) -> Any:
    """Return a paper's table, next to what the sweep's cells have measured if it was launched."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.plan_files import plan_file
    from vlpeft.benchmark.plan.sweep import SweepHandle
    from vlpeft.benchmark.plan.sweep_files import sweep_names
    from vlpeft.results.evidence import open_results
    from vlpeft.results.papers.compare import published_table
    from vlpeft.results.papers.published import load_published, sweep_name_of

    sweep = sweep_name_of(options.sweep)
    asked = options.asked and sweep in sweep_names()  # then results must exist
    handle = options.handle
    if isinstance(handle, SweepHandle):
        handle = replace(handle, named=sweep)
    plan: Any = None
    store: Any = Store(options.root)
    if asked or plan_file(options.root, sweep, options.scale).exists():
        plan, store = open_results(handle)
    table = load_published(options.sweep)
    return published_table(options.sweep, table, plan, store, mixed=options.mixed_environments)


def _own_published(options: argparse.Namespace) -> Any:
    """Return a table of published numbers of the user next to the sweep's measured ones.

    Raises UserError if a number is linked to a cell that the sweep does not have.
    """
    from vlpeft.results.evidence import open_results
    from vlpeft.results.papers.compare import published_table
    from vlpeft.results.papers.links import link_problems, places
    from vlpeft.results.papers.published import read_published

    path = options.published
    table = read_published(path)
    plan, store = open_results(options.handle)
    problems = link_problems(table, places(plan.at_stage("").cells))
    if problems:
        more = f" ({len(problems)} such problems)" if len(problems) > 1 else ""
        raise UserError(f"{path}: {problems[0]}{more}")
    return published_table(path.stem, table, plan, store, mixed=options.mixed_environments)


def _board(options: argparse.Namespace) -> Any:
    """Return the table of a sweep's scores or costs."""
    from vlpeft.results.evidence import open_results
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.statistics.comparisons import significance_table
    from vlpeft.results.statistics.significance import significance
    from vlpeft.results.tables.pivot import pivot_table, sides
    from vlpeft.results.tables.table import cost_table, score_table

    plan, store = open_results(options.handle)
    board = leaderboard(plan, store, mixed=options.mixed_environments, stage=_stage(options, plan))
    if options.rows or options.columns:
        rows = sides(options.rows or "method", board)
        return pivot_table(board, rows, sides(options.columns or "task,dataset", board))
    if options.costs:
        return cost_table(board)
    tests = significance(board, store)
    if options.significance:
        return significance_table(board, tests)
    return score_table(board, tests, details=options.details)


def seeds(options: argparse.Namespace) -> int:
    """Print how many seeds each comparison needs."""
    from vlpeft.results.evidence import open_results
    from vlpeft.results.leaderboard import leaderboard
    from vlpeft.results.statistics.seeds import seeds_table
    from vlpeft.results.statistics.significance import significance

    _open_measured(options)
    plan, store = open_results(options.handle)
    board = leaderboard(plan, store, mixed=options.mixed_environments)
    table = seeds_table(board, significance(board, store), options.detect)
    if options.json:
        print_json(list(table.data))
    else:
        print_table(table)
    return 0


def _stage(options: argparse.Namespace, plan: Any) -> str:
    """Return which cells of a plan a table shows: "tune" with --tuning, otherwise ""."""
    from vlpeft.benchmark.plan.tuning import STAGE

    if not options.tuning:
        return ""
    if not plan.at_stage(STAGE).cells:
        raise UserError(f"--tuning: the sweep '{plan.sweep}' has no `tune:`; leave the option out")
    return STAGE


def diff(options: argparse.Namespace) -> int:
    """Compare two sets of results. Return 0 if they are equal and 1 if not, as diff(1) does."""
    from vlpeft.results.difference import diff, diff_table

    found = diff(options.a, options.b, options.name or "", options.scale)
    if options.json:
        versions = [asdict(each) for each in found.versions]
        print_json({"versions": versions, "equal": found.equal, **asdict(found)})
    else:
        print_table(diff_table(options.a, options.b, found))
    return int(not found.equal)


def keep(options: argparse.Namespace) -> int:
    """Write a sweep's results into one file of evidence."""
    from vlpeft.results.evidence import keep

    path = keep(options.handle, options.out, mixed=options.mixed_environments)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    print_line(f"{path} ({size}); read it with `vlpeft table {shlex.quote(str(path))}`")
    return 0
