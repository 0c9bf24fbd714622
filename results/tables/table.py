"""What every renderer is given: a title, blocks of cell texts, footnotes, and the same content as tidy rows."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.statistics.significance import MISSING, UNTESTED, ColumnPlace, Significance
from vlpeft.results.summaries import SummaryEntry, costs, scores

CLEAR = (
    "above every other method of its column with every seed, and by a paired test over images "
    "(sign flips, seeds averaged, p < 5 % after Holm's correction). A column without: the best could be another."
)
COSTS = {  # what a column is called, and what its values are divided by
    "train_seconds": ("train s", 1.0),
    "eval_seconds": ("eval s", 1.0),
    "gpu_hours": ("GPU h", 1.0),
    "step_ms": ("step ms", 1.0),
    "tokens_per_second": ("tokens/s", 1.0),
    "images_per_second": ("images/s", 1.0),
    "flops_per_step": ("GFLOP a step", 1e9),
    "peak_memory_mb": ("peak MB", 1.0),
    "delta_bytes": ("saved kB", 1e3),
}


@dataclass(frozen=True)
class Text:
    """A cell's text, the footnotes it refers to, its colour on a terminal, and whether it stands out."""

    text: str
    marks: tuple[str, ...] = ()
    style: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Block:
    """One grid. All header rows but the last name groups of columns; `align` has one of "l", "r" a column."""

    title: str
    align: str
    header: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Text, ...], ...]

    def groups(self, depth: int) -> Iterator[tuple[str, int, int]]:
        """(title, first column, column after the last) in header row `depth` - 1: neighbours under equal titles so far."""
        start = 0
        for titles, run in groupby(column[:depth] for column in zip(*self.header, strict=True)):
            stop = start + len(list(run))
            yield titles[-1], start, stop
            start = stop


@dataclass(frozen=True)
class Table:
    """Blocks under one title. `data` is the same content for machines: one flat mapping a row, all with equal keys.

    bold: what it means that a cell stands out, "" where none can.
    remarks: see `vlpeft.results.leaderboard.Leaderboard`.
    """

    title: str
    caption: tuple[str, ...]
    blocks: tuple[Block, ...]
    data: tuple[dict[str, Any], ...]
    footnotes: tuple[tuple[str, str], ...] = ()  # mark, text
    notes: tuple[str, ...] = ()
    bold: str = ""
    remarks: tuple[str, ...] = ()

    def lines(self, bold: str = "Bold") -> tuple[str, ...]:
        """The caption, with what cells that stand out mean after its first line, and the remarks; `bold` is how the format shows them."""
        first, rest = self.caption[:1], self.caption[1:]
        standing_out = (f"{bold}: {self.bold}",) if self.bold else ()
        return (*first, *standing_out, *rest, *self.said)

    @property
    def said(self) -> tuple[str, ...]:
        """The remarks, a line each."""
        return tuple(map(one_line, self.remarks))


@dataclass
class Footnotes:
    """Hands out marks a, b, ..., z, aa, ab, ...; equal texts share one."""

    marks: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """The mark of a text, a new one if the text is new."""
        return self.marks.setdefault(one_line(text), _letters(len(self.marks)))

    def list_notes(self) -> tuple[tuple[str, str], ...]:
        """(mark, text) in the order of first use."""
        return tuple((mark, text) for text, mark in self.marks.items())


