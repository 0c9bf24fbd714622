"""The report's files: one page a sweep, each a single HTML file that loads nothing; of several sweeps, an index beside them."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import count, groupby
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.leaderboard import JOINT
from vlpeft.results.papers.compare import published_table
from vlpeft.results.papers.published import load_published, published_names
from vlpeft.results.report import charts
from vlpeft.results.report.data import Model, ReadOnce, Score, gather
from vlpeft.results.report.examples import Browser, Series, browsers, count_words
from vlpeft.results.report.figures import COLOURS, SHAPES, Figure
from vlpeft.results.scale import scale_notes
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import significance
from vlpeft.results.tables.table import Block, Table, cost_table, score_table

EXAMPLES = 48
T = TypeVar("T")


def write_report(
    sweeps: Sequence[tuple[Plan, Store]],
    out: Path,
    examples: int = EXAMPLES,
    *,
    mixed: bool = False,
) -> list[Path]:
    """Write the pages of launched sweeps; the one to open comes first. The same records give the same bytes.

    `examples`: predictions shown on each page; `mixed`: as for `leaderboard`.
    Raises UserError for what `leaderboard` refuses and where `out` cannot be written.
    """
    if len(sweeps) == 1:
        return [_write(out / "index.html", _page(*sweeps[0], examples, mixed)[0])]
    names = _names([plan.sweep for plan, _ in sweeps])
    made = [
        (name, *_page(plan, store, examples, mixed))
        for name, (plan, store) in zip(names, sweeps, strict=True)
    ]
    index = (
        _environment()
        .get_template("index.html.j2")
        .render(pages=[(model, name) for name, _, model in made], **_assets())
    )
    return [
        _write(out / "index.html", index),
        *(_write(out / name, text) for name, text, _ in made),
    ]


def _names(sweeps: Iterable[str]) -> list[str]:
    """A file for each sweep, no two alike even where case is not told apart, and none the index."""
    found = ["index.html"]
    for sweep in sweeps:
        stem = re.sub(r"[^A-Za-z0-9@._-]", "-", sweep)
        numbered = (f"{stem}{f'-{number}' if number > 1 else ''}.html" for number in count(1))
        taken = {name.lower() for name in found}
        found.append(next(name for name in numbered if name.lower() not in taken))
    return found[1:]


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )  # JSON may hold halves of characters, which UTF-8 has not
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another folder with -o"
        ) from error
    return path


def _page(plan: Plan, results: Store, examples: int, mixed: bool) -> tuple[str, Model]:
    store = ReadOnce.of(results)
    model = gather(plan, store, mixed=mixed)
    tests = significance(model.board, store)
    found = browsers(plan, store, model, examples)
    places = [
        (score.entry.backbone, f"{score.entry.task}/{score.entry.dataset}") for score in model.main
    ]
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            plan=plan,
            model=model,
            labels=list(
                dict.fromkeys(label for cell in plan.cells for label in scale_notes(cell.cell))
            ),
            scores=_scores_first(score_table(model.board, tests)),
            tests=significance_table(model.board, tests),
            costs=cost_table(model.board),
            published=[
                published_table(name, load_published(name), plan, store, mixed=mixed)
                for name in _published_names(plan)
            ],
            pareto=charts.pareto(model),
            spread=charts.spread(model),
            curves=charts.curves(model),
            last_sites=charts.last_sites(model),
            followed=charts.tracked_charts(model),
            breakdowns=list(_breakdowns(model)),
            browsers=found,
            duels=[duel for browser in found for duel in _duels(browser, model)],
            undecided=[line for browser in found for line in _undecided(browser, model)],
            backbones=list(dict.fromkeys(backbone for backbone, _ in places)),
            places=list(dict.fromkeys(place for _, place in places)),
            colours=COLOURS,
            swatches=[
                (number % COLOURS, SHAPES[number // COLOURS % len(SHAPES)])
                for number in range(COLOURS * len(SHAPES))
            ],
            data=_data(model, found),
            **_assets(),
        )
    )
    return text, model


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("vlpeft.results.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {
        "grouped": _by_place,
        "columns": _columns,
        "shares": _shares,
        "named": _named,
        "counted": lambda words: list(Counter(words).items()),
    }
    return made


def _by_place(figures: Iterable[Figure]) -> list[tuple[tuple[str, str], list[Figure]]]:
    return [
        (place, list(own))
        for place, own in groupby(figures, lambda each: (each.backbone, each.data))
    ]


def _columns(header: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*header, strict=True))


def _scores_first(table: Table) -> Table:
    """The parameters behind the scores, which a phone should show without scrolling."""

    def moved(row: tuple[T, ...]) -> tuple[T, ...]:
        return row[0], *row[3:], *row[1:3]

    blocks = (
        replace(block, header=tuple(map(moved, block.header)), rows=tuple(map(moved, block.rows)))
        for block in table.blocks
    )
    return replace(table, blocks=tuple(blocks))


def _shares(block: Block) -> list[tuple[float | None, ...]]:
    """Of each cell of a score table its place between the lowest and the highest of its column, 0 to 1; None for what is no score."""
    scores = range(1, len(block.align) - 2)
    numbers = [
        [
            _leading(cell.text) if i in scores and not cell.marks else None
            for i, cell in enumerate(row)
        ]
        for row in block.rows
    ]
    return list(zip(*(_spread(column) for column in zip(*numbers, strict=True)), strict=True))


def _leading(text: str) -> float | None:
    found = re.match(r"-?\d+(\.\d+)?(?![\d/])", text)
    return float(found[0]) if found else None


def _spread(values: Sequence[float | None]) -> list[float | None]:
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return [
        None if value is None or high == low else round((value - low) / (high - low), 3)
        for value in values
    ]


def _named(by: Iterable[int], series: Sequence[Series]) -> list[tuple[str, list[str]]]:
    """Methods by backbone."""
    return [
        (backbone, [method for _, method in own])
        for backbone, own in groupby((series[i] for i in by), lambda each: each[0])
    ]


def _assets() -> dict[str, Any]:
    """Style sheet and script, which the page holds, and the script's hash: no other script may run in the page."""
    folder = files("vlpeft.results.report") / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "digest": digest}


