"""Lines through dots with bars: scores over a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlpeft.benchmark.core.axes import Axis
from vlpeft.results.report.figures import Figure, Frame, Mark, Path, SeriesWay


@dataclass(frozen=True)
class Dots(SeriesWay):
    """A line with a dot at each point. `spread` is half the length of the bar through each dot."""

    spread: Sequence[float]


def dotted_lines(ways: Sequence[Dots], x_title: str, y_title: str, **about: Any) -> Figure:
    """Draw scores over a number. Its axis is logarithmic if the numbers span a decade."""
    across: list[float] = []
    up: list[float] = []
    for way in ways:
        across += [x for x, _ in way.points]
        for (_, y), spread in zip(way.points, way.spread, strict=True):
            up += [y - spread, y + spread]
    frame = Frame(Axis.around(x_title, across, log=True), Axis.around(y_title, up))
    paths: list[Path] = []
    marks: list[Mark] = []
    for way in ways:
        paths.append(Path(frame.path(way.points), way.method, way.name))
        for (x, y), spread in zip(way.points, way.spread, strict=True):
            bar = frame.path([(x, y - spread), (x, y + spread)])
            paths.append(Path(bar, way.method, kind="bar"))
            text = f"{way.name}, {x_title} {x:g}: {y:.1f}"
            marks.append(Mark(frame.to_x(x), frame.to_y(y), way.method, text))
    return Figure(
        **about,
        about=f"{len(ways)} lines. {'; '.join(mark.text for mark in marks)}.",
        x_title=f"{x_title}, log scale" if frame.x.log else x_title,
        y_title=y_title,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        paths=tuple(paths),
        marks=tuple(marks),
    )
