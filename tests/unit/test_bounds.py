"""Numbers and paths that this machine cannot serve are refused in one line."""

import os

import pytest

from tests.end_to_end.conftest import write_one
from vlpeft.benchmark.core.cores import check_number
from vlpeft.benchmark.core.errors import UserError

INLINE = ("sweep", "quickstart", "--on", "inline")
LOCAL = ("sweep", "quickstart", "--on", "local")


def refuse(vlpeft, *words: object) -> str:
    code, out, err = vlpeft(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("number", [1_000_000, 10**30])
@pytest.mark.parametrize(
    "words",
    [
        (*INLINE, "--threads"),
        (*INLINE, "--ranks"),
        (*LOCAL, "--workers"),
        (*LOCAL, "--threads"),
        ("run", "quickstart", "--cell", "0", "--threads"),
        ("retry", "quickstart", "--failed", "--threads"),
        ("plan", "quickstart", "--cost", "--threads"),
        ("measure", "quickstart", "--threads"),
        ("predict", "--adapter", "a", "--threads"),
    ],
)
def test_more_than_the_machine_can_run(vlpeft, tmp_path, monkeypatch, words, number) -> None:
    monkeypatch.chdir(tmp_path)
    err = refuse(vlpeft, *words, number)
    assert words[-1] in err
    assert f"which has {os.cpu_count()} cores; use at most" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize(
    "words", [(*INLINE, "--threads"), (*INLINE, "--ranks"), (*LOCAL, "--workers")]
)
def test_less_than_one(vlpeft, words, number) -> None:
    assert words[-1] in refuse(vlpeft, *words, number)


def test_more_threads_than_cores_are_fine() -> None:
    """They give the same bits as on a larger machine."""
    assert check_number(2 * (os.cpu_count() or 1), "--threads")
    with pytest.raises(UserError, match="too many for this machine"):
        check_number(10_000 * (os.cpu_count() or 1), "--threads")


@pytest.mark.parametrize("value", ["", "a\0b"])
@pytest.mark.parametrize(
    "words",
    [
        (*INLINE, "--root"),
        ("plan", "quickstart", "--root"),
        ("status", "quickstart", "--root"),
        ("table", "quickstart", "-o"),
        ("report", "quickstart", "-o"),
        ("keep", "quickstart", "--out"),
        ("export-adapter", "quickstart", "0", "-o"),
        ("predict", "--adapter"),
        ("data", "check", "vqav2", "--path"),
        ("bench", "growth", "--plot"),
    ],
)
def test_an_empty_path(vlpeft, words, value) -> None:
    assert "is an empty path; name one, or leave the option out" in refuse(vlpeft, *words, value)


@pytest.mark.parametrize("command", ["sweep", "status", "table", "keep", "retry", "plan"])
def test_a_file_as_root(vlpeft, tmp_path, command) -> None:
    (tmp_path / "root").write_text("precious")
    more = ("--failed",) if command == "retry" else ()
    err = refuse(vlpeft, command, "quickstart", *more, "--root", tmp_path / "root")
    assert "is a file" in err
    assert (tmp_path / "root").read_text() == "precious"


@pytest.mark.parametrize("command", ["sweep", "status", "table", "plan"])
def test_a_name_of_300_letters(vlpeft, tmp_path, command) -> None:
    err = refuse(vlpeft, command, write_one(tmp_path), "--root", tmp_path / ("x" * 300))
    assert "File name too long" in err
    assert "xxx" in refuse(vlpeft, command, tmp_path / f"{'x' * 300}.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "loop.yaml"),
        ("data", "check", "loop.yaml"),
        ("data", "check", "~nobody-has-this-name/d.yaml"),
        ("data", "check", "d.yaml", "--path", "~nobody-has-this-name"),
        ("status", "loop.yaml"),
    ],
)
def test_a_link_to_itself_and_an_unknown_user(vlpeft, tmp_path, monkeypatch, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    refuse(vlpeft, *words)
