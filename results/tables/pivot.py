"""A table of any two sides of the leaderboard; what is on neither side is averaged over, the same for every entry of a column."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.summaries import merge_states, suspicions
from vlpeft.results.tables.table import Block, Footnotes, Table, Text, one_line, percent

SIDES = ("method", "backbone", "task", "dataset", "scale")
NAMED = 3  # of what an entry lacks
Key = tuple[str, ...]


@dataclass
class _Entry:
    """What is known of one entry: the states and values of its cells, by what is averaged over and seed."""

    states: dict[tuple[Key, int], str] = field(default_factory=dict)
    values: dict[tuple[Key, int], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Average:
    """One entry: mean over what is on neither side and over seeds; std over seeds (ddof=1) of the means over the former.

    mean: None unless every cell that any row has here is done, for the same seeds each.
    flags: what makes single values suspicious, one sentence each.
    """

    mean: float | None
    std: float | None
    n: int
    over: int
    state: str
    flags: tuple[str, ...] = ()


def sides(text: str) -> Key:
    """The names of a side, as given with commas between. Raises UserError for an unknown one."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in SIDES:
            raise UserError(f"unknown side '{name}'{did_you_mean(name, SIDES)}")
    return names


def pivot_table(board: Leaderboard, rows: Key, columns: Key) -> Table:
    """`rows` x `columns`, each of SIDES, and metrics, which are never averaged. Raises UserError for a side named twice."""
    if len({*rows, *columns}) < len(rows) + len(columns):
        raise UserError(
            f"--rows {','.join(rows)} --columns {','.join(columns)}: a side stands twice; name each once"
        )
    hidden = tuple(name for name in SIDES if name not in (*rows, *columns))
    entries = _entries(board, rows, columns, hidden)
    down, wanted = list(dict.fromkeys(row for row, _ in entries)), _wanted(entries)
    across = list(wanted)
    found = {
        (row, column): _average(entries.get((row, column), _Entry()), wanted[column], hidden)
        for row in down
        for column in across
    }
    footnotes = Footnotes()
    lines = tuple(
        (*map(_name, row), *(_text(found[row, column], footnotes) for column in across))
        for row in down
    )
    header = (
        *((("",) * len(rows)) + tuple(one_line(c[i]) for c in across) for i in range(len(columns))),
        (*rows, *(c[-1] for c in across)),
    )
    data = tuple(
        _plain(dict(zip(rows, row, strict=True)), columns, column, found[row, column])
        for row in down
        for column in across
    )
    block = Block("", "l" * len(rows) + "r" * len(across), header, lines)
    title, blocks = one_line(board.title), (block,) if across else ()
    return Table(
        title,
        tuple(_caption(hidden, board)),
        blocks,
        data,
        footnotes.list_notes(),
        remarks=board.remarks,
    )


def _entries(
    board: Leaderboard, rows: Key, columns: Key, hidden: Key
) -> dict[tuple[Key, Key], _Entry]:
    frame = board.frame[~board.frame["metric"].str.contains("/", regex=False)]
    found: dict[tuple[Key, Key], _Entry] = {}
    for cell in frame.to_dict("records"):
        column = (*(cell[name] for name in columns), cell["metric"])
        entry = found.setdefault((tuple(cell[name] for name in rows), column), _Entry())
        place = tuple(cell[name] for name in hidden), cell["seed"]
        entry.states[place], entry.values[place] = cell["state"], cell["value"]
    return found


def _wanted(entries: Mapping[tuple[Key, Key], _Entry]) -> dict[Key, dict[Key, None]]:
    """Columns in which the grid lets something run, and for each what any of its rows is averaged over."""
    found: dict[Key, dict[Key, None]] = {}
    for (_, column), entry in entries.items():
        if places := _open(entry):
            found.setdefault(column, {}).update(places)
    return found


def _open(entry: _Entry) -> dict[Key, None]:
    """What is averaged over and not ruled out by the grid, in order."""
    return dict.fromkeys(
        place for (place, _), state in entry.states.items() if not state.startswith("skipped")
    )


def _average(entry: _Entry, wanted: Mapping[Key, None], hidden: Key) -> Average:
    """An entry is blocked unless it has all that any row of the column has: means over different cells cannot be compared."""
    own = _open(entry)
    lacking = [place for place in wanted if place not in own]
    seeds = list(dict.fromkeys(seed for _, seed in entry.states))
    if lacking:
        return Average(
            None,
            None,
            0,
            len(wanted),
            f"skipped: not with {_listed([_where(hidden, place) for place in lacking])}",
        )
    states = [entry.states.get((place, seed), "missing") for place in wanted for seed in seeds]
    done = [
        seed for seed in seeds if all(entry.states.get((place, seed)) == "done" for place in wanted)
    ]
    means = [statistics.fmean(entry.values[place, seed] for place in wanted) for seed in done]
    if (state := merge_states(states)) != "done":
        return Average(None, None, len(done), len(wanted), state)
    std = statistics.stdev(means) if len(means) > 1 else None
    return Average(
        statistics.fmean(means), std, len(means), len(wanted), state, tuple(_flags(entry, hidden))
    )


def _flags(entry: _Entry, hidden: Key) -> Iterator[str]:
    for (place, seed), value in entry.values.items():
        if entry.states[place, seed] == "done":
            yield from (f"{_where(hidden, place)}: {flag}" for flag in suspicions(seed, value))


def _listed(places: Sequence[str]) -> str:
    rest = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return "; ".join(places[:NAMED]) + rest


def _where(hidden: Key, place: Key) -> str:
    return (
        ", ".join(
            f"{name} {value}" for name, value in zip(hidden, place, strict=True) if name != "scale"
        )
        or "its cells"
    )


def _name(text: str) -> Text:
    return Text(one_line(text))


def _text(average: Average, footnotes: Footnotes) -> Text:
    kind, _, reason = average.state.partition(": ")
    if average.mean is None:
        texts = {"missing": "missing", "failed": "failed", "absent": "absent", "skipped": "–"}
        return Text(texts[kind], (footnotes.mark(reason),) if reason else (), "dim")
    std = "" if average.std is None else f" ± {average.std:.1f}"
    marks = tuple(map(footnotes.mark, average.flags))
    return Text(f"{average.mean:.1f}{std} (n={average.n})", marks, "bold red" if marks else "")


def _caption(hidden: Sequence[str], board: Leaderboard) -> Iterator[str]:
    yield f"Mean ± standard deviation (ddof=1) over n seeds. {percent(board.frame['metric'])} Differences are not tested here."
    averaged = [name for name in hidden if board.frame[name].nunique() > 1]
    if averaged:
        yield f"Averaged over {', '.join(averaged)} first; an entry that lacks a cell that others of its column have is not given."


def _plain(row: Mapping[str, str], columns: Key, column: Key, average: Average) -> dict[str, Any]:
    return {**row, **dict(zip((*columns, "metric"), column, strict=True)), **vars(average)}
