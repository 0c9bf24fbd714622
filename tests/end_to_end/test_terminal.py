"""What commands print on a terminal of a given width."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.end_to_end.conftest import COMMAND, RUN, environment, start_vlpeft, vlpeft, write_one

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = re.compile(r"\d[\d.,]*(?: ± [\d.]+)?")


def on_terminal(width: int, *arguments: object) -> list[str]:
    """Run the command on a terminal, and return its lines without colours."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    with subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdin=side, stdout=side, stderr=side, env=environment()
    ):
        os.close(side)
        said = b""
        while True:
            try:
                said += os.read(main, 65536)
            except OSError:  # the command has ended
                break
        os.close(main)
    return ESCAPE.sub("", said.decode()).replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("width", [60, 80, 132])
@pytest.mark.parametrize("what", ["scores", "--costs", "--significance"])
def test_tables_fit_and_break_no_number(width: int, what: str) -> None:
    command = ["table", "quickstart", "--measured", *([] if what == "scores" else [what])]
    lines = on_terminal(width, *command)
    assert [line for line in lines if cell_len(line) > width] == []
    whole = vlpeft(*command).out
    shown = " ".join(lines)
    words = set(re.findall(r"[\d.,]*\d", whole))
    assert [word for word in words if word not in shown] == []


def test_piped_tables_stay_on_one_line() -> None:
    out = vlpeft("table", "quickstart", "--measured").out
    assert max(map(cell_len, out.splitlines())) > 150


def test_errors_break_between_words() -> None:
    lines = on_terminal(70, "table", "no_such_sweep")
    whole = vlpeft("table", "no_such_sweep").err
    assert len(lines) > 2
    assert " ".join(lines).split() == whole.split()


def test_lists_are_as_wide_as_the_terminal() -> None:
    assert max(map(cell_len, on_terminal(70, "list", "methods"))) <= 70


def test_watch_waits_for_a_launch(tmp_path: Path) -> None:
    sweep, root, log = write_one(tmp_path), tmp_path / "root", tmp_path / "log"
    watch = start_vlpeft("status", sweep, "--root", root, "--watch", log=log)
    try:
        while "waiting for the launch" not in log.read_text():
            assert watch.poll() is None
        assert vlpeft("sweep", sweep, "--root", root, "--on", "inline", *RUN).code == 0
        assert watch.wait(60) == 0
    finally:
        watch.kill()
    assert log.read_text().endswith("1 done\n")


def test_the_version() -> None:
    from importlib.metadata import version

    assert vlpeft("--version").out == f"vlpeft {version('vlpeft')}\n"


def test_scores_are_printed_last(tmp_path: Path) -> None:
    sweep = write_one(tmp_path)
    out = vlpeft("sweep", sweep, "--root", tmp_path / "root", "--on", "inline", *RUN).out
    assert 0 < out.index(": cost\n") < out.index("vqa_accuracy")
    assert out.rstrip().splitlines()[-1].startswith("lora")


@pytest.mark.parametrize("word", ["markdown", "md"])
def test_markdown_has_two_names(word: str, main) -> None:
    assert main("table", "quickstart", "--measured", "--format", word).out.startswith("### ")


def test_near_names_of_files(tmp_path: Path, main) -> None:
    write_one(tmp_path, name="mine.yaml")
    found = main("plan", tmp_path / "mien.yaml")
    assert found.code == 2
    assert "did you mean 'mine.yaml'?" in found.err


def test_completion_is_a_script(tmp_path: Path, main) -> None:
    script = tmp_path / "vlpeft"
    script.write_text(main("completion", "bash").out)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "export-adapter" in text
    assert "--published" in text
