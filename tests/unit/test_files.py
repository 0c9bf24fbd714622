"""Files are written whole, with the user's permissions, and never through somebody's link."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.disk import disk
from vlpeft.benchmark.core import files
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import (
    new_folder,
    open_regular,
    read_json,
    remove_abandoned,
    replacement,
    to_json,
    write_atomically,
    write_output,
    write_quickly,
)

__all__ = ["disk"]
KILLED = """
import os, signal, sys
from pathlib import Path
from vlpeft.benchmark.core import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

path = Path(sys.argv[1])
if sys.argv[2] == "folder":
    with files.new_folder(path) as made:
        (made / "half").write_text("x")
        die()
os.fsync = die
files.write_atomically(path, b"x" * 1000)
"""


def write_large(path: Path, data: bytes) -> None:
    with replacement(path) as temporary:
        temporary.write_bytes(data)


WRITERS = {
    "atomically": write_atomically,
    "exclusively": lambda path, data: write_atomically(path, data, exclusive=True),
    "quickly": write_quickly,
    "large": write_large,
    "output": write_output,
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_of_the_umask(tmp_path, write, umask) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_planted_link_is_not_followed(tmp_path, write, monkeypatch) -> None:
    """Even if the name of the temporary file could be guessed."""
    names = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(names))
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".file.{'0' * 16}.writing").symlink_to(victim)
    try:
        write(tmp_path / "file", b"x")
    except (UserError, FileExistsError):
        assert not (tmp_path / "file").exists()
    assert victim.read_bytes() == b"precious"


def test_names_of_temporary_files_differ(tmp_path, monkeypatch) -> None:
    seen = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda *words: (seen.append(Path(words[0]).name), real(*words))[1]
    )
    for _ in range(2):
        write_quickly(tmp_path / "file", b"x")
    assert len({name for name in seen if name.endswith(".writing")}) == 2
    assert not [name for name in seen if str(os.getpid()) in name.split(".")]


@pytest.mark.parametrize("number", sorted(files.NO_LINKS))
def test_a_disk_without_hard_links(tmp_path, monkeypatch, number) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    assert write_atomically(path, b"one", exclusive=True)
    assert not write_atomically(path, b"two", exclusive=True)
    assert path.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_without_hard_links_one_writer_wins(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr(os, "link", refuse)
    won: list[int] = []
    start = threading.Barrier(8)

    def publish(number: int) -> None:
        start.wait()
        if write_atomically(tmp_path / "file", bytes([number]) * 10_000, exclusive=True):
            won.append(number)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "file").read_bytes() == bytes(won) * 10_000


def test_other_trouble_with_a_link_is_an_error(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "trouble")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match=r"cannot write .*file: trouble"):
        write_atomically(tmp_path / "file", b"one", exclusive=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, kind) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "x"), kind], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".writing"]
    write_atomically(tmp_path / "other", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_files_of_a_living_writer_stay(tmp_path) -> None:
    with replacement(tmp_path / "large") as temporary, new_folder(tmp_path / "folder") as folder:
        temporary.write_bytes(b"half")
        (folder / "inner").write_bytes(b"half")
        write_atomically(tmp_path / "other", b"")
        assert temporary.read_bytes() == b"half"
        assert (folder / "inner").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "large", "other"]


def test_files_of_other_names_and_links_stay(tmp_path) -> None:
    """A user's own hidden files, and what a link of such a name points to."""
    (tmp_path / ".env").write_text("x")
    (tmp_path / "f.0123456789abcdef.writing").write_text("x")
    (tmp_path / "victim").write_text("x")
    (tmp_path / f".f.{'0' * 16}.writing").symlink_to("victim")
    before = sorted(path.name for path in tmp_path.iterdir())
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "victim").read_text() == "x"


def test_on_a_disk_without_locks_age_decides(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    old, new = (tmp_path / f".f.{digit * 16}.writing" for digit in "01")
    old.write_text("x")
    new.write_text("x")
    os.utime(old, (1, 1))
    write_atomically(tmp_path / "file", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "file"]


@pytest.mark.parametrize("length", [1, 200, 255])
def test_names_of_any_length(tmp_path, length) -> None:
    path = tmp_path / ("é" * (length // 2) or "x")
    write_atomically(path, b"x")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"x"


def test_a_name_that_is_too_long_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="File name too long"):
        write_atomically(tmp_path / ("x" * 300), b"x")


def odd_node(path: Path, kind: str) -> None:
    """Put something at a path that is not a file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, kind) -> None:
    path = tmp_path / "node"
    odd_node(path, kind)
    with pytest.raises(OSError, match=r"Is a directory|Not a regular file|Too many levels"):
        open_regular(path)
    with pytest.raises(UserError, match=r"node: not readable .*; restore or delete it"):
        read_json(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a":' * 50_000, "9" * 5000, "\xff", "[]"]
)
def test_damaged_json_is_one_error(tmp_path, text) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.json: "):
        read_json(tmp_path / "a.json")


def test_half_a_character_survives_json(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(to_json({"a": "x\ud800é"}))
    assert read_json(tmp_path / "a.json") == {"a": "x\ud800é"}


def test_an_output_follows_the_users_link_and_keeps_permissions(tmp_path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_output(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_an_output_may_be_a_device_or_a_pipe(tmp_path) -> None:
    write_output(Path(os.devnull), b"x")
    assert Path(os.devnull).is_char_device()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_output(tmp_path / "pipe", b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)


def test_an_old_output_stays_whole_on_a_full_disk(disk) -> None:
    old, new = disk.path / "old", disk.path / "new"
    old.write_text("an old page")
    disk.fill()
    for path in (old, new):
        with pytest.raises(OSError, match="No space left"):
            write_output(path, bytes(100_000))
    assert old.read_text() == "an old page"
    assert sorted(path.name for path in disk.path.iterdir()) == ["ballast", "old"]


def test_a_large_file_that_fails_leaves_nothing(tmp_path) -> None:
    def fail() -> None:
        with replacement(tmp_path / "large.npy") as temporary:
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(3, 2))
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fail()
    assert list(tmp_path.iterdir()) == []
