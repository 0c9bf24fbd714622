"""Draw docs/images/rooms.svg: the rooms of the code and the imports between them.

Run it from the root of the repository with `python -m docs.images.rooms`. Floors and imports come
from tests/unit/test_house.py, which also compares the picture with the code.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from tests.unit.test_house import FLOOR, MODULES, imports, room

PICTURE = Path(__file__).with_name("rooms.svg")
COLUMN, ROW = 172, 86  # pixels between the centres of columns and of floors
WIDTH, HEIGHT = 152, 46  # pixels of a box
LEFT, TOP, RIGHT = 0.75, 0.5, 5.0  # margins and the last column, in columns and floors

# Each room has a column, chosen such that no arrow runs behind a box, and a caption.
ROOMS = {
    "cli": (2.0, "the vlpeft command"),
    "slurm": (0.6, "jobs on a cluster"),
    "bench": (3.25, "speed and memory"),
    "launch": (0.3, "workers on this machine"),
    "results": (1.45, "tables, statistics, report"),
    "plan": (1.2, "YAML to checked cells"),
    "export": (2.4, "trained cells as files"),
    "pretraining": (4.4, "the tiny towers"),
    "run": (0.8, "a cell to a record"),
    "methods": (2.8, "p-Adapter, routing"),
    "tasks": (-0.2, "prompts and targets"),
    "cells": (0.75, "ids and records"),
    "backbones": (1.7, "models and their sites"),
    "baselines": (2.65, "known methods"),
    "metrics": (0.4, "scores"),
    "contract": (2.75, "Method, Backbone, Site"),
    "datasets": (3.9, "examples and images"),
    "core": (2.0, "config, errors, libraries"),
}
STYLE = """
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #4a4f57; text-anchor: middle; }
.name { font-weight: 600; font-size: 14px; fill: #1b1d21; }
rect { fill: #eef3fa; stroke: #34618f; }
.paper { fill: #ffffff; stroke: none; }
path { stroke: #4a4f57; fill: none; }
.head { fill: #4a4f57; stroke: none; }
"""
TITLE = "The rooms of the code and their imports; a room imports from lower floors only"


def needed_arrows() -> list[tuple[str, str]]:
    """Return the imports between rooms, without those that follow from other arrows."""
    targets: dict[str, set[str]] = {name: set() for name in FLOOR}
    for module in MODULES:
        for imported in imports(module):
            if imported in MODULES and room(module) != room(imported):
                targets[room(module)].add(room(imported))

    def reached(name: str) -> set[str]:
        found = set(targets[name])
        for target in targets[name]:
            found |= reached(target)
        return found

    arrows = []
    for name, direct in targets.items():
        for target in direct:
            others = direct - {target}
            if not any(target in reached(other) for other in others):
                arrows.append((name, target))
    return sorted(arrows)


def centre(name: str) -> tuple[float, float]:
    """Return the centre of a room's box in pixels; the lowest floor is at the bottom."""
    x = (ROOMS[name][0] + LEFT) * COLUMN
    y = (max(FLOOR.values()) - FLOOR[name] + TOP) * ROW
    return x, y


def draw_arrow(start: str, end: str) -> str:
    """Return a line from the bottom of one box to the top of another.

    A line that crosses several floors far to the right leaves the side of its box instead,
    in a curve around the boxes between.
    """
    (x1, y1), (x2, y2) = centre(start), centre(end)
    top = y2 - HEIGHT / 2 - 3
    if x2 - x1 > 2 * COLUMN and FLOOR[start] - FLOOR[end] > 2:
        line = f"M{x1 + WIDTH / 2:.0f} {y1:.0f}Q{x2:.0f} {y1:.0f} {x2:.0f} {top:.0f}"
        return f'<path marker-end="url(#head)" d="{line}"/>'
    # Lines end a little towards their origin, so that the heads at one box do not overlap.
    shift = max(-60, min(60, (x1 - x2) / 11))
    line = f"M{x1 - shift:.0f} {y1 + HEIGHT / 2:.0f}L{x2 + shift:.0f} {top:.0f}"
    return f'<path marker-end="url(#head)" d="{line}"/>'


def draw_box(name: str) -> str:
    """Return the box of a room with its name and caption."""
    x, y = centre(name)
    left, top = x - WIDTH / 2, y - HEIGHT / 2
    size = f'width="{WIDTH}" height="{HEIGHT}" rx="6"'
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" {size}/>'
        f'<text class="name" x="{x:.0f}" y="{y - 4:.0f}">{name}</text>'
        f'<text x="{x:.0f}" y="{y + 14:.0f}">{escape(ROOMS[name][1])}</text>'
    )


def draw() -> str:
    """Return the picture as SVG: arrows first, so that boxes cover them."""
    width, height = int((LEFT + RIGHT) * COLUMN), (max(FLOOR.values()) + 1) * ROW
    head = '<path class="head" d="M0 0L8 4L0 8z"/>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{TITLE}</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" '
        f'orient="auto">{head}</marker></defs>',
        f'<rect class="paper" width="{width}" height="{height}"/>',
        *[draw_arrow(start, end) for start, end in needed_arrows()],
        *[draw_box(name) for name in ROOMS],
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
