"""Draw how costs grow: one panel for each curve, with the measured points and a line through them.

Both axes are logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from statistics import fmean

from vlpeft.benchmark.bench._rows import BenchRow
from vlpeft.benchmark.core.axes import Axis

WIDTH, HEIGHT = 340, 250  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 40
STYLE = """
text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: #1b1d21; }
.title { font-weight: 600; font-size: 12px; } .tick { font-size: 10px; fill: #565b64; }
.ground { fill: #fff; } .grid { stroke: #d9dbe0; stroke-width: .75; }
.line { stroke: #0b62a8; stroke-width: 1.6; } .dot { fill: #b5480c; }
@media (prefers-color-scheme: dark) {
  text { fill: #e9eaee; } .tick { fill: #a9afba; } .ground { fill: #13151a; }
  .grid { stroke: #343944; } .line { stroke: #6db3f2; } .dot { fill: #ff9e64; }
}
"""


def plot(rows: Sequence[BenchRow]) -> str:
    """Return an SVG of the rows that have points."""
    curves = [row for row in rows if row.points]
    width, height = 2 * WIDTH, HEIGHT * math.ceil(len(curves) / 2)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">']
    summary = "; ".join(f"{row.name} {row.ratio:.2f}" for row in curves)
    lines.append(f"<title>{escape(summary)}</title>")
    lines.append(f"<style>{STYLE}</style>")
    lines.append('<rect class="ground" width="100%" height="100%"/>')
    for number, row in enumerate(curves):
        x, y = WIDTH * (number % 2), HEIGHT * (number // 2)
        lines.append(f'<g transform="translate({x} {y})">')
        lines += _panel(row)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(row: BenchRow) -> Iterator[str]:
    """Yield the SVG elements of one curve: titles, grid, fitted line and measured points."""
    points = list((row.points or {}).items())
    ends = [(size, _fitted(row.ratio, points, size)) for size in (points[0][0], points[-1][0])]
    x, y = (_axis(values) for values in zip(*points, *ends, strict=True))
    title = escape(row.name.partition(",")[0])
    yield f'<text class="title" x="{LEFT}" y="18">{title}</text>'
    exponent = f"{row.unit}; exponent {row.ratio:.2f}, at most {row.required:g}"
    yield f'<text class="tick" x="{LEFT}" y="33">{exponent}</text>'
    yield from _size_grid(x, [size for size, _ in points])
    yield from _cost_grid(y)
    (left, top), (right, bottom) = [(_right(x, size), _down(y, value)) for size, value in ends]
    yield f'<path class="line" d="M{left} {top}L{right} {bottom}"/>'
    for size, value in points:
        centre = f'cx="{_right(x, size)}" cy="{_down(y, value)}"'
        label = f"<title>{size:g}: {value:.3g}</title>"
        yield f'<circle class="dot" r="3.5" {centre}>{label}</circle>'


def _size_grid(x: Axis, sizes: Sequence[float]) -> Iterator[str]:
    """Yield a vertical line and a label for each measured size."""
    for size in sizes:
        at = _right(x, size)
        place = f'x="{at}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle"'
        yield f'<path class="grid" d="M{at} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text class="tick" {place}>{size:g}</text>'


def _cost_grid(y: Axis) -> Iterator[str]:
    """Yield a horizontal line and a label for each tick of the costs."""
    for value, text in y.ticks():
        at = _down(y, value)
        place = f'x="{LEFT - 6}" y="{at + 3.5}" text-anchor="end"'
        yield f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" {place}>{text}</text>'


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    air = (high / low) ** 0.08
    return Axis("", low / air, high * air, log=True)


def _fitted(exponent: float, points: Sequence[tuple[float, float]], size: float) -> float:
    """Return the value of the fitted power law, which goes through the middle of the points."""
    across, up = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    return math.exp(fmean(up) + exponent * (math.log(size) - fmean(across)))


def _right(axis: Axis, value: float) -> float:
    return round(LEFT + axis.at(value) * (WIDTH - RIGHT - LEFT), 1)


def _down(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - BOTTOM - TOP), 1)
