"""Lines through dots with bars: scores over a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlpeft.benchmark.core.axes import Axis
from vlpeft.results.report.figures import ChartLine, Figure, Frame, Mark, Path


@dataclass(frozen=True)
class Dots(ChartLine):
    """A line with a dot at each point. `spread` is half the length of the bar through each dot."""

    spread: Sequence[float]


def dotted_lines(series: Sequence[Dots], x_title: str, y_title: str, **about: Any) -> Figure:
    """Draw scores over a number. Its axis is logarithmic if the numbers span a decade."""
    across: list[float] = []
    up: list[float] = []
    for each in series:
        across += [x for x, _ in each.points]
        for (_, y), spread in zip(each.points, each.spread, strict=True):
            up += [y - spread, y + spread]
    frame = Frame(Axis.around(x_title, across, log=True), Axis.around(y_title, up))
    paths: list[Path] = []
    marks: list[Mark] = []
    for each in series:
        paths.append(Path(frame.path(each.points), each.method, each.name))
        for (x, y), spread in zip(each.points, each.spread, strict=True):
            bar = frame.path([(x, y - spread), (x, y + spread)])
            paths.append(Path(bar, each.method, kind="bar"))
            text = f"{each.name}, {x_title} {x:g}: {y:.1f}"
            marks.append(Mark(frame.to_x(x), frame.to_y(y), each.method, text))
    return Figure(
        **about,
        about=f"{len(series)} lines. {'; '.join(mark.text for mark in marks)}.",
        x_title=f"{x_title}, log scale" if frame.x.log else x_title,
        y_title=y_title,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        paths=tuple(paths),
        marks=tuple(marks),
    )
