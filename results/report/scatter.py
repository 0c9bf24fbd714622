"""Scores against costs: a dot a method, the Pareto front, and names next to its dots.

Methods whose dots would hide one another, such as two with equal parameters and scores, share a
disc with a slice each, and one label.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
from vlpeft.results.tables.captions import plus_minus

NEAR = 3.0  # dots that are closer than this are one point
LINE = 12  # height of a label
AWAY = 8  # from a dot to its label


@dataclass(frozen=True)
class Dot:
    """A method in a scatter: x is a cost, y a score, std its deviation (None for one seed)."""

    name: str
    method: int
    x: float
    y: float
    std: float | None


def front(dots: Iterable[Dot]) -> list[Dot]:
    """Return the dots that no other beats, the cheapest first.

    Another dot beats one if it is cheaper and at least as good, or as cheap and better.
    """
    found: list[Dot] = []
    for dot in sorted(dots, key=_cheapest_first):
        if not found or dot.y > found[-1].y or (dot.x, dot.y) == (found[-1].x, found[-1].y):
            found.append(dot)
    return found


def _cheapest_first(dot: Dot) -> tuple[float, float, int]:
    return dot.x, -dot.y, dot.method


def scatter(
    dots: Sequence[Dot], cost: tuple[str, str], y_title: str, *, whole: bool = True, **about: Any
) -> Figure:
    """Draw scores against a cost, given by its name and unit.

    The Pareto front is drawn as steps, and the methods on it are named. If a method of the column
    is missing, it is not `whole`: then no front is claimed, and all dots are named.
    """
    best, heading = front(dots), "On the Pareto front, cheapest first"
    if not whole:
        best, heading = sorted(dots, key=_cheapest_first), "Cheapest first"
    name, unit = cost
    x_title = f"{name} ({unit})" if unit else name
    unit = unit or name
    frame = _frame(dots, x_title, y_title)
    bars = [Path(_bar(frame, dot), dot.method, kind="bar") for dot in dots if dot.std]
    points = _points(frame, dots)
    marks: list[Mark] = []
    for point in points:
        marks += _marks(frame, point, unit)
    return Figure(
        **about,
        about=f"{len(dots)} methods. {heading}: {'; '.join(_words(dot, unit) for dot in best)}.",
        x_title=f"{x_title}, log scale" if frame.x.log else x_title,
        y_title=y_title,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        paths=(*(_steps(frame, best) if whole else ()), *bars),
        marks=tuple(marks),
        labels=tuple(_labels(frame, points, best)),
        methods=tuple(dot.method for dot in dots),
    )


def _frame(dots: Sequence[Dot], x_title: str, y_title: str) -> Frame:
    """Return a frame that holds all dots with their bars."""
    ends = []
    for dot in dots:
        std = dot.std or 0.0
        ends += [dot.y + -1 * std, dot.y + 1 * std]
    x_axis = Axis.around(x_title, [dot.x for dot in dots], log=True)
    return Frame(x_axis, Axis.around(y_title, ends))


def _steps(frame: Frame, best: Sequence[Dot]) -> Iterator[Path]:
    """Yield the front as a line: up to each of its dots, and right to the next."""
    if not best:
        return
    corners = [(best[0].x, best[0].y)]
    for before, dot in pairwise(best):
        corners += [(dot.x, before.y), (dot.x, dot.y)]
    corners.append((frame.x.high, best[-1].y))
    yield Path(frame.path(corners), None, kind="front")


def _bar(frame: Frame, dot: Dot) -> str:
    std = dot.std or 0.0
    return frame.path([(dot.x, dot.y - std), (dot.x, dot.y + std)])


def _words(dot: Dot, unit: str) -> str:
    """Return score and cost of a dot in words."""
    cost = short_number(float(f"{dot.x:.4g}"))
    return f"{dot.name}: {dot.y:.1f}{plus_minus(dot.std)} at {cost} {unit}"


def _points(frame: Frame, dots: Iterable[Dot]) -> list[list[Dot]]:
    """Group the dots that are near the first dot of a group."""
    found: list[list[Dot]] = []
    for dot in dots:
        point = next((point for point in found if _are_near(frame, point[0], dot)), None)
        if point is None:
            found.append([dot])
        else:
            point.append(dot)
    return found


def _are_near(frame: Frame, one: Dot, other: Dot) -> bool:
    """Return whether two dots are one point."""
    if abs(frame.to_x(one.x) - frame.to_x(other.x)) >= NEAR:
        return False
    return abs(frame.to_y(one.y) - frame.to_y(other.y)) < NEAR


def _marks(frame: Frame, point: Sequence[Dot], unit: str) -> Iterator[Mark]:
    """Yield a slice for each dot, all around the place of the first."""
    x, y = frame.to_x(point[0].x), frame.to_y(point[0].y)
    for i, dot in enumerate(point):
        text = _words(dot, unit)
        others = " · ".join(other.name for other in point if other is not dot)
        if others:
            text += f" (one disc with {others})"
        yield Mark(x, y, dot.method, text, (i, len(point)))


def _labels(
    frame: Frame, points: Sequence[Sequence[Dot]], best: Collection[Dot]
) -> Iterator[Label]:
    """Yield names next to the points that hold some of the best, rightmost first.

    A name never covers another name, and covers as few dots as possible.
    """
    discs = {point[0]: _disc(frame, point[0]) for point in points}
    named = [point for point in points if not set(best).isdisjoint(point)]
    taken: list[Box] = []
    for point in sorted(named, key=lambda point: -point[0].x):
        others = [box for dot, box in discs.items() if dot is not point[0]]
        label = _place_label(frame, point, taken, others)
        if label is not None:
            taken.append(Box.of(label))
            yield label


def _place_label(
    frame: Frame, point: Sequence[Dot], taken: Sequence[Box], discs: Sequence[Box]
) -> Label | None:
    """Return a label of a point that covers no other label, and the fewest discs.

    None if there is no room, not even for the shorter text.
    """
    for text in _texts(point):
        tried = _around(frame, text, point)
        clear = [label for label in tried if _overlaps(label, taken) == 0]
        if clear:
            return min(clear, key=lambda label: _overlaps(label, discs))
    return None


def _overlaps(label: Label, boxes: Sequence[Box]) -> int:
    """Return how many boxes a label overlaps."""
    return sum(map(Box.of(label).meets, boxes))


def _texts(point: Sequence[Dot]) -> Iterator[str]:
    """Yield all names, then the first with the number of the others."""
    names = [dot.name for dot in point]
    yield " · ".join(names)
    if len(names) > 1:
        yield f"{names[0]} +{len(names) - 1}"


def _around(frame: Frame, text: str, point: Sequence[Dot]) -> Iterator[Label]:
    """Yield labels next to a point, level with it, above or below, where there is room."""
    x, y, width = frame.to_x(point[0].x), frame.to_y(point[0].y), len(text) * CHARACTER
    methods = tuple(dot.method for dot in point)
    for at in (y, y - LINE, y + LINE, y - 2 * LINE, y + 2 * LINE):
        if not TOP <= at <= frame.height - BOTTOM:
            continue
        if x + AWAY + width <= WIDTH:
            yield Label(x + AWAY, at, text, methods)
        if x - AWAY - width > LEFT:
            yield Label(x - AWAY, at, text, methods, end=True)


class Box(NamedTuple):
    """The rectangle that a label or a disc covers."""

    left: float
    right: float
    top: float
    bottom: float

    @classmethod
    def of(cls, label: Label) -> Box:
        """Return the approximate rectangle of a label."""
        width = len(label.text) * CHARACTER
        left = label.x - width if label.end else label.x
        return cls(left, left + width, label.y - LINE / 2, label.y + LINE / 2)

    def meets(self, other: Box) -> bool:
        """Return whether two rectangles overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def _disc(frame: Frame, dot: Dot) -> Box:
    """Return the rectangle of a disc, with the margin where a name would seem to be its own."""
    x, y = frame.to_x(dot.x), frame.to_y(dot.y)
    return Box(x - DISC - AWAY, x + DISC + AWAY, y - DISC, y + DISC)
