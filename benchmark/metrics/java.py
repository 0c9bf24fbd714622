"""Run the Java programs of the caption metrics, without writing to their folders."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, cast

from vlpeft.benchmark.core.errors import MetricUnavailable

NO_JAVA = (
    "needs Java 8 or newer on the PATH: "
    "apt install default-jre-headless, or conda install -c conda-forge openjdk"
)
# Otherwise the machine's locale decides how captions are read and how numbers are written: a German
# METEOR fails on its own "0,5". Options on the command line win over those in JAVA_TOOL_OPTIONS.
LOCALE = (
    "-Dfile.encoding=UTF-8",
    "-Duser.language=en",
    "-Duser.country=US",
    # These would win over the two general ones.
    "-Duser.language.display=en",
    "-Duser.language.format=en",
    "-Duser.country.display=US",
    "-Duser.country.format=US",
)


def java() -> str:
    """Return the path of the `java` program, or raise MetricUnavailable."""
    program = shutil.which("java")
    if program is None:
        raise MetricUnavailable(NO_JAVA)
    return program


def run_java(
    arguments: Sequence[str], text: str = "", variables: Mapping[str, str] | None = None
) -> str:
    """Run Java in a temporary folder and return its standard output.

    Args:
        arguments: of Java.
        text: standard input.
        variables: added to the environment.

    Raises:
        MetricUnavailable: Java is missing, or fails; the message has its last line of errors.
    """
    command = [java(), *LOCALE, *arguments]
    environment = {**_environment(), **(variables or {})}
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
        raise MetricUnavailable(_describe_failure(done.returncode, done.stderr))
    return done.stdout.decode()


class Conversation:
    """A running Java program that answers line by line.

    Its methods raise MetricUnavailable if the program has ended.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self._to, self._from = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

    def ask(self, line: str) -> str:
        """Send one line and return the next line of output."""
        try:
            self._to.write(f"{line}\n".encode())
            self._to.flush()
        except OSError as error:
            raise self._ended() from error
        return self.read_line()

    def read_line(self) -> str:
        """Read one line of output."""
        line = self._from.readline()
        if not line:
            raise self._ended()
        return line.decode().strip()

    def _ended(self) -> MetricUnavailable:
        """Return the error that says how the program ended."""
        code = self._process.wait()
        self._errors.seek(0)
        return MetricUnavailable(_describe_failure(code, self._errors.read()))


@contextmanager
def talk_to_java(arguments: Sequence[str]) -> Iterator[Conversation]:
    """Start Java in a temporary folder for a conversation. At the end it is stopped."""
    command, pipe = [java(), *LOCALE, *arguments], subprocess.PIPE
    with TemporaryDirectory(prefix="vlpeft-java-") as folder, TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=errors, cwd=folder, env=_environment()
        )
        try:
            yield Conversation(process, errors)
        finally:
            process.kill()
            process.communicate()  # closes the pipes and waits for the process


def _environment() -> dict[str, str]:
    """Return the environment of Java programs.

    Options in _JAVA_OPTIONS, unlike those in JAVA_TOOL_OPTIONS, win over the command line.
    """
    found = dict(os.environ)
    if "_JAVA_OPTIONS" in found:
        found["_JAVA_OPTIONS"] = " ".join((found["_JAVA_OPTIONS"], *LOCALE))
    return found


def _describe_failure(code: int, errors: bytes) -> str:
    """Return the exit status of Java and the last line of its errors."""
    lines = errors.decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    return f"Java ended with status {code}: {last.strip()[:300]}"
