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
.ground { fill: #fff; } .grid { stroke: #d9dbe0; stroke-width: .75; } .line { stroke: #0b62a8; stroke-width: 1.6; } .dot { fill: #b5480c; }
@media (prefers-color-scheme: dark) {
  text { fill: #e9eaee; } .tick { fill: #a9afba; } .ground { fill: #13151a; } .grid { stroke: #343944; }
  .line { stroke: #6db3f2; } .dot { fill: #ff9e64; }
}
"""


def plot(rows: Sequence[BenchRow]) -> str:
    """Return an SVG of the rows that have points."""
    curves = [row for row in rows if row.points]
    height = HEIGHT * math.ceil(len(curves) / 2)
    panels = "".join(
        f'<g transform="translate({WIDTH * (i % 2)} {HEIGHT * (i // 2)})">\n{"".join(_panel(row))}</g>\n'
        for i, row in enumerate(curves)
    )
    size = f'width="{2 * WIDTH}" height="{height}" viewBox="0 0 {2 * WIDTH} {height}"'
    said = escape("; ".join(f"{row.name} {row.ratio:.2f}" for row in curves))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{said}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="ground" width="100%" height="100%"/>\n{panels}</svg>\n'
    )


def _panel(row: BenchRow) -> Iterator[str]:
    points = list((row.points or {}).items())
    ends = [(size, _fitted(row.ratio, points, size)) for size in (points[0][0], points[-1][0])]
    x, y = (_axis(values) for values in zip(*points, *ends, strict=True))
    yield f'<text class="title" x="{LEFT}" y="18">{escape(row.name.partition(",")[0])}</text>\n'
    yield f'<text class="tick" x="{LEFT}" y="33">{row.unit}; exponent {row.ratio:.2f}, at most {row.required:g}</text>\n'
    for size, _ in points:
        at = _right(x, size)
        yield f'<path class="grid" d="M{at} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text class="tick" x="{at}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{size:g}</text>\n'
    for value, text in y.ticks():
        at = _down(y, value)
        yield f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5}" text-anchor="end">{text}</text>\n'
    yield f'<path class="line" d="M{"L".join(f"{_right(x, size)} {_down(y, value)}" for size, value in ends)}"/>\n'
    for size, value in points:
        yield f'<circle class="dot" r="3.5" cx="{_right(x, size)}" cy="{_down(y, value)}"><title>{size:g}: {value:.3g}</title></circle>\n'


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
