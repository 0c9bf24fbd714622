"""Table -> text for a terminal or a file.

A grid that is wider than the terminal first wraps its text columns at words; if that is not enough,
it is printed in pages: the first column again, with the next columns that fit. Numbers never break.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from vlpeft.benchmark.core.terminal import escape
from vlpeft.results.tables.blocks import Block, Table, Text

# In columns. Nothing is ever cut off: a pager or a spreadsheet handles what does not fit.
WIDE = 100_000
GAP = "   "  # between two columns of the grid
LONGEST = 24  # of the words that a narrowed text column keeps whole
HeaderGroup = tuple[str, int, int]  # title, first column, column after the last


def text(table: Table, *, colour: bool, width: int | None = None) -> str:
    """Return the text of a table.

    Args:
        table: The table.
        colour: Whether to use the colours of a terminal.
        width: The columns of the terminal; None where lines may have any length.
    """
    out = io.StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(
        file=out, width=WIDE, force_terminal=colour, color_system=system, legacy_windows=False
    )
    lines = table.lines("Bold and *" if colour else "*")
    console.print(_rich(table.title, "bold"), *map(_rich, lines), sep="\n", width=width)
    for block in table.blocks:
        console.print()
        if block.title:
            console.print(_rich(block.title, "bold cyan"), width=width)
        for number, (page, widths) in enumerate(_pages(block, width)):
            if number:
                console.print()
            console.print(*_grid(page, widths), sep="\n")
    below = [f"[{mark}] {note}" for mark, note in table.footnotes]
    below += table.notes
    if below:
        console.print(*map(_rich, ["", *below]), sep="\n", width=width)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _rich(line: str, style: str = "") -> RichText:
    """Return one line of rich's text. A name in it cannot act on the terminal."""
    return RichText(escape(line), style)


def _pages(block: Block, width: int | None) -> Iterator[tuple[Block, list[int]]]:
    """Yield the parts of a grid that fit the width, each with the widths of its columns."""
    widths = _natural_widths(block)
    if width is None or _span(widths) <= width:
        yield block, widths
        return
    widths = _narrow(block, widths, width)
    for columns in _fitting(widths, width):
        page = _select(block, columns)
        yield page, _widened([widths[column] for column in columns], page)


def _natural_widths(block: Block) -> list[int]:
    """Return the widths of the columns with every text on one line."""
    rows = [list(map(_cell_text, row)) for row in block.rows]
    columns = zip(map(escape, block.header[-1]), *rows, strict=True)
    return _widened([max(map(cell_len, column)) for column in columns], block)


def _widened(widths: list[int], block: Block) -> list[int]:
    """Widen the last column of each group whose title is wider than its columns."""
    widths = list(widths)
    for depth in range(1, len(block.header)):
        for title, start, stop in block.groups(depth):
            widths[stop - 1] += max(0, cell_len(escape(title)) - _span(widths[start:stop]))
    return widths


def _narrow(block: Block, widths: Sequence[int], width: int) -> list[int]:
    """Return widths that fit if text columns wrap, or their least widths if nothing fits."""
    narrowed = list(widths)
    least = [_least_width(block, column) for column in range(len(widths))]
    while _span(narrowed) > width:
        free = [i for i, align in enumerate(block.align) if align == "l" and narrowed[i] > least[i]]
        if not free:
            break
        narrowed[max(free, key=narrowed.__getitem__)] -= 1
    return narrowed


def _least_width(block: Block, column: int) -> int:
    """Return the width of the longest word of a column; of a very long one only a part."""
    texts = [escape(block.header[-1][column]), *(_cell_text(row[column]) for row in block.rows)]
    words = (cell_len(word) for each in texts for word in each.split())
    return min(LONGEST, max(words, default=1))


def _fitting(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Yield the columns of each page: the first one, and the next that fit, but at least one."""
    page = [0]
    for column in range(1, len(widths)):
        wider = _span([widths[each] for each in (*page, column)])
        if wider > width and len(page) > 1:
            yield page
            page = [0]
        page.append(column)
    yield page


def _select(block: Block, columns: Sequence[int]) -> Block:
    """Return a block with some of its columns."""
    return replace(
        block,
        align="".join(block.align[column] for column in columns),
        header=tuple(tuple(titles[column] for column in columns) for titles in block.header),
        rows=tuple(tuple(row[column] for column in columns) for row in block.rows),
    )


def _grid(block: Block, widths: Sequence[int]) -> Iterator[RichText | RichTable]:
    """Yield the lines of group titles, then the grid below them.

    A title of rich cannot span columns, so the group titles are centred by hand.
    """
    for depth in range(1, len(block.header)):
        groups = block.groups(depth)
        titles = [_centred(title, _span(widths[start:stop])) for title, start, stop in groups]
        yield _rich(GAP.join(titles), "bold")
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for align, title, width in zip(block.align, block.header[-1], widths, strict=True):
        justify: Literal["left", "right"] = "left" if align == "l" else "right"
        wraps = align == "l"
        grid.add_column(
            _rich(title), justify=justify, no_wrap=not wraps, width=width, overflow="fold"
        )
    for row in block.rows:
        grid.add_row(*map(_rich, map(_cell_text, row), map(_style, row)))
    yield grid


def _cell_text(cell: Text) -> str:
    """Return the text of a cell. A star marks bold where there is no colour."""
    shown = escape(f"*{cell.text}" if cell.bold else cell.text)
    return " ".join([shown, *(f"[{mark}]" for mark in cell.marks)])


def _style(cell: Text) -> str:
    if cell.style:
        return cell.style
    return "bold" if cell.bold else ""


def _span(widths: Iterable[int]) -> int:
    """Return the width of neighbouring columns together."""
    widths = list(widths)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _centred(title: str, width: int) -> str:
    """Centre a title in columns of the screen, which are not characters."""
    title = escape(title)
    return title.center(width - cell_len(title) + len(title))
