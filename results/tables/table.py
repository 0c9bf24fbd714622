"""The tables of scores and of costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.states import StateKind
from vlpeft.results.statistics.significance import UNTESTED, ColumnPlace, Significance
from vlpeft.results.summaries import SummaryEntry, costs, scores
from vlpeft.results.tables.blocks import Block, Footnotes, Table, Text, one_line
from vlpeft.results.tables.captions import (
    bold_sentence,
    mean_text,
    percent,
    range_text,
    ruled_out_sentences,
    seeds_sentence,
    share_text,
    short_value,
    untested_sentences,
)

PARTIAL = "k/n seeds: only k of n seeds are done, so there is no mean yet."
COSTS = {  # the title of a column, and the divisor of its values
    "train_seconds": ("train s", 1.0),
    "eval_seconds": ("eval s", 1.0),
    "gpu_hours": ("GPU h", 1.0),
    "step_ms": ("step ms", 1.0),
    "tokens_per_second": ("tokens/s", 1.0),
    "images_per_second": ("images/s", 1.0),
    "flops_per_step": ("GFLOP per step", 1e9),
    "peak_memory_mb": ("peak MB", 1.0),
    "delta_bytes": ("saved kB", 1e3),
}
STATE_STYLES: dict[StateKind, str] = {"missing": "yellow", "failed": "red"}


def score_table(
    board: Leaderboard, tests: Significance = UNTESTED, *, details: bool = False, digits: int = 1
) -> Table:
    """Return the means over seeds, one block per backbone.

    Args:
        board: the results.
        tests: they decide what is bold; the caption says which columns could not be tested.
        details: include the parts of metrics by question type.
        digits: digits after the point.

    The same records give the same table.
    """
    entries = scores(board, details=details)
    seeds = {entry.planned for entry in entries if not entry.state.is_skipped}

    def show(entry: SummaryEntry) -> str:
        text = mean_text(entry, digits)
        if len(seeds) > 1:
            return f"{text} (n={entry.n})"
        return text

    unit = percent(entry.metric for entry in entries)
    caption = (f"{seeds_sentence(seeds)}. {unit}", *untested_sentences(tests))
    table = _table(board, "", caption, entries, show, tests)
    data = []
    for row, entry in zip(table.data, entries, strict=True):
        place, method = _place(entry), entry.method
        data.append({**row, "rank": tests.rank(place, method), "bold": tests.bold(place, method)})
    return replace(table, data=tuple(data), bold=one_line(bold_sentence(tests)))


def cost_table(board: Leaderboard) -> Table:
    """Return the measured costs, one block per backbone and dataset.

    Costs depend on the machine, so they are a table apart from the scores. A block in which nothing
    has run is left out.
    """
    caption = (
        "Means over the seeds; the time of a step is the median within a cell. "
        "Work, tokens and images count all ranks of a cell.",
        *filter(None, [board.search]),
    )

    def show(entry: SummaryEntry) -> str:
        return short_value((entry.mean or 0.0) / COSTS[entry.metric][1])

    every = costs(board)
    ran = {_cost_block(entry) for entry in every if entry.state.is_done}
    entries = [entry for entry in every if _cost_block(entry) in ran]
    return _table(board, ": cost", caption, entries, show, by_dataset=True)


def _cost_block(entry: SummaryEntry) -> tuple[str, ...]:
    return entry.backbone, entry.task, entry.dataset


def _place(entry: SummaryEntry) -> ColumnPlace:
    return entry.backbone, entry.task, entry.dataset, entry.metric


def _table(
    board: Leaderboard,
    suffix: str,
    caption: Sequence[str],
    entries: Sequence[SummaryEntry],
    show: Callable[[SummaryEntry], str],
    tests: Significance = UNTESTED,
    *,
    by_dataset: bool = False,
) -> Table:
    """Arrange entries into blocks: one a backbone, or with `by_dataset` one a dataset too."""
    footnotes = Footnotes()

    def text(entry: SummaryEntry | None) -> Text:
        if entry is None:
            return Text("")
        cell = _text(entry, show, footnotes)
        return replace(cell, bold=tests.bold(_place(entry), entry.method))

    grouped: dict[tuple[str, ...], list[SummaryEntry]] = {}
    for entry in entries:
        key: tuple[str, ...] = (entry.backbone,)
        if by_dataset:
            key = _cost_block(entry)
        grouped.setdefault(key, []).append(entry)
    blocks = tuple(_block(backbone, own, text) for (backbone, *_), own in grouped.items())
    lines = [*map(one_line, caption)]
    lines += dict.fromkeys(map(one_line, ruled_out_sentences(entries)))
    if any(entry.state.kind == "missing" for entry in entries):
        lines.append(PARTIAL)
    notes = tuple(filter(None, map(one_line, board.notes.splitlines())))
    data = tuple({**vars(entry), "state": str(entry.state)} for entry in entries)
    return Table(
        one_line(board.title) + suffix,
        tuple(lines),
        blocks,
        data,
        footnotes.list_notes(),
        notes,
        remarks=board.remarks,
    )


def _block(
    backbone: str, entries: Sequence[SummaryEntry], text: Callable[[SummaryEntry | None], Text]
) -> Block:
    """Return the grid of one backbone: a row a method."""
    columns = _columns(entries)
    found = {(entry.method, entry.task, entry.dataset, entry.metric): entry for entry in entries}
    rows = []
    for method in dict.fromkeys(entry.method for entry in entries):
        own = [found.get((method, *column)) for column in columns]
        present = [entry for entry in own if entry is not None]
        rows.append((Text(one_line(method)), *_parameters(present), *map(text, own)))
    tasks, datasets, metrics = zip(*columns, strict=True)
    names = [COSTS.get(metric, (metric, 1.0))[0] for metric in metrics]
    header = (
        ("", "", "", *tasks),
        ("", "", "", *map(one_line, datasets)),
        ("method", "trainable", "%", *map(one_line, names)),
    )
    return Block(one_line(backbone), "l" + "r" * (len(columns) + 2), header, tuple(rows))


def _columns(entries: Sequence[SummaryEntry]) -> list[tuple[str, str, str]]:
    """Return the columns in the plan's order.

    Tasks that this backbone cannot do with any method are left out: the caption names them.
    """
    every = dict.fromkeys((entry.task, entry.dataset, entry.metric) for entry in entries)
    ran = set()
    for entry in entries:
        if not entry.state.is_skipped:
            ran.add((entry.task, entry.dataset, entry.metric))
    return [column for column in every if column in ran] or list(every)


def _parameters(entries: Sequence[SummaryEntry]) -> tuple[Text, Text]:
    """Return the trainable parameters of a method, as a count and in percent."""
    if all(entry.state.is_skipped for entry in entries):
        return Text("–", style="dim"), Text("–", style="dim")
    known = set()
    for entry in entries:
        if entry.trainable is not None and entry.trainable_percent is not None:
            known.add((entry.trainable, entry.trainable_percent))
    counts = [f"{count:,}" for count, _ in sorted(known)]
    shares = [share_text(share) for _, share in sorted(known)]
    return Text(range_text(counts)), Text(range_text(shares))


def _text(entry: SummaryEntry, show: Callable[[SummaryEntry], str], footnotes: Footnotes) -> Text:
    """Return the cell of an entry: its value, or why there is none."""
    kind = entry.state.kind
    notes = list(entry.flags)
    if entry.state.reason:
        notes.insert(0, entry.state.reason)
    marks = tuple(map(footnotes.mark, notes))
    if entry.state.is_done:
        return Text(show(entry), marks, "red" if entry.flags else "")
    texts: dict[StateKind, str] = {
        "missing": f"{entry.n}/{entry.planned} seeds",
        "failed": "failed",
        "absent": "absent",
        "skipped": "–",
    }
    return Text(texts[kind], marks, STATE_STYLES.get(kind, "dim"))
