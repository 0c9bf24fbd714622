"""Table -> text, Markdown, LaTeX, HTML, CSV, JSON.

All are pure functions: the same table gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.results.tables.blocks import Block, Table, Text
from vlpeft.results.tables.html import html
from vlpeft.results.tables.latex import latex
from vlpeft.results.tables.text import text

# An underscore inside a word is literal in Markdown and stays readable unescaped.
MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~$&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=](?=\s)|(?<=^\d)[.)](?=\s)"
)


def render(
    table: Table,
    format: str,  # noqa: A002
    *,
    colour: bool = False,
    width: int | None = None,
) -> str:
    """Render the table in one of FORMATS. `colour` and `width` are for text on a terminal."""
    if format == "text":
        return text(table, colour=colour, width=width)
    if format not in _RENDERERS:
        raise UserError(f"unknown format '{format}'{did_you_mean(format, FORMATS)}")
    return _RENDERERS[format](table)


def _markdown(table: Table) -> str:
    parts = [f"### {_md(table.title)}", *map(_md, table.lines())]
    for block in table.blocks:
        if block.title:
            parts.append(f"**{_md(block.title)}**")
        parts.append("\n".join(_markdown_lines(block)))
    parts += [f"<sup>{mark}</sup> {_md(note)}" for mark, note in table.footnotes]
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