def _published_names(plan: Plan) -> list[str]:
    """Published tables that the sweep reproduces, at whatever scale."""
    sweep = plan.sweep.partition("@")[0]
    return [name for name in published_names() if (load_published(name).sweep or name) == sweep]


@dataclass(frozen=True)
class Heat:
    """A number of a breakdown: text, and its place between the lowest and the highest of its column, 0 to 1."""

    text: str
    share: float | None


@dataclass(frozen=True)
class Breakdown:
    """One metric by question type: a row a method."""

    backbone: str
    data: str
    metric: str
    seeds: str
    kinds: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def _breakdowns(model: Model) -> Iterator[Breakdown]:
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in model.scores:
        metric, slash, _ = score.entry.metric.partition("/")
        if slash:
            found.setdefault(
                (score.entry.backbone, f"{score.entry.task}/{score.entry.dataset}", metric), []
            ).append(score)
    for (backbone, data, metric), own in found.items():
        kinds = tuple(dict.fromkeys(score.entry.metric.partition("/")[2] for score in own))
        by = {(score.entry.method, score.entry.metric.partition("/")[2]): score for score in own}
        columns = [
            _heats(
                [
                    by.get((method, kind))
                    for method in dict.fromkeys(score.entry.method for score in own)
                ]
            )
            for kind in kinds
        ]
        methods = dict.fromkeys(score.entry.method for score in own)
        counts = sorted({score.entry.n for score in own if score.entry.mean is not None})
        seeds = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1])))) if counts else "0"
        yield Breakdown(
            backbone,
            data,
            metric,
            seeds,
            kinds,
            tuple(zip(methods, zip(*columns, strict=True), strict=True)),
        )


