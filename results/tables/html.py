"""Table -> HTML: one page without scripts or external files.

Its colours are light or dark, as the reader's system is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from vlpeft.results.tables.blocks import Block, Table, Text

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.5rem 0 1.5rem; }
th, td { padding: 0.15rem 0.7rem; white-space: nowrap; }
thead { border-block: 1px solid; }
tbody { border-bottom: 1px solid; }
.l { text-align: left; }
.r { text-align: right; }
.c { text-align: center; }
"""


def html(table: Table) -> str:
    """Return a whole document, to be saved as UTF-8."""
    start = ("<!doctype html>", '<html lang="en">')
    return "\n".join([*start, *_head(table.title), *_body(table), "</html>", ""])


def _head(title: str) -> Iterator[str]:
    viewport = "width=device-width, initial-scale=1"
    yield f'<head><meta charset="utf-8"><meta name="viewport" content="{viewport}">'
    yield f"<title>{escape(title)}</title><style>{STYLE}</style></head>"


def _body(table: Table) -> Iterator[str]:
    yield f"<body><h1>{escape(table.title)}</h1>"
    for line in table.lines():
        yield f"<p>{escape(line)}</p>"
    for block in table.blocks:
        if block.title:
            yield f"<h2>{escape(block.title)}</h2>"
        yield '<div class="wide"><table>'
        yield from _grid(block)
        yield "</table></div>"
    for mark, text in table.footnotes:
        yield f"<p><sup>{mark}</sup> {escape(text)}</p>"
    for line in table.notes:
        yield f"<p>{escape(line)}</p>"
    yield "</body>"


def _grid(block: Block) -> Iterator[str]:
    yield "<thead>"
    for depth in range(1, len(block.header)):
        yield _row(_group(*group) for group in block.groups(depth))
    yield _row(map(_title, block.header[-1], block.align))
    yield "</thead><tbody>"
    for row in block.rows:
        yield _row(map(_cell, row, block.align))
    yield "</tbody>"


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _group(title: str, start: int, stop: int) -> str:
    return f'<th class="c" colspan="{stop - start}">{escape(title)}</th>'


def _title(title: str, align: str) -> str:
    return f'<th class="{align}">{escape(title)}</th>'


def _cell(cell: Text, align: str) -> str:
    text = escape(cell.text)
    if cell.bold:
        text = f"<b>{text}</b>"
    if cell.marks:
        text += f"<sup>{','.join(cell.marks)}</sup>"
    return f'<td class="{align}">{text}</td>'
