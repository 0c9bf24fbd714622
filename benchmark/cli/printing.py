"""How the commands print tables and JSON."""

from __future__ import annotations

import json
import sys
from typing import Any


def print_table(table: Any) -> None:
    """Print a table as text, in colour on a terminal."""
    from vlpeft.results.tables.render import render

    print(render(table, "text", colour=sys.stdout.isatty()), end="")


def print_json(values: Any) -> None:
    """Print JSON for scripts."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    # Half of a character, which a message may quote, has no bytes in UTF-8: written as \udXXX.
    print(text.encode(errors="backslashreplace").decode())


def print_note(line: str) -> None:
    """Print a line on stderr, where it does not mix with results."""
    print(f"vlpeft: {line}", file=sys.stderr)
