"""Print lines. Names and messages of other people's files cannot act on the terminal.

A label may hold escape sequences, which recolour or retitle a terminal, a newline, which forges a
second line, or marks that turn the direction of writing. All are printed as escapes.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from pathlib import Path
from textwrap import wrap
from typing import Any, TextIO

# Control characters (C0, DEL, C1), line and paragraph separators, marks of direction, and halves
# of surrogate pairs.
ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str) -> str:
    """Return text on one line, with every active character as its escape."""
    return ACTIVE.sub(lambda found: _escape(found[0]), text)


def escape_lines(text: str) -> str:
    """Escape text of several lines; newlines and tabs stay."""
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.split("\n"))


def escape_json(text: str) -> str:
    """Escape JSON text: it stays JSON of the same values. JSON itself escapes C0 alone."""
    # A newline in JSON text separates values: in a string it is an escape already.
    lines = text.split("\n")
    return "\n".join(ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 256:
        return NAMED.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}"


def print_line(text: str) -> None:
    """Print one line of results on stdout."""
    print(escape(text), flush=True)


def print_message(text: str) -> None:
    """Print one line on stderr, where it does not mix with results.

    A terminal would break it inside words, so there it is broken between words.
    """
    text = escape(text)
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(wrap(text, width, break_long_words=False, break_on_hyphens=False))
    write_stderr(f"{text}\n")


def write_stderr(text: str) -> None:
    """Write to stderr. If that fails there is nowhere to say so: the exit code has to."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


class OutputError(OSError):
    """Stdout cannot be written: its disk is full, or its reader is gone."""


class _Output(io.FileIO):
    """A file whose errors differ from those of all other files."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def prepare_streams() -> None:
    """Make stdout and stderr accept every text in any encoding, and closed ones drop it."""
    is_own = sys.stdout is sys.__stdout__  # and not one that a caller of `main` has set
    sys.stdout = _prepare(sys.stdout, "replace", checked=is_own)
    sys.stderr = _prepare(sys.stderr, "backslashreplace")


def _checked(stream: TextIO) -> TextIO:
    """Return a stream to the same file that raises OutputError."""
    stream.flush()
    raw = io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, line_buffering=stream.isatty())


def _prepare(stream: TextIO | None, errors: str, *, checked: bool = False) -> TextIO:
    if stream is None:  # closed by the parent process
        return Path(os.devnull).open("w", encoding="utf-8")
    if checked:
        stream = _checked(stream)
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=errors)
    return stream


def discard(stream: TextIO) -> None:
    """Drop what a stream still holds, which would fail again when the process ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
