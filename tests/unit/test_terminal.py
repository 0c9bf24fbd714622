"""What is printed is text: no name acts on the terminal, and no encoding or full disk traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.synthetic import planned
from vlpeft.benchmark.cli.printing import json_text
from vlpeft.benchmark.core.terminal import ACTIVE, escape, escape_json, escape_lines, print_message
from vlpeft.benchmark.launch.screen import CellProgress
from vlpeft.results.tables.blocks import Block, Table, Text
from vlpeft.results.tables.render import render

EVIL = "\x1b]0;owned\x07\x9b31m\u202e\u2066\u2028\r\nvlpeft: error: forged\x7f"
TABLE = ("table", "quickstart", "--measured")


@pytest.mark.parametrize("change", [escape, escape_lines, escape_json])
def test_no_active_character_is_left(change) -> None:
    assert not ACTIVE.search(change(EVIL).replace("\n", ""))


def test_other_characters_stay() -> None:
    text = "naïve 中文 🙂 ± a\xa0b \u200d"
    assert escape(text) == text
    assert escape_lines(f"{text}\n\t{text}") == f"{text}\n\t{text}"


def test_one_line_stays_one_line(capsys) -> None:
    print_message(f"vlpeft: error: label '{EVIL}'")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "\\x1b]0;owned\\x07" in lines[0]
    assert "\\r\\nvlpeft: error: forged" in lines[0]


def test_json_holds_the_same_values() -> None:
    values = {"a": EVIL, "b": ["é", "\ud800"]}
    assert json.loads(json_text(values, indent=1)) == values
    assert not ACTIVE.search(json_text(values))


def test_progress_of_a_cell(capsys) -> None:
    with CellProgress(planned(EVIL)) as progress:
        progress("train", 1, 2)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert not ACTIVE.search(err.rstrip("\n"))


@pytest.mark.parametrize("colour", [False, True])
def test_tables_in_text(colour) -> None:
    """Titles and cells that no table has cleaned before."""
    block = Block(EVIL, "ll", (("", EVIL), ("method", EVIL)), ((Text(EVIL), Text("x")),))
    table = Table(EVIL, (EVIL,), (block,), (), (("a", EVIL),), (EVIL,))
    clean = Table("t", ("c",), (Block("b", "ll", (("", "g"), ("m", "n")), block.rows),), ())
    text = render(table, "text", colour=colour)
    assert "owned" in text
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert len(text.splitlines()) == len(render(clean, "text").splitlines()) + 3


def run(words: tuple[str, ...], **options) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **options.pop("variables", {})}
    command = [sys.executable, "-m", "vlpeft", *words]
    return subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, env=variables, **options
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict", "utf-16"])
@pytest.mark.parametrize("words", [TABLE, (*TABLE, "--format", "json")])
def test_any_encoding(encoding, words) -> None:
    done = run(words, stdout=subprocess.DEVNULL, variables={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [TABLE, ("list", "methods", "--json"), ("--help",)])
def test_a_full_stdout_is_one_line(words) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = run(words, stdout=full)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "vlpeft: error: cannot write the output: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"), [(TABLE, 0), (("table", "nothing"), 2), (("tabel",), 2)]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_closed_streams_keep_the_exit_code(words, code, closed) -> None:
    command = f'"{sys.executable}" -m vlpeft {" ".join(words)} {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if "2>" in closed:
        assert "error" not in done.stdout


def test_a_typo_with_control_characters(vlpeft) -> None:
    code, _, err = vlpeft("plan", EVIL)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not ACTIVE.search(err.rstrip("\n"))
