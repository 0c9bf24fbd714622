"""How costs grow, as an SVG file: a panel for each curve.

It shows the measured points and a fitted power law. Both axes are logarithmic, so that a power is a
straight line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from vlpeft.benchmark.core.axes import Axis, short_number
from vlpeft.results.report.figures import HEIGHT, WIDTH, Figure, Frame, Mark, Path, Tick
from vlpeft.results.report.rendering import environment, read_asset

AIR = 0.08  # free space at both ends of an axis, as a power of its range
COLUMNS = 2
ABOVE = 34  # height of the title of a panel


@dataclass(frozen=True)
class GrowthCurve:
    """The measured cost of each size.

    exponent: of the power that is fitted to the points.
    limit: the largest exponent that is accepted; None if any is.
    """

    name: str
    unit: str
    exponent: float
    limit: float | None
    points: Sequence[tuple[float, float]]

    def fitted(self, size: float) -> float:
        """Return the cost on the power law with the exponent through the middle of the points."""
        across, up = (
            [math.log(value) for value in values] for values in zip(*self.points, strict=True)
        )
        return math.exp(fmean(up) + self.exponent * (math.log(size) - fmean(across)))


def draw_growth(curves: Sequence[GrowthCurve]) -> str:
    """Return the SVG of at least one curve."""
    height = HEIGHT + ABOVE
    placed = [
        (_figure(curve), WIDTH * (number % COLUMNS), height * (number // COLUMNS))
        for number, curve in enumerate(curves)
    ]
    return (
        environment()
        .get_template("figures.svg.j2")
        .render(
            title="; ".join(f"{curve.name} {curve.exponent:.2f}" for curve in curves),
            style=read_asset("charts.css"),
            placed=placed,
            above=ABOVE,
            width=f"{WIDTH * COLUMNS:g}",
            height=f"{height * math.ceil(len(curves) / COLUMNS):g}",
        )
    )


def _figure(curve: GrowthCurve) -> Figure:
    sizes = [size for size, _ in curve.points]
    ends = [(size, curve.fitted(size)) for size in (sizes[0], sizes[-1])]
    costs = [cost for _, cost in chain(curve.points, ends)]
    frame = Frame(_axis(sizes), _axis(costs))
    marks = [
        Mark(frame.to_x(size), frame.to_y(cost), 1, f"{short_number(size)}: {cost:.3g}")
        for size, cost in curve.points
    ]
    limit = "" if curve.limit is None else f", at most {curve.limit:g}"
    return Figure(
        title=curve.name,
        about="; ".join(mark.text for mark in marks),
        caption=f"{curve.unit}; exponent {curve.exponent:.2f}{limit}",
        x_title="",
        y_title="",
        x_ticks=tuple(Tick(frame.to_x(size), f"{size:g}") for size in sizes),
        y_ticks=frame.y_ticks(),
        paths=(Path(frame.path(ends), 0),),
        marks=tuple(marks),
    )


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    air = (high / low) ** AIR
    return Axis("", low / air, high * air, log=True)
