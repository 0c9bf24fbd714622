"""Curves of costs as a picture: log cost over log size, with the power that fits, in one SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from benchmark.bench._rows import Row

WIDTH, HEIGHT, LEFT, TOP = 260, 180, 50, 30  # of a panel's axes, and the room for its labels
COLUMN, LINE = WIDTH + LEFT + 40, HEIGHT + TOP + 50


def plot(rows: Sequence[Row]) -> str:
    """The rows that are curves, two panels beside each other; dots: what was measured, line: the fitted power."""
    curves = [(row, row.points) for row in rows if row.points]
    panels = "".join(
        f'<g transform="translate({LEFT + COLUMN * (i % 2)} {TOP + LINE * (i // 2)})">{"".join(_panel(row, points))}</g>'
        for i, (row, points) in enumerate(curves)
    )
    size = f'width="{2 * COLUMN}" height="{LINE * -(-len(curves) // 2)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">{panels}</svg>\n'


def _panel(row: Row, points: Mapping[int, float]) -> Iterator[str]:
    x, y = [math.log(size) for size in points], [math.log(cost) for cost in points.values()]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    fitted = [middle_y + row.ratio * (at - middle_x) for at in x]  # the least-squares line goes through the means
    across, up = _scale(x, WIDTH), _scale([*y, *fitted], HEIGHT)
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    title = f"{row.name.partition(', ')[0]}: exponent {row.ratio:.2f} (at most {row.required:g})"
    yield f'<text x="0" y="-10" font-weight="bold">{escape(title)}</text>'
    line = " L".join(f"{across(a):.1f} {HEIGHT - up(b):.1f}" for a, b in zip(x, fitted, strict=True))
    yield f'<path fill="none" stroke="#c33" d="M{line}"/>'
    for (size, cost), a, b in zip(points.items(), x, y, strict=True):
        yield f'<circle cx="{across(a):.1f}" cy="{HEIGHT - up(b):.1f}" r="3" fill="#236"/>'
        yield f'<text x="{across(a):.1f}" y="{HEIGHT + 14}" text-anchor="middle">{size:,}</text>'
        yield f'<text x="-4" y="{HEIGHT - up(b) + 4:.1f}" text-anchor="end">{cost:,.3g}</text>'
    yield f'<text x="0" y="{HEIGHT + 28}">{escape(row.unit)} over {escape(row.name.partition(" over ")[2].partition(",")[0])}</text>'


def _scale(values: Sequence[float], length: int) -> _Scale:
    return _Scale(min(values), (max(values) - min(values)) or 1.0, length)


class _Scale:
    def __init__(self, low: float, span: float, length: int) -> None:
        self.low, self.span, self.length = low, span, length

    def __call__(self, value: float) -> float:
        return (0.05 + 0.9 * (value - self.low) / self.span) * self.length