def score_table(
    board: Leaderboard, tests: Significance = UNTESTED, *, details: bool = False, digits: int = 1
) -> Table:
    """Means over seeds, one block a backbone; `digits` after the point. The same records give the same table.

    What stands out is what `tests` allow; where a column could not be tested, the caption says why.
    """
    entries = scores(board, details=details)
    seeds = {entry.planned for entry in entries if not entry.state.startswith("skipped")}
    each = len(seeds) > 1

    def show(entry: SummaryEntry) -> str:
        mean = "NaN" if entry.mean is None or math.isnan(entry.mean) else f"{entry.mean:.{digits}f}"
        std = "" if entry.std is None or math.isnan(entry.std) else f" ± {entry.std:.{digits}f}"
        return f"{mean}{std}{f' (n={entry.n})' if each else ''}"

    caption = (f"{_seeds(seeds)}. {percent(entry.metric for entry in entries)}", *_untested(tests))
    table = _table(board, "", caption, entries, show, tests)
    ranked = (
        {
            "rank": tests.rank(_place(entry), entry.method),
            "bold": tests.bold(_place(entry), entry.method),
        }
        for entry in entries
    )
    data = tuple({**row, **more} for row, more in zip(table.data, ranked, strict=True))
    return replace(table, data=data, bold=one_line(CLEAR) if tests.columns else "")


def percent(metrics: Iterable[str]) -> str:
    """The unit of a table's values; CIDEr has no percentages, and is named where the table has it."""
    return (
        "Percent; CIDEr x 100."
        if any(metric.lower().startswith("cider") for metric in metrics)
        else "Percent."
    )


def _place(entry: SummaryEntry) -> ColumnPlace:
    return entry.backbone, entry.task, entry.dataset, entry.metric


def _untested(tests: Significance) -> Iterator[str]:
    """Which columns have nothing bold for want of a test."""
    why: dict[str, list[str]] = {}
    for (backbone, task, dataset, metric), reason in tests.reasons.items():
        if reason != MISSING:  # which the table shows
            why.setdefault(reason, []).append(f"{metric} of {task}/{dataset} on {backbone}")
    for reason, places in why.items():
        yield f"Differences not tested ({reason}): {', '.join(places)}."


def cost_table(board: Leaderboard) -> Table:
    """Measured costs, one block a backbone and dataset. Depends on the machine, hence apart from the scores."""
    caption = (
        "Means over the seeds; of a cell's steps the median time. Work, tokens and images are those of all its ranks.",
    )

    def show(entry: SummaryEntry) -> str:
        value = (entry.mean or 0.0) / COSTS[entry.metric][1]
        return (
            f"{value:,.0f}"
            if value >= 100
            else f"{value:.1f}"
            if value >= 1 or value == 0
            else f"{value:.2g}"
        )

    return _table(board, ": cost", caption, costs(board), show, apart=True)


