"""A small file system that a test can fill or make read-only."""

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest


class Disk:
    """A file system with room for a copy of the code and little else."""

    def __init__(self, path: Path) -> None:
        self.path, self.ballast = path, path / "ballast"

    def fill(self) -> None:
        with suppress(OSError), self.ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**12))

    def free(self) -> None:
        self.ballast.unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.path], check=True)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)
