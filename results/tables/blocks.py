"""What every renderer gets: a title, blocks of cell texts, footnotes, and the same as tidy rows."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Text:
    """A cell's text, the marks of its footnotes, its terminal style, and whether it is bold."""

    text: str
    marks: tuple[str, ...] = ()
    style: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Block:
    """One grid.

    align: one of "l", "r" a column.
    header: the last row names the columns, the rows above it name groups of columns.
    """

    title: str
    align: str
    header: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Text, ...], ...]

    def groups(self, depth: int) -> Iterator[tuple[str, int, int]]:
        """Yield (title, first column, column after the last) of header row `depth` - 1.

        A group is a run of columns with equal titles in this row and in all rows above it.
        """
        start = 0
        for titles, run in groupby(column[:depth] for column in zip(*self.header, strict=True)):
            stop = start + len(list(run))
            yield titles[-1], start, stop
            start = stop


@dataclass(frozen=True)
class Table:
    """Blocks under one title.

    data: the same content for machines: one flat mapping a row, all with equal keys.
    footnotes: (mark, text).
    bold: what bold means, "" if nothing can be bold.
    remarks: see `vlpeft.results.leaderboard.Leaderboard`.
    """

    title: str
    caption: tuple[str, ...]
    blocks: tuple[Block, ...]
    data: tuple[dict[str, Any], ...]
    footnotes: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    bold: str = ""
    remarks: tuple[str, ...] = ()

    def lines(self, bold: str = "Bold") -> tuple[str, ...]:
        """Return the caption and the remarks.

        What bold means follows the first line. `bold` is how the format marks it.
        """
        first, rest = self.caption[:1], self.caption[1:]
        if self.bold:
            first = (*first, f"{bold}: {self.bold}")
        return (*first, *rest, *self.remark_lines)

    @property
    def remark_lines(self) -> tuple[str, ...]:
        """The remarks, a line each."""
        return tuple(map(one_line, self.remarks))


@dataclass
class Footnotes:
    """Assigns the marks a, b, ..., z, aa, ab, ... to texts. Equal texts share one mark."""

    marks: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """Return the mark of a text; a new text gets a new mark."""
        return self.marks.setdefault(one_line(text), _letters(len(self.marks)))

    def list_notes(self) -> tuple[tuple[str, str], ...]:
        """Return (mark, text) in the order of first use."""
        return tuple((mark, text) for text, mark in self.marks.items())


def _letters(number: int) -> str:
    """Return a mark as spreadsheets name columns: 0 -> a, 25 -> z, 26 -> aa."""
    high, low = divmod(number, 26)
    last = string.ascii_lowercase[low]
    if high:
        return _letters(high - 1) + last
    return last


def one_line(text: str) -> str:
    """Collapse white space and drop control characters, which would break a grid."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def text_row(texts: Iterable[str]) -> tuple[Text, ...]:
    """Return plain texts as the cells of a row, each on one line."""
    return tuple(Text(one_line(text)) for text in texts)
