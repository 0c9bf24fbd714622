"""Running the Java programs that the caption metrics are made of, without writing beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, cast

from vlpeft.benchmark.core.errors import MetricUnavailable

NO_JAVA = "needs Java 8 or newer on the PATH: apt install default-jre-headless, or conda install -c conda-forge openjdk"
UTF8 = "-Dfile.encoding=UTF-8"  # else the locale decides how captions are read, and batch jobs often have none


def java() -> str:
    """Path of the `java` program. Raises MetricUnavailable where there is none."""
    program = shutil.which("java")
    if program is None:
        raise MetricUnavailable(NO_JAVA)
    return program


def run_java(
    arguments: Sequence[str], text: str = "", variables: Mapping[str, str] | None = None
) -> str:
    """Run Java in a private temporary folder, `text` on its standard input; return its standard output.

    `variables` are added to the environment. Raises MetricUnavailable with Java's last words if it fails.
    """
    command, environment = [java(), UTF8, *arguments], {**os.environ, **(variables or {})}
    with TemporaryDirectory(prefix="vlpeft-java-") as folder:
        done = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            cwd=folder,
            env=environment,
            check=False,
        )
    if done.returncode != 0:
        raise MetricUnavailable(_last_words(done.returncode, done.stderr))
    return done.stdout.decode()


class Conversation:
    """A running Java program that answers line by line."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self._to, self._from = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

    def ask(self, line: str) -> str:
        """Send one line and return the next. Raises MetricUnavailable if the program has ended."""
        try:
            self._to.write(f"{line}\n".encode())
            self._to.flush()
        except OSError as error:
            raise self._ended() from error
        return self.read_line()

    def read_line(self) -> str:
        """Read one line. Raises MetricUnavailable if the program has ended."""
        line = self._from.readline()
        if not line:
            raise self._ended()
        return line.decode().strip()

    def _ended(self) -> MetricUnavailable:
        code = self._process.wait()
        self._errors.seek(0)
        return MetricUnavailable(_last_words(code, self._errors.read()))


@contextmanager
def talk_to_java(arguments: Sequence[str]) -> Iterator[Conversation]:
    """Start Java in a private temporary folder for a conversation; at the end it is stopped and waited for."""
    command, pipe = [java(), UTF8, *arguments], subprocess.PIPE
    with TemporaryDirectory(prefix="vlpeft-java-") as folder, TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, cwd=folder)
        try:
            yield Conversation(process, errors)
        finally:
            process.kill()
            process.communicate()  # closes the pipes and reaps the process


def _last_words(code: int, errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"Java ended with status {code}: {lines[-1].strip()[:300]}"
