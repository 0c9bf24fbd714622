"""Scores against costs: a dot a method, the Pareto front, and names beside its dots.

Methods whose dots would hide one another, such as two with equal parameters and scores, share a disc, a slice each, and one label.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlpeft.benchmark.core.axes import Axis, short_number
from vlpeft.results.report.figures import (
    BOTTOM,
    CHARACTER,
    DISC,
    LEFT,
    TOP,
    WIDTH,
    Figure,
    Frame,
    Label,
    Mark,
    Path,
)

NEAR = 3.0  # dots less far apart than this are one point
LINE = 12  # height of a label
AWAY = 8  # from a dot to its label


@dataclass(frozen=True)
class Dot:
    """A method's place in a scatter: x is a cost, y a score with its standard deviation (None for one seed)."""

    name: str
    method: int
    x: float
    y: float
    std: float | None


def front(dots: Iterable[Dot]) -> list[Dot]:
    """The dots that no other beats: none is cheaper and at least as good, or as cheap and better. Cheapest first."""
    found: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y, dot.method)):
        if not found or dot.y > found[-1].y or (dot.x, dot.y) == (found[-1].x, found[-1].y):
            found.append(dot)
    return found


def scatter(
    dots: Sequence[Dot], cost: tuple[str, str], y_title: str, *, whole: bool = True, **about: Any
) -> Figure:
    """Score against cost (its name and unit), with the Pareto front as steps and the names of the methods on it.

    Where not the `whole` column is there, no front is claimed: all dots are named.
    """
    best = front(dots) if whole else sorted(dots, key=lambda dot: (dot.x, -dot.y, dot.method))
    unit, heading = (
        cost[1] or cost[0],
        "On the Pareto front, cheapest first" if whole else "Cheapest first",
    )
    x_title = f"{cost[0]} ({cost[1]})" if cost[1] else cost[0]
    ends = [dot.y + sign * (dot.std or 0.0) for dot in dots for sign in (-1, 1)]
    frame = Frame(
        Axis.around(x_title, [dot.x for dot in dots], log=True), Axis.around(y_title, ends)
    )
    bars = [Path(_bar(frame, dot), dot.method, kind="bar") for dot in dots if dot.std]
    points = _points(frame, dots)
    return Figure(
        **about,
        about=f"{len(dots)} methods. {heading}: {'; '.join(_said(dot, unit) for dot in best)}.",
        x_title=f"{x_title}, log scale" if frame.x.log else x_title,
        y_title=y_title,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        paths=(*(_steps(frame, best) if whole else ()), *bars),
        marks=tuple(mark for point in points for mark in _marks(frame, point, unit)),
        labels=tuple(_labels(frame, points, best)),
        methods=tuple(dot.method for dot in dots),
    )


def _steps(frame: Frame, best: Sequence[Dot]) -> Iterator[Path]:
    """The front as a line: up to each of its dots, and right to the next."""
    corners = [
        (dot.x, y)
        for before, dot in zip([None, *best], best, strict=False)
        for y in ((before.y,) if before else ()) + (dot.y,)
    ]
    if best:
        yield Path(frame.path([*corners, (frame.x.high, best[-1].y)]), None, kind="front")


def _bar(frame: Frame, dot: Dot) -> str:
    std = dot.std or 0.0
    return frame.path([(dot.x, dot.y - std), (dot.x, dot.y + std)])


def _said(dot: Dot, unit: str) -> str:
    std = "" if dot.std is None else f" ± {dot.std:.1f}"
    return f"{dot.name}: {dot.y:.1f}{std} at {short_number(float(f'{dot.x:.4g}'))} {unit}"


def _points(frame: Frame, dots: Iterable[Dot]) -> list[list[Dot]]:
    """The dots, those together that lie on the first one's place."""
    found: list[list[Dot]] = []
    for dot in dots:
        x, y = frame.to_x(dot.x), frame.to_y(dot.y)
        near = (
            point
            for point in found
            if abs(frame.to_x(point[0].x) - x) < NEAR and abs(frame.to_y(point[0].y) - y) < NEAR
        )
        if (point := next(near, None)) is not None:
            point.append(dot)
        else:
            found.append([dot])
    return found


def _marks(frame: Frame, point: Sequence[Dot], unit: str) -> Iterator[Mark]:
    """A slice each, all around the first one's place."""
    x, y = frame.to_x(point[0].x), frame.to_y(point[0].y)
    for i, dot in enumerate(point):
        others = " · ".join(other.name for other in point if other is not dot)
        text = f"{_said(dot, unit)} (one disc with {others})" if others else _said(dot, unit)
        yield Mark(x, y, dot.method, text, (i, len(point)))


def _labels(
    frame: Frame, points: Sequence[Sequence[Dot]], best: Collection[Dot]
) -> Iterator[Label]:
    """Names beside the points that hold some of the best, rightmost first; never over one another, and over as few dots as can be."""
    discs = {point[0]: _disc(frame, point[0]) for point in points}
    taken: list[Box] = []
    for point in sorted(
        (point for point in points if not set(best).isdisjoint(point)),
        key=lambda point: -point[0].x,
    ):
        others = [box for dot, box in discs.items() if dot is not point[0]]
        for text in _texts(point):
            tried = [(label, Box.of(label)) for label in _around(frame, text, point)]
            if clear := [each for each in tried if not any(map(each[1].meets, taken))]:
                label, box = min(clear, key=lambda each: sum(map(each[1].meets, others)))
                taken.append(box)
                yield label
                break


def _texts(point: Sequence[Dot]) -> tuple[str, ...]:
    """All names, or the first and how many more."""
    names = [dot.name for dot in point]
    return (" · ".join(names), *((f"{names[0]} +{len(names) - 1}",) if names[1:] else ()))


def _around(frame: Frame, text: str, point: Sequence[Dot]) -> Iterator[Label]:
    """Beside, above and below a point, where there is room for the text."""
    x, y, width = frame.to_x(point[0].x), frame.to_y(point[0].y), len(text) * CHARACTER
    methods = tuple(dot.method for dot in point)
    for at in (y, y - LINE, y + LINE, y - 2 * LINE, y + 2 * LINE):
        if x + AWAY + width <= WIDTH and TOP <= at <= frame.height - BOTTOM:
            yield Label(x + AWAY, at, text, methods)
        if x - AWAY - width > LEFT and TOP <= at <= frame.height - BOTTOM:
            yield Label(x - AWAY, at, text, methods, end=True)


class Box(NamedTuple):
    """What a label or a disc covers."""

    left: float
    right: float
    top: float
    bottom: float

    @classmethod
    def of(cls, label: Label) -> Box:
        """Of a label, about."""
        width = len(label.text) * CHARACTER
        left = label.x - width if label.end else label.x
        return cls(left, left + width, label.y - LINE / 2, label.y + LINE / 2)

    def meets(self, other: Box) -> bool:
        """Whether they overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def _disc(frame: Frame, dot: Dot) -> Box:
    """With the room where a name would seem to be its own."""
    x, y = frame.to_x(dot.x), frame.to_y(dot.y)
    return Box(x - DISC - AWAY, x + DISC + AWAY, y - DISC, y + DISC)