def _heats(scores: Sequence[Score | None]) -> list[Heat]:
    return [
        Heat(_mean(score), share)
        for score, share in zip(
            scores,
            _spread([score.entry.mean if score is not None else None for score in scores]),
            strict=True,
        )
    ]


def _mean(score: Score | None) -> str:
    if score is None or score.entry.mean is None:
        return "" if score is None else score.entry.state.partition(": ")[0]
    std = "" if score.entry.std is None else f" ± {score.entry.std:.1f}"
    return f"{score.entry.mean:.1f}{std}"


@dataclass(frozen=True)
class Duel:
    """The best method of a backbone against the others, on the same examples, those of one seed."""

    backbone: str
    data: str
    metric: str
    seeds: str
    compared: str
    winner: str
    mean: float
    rows: tuple[
        tuple[str, float, int, int, int], ...
    ]  # method, mean, better than the winner on, worse on, equal on


def _duels(browser: Browser, model: Model) -> Iterator[Duel]:
    """None on a backbone where a planned method has no score: it could be the best."""
    for backbone in dict.fromkeys(backbone for backbone, _ in browser.series):
        if _unscored(browser, model, backbone):
            continue
        own = [
            (i, mean)
            for i, mean in enumerate(browser.means)
            if browser.series[i][0] == backbone and mean is not None
        ]
        if len(own) < 2:
            continue
        best, top = max(own, key=lambda each: (each[1], -each[0]))
        others = sorted(
            (each for each in own if each[0] != best), key=lambda each: (-each[1], each[0])
        )
        rows = tuple(
            (
                browser.series[i][1],
                mean,
                browser.better[i][best],
                browser.better[best][i],
                browser.equal[i][best],
            )
            for i, mean in others
        )
        data = f"{browser.task}/{browser.dataset}"
        seeds = browser.answered_by(
            [i for i, (at, _) in enumerate(browser.series) if at == backbone]
        )
        yield Duel(
            backbone,
            data,
            browser.metric,
            seeds,
            count_words(browser.equal[best][best]),
            browser.series[best][1],
            top,
            rows,
        )


def _undecided(browser: Browser, model: Model) -> Iterator[str]:
    for backbone in dict.fromkeys(backbone for backbone, _ in browser.series):
        if lacking := _unscored(browser, model, backbone):
            yield f"No best method on {backbone}, {browser.task}/{browser.dataset}, without {', '.join(lacking)}."


def _unscored(browser: Browser, model: Model, backbone: str) -> list[str]:
    """Planned methods of which a seed failed, is missing or has no value, with the state."""
    found = []
    for entry in (score.entry for score in model.main):
        place = entry.backbone, entry.task, entry.dataset.partition(JOINT)[0], entry.metric
        state = entry.state.partition(": ")[0]
        if place == (backbone, browser.task, browser.dataset, browser.metric) and state not in (
            "done",
            "skipped",
        ):
            found.append(f"{entry.method} ({state})")
    return found


def _data(model: Model, found: Iterable[Browser]) -> dict[str, Any]:
    """What the page holds for machines, and for its own script."""
    rows = [
        [
            *(_plain(getattr(score.entry, name)) for name in FIELDS),
            list(map(_plain, score.values)),
            score.seconds,
            score.memory,
        ]
        for score in model.scores
    ]
    scores = {"columns": [*FIELDS, "values", "train_seconds", "peak_memory_mb"], "rows": rows}
    pairs = [
        {
            "series": [list(series) for series in browser.series],
            "better": browser.better,
            "equal": browser.equal,
        }
        for browser in found
    ]
    return {
        "title": model.board.title,
        "cells": dict(model.states),
        "scores": scores,
        "pairs": pairs,
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN: null, and the row's flags say why."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


FIELDS = (
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
