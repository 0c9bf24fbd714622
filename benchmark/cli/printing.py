"""How the commands print tables, JSON and lines. All text that they print passes here."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from vlpeft.benchmark.core.terminal import escape_json, escape_lines, print_line, print_message

__all__ = [
    "json_text",
    "print_error",
    "print_json",
    "print_line",
    "print_message",
    "print_note",
    "print_table",
    "print_text",
    "terminal_width",
]


def print_table(table: Any) -> None:
    """Print a table as text; on a terminal in colour, and as wide as it."""
    from vlpeft.results.tables.render import render

    width = terminal_width()
    print(render(table, "text", colour=width is not None, width=width), end="")


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if the output is not a terminal."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def print_json(values: Any) -> None:
    """Print JSON for scripts."""
    print(json_text(values, indent=1))


def json_text(values: Any, indent: int | None = None) -> str:
    """Return JSON with the characters that stdout can print; others are escapes of JSON."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "").replace("_", "")
    return escape_json(json.dumps(values, indent=indent, ensure_ascii=encoding != "utf8"))


def print_text(text: str) -> None:
    """Print text of several lines of our own."""
    print(escape_lines(text))


def print_note(line: str) -> None:
    """Print a line on stderr, where it does not mix with results."""
    print_message(f"vlpeft: {line}")


def print_error(error: object) -> None:
    """Print an error on one line on stderr."""
    print_note(f"error: {error}")
