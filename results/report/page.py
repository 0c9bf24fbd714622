"""The report's files: one page a sweep, each a single HTML file that loads nothing.

Several sweeps also get an index.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import count, groupby
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import write_output
from vlpeft.benchmark.plan.tuning import STAGE
from vlpeft.results.papers.compare import published_table
from vlpeft.results.papers.published import load_published, published_names
from vlpeft.results.report import charts
from vlpeft.results.report.breakdowns import block_shares, breakdowns
from vlpeft.results.report.data import ReadOnce, ReportModel, Score, gather
from vlpeft.results.report.duels import Duel, duels, undecided
from vlpeft.results.report.examples import Browser, Series, browsers
from vlpeft.results.report.figures import COLOURS, SHAPES, Figure
from vlpeft.results.report.rendering import environment, read_asset
from vlpeft.results.report.varied import varied_charts
from vlpeft.results.scale import scale_notes
from vlpeft.results.states import State
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import significance
from vlpeft.results.tables.blocks import Table
from vlpeft.results.tables.table import cost_table, score_table

EXAMPLES = 48
FIELDS = (  # of a summary entry, that the page holds for machines
    "backbone",
    "method",
    "task",
    "dataset",
    "metric",
    "mean",
    "std",
    "n",
    "planned",
    "state",
    "flags",
    "trainable",
    "total",
)
T = TypeVar("T")


def write_report(
    sweeps: Sequence[tuple[Plan, Results]],
    out: Path,
    examples: int = EXAMPLES,
    *,
    mixed: bool = False,
) -> list[Path]:
    """Write the pages of launched sweeps. The same records give the same bytes.

    Args:
        sweeps: plans and their results.
        out: the folder to write to.
        examples: how many predictions each page shows.
        mixed: as for `leaderboard`.

    Returns:
        the files, first the one to open.

    Raises:
        UserError: `leaderboard` refuses the records, or `out` cannot be written.
    """
    if len(sweeps) == 1:
        text, _ = _page(*sweeps[0], examples, mixed)
        return [_write(out / "index.html", text)]
    names = _file_names(plan.sweep for plan, _ in sweeps)
    pages = [_page(plan, store, examples, mixed) for plan, store in sweeps]
    models = [model for _, model in pages]
    template = _environment().get_template("index.html.j2")
    index = template.render(pages=list(zip(models, names, strict=True)), **_assets())
    written = [_write(out / "index.html", index)]
    for name, (text, _) in zip(names, pages, strict=True):
        written.append(_write(out / name, text))
    return written


def _file_names(sweeps: Iterable[str]) -> list[str]:
    """Return a file name for each sweep, none of them that of the index.

    They differ even where a file system ignores case.
    """
    taken = {"index.html"}
    names = []
    for sweep in sweeps:
        stem = re.sub(r"[^A-Za-z0-9@._-]", "-", sweep)
        candidates = (f"{stem}-{number}.html" for number in count(2))
        name = f"{stem}.html"
        while name.lower() in taken:
            name = next(candidates)
        taken.add(name.lower())
        names.append(name)
    return names


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # JSON may contain half of a surrogate pair, which UTF-8 cannot encode.
        write_output(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another folder with -o"
        ) from error
    return path


def _page(plan: Plan, results: Results, examples: int, mixed: bool) -> tuple[str, ReportModel]:
    """Return the HTML of a sweep's page, and what it shows."""
    store = ReadOnce(results)
    model = gather(plan, store, mixed=mixed)
    compared: list[Figure] = []
    if plan.at_stage(STAGE).cells:
        compared = varied_charts(gather(plan, store, mixed=mixed, stage=STAGE))
    plan = plan.at_stage("")
    found = browsers(plan, store, model, examples)
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            plan=plan,
            model=model,
            labels=_labels(plan),
            **_tables(plan, store, model, mixed),
            **_charts(model),
            compared=compared,
            breakdowns=list(breakdowns(model)),
            browsers=found,
            duels=_duels(found, model),
            undecided=list(undecided(found, model)),
            backbones=list(dict.fromkeys(score.entry.backbone for score in model.main)),
            places=list(dict.fromkeys(map(_task_place, model.main))),
            data=_data(model, found),
            **_assets(),
        )
    )
    return text, model


def _labels(plan: Plan) -> list[str]:
    """Return what makes cells of the plan small."""
    labels: dict[str, None] = {}
    for planned in plan.cells:
        labels |= dict.fromkeys(scale_notes(planned.cell))
    return list(labels)


