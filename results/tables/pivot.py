"""A table of any two sides of the leaderboard.

What is on neither side is averaged over, and it is the same for every entry of a column. A setting
that the sweep varies can be a side, too. The methods are then named without what varies.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.states import MISSING, State, StateKind, merge_states
from vlpeft.results.summaries import suspicions
from vlpeft.results.tables.blocks import Block, Footnotes, Table, Text, one_line, text_row
from vlpeft.results.tables.captions import percent, plus_minus
from vlpeft.results.varied import VARIED

SIDES = ("method", "backbone", "task", "dataset", "scale")
NONE = "–"  # the value of a setting in cells that do not vary it
NAMED = 3  # how many missing places a footnote names
STATE_TEXTS: dict[StateKind, str] = {
    "missing": "missing",
    "failed": "failed",
    "absent": "absent",
    "skipped": "–",
}
Key = tuple[str, ...]
Wanted = dict[Key, None]  # places that are averaged over, in order


@dataclass
class _Entry:
    """States and values of the cells of one entry, by (place averaged over, seed)."""

    states: dict[tuple[Key, int], State] = field(default_factory=dict)
    values: dict[tuple[Key, int], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Average:
    """One entry of the table.

    mean: over what is on neither side, then over seeds. None unless every cell that any row has
        in this column is done, for the same seeds each.
    std: over seeds (ddof=1) of the means of each seed.
    n, over: the numbers of seeds, and of places averaged over.
    flags: what makes single values suspicious, one sentence each.
    """

    mean: float | None
    std: float | None
    n: int
    over: int
    state: State
    flags: tuple[str, ...] = ()


def sides(text: str, board: Leaderboard) -> Key:
    """Parse the names of a side, separated by commas.

    Raises UserError for a name that is neither one of SIDES nor varied by the sweep.
    """
    names = tuple(name.strip() for name in text.split(","))
    known = (*SIDES, *board.varied)
    for name in names:
        if name not in known:
            raise UserError(f"unknown side '{name}'{did_you_mean(name, known)}")
    return names


def pivot_table(board: Leaderboard, rows: Key, columns: Key) -> Table:
    """Return a table of `rows` x `columns`, both of SIDES.

    Metrics are always columns and never averaged. Raises UserError for a side named twice.
    """
    if len({*rows, *columns}) < len(rows) + len(columns):
        raise UserError(
            f"--rows {','.join(rows)} --columns {','.join(columns)}: a side is named twice; "
            "name each once"
        )
    hidden = tuple(
        name for name in _all_sides(board, rows, columns) if name not in (*rows, *columns)
    )
    entries = _entries(board, rows, columns, hidden)
    wanted = _wanted(entries)
    footnotes = Footnotes()
    lines, data = [], []
    for row in dict.fromkeys(row for row, _ in entries):
        line = list(text_row(row))
        for column, places in wanted.items():
            average = _average(entries.get((row, column), _Entry()), places, hidden)
            line.append(_text(average, footnotes))
            names = dict(zip((*rows, *columns, "metric"), (*row, *column), strict=True))
            data.append({**names, **vars(average), "state": str(average.state)})
        lines.append(tuple(line))
    align = "l" * len(rows) + "r" * len(wanted)
    block = Block("", align, _header(rows, columns, list(wanted)), tuple(lines))
    return Table(
        one_line(board.title),
        tuple(_caption(hidden, board)),
        (block,) if wanted else (),
        tuple(data),
        footnotes.list_notes(),
        remarks=board.remarks,
    )


def _all_sides(board: Leaderboard, rows: Key, columns: Key) -> Key:
    """Return the sides of a table: what varies belongs to the labels, unless a side names it."""
    if set(board.varied) & {*rows, *columns}:
        return (*SIDES, *board.varied)
    return SIDES


def _place(cell: Mapping[Hashable, Any], board: Leaderboard, names: Key, *, apart: bool) -> Key:
    """Return the values of some sides of a cell; `apart` if what varies is a side of its own."""
    values = []
    for name in names:
        if name not in SIDES:
            values.append(cell[f"{VARIED}{name}"] or NONE)
        elif apart:
            values.append(board.family(name, cell[name]))
        else:
            values.append(cell[name])
    return tuple(values)


def _header(rows: Key, columns: Key, across: Sequence[Key]) -> tuple[tuple[str, ...], ...]:
    """Return a header row for each side of the columns, then the names of rows and metrics."""
    header = []
    for i in range(len(columns)):
        titles = [one_line(column[i]) for column in across]
        header.append((*("",) * len(rows), *titles))
    return (*header, (*rows, *(column[-1] for column in across)))


def _entries(
    board: Leaderboard, rows: Key, columns: Key, hidden: Key
) -> dict[tuple[Key, Key], _Entry]:
    """Collect the cells of each entry, by row and column. A column ends with its metric."""
    frame = board.frame[~board.frame["metric"].str.contains("/", regex=False)]
    found: dict[tuple[Key, Key], _Entry] = {}
    apart = any(name not in SIDES for name in (*rows, *columns))
    for cell in frame.to_dict("records"):
        row = _place(cell, board, rows, apart=apart)
        column = (*_place(cell, board, columns, apart=apart), cell["metric"])
        entry = found.setdefault((row, column), _Entry())
        place = _place(cell, board, hidden, apart=apart), cell["seed"]
        entry.states[place] = State.parse(cell["state"])
        entry.values[place] = cell["value"]
    return found


def _wanted(entries: Mapping[tuple[Key, Key], _Entry]) -> dict[Key, Wanted]:
    """Return the columns in which the grid lets something run.

    Each comes with the places that any of its rows is averaged over.
    """
    found: dict[Key, Wanted] = {}
    for (_, column), entry in entries.items():
        places = _allowed(entry)
        if places:
            found.setdefault(column, {}).update(places)
    return found


def _allowed(entry: _Entry) -> Wanted:
    """Return the places that the grid does not rule out, in order."""
    allowed: Wanted = {}
    for (place, _), state in entry.states.items():
        if not state.is_skipped:
            allowed[place] = None
    return allowed


def _average(entry: _Entry, wanted: Wanted, hidden: Key) -> Average:
    """Average an entry over places, then over seeds.

    An entry needs all places that any row of the column has: means over different cells cannot
    be compared.
    """
    allowed = _allowed(entry)
    lacking = [_where(hidden, place) for place in wanted if place not in allowed]
    if lacking:
        state = State("skipped", f"not with {_listed(lacking)}")
        return Average(None, None, 0, len(wanted), state)
    seeds = list(dict.fromkeys(seed for _, seed in entry.states))
    cells = product(wanted, seeds)
    state = merge_states([entry.states.get(cell, MISSING) for cell in cells])
    done = [seed for seed in seeds if _is_done(entry, wanted, seed)]
    means = [statistics.fmean(entry.values[place, seed] for place in wanted) for seed in done]
    if not state.is_done:
        return Average(None, None, len(means), len(wanted), state)
    std = statistics.stdev(means) if len(means) > 1 else None
    flags = tuple(_flags(entry, hidden))
    return Average(statistics.fmean(means), std, len(means), len(wanted), state, flags)


def _is_done(entry: _Entry, wanted: Wanted, seed: int) -> bool:
    """Return whether a seed has a value in all places."""
    return all(entry.states.get((place, seed), MISSING).is_done for place in wanted)


def _flags(entry: _Entry, hidden: Key) -> Iterator[str]:
    for (place, seed), value in entry.values.items():
        if entry.states[place, seed].is_done:
            for flag in suspicions(seed, value):
                yield f"{_where(hidden, place)}: {flag}"


def _listed(places: Sequence[str]) -> str:
    """Join places, at most NAMED of them, and count the others."""
    listed = "; ".join(places[:NAMED])
    if len(places) > NAMED:
        return f"{listed} and {len(places) - NAMED} more"
    return listed


def _where(hidden: Key, place: Key) -> str:
    """Return a place in words, as "backbone blip, task vqa"."""
    named = []
    for name, value in zip(hidden, place, strict=True):
        if name != "scale" and value != NONE:
            named.append(f"{name} {value}")
    return ", ".join(named) or "its cells"


def _text(average: Average, footnotes: Footnotes) -> Text:
    """Return the cell of an entry: its mean, or why there is none."""
    if average.mean is None:
        reason = average.state.reason
        marks = _marks([reason] if reason else [], footnotes)
        return Text(STATE_TEXTS[average.state.kind], marks, "dim")
    marks = _marks(average.flags, footnotes)
    text = f"{average.mean:.1f}{plus_minus(average.std)} (n={average.n})"
    return Text(text, marks, "red" if marks else "")


def _marks(notes: Iterable[str], footnotes: Footnotes) -> tuple[str, ...]:
    return tuple(map(footnotes.mark, notes))


def _caption(hidden: Sequence[str], board: Leaderboard) -> Iterator[str]:
    unit = percent(board.frame["metric"])
    yield (
        f"Mean ± standard deviation (ddof=1) over n seeds. {unit} Differences are not tested here."
    )
    varied = {name: f"{VARIED}{name}" for name in board.varied}
    averaged = [name for name in hidden if board.frame[varied.get(name, name)].nunique() > 1]
    if averaged:
        yield (
            f"Averaged over {', '.join(averaged)} first. An entry is left out if it lacks a cell "
            "that others in its column have."
        )
