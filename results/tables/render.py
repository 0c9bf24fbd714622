"""Table -> text, Markdown, LaTeX, HTML, CSV, JSON. Pure functions: the same table gives the same bytes."""

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
from vlpeft.results.tables.html import html
from vlpeft.results.tables.latex import latex
from vlpeft.results.tables.table import Block, Table, Text

WIDE = (
    100_000  # columns: nothing is ever cut off; a pager or a spreadsheet handles what does not fit
)
GAP = "   "  # what the grid puts between two columns
# An underscore inside a word is literal in Markdown and stays readable unescaped.
MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~$&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=](?=\s)|(?<=^\d)[.)](?=\s)"
)


def render(table: Table, format: str, *, colour: bool = False) -> str:  # noqa: A002
    """The table in one of FORMATS. `colour` is for text that goes to a terminal."""
    if format == "text":
        return _text(table, colour=colour)
    if format not in _RENDERERS:
        raise UserError(f"unknown format '{format}'{did_you_mean(format, FORMATS)}")
    return _RENDERERS[format](table)


def _text(table: Table, *, colour: bool) -> str:
    out = io.StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(
        file=out, width=WIDE, force_terminal=colour, color_system=system, legacy_windows=False
    )
    console.print(
        RichText(table.title, "bold"),
        *map(RichText, table.lines("Bold and *" if colour else "*")),
        sep="\n",
    )
    for block in table.blocks:
        console.print()
        if block.title:
            console.print(RichText(block.title, "bold cyan"))
        console.print(*_grid(block), sep="\n")
    below = [*(f"[{mark}] {text}" for mark, text in table.footnotes), *table.notes]
    console.print(
        *map(RichText, ["", *below] if below else []), sep="\n", end="\n" if below else ""
    )
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _grid(block: Block) -> Iterator[RichText | RichTable]:
    """The lines of group titles, which rich cannot let span columns, then the grid below them."""
    rows = [
        [
            " ".join([f"{'*' * cell.bold}{cell.text}", *(f"[{mark}]" for mark in cell.marks)])
            for cell in row
        ]
        for row in block.rows
    ]
    widths = [max(map(cell_len, column)) for column in zip(block.header[-1], *rows, strict=True)]
    groups = [list(block.groups(depth)) for depth in range(1, len(block.header))]
    for title, start, stop in (group for line in groups for group in line):
        widths[stop - 1] += max(0, cell_len(title) - _span(widths[start:stop]))
    for line in groups:
        yield RichText(
            GAP.join(_centred(title, _span(widths[start:stop])) for title, start, stop in line),
            "bold",
        )
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for align, title, width in zip(block.align, block.header[-1], widths, strict=True):
        grid.add_column(
            RichText(title),
            justify="left" if align == "l" else "right",
            no_wrap=True,
            min_width=width,
        )
    for row, texts in zip(block.rows, rows, strict=True):
        grid.add_row(
            *(
                RichText(text, cell.style or ("bold" if cell.bold else ""))
                for cell, text in zip(row, texts, strict=True)
            )
        )
    yield grid


def _span(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _centred(title: str, width: int) -> str:
    return title.center(
        width - cell_len(title) + len(title)
    )  # in columns of the screen, not characters


def _markdown(table: Table) -> str:
    parts = [f"### {_md(table.title)}", *map(_md, table.lines())]
    for block in table.blocks:
        parts += [f"**{_md(block.title)}**"] if block.title else []
        parts.append("\n".join(_markdown_lines(block)))
    parts += [f"<sup>{mark}</sup> {_md(text)}" for mark, text in table.footnotes]
    return "\n\n".join([*parts, *map(_md, table.notes)]) + "\n"


def _markdown_lines(block: Block) -> Iterator[str]:
    titles = (
        "<br>".join(_md(part) for part in column if part)
        for column in zip(*block.header, strict=True)
    )
    yield _pipes(titles)
    yield _pipes("---" if align == "l" else "---:" for align in block.align)
    for row in block.rows:
        yield _pipes(map(_markdown_cell, row))


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Text) -> str:
    text = f"**{_md(cell.text)}**" if cell.bold else _md(cell.text)
    return f"{text}<sup>{','.join(cell.marks)}</sup>" if cell.marks else text


def _md(text: str) -> str:
    return MARKDOWN.sub(lambda match: f"\\{match[0]}", text)


def _csv(table: Table) -> str:
    out = io.StringIO()
    if table.data:
        writer = csv.DictWriter(out, list(table.data[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {
                key: "; ".join(map(str, value)) if isinstance(value, tuple) else value
                for key, value in row.items()
            }
            for row in table.data
        )
    return out.getvalue()


def _json(table: Table) -> str:
    """A row a line, which is read well and written quickly."""
    about = {"title": table.title, "caption": table.lines(), "notes": table.notes}
    head = json.dumps(about, indent=1, ensure_ascii=False).removesuffix("\n}")
    rows = ",\n  ".join(
        json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in table.data
    )
    return f'{head},\n "rows": [\n  {rows}\n ]\n}}\n'


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null, and the row's flags say why."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


_RENDERERS: dict[str, Callable[[Table], str]] = {
    "markdown": _markdown,
    "latex": latex,
    "html": html,
    "csv": _csv,
    "json": _json,
}
FORMATS = ("text", *_RENDERERS)
