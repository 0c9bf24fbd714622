"""Speed and memory, side by side: `vlpeft bench NAME` runs `benchmark/bench/NAME.py`.

A bench is one file with `run(setting) -> Iterator[BenchRow]`, found by its name. `_rows.py`
defines a row, and `_sides.py` measures two sides. Nothing is imported here, so that
`vlpeft --help` can name the benches.
"""

from __future__ import annotations

from pathlib import Path


def names() -> list[str]:
    """Return the names of all benches."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