def one_line(text: str) -> str:
    """Collapse white space and drop control characters, which would break a grid."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _seeds(counts: set[int]) -> str:
    if counts <= {1}:
        return "One seed each, hence no standard deviation"
    return "Mean ± standard deviation (ddof=1)" + (
        f" over n={min(counts)} seeds" if len(counts) == 1 else "; n seeds beside each"
    )


def _table(
    board: Leaderboard,
    suffix: str,
    caption: Sequence[str],
    entries: Sequence[SummaryEntry],
    show: Callable[[SummaryEntry], str],
    tests: Significance = UNTESTED,
    *,
    apart: bool = False,  # a block for each dataset, too
) -> Table:
    footnotes = Footnotes()

    def text(entry: SummaryEntry | None) -> Text:
        made = _text(entry, show, footnotes)
        return (
            replace(made, bold=True)
            if entry is not None and tests.bold(_place(entry), entry.method)
            else made
        )

    grouped: dict[tuple[str, ...], list[SummaryEntry]] = {}
    for entry in entries:
        grouped.setdefault(
            (entry.backbone, entry.task, entry.dataset) if apart else (entry.backbone,), []
        ).append(entry)
    blocks = tuple(_block(backbone, own, text) for (backbone, *_), own in grouped.items())
    caption = (*map(one_line, caption), *dict.fromkeys(map(one_line, _ruled_out(entries))))
    if any(entry.state == "missing" for entry in entries):
        caption = (*caption, "k/n seeds: only k of n seeds are done, so there is no mean yet.")
    notes = tuple(filter(None, map(one_line, board.notes.splitlines())))
    data = tuple(dict(vars(entry)) for entry in entries)
    return Table(
        one_line(board.title) + suffix,
        caption,
        blocks,
        data,
        footnotes.list_notes(),
        notes,
        remarks=board.remarks,
    )


def _block(
    backbone: str, entries: Sequence[SummaryEntry], text: Callable[[SummaryEntry | None], Text]
) -> Block:
    columns = _shown(entries)
    found = {(entry.method, entry.task, entry.dataset, entry.metric): entry for entry in entries}
    rows = []
    for method in dict.fromkeys(entry.method for entry in entries):
        own = [found.get((method, *column)) for column in columns]
        there = [entry for entry in own if entry is not None]
        rows.append((Text(one_line(method)), *_parameters(there), *map(text, own)))
    tasks, datasets, metrics = zip(*columns, strict=True)
    names = tuple(COSTS[metric][0] if metric in COSTS else metric for metric in metrics)
    header = (
        ("", "", "", *tasks),
        ("", "", "", *map(one_line, datasets)),
        ("method", "trainable", "%", *map(one_line, names)),
    )
    return Block(one_line(backbone), "l" + "r" * (len(columns) + 2), header, tuple(rows))


def _shown(entries: Sequence[SummaryEntry]) -> list[tuple[str, str, str]]:
    """Columns in the plan's order, without the tasks that this backbone cannot do with any method (the caption says so)."""
    every = dict.fromkeys((entry.task, entry.dataset, entry.metric) for entry in entries)
    ran = {
        (entry.task, entry.dataset, entry.metric)
        for entry in entries
        if not entry.state.startswith("skipped")
    }
    return [column for column in every if column in ran] or list(every)


def _ruled_out(entries: Sequence[SummaryEntry]) -> list[str]:
    """One line for each (backbone, task) whose cells are all skipped for one reason."""
    groups: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        groups.setdefault((entry.backbone, f"{entry.task}/{entry.dataset}"), set()).add(entry.state)
    alone = {key: min(states) for key, states in groups.items() if len(states) == 1}
    return [
        f"{where[1]} is skipped: {state.partition(': ')[2]}."
        for where, state in alone.items()
        if state.startswith("skipped: ")
    ]


def _parameters(entries: Sequence[SummaryEntry]) -> tuple[Text, Text]:
    if all(e.state.startswith("skipped") for e in entries):
        return Text("–", style="dim"), Text("–", style="dim")
    known = sorted(
        {
            (e.trainable, e.trainable_percent)
            for e in entries
            if e.trainable is not None and e.trainable_percent is not None
        }
    )
    return _range([f"{count:,}" for count, _ in known]), _range(
        [_percent(share) for _, share in known]
    )


def _range(texts: Sequence[str]) -> Text:
    """One text, or lowest–highest where tasks differ (by their heads)."""
    if not texts:
        return Text("?")
    return Text(texts[0] if texts[0] == texts[-1] else f"{texts[0]}–{texts[-1]}")


def _percent(share: float) -> str:
    return "<0.01" if 0 < share < 0.005 else f"{share:.2f}"


def _text(
    entry: SummaryEntry | None, show: Callable[[SummaryEntry], str], footnotes: Footnotes
) -> Text:
    if entry is None:
        return Text("")
    kind, _, reason = entry.state.partition(": ")
    marks = tuple(footnotes.mark(text) for text in (*((reason,) if reason else ()), *entry.flags))
    if kind == "done":
        return Text(show(entry), marks, "bold red" if entry.flags else "")
    texts = {
        "missing": f"{entry.n}/{entry.planned} seeds",
        "failed": "failed",
        "absent": "absent",
        "skipped": "–",
    }
    return Text(texts[kind], marks, {"missing": "yellow", "failed": "bold red"}.get(kind, "dim"))


def _letters(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa: the column names of a spreadsheet."""
    high, low = divmod(number, 26)
    return (_letters(high - 1) if high else "") + string.ascii_lowercase[low]
