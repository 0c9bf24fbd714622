"""Speed and memory, side by side: `vlpeft bench NAME` runs `benchmark/bench/NAME.py`.

A bench is one file with `run(setting) -> Iterator[Row]`, found by its name; `_rows.py` says what a row is, `_sides.py` how
two sides are measured. Nothing is imported here, so that `vlpeft --help` may name the benches.
"""

from __future__ import annotations

from pathlib import Path


def names() -> list[str]:
    """Benches there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
