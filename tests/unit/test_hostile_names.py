"""Names with characters that a format treats specially come out of every renderer unchanged."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from vlpeft.results.tables.blocks import Block, Table, Text, one_line
from vlpeft.results.tables.render import FORMATS, render

SPECIAL = r"_%&#$\{}~^<>|*`[]()+-.!'\"=:@/ " + "\n\té±×–ßλ中🙂\u200b\u0301"
HOSTILE = (
    r"_%&#$\{}~^<>|*",
    "# title\n- item",
    "1. one",
    "--- `a` **b** <b>c</b> [d](e) &amp; \\\\",
    "naïve Ångström łódź 中文 🙂 ½ \u0301",
    "?` !` << >> -- --- ,, ''",
    "=1+1",
    "http://a.b/c_d",
    "$x$ \\input{/etc/passwd}",
)
NAMES = st.text(
    st.one_of(st.sampled_from(SPECIAL), st.characters(codec="utf-8")), max_size=15
).filter(one_line)


def named(text: str) -> Table:
    """Return a table that holds the text everywhere, on one line, like tables of results."""
    text = one_line(text)
    rows = ((Text(text, ("a",)), Text("1.0", bold=True)), (Text("x"), Text(text)))
    return Table(
        text,
        (text,),
        (Block(text, "lr", (("", text), ("method", text)), rows),),
        ({"name": text},),
        (("a", text),),
        (text,),
    )


@given(NAMES)
@example(HOSTILE[0])
@example(HOSTILE[1])
@example(HOSTILE[2])
@example(HOSTILE[3])
@example(HOSTILE[7])
@settings(max_examples=150)
def test_markdown_shows_the_name(text):
    tokens = MarkdownIt("commonmark").enable("table").parse(render(named(text), "markdown"))
    cells = [
        tokens[i + 1] for i, token in enumerate(tokens) if token.type in ("td_open", "th_open")
    ]
    assert len(cells) == 6, "the grid is whole"
    assert [seen(cell) for cell in cells[2:]] == [
        f"{one_line(text)}<sup>a</sup>",
        "1.0",
        "x",
        one_line(text),
    ]


def seen(inline) -> str:
    """Return the text of an inline token with entities and marks resolved.

    The tags of footnote marks stay.
    """
    return "".join(child.content for child in inline.children)


class Cells(HTMLParser):
    """Collects the texts of the table cells of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


@given(NAMES)
@example(HOSTILE[3])
def test_html_shows_the_name(text):
    page = Cells()
    page.feed(render(named(text), "html").partition("</table>")[0])
    assert [cell.strip("\n") for cell in page.cells] == [
        f"{one_line(text)}a",
        "1.0",
        "x",
        one_line(text),
    ]
    assert page.tags.count("script") == 0
    assert page.tags.count("b") == 1


@given(NAMES)
def test_data_formats_hold_the_name(text):
    table = named(text)
    assert next(csv.DictReader(io.StringIO(render(table, "csv"))))["name"] == one_line(text)
    assert json.loads(render(table, "json"))["rows"] == [{"name": one_line(text)}]


@given(NAMES)
def test_text_keeps_its_lines(text):
    assert len(render(named(text), "text").splitlines()) == len(
        render(named("x"), "text").splitlines()
    )


@given(NAMES)
def test_every_renderer_is_repeatable(text):
    assert all(render(named(text), form) == render(named(text), form) for form in FORMATS)


def compiled(source: str, folder: Path) -> str:
    """Return the text of the PDF that pdflatex makes."""
    page = (
        r"\documentclass{article}\usepackage[margin=1cm,a3paper,landscape]{geometry}"
        r"\usepackage{booktabs}\begin{document}"
    )
    (folder / "t.tex").write_text(f"{page}\n{source}\\end{{document}}\n", encoding="utf-8")
    command = [
        "pdflatex",
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-no-shell-escape",
        "t.tex",
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "LaTeX Warning: Float too large" not in done.stdout
    return done.stdout


needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex here (Debian: texlive-latex-recommended)"
)


@needs_latex
def test_latex_compiles_with_any_name(tmp_path):
    letters = "".join(map(chr, (*range(32, 127), *range(160, 384))))
    names = (*HOSTILE, *(letters[i : i + 20] for i in range(0, len(letters), 20)))
    out = compiled("\n\\clearpage\n".join(render(named(name), "latex") for name in names), tmp_path)
    assert re.search(rf"Output written on t\.pdf \({len(names)} pages", out)


@needs_latex
def test_the_golden_tables_compile(tmp_path):
    golden = sorted((Path(__file__).resolve().parent.parent / "golden" / "results").glob("*.latex"))
    assert golden
    compiled("\n\\clearpage\n".join(path.read_text(encoding="utf-8") for path in golden), tmp_path)
