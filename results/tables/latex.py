"""Table -> LaTeX: floats with booktabs rules, plain ASCII, which compiles whatever the names hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from vlpeft.results.tables.table import Block, Table, Text

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "%&_#${}"},
    # Not special, yet wrong: brackets and stars after `\\` are read as its argument, the rest has no glyph in OT1.
    **{c: f"{{{c}}}" for c in "[]*"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "`": r"\textasciigrave{}",
}
# Two hyphens would become a dash, `?` + grave a Spanish question mark (the grave is spelt out, so that one cannot occur).
PATTERN = re.compile("|".join([*map(re.escape, SPECIAL), "(?<=-)-", "[^\x00-\x7f]"]))
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}


def latex(table: Table) -> str:
    r"""A `table` environment a block, so that each fits a page; they need \usepackage{booktabs} and nothing else."""
    lines = [r"% needs \usepackage{booktabs}"]
    for i, block in enumerate(table.blocks or (None,)):
        title = ": ".join(filter(None, (table.title, block.title if block else "")))
        lines += _float(
            (title, *(table.said if i else table.lines())),
            block,
            _below(table, block, last=i >= len(table.blocks) - 1),
        )
    return "\n".join([*lines, ""])


def _float(caption: Sequence[str], block: Block | None, below: Iterable[str]) -> Iterator[str]:
    yield r"\begin{table}"
    yield r"\centering"
    yield rf"\caption{{{'. '.join(_tex(line.rstrip('.')) for line in caption)}.}}"
    yield from _grid(block) if block else ()
    yield from (rf"\par\smallskip{{\footnotesize {line}\par}}" for line in below)
    yield r"\end{table}"


def _below(table: Table, block: Block | None, *, last: bool) -> Iterator[str]:
    """The footnotes that the block refers to; the notes stand below the last."""
    used = {mark for row in block.rows for cell in row for mark in cell.marks} if block else set()
    yield from (
        rf"\textsuperscript{{{mark}}} {_tex(text)}"
        for mark, text in table.footnotes
        if mark in used
    )
    yield from map(_tex, table.notes) if last else ()


def _grid(block: Block) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{block.align}}}"
    yield r"\toprule"
    for depth in range(1, len(block.header)):
        yield from _groups(block, depth, ruled=depth == len(block.header) - 1)
    yield _ampersands(map(_tex, block.header[-1]))
    yield r"\midrule"
    for row in block.rows:
        yield _ampersands(map(_cell, row))
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _groups(block: Block, depth: int, *, ruled: bool) -> Iterator[str]:
    groups = list(block.groups(depth))
    yield _ampersands(
        rf"\multicolumn{{{stop - start}}}{{c}}{{{_tex(title)}}}" for title, start, stop in groups
    )
    rules = "".join(
        rf"\cmidrule(lr){{{start + 1}-{stop}}}" for title, start, stop in groups if title
    )
    if ruled and rules:
        yield rules


def _cell(cell: Text) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
    return rf"{text}\textsuperscript{{{','.join(cell.marks)}}}" if cell.marks else text


def _ampersands(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _tex(text: str) -> str:
    return PATTERN.sub(
        lambda match: SPECIAL.get(match[0]) or ("{}-" if match[0] == "-" else _letter(match[0])),
        text,
    )


def _letter(character: str) -> str:
    """An accented Latin letter as LaTeX writes it; of anything else, which may have no glyph, its code: nothing is lost unseen."""
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS:
        return rf"\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