def _tables(plan: Plan, store: ReadOnce, model: ReportModel, mixed: bool) -> dict[str, Any]:
    """Return the tables of the page, by the names that the template has for them."""
    tests = significance(model.board, store)
    published = []
    for name in _published_names(plan):
        table = load_published(name)
        published.append(published_table(name, table, plan, store, mixed=mixed))
    return {
        "scores": _scores_first(score_table(model.board, tests)),
        "tests": significance_table(model.board, tests),
        "costs": cost_table(model.board),
        "published": published,
    }


def _charts(model: ReportModel) -> dict[str, Any]:
    """Return the charts of the page, by the names that the template has for them."""
    looks = range(COLOURS * len(SHAPES))
    return {
        "pareto": charts.pareto(model),
        "undrawn": charts.undrawn(model),
        "spread": charts.spread(model),
        "curves": charts.curves(model),
        "varied": varied_charts(model),
        "last_sites": charts.last_sites(model),
        "followed": charts.tracked_charts(model),
        "colours": COLOURS,
        "swatches": [(look % COLOURS, SHAPES[look // COLOURS % len(SHAPES)]) for look in looks],
    }


def _duels(found: Iterable[Browser], model: ReportModel) -> list[Duel]:
    every: list[Duel] = []
    for browser in found:
        every += duels(browser, model)
    return every


def _task_place(score: Score) -> str:
    return f"{score.entry.task}/{score.entry.dataset}"


@cache
def _environment() -> Environment:
    """Return the templates with the filters that they use."""
    made = environment()
    made.filters |= {
        "grouped": _by_place,
        "columns": _columns,
        "shares": block_shares,
        "named": _by_backbone,
        "counted": _counted,
    }
    return made


def _by_place(figures: Iterable[Figure]) -> list[tuple[tuple[str, str], list[Figure]]]:
    """Group neighbouring figures of one backbone and data."""
    runs = groupby(figures, lambda figure: (figure.backbone, figure.data))
    return [(place, list(own)) for place, own in runs]


def _columns(header: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the titles of each column, from top to bottom."""
    return list(zip(*header, strict=True))


def _by_backbone(by: Iterable[int], series: Sequence[Series]) -> list[tuple[str, list[str]]]:
    """Group the methods of neighbouring series of one backbone."""
    runs = groupby((series[i] for i in by), lambda each: each[0])
    return [(backbone, [method for _, method in own]) for backbone, own in runs]


def _counted(words: Iterable[str]) -> list[tuple[str, int]]:
    """Return distinct words with how often each occurs."""
    return list(Counter(words).items())


def _scores_first(table: Table) -> Table:
    """Move the parameters behind the scores, which a phone should show without scrolling."""

    def moved(row: tuple[T, ...]) -> tuple[T, ...]:
        return row[0], *row[3:], *row[1:3]

    blocks = []
    for block in table.blocks:
        header, rows = tuple(map(moved, block.header)), tuple(map(moved, block.rows))
        blocks.append(replace(block, header=header, rows=rows))
    return replace(table, blocks=tuple(blocks))


def _assets() -> dict[str, Any]:
    """Return style sheet and script, which the page holds, and the script's hash.

    The page's security policy has the hash, so that no other script may run in it.
    """
    style = read_asset("charts.css") + read_asset("report.css")
    script = read_asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": style, "script": script, "digest": digest}


def _published_names(plan: Plan) -> list[str]:
    """Return the published tables that the sweep reproduces, at any scale."""
    sweep = plan.sweep.partition("@")[0]
    return [name for name in published_names() if (load_published(name).sweep or name) == sweep]


def _data(model: ReportModel, found: Iterable[Browser]) -> dict[str, Any]:
    """Return what the page holds for machines, and for its own script."""
    return {
        "title": model.board.title,
        "cells": dict(model.states),
        "scores": {
            "columns": [*FIELDS, "values", "train_seconds", "peak_memory_mb"],
            "rows": list(map(_score_row, model.scores)),
        },
        "pairs": list(map(_pairs, found)),
    }


def _score_row(score: Score) -> list[Any]:
    fields = [_plain(getattr(score.entry, name)) for name in FIELDS]
    return [*fields, list(map(_plain, score.values)), score.seconds, score.memory]


def _pairs(browser: Browser) -> dict[str, Any]:
    """Return on how many examples each series is better than, or equal to, each other."""
    series = [list(each) for each in browser.series]
    return {"series": series, "better": browser.better, "equal": browser.equal}


def _plain(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN. The row's flags say why.

    A state becomes its text.
    """
    if isinstance(value, State):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
