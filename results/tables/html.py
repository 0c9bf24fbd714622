"""Table -> HTML: one page without scripts or anything from elsewhere, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vlpeft.results.tables.table import Block, Table, Text

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
    """A whole document, UTF-8."""
    return "\n".join(
        ["<!doctype html>", '<html lang="en">', *_head(table.title), *_body(table), "</html>", ""]
    )


def _head(title: str) -> Iterator[str]:
    yield '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title><style>{STYLE}</style></head>"


def _body(table: Table) -> Iterator[str]:
    yield f"<body><h1>{escape(table.title)}</h1>"
    yield from (f"<p>{escape(line)}</p>" for line in table.lines())
    for block in table.blocks:
        if block.title:
            yield f"<h2>{escape(block.title)}</h2>"
        yield '<div class="wide"><table>'
        yield from _grid(block)
        yield "</table></div>"
    yield from (f"<p><sup>{mark}</sup> {escape(text)}</p>" for mark, text in table.footnotes)
    yield from (f"<p>{escape(line)}</p>" for line in table.notes)
    yield "</body>"


def _grid(block: Block) -> Iterator[str]:
    yield "<thead>"
    for depth in range(1, len(block.header)):
        groups = (
            f'<th class="c" colspan="{stop - start}">{escape(title)}</th>'
            for title, start, stop in block.groups(depth)
        )
        yield f"<tr>{''.join(groups)}</tr>"
    titles = (
        f'<th class="{align}">{escape(title)}</th>'
        for align, title in zip(block.align, block.header[-1], strict=True)
    )
    yield f"<tr>{''.join(titles)}</tr>"
    yield "</thead><tbody>"
    for row in block.rows:
        yield f"<tr>{''.join(_cell(cell, align) for cell, align in zip(row, block.align, strict=True))}</tr>"
    yield "</tbody>"


def _cell(cell: Text, align: str) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
    marks = f"<sup>{','.join(cell.marks)}</sup>" if cell.marks else ""
    return f'<td class="{align}">{text}{marks}</td>'
