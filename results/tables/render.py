"""Table -> text, Markdown, LaTeX, HTML, CSV, JSON.

All are pure functions: the same table gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.terminal import escape
from vlpeft.results.tables.blocks import Block, Table, Text
from vlpeft.results.tables.html import html
from vlpeft.results.tables.latex import latex

# In columns. Nothing is ever cut off: a pager or a spreadsheet handles what does not fit.
WIDE = 100_000
GAP = "   "  # between two columns of the grid
# An underscore inside a word is literal in Markdown and stays readable unescaped.
MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~$&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=](?=\s)|(?<=^\d)[.)](?=\s)"
)
HeaderGroup = tuple[str, int, int]  # title, first column, column after the last


def render(table: Table, format: str, *, colour: bool = False) -> str:  # noqa: A002
    """Render the table in one of FORMATS. `colour` is for text that goes to a terminal."""
    if format == "text":
        return _text(table, colour=colour)
    if format not in _RENDERERS:
        raise UserError(f"unknown format '{format}'{did_you_mean(format, FORMATS)}")
    return _RENDERERS[format](table)


def _text(table: Table, *, colour: bool) -> str:
    """Return text for a terminal."""
    out = io.StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(
        file=out, width=WIDE, force_terminal=colour, color_system=system, legacy_windows=False
    )
    lines = table.lines("Bold and *" if colour else "*")
    console.print(_rich(table.title, "bold"), *map(_rich, lines), sep="\n")
    for block in table.blocks:
        console.print()
        if block.title:
            console.print(_rich(block.title, "bold cyan"))
        console.print(*_grid(block), sep="\n")
    below = [f"[{mark}] {text}" for mark, text in table.footnotes]
    below += table.notes
    if below:
        console.print(*map(_rich, ["", *below]), sep="\n")
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _rich(text: str, style: str = "") -> RichText:
    """Return one line of rich's text. A name in it cannot act on the terminal."""
    return RichText(escape(text), style)


def _grid(block: Block) -> Iterator[RichText | RichTable]:
    """Yield the lines of group titles, then the grid below them.

    A title of rich cannot span columns, so the group titles are centred by hand.
    """
    rows = [list(map(_cell_text, row)) for row in block.rows]
    columns = zip(block.header[-1], *rows, strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    levels = [list(block.groups(depth)) for depth in range(1, len(block.header))]
    for groups in levels:
        _widen(widths, groups)
    for groups in levels:
        titles = [_centred(title, _span(widths[start:stop])) for title, start, stop in groups]
        yield _rich(GAP.join(titles), "bold")
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for align, title, width in zip(block.align, block.header[-1], widths, strict=True):
        justify: Literal["left", "right"] = "left" if align == "l" else "right"
        grid.add_column(_rich(title), justify=justify, no_wrap=True, min_width=width)
    for row, texts in zip(block.rows, rows, strict=True):
        grid.add_row(*map(_rich, texts, map(_style, row)))
    yield grid


def _cell_text(cell: Text) -> str:
    """Return the text of a cell. A star marks bold where there is no colour."""
    text = escape(f"*{cell.text}" if cell.bold else cell.text)
    return " ".join([text, *(f"[{mark}]" for mark in cell.marks)])


def _style(cell: Text) -> str:
    if cell.style:
        return cell.style
    return "bold" if cell.bold else ""


def _widen(widths: list[int], groups: Iterable[HeaderGroup]) -> None:
    """Widen the last column of each group whose title is wider than its columns."""
    for title, start, stop in groups:
        widths[stop - 1] += max(0, cell_len(title) - _span(widths[start:stop]))


def _span(widths: Sequence[int]) -> int:
    """Return the width of neighbouring columns together."""
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _centred(title: str, width: int) -> str:
    """Centre a title in columns of the screen, which are not characters."""
    return title.center(width - cell_len(title) + len(title))


def _markdown(table: Table) -> str:
    parts = [f"### {_md(table.title)}", *map(_md, table.lines())]
    for block in table.blocks:
        if block.title:
            parts.append(f"**{_md(block.title)}**")
        parts.append("\n".join(_markdown_lines(block)))
    parts += [f"<sup>{mark}</sup> {_md(text)}" for mark, text in table.footnotes]
    parts += map(_md, table.notes)
    return "\n\n".join(parts) + "\n"


def _markdown_lines(block: Block) -> Iterator[str]:
    """Yield the lines of a grid. Markdown has one header row, so titles are stacked in it."""
    yield _pipes(map(_stacked, zip(*block.header, strict=True)))
    yield _pipes("---" if align == "l" else "---:" for align in block.align)
    for row in block.rows:
        yield _pipes(map(_markdown_cell, row))


def _stacked(titles: Iterable[str]) -> str:
    return "<br>".join(_md(title) for title in titles if title)


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Text) -> str:
    text = _md(cell.text)
    if cell.bold:
        text = f"**{text}**"
    if cell.marks:
        text += f"<sup>{','.join(cell.marks)}</sup>"
    return text


def _md(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return MARKDOWN.sub(lambda match: f"\\{match[0]}", text)


def _csv(table: Table) -> str:
    out = io.StringIO()
    if table.data:
        writer = csv.DictWriter(out, list(table.data[0]), lineterminator="\n")
        writer.writeheader()
        for row in table.data:
            writer.writerow({key: _csv_value(value) for key, value in row.items()})
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    """Join the values of a tuple: a field of CSV has one."""
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return value


def _json(table: Table) -> str:
    """Return JSON with one row per line, which is easy to read and fast to write."""
    about = {"title": table.title, "caption": table.lines(), "notes": table.notes}
    head = json.dumps(about, indent=1, ensure_ascii=False).removesuffix("\n}")
    rows = [json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in table.data]
    joined = ",\n  ".join(rows)
    return f'{head},\n "rows": [\n  {joined}\n ]\n}}\n'


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN by null, because JSON has no NaN. The row's flags say why."""
    return {key: _json_value(value) for key, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_RENDERERS: dict[str, Callable[[Table], str]] = {
    "markdown": _markdown,
    "latex": latex,
    "html": html,
    "csv": _csv,
    "json": _json,
}
FORMATS = ("text", *_RENDERERS)
