"""Table -> LaTeX: floats with booktabs rules, in plain ASCII, which compile with any names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from vlpeft.results.tables.blocks import Block, Table, Text

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "%&_#${}"},
    # Not special, yet wrong: LaTeX reads brackets and stars after `\\` as its argument.
    **{c: f"{{{c}}}" for c in "[]*"},
    # The OT1 encoding has no glyph for these.
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
# Two hyphens would become a dash. `?` + grave would become a Spanish question mark, which cannot
# occur: the grave is spelled out.
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
    r"""Return a `table` environment for each block, so that each fits a page.

    They need \usepackage{booktabs} and nothing else.
    """
    lines = [r"% needs \usepackage{booktabs}"]
    if not table.blocks:
        lines += _float((table.title, *table.lines()), None, map(_tex, table.notes))
    for i, block in enumerate(table.blocks):
        title = ": ".join(filter(None, (table.title, block.title)))
        rest = table.remark_lines if i else table.lines()
        below = list(_footnotes(table, block))
        if i == len(table.blocks) - 1:
            below += map(_tex, table.notes)
        lines += _float((title, *rest), block, below)
    return "\n".join([*lines, ""])


def _float(caption: Sequence[str], block: Block | None, below: Iterable[str]) -> Iterator[str]:
    yield r"\begin{table}"
    yield r"\centering"
    yield rf"\caption{{{'. '.join(_tex(line.rstrip('.')) for line in caption)}.}}"
    if block is not None:
        yield from _grid(block)
    for line in below:
        yield rf"\par\smallskip{{\footnotesize {line}\par}}"
    yield r"\end{table}"


def _footnotes(table: Table, block: Block) -> Iterator[str]:
    """Yield the footnotes that the block refers to."""
    used: set[str] = set()
    for row in block.rows:
        for cell in row:
            used.update(cell.marks)
    for mark, text in table.footnotes:
        if mark in used:
            yield rf"\textsuperscript{{{mark}}} {_tex(text)}"


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
    text = _tex(cell.text)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    if cell.marks:
        text += rf"\textsuperscript{{{','.join(cell.marks)}}}"
    return text


def _ampersands(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _tex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return PATTERN.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    """Return the LaTeX code of one character that PATTERN found."""
    character = match[0]
    if character in SPECIAL:
        return SPECIAL[character]
    if character == "-":
        return "{}-"
    return _letter(character)


def _letter(character: str) -> str:
    """Return an accented Latin letter as LaTeX writes it.

    Anything else may have no glyph, so it becomes its code: nothing is lost unseen.
    """
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS:
        return rf"\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
