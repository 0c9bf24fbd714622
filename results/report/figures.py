"""Charts as geometry: what to draw where, in numbers and texts. `macros.html.j2` turns a Figure into inline SVG.

Colours are classes (`c0` to `c7`), which the page's style sheet defines for light and dark; a second eight methods have another
shape or dash, so that no two of 32 look alike. The same method looks the same in every chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlpeft.benchmark.core.axes import Axis

WIDTH, HEIGHT = 360.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 10.0, 42.0
COLOURS = 8
SITES = 8  # written below a chart
ROW = 17.0  # height of a row of a strip chart
CHARACTER = 5.6  # width of one, about, in the smaller letters


@dataclass(frozen=True)
class Mark:
    """A point: where, which method's (its number on the page), what is said of it.

    share: which slice it is of how many, where several methods have one point; (0, 1) where it has its point alone.
    """

    x: float
    y: float
    method: int
    text: str
    share: tuple[int, int] = (0, 1)

    @property
    def colour(self) -> int:
        """Class number of its colour."""
        return self.method % COLOURS

    @property
    def shape(self) -> str:
        """SVG path data around (0, 0): a circle, square, triangle or diamond, or a slice of a disc."""
        return (
            SHAPES[self.method // COLOURS % len(SHAPES)]
            if self.share[1] == 1
            else _slice(*self.share)
        )


@dataclass(frozen=True)
class Label:
    """Words in a chart, and the methods they are of. `x` is where they begin, or where they end if `end`."""

    x: float
    y: float
    text: str
    methods: tuple[int, ...]
    end: bool = False


SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.6l4.4 8h-8.8z",
    "M0-5l5 5-5 5-5-5z",
)
DISC = 5.5  # radius of one that is cut into slices


def _slice(number: int, of: int) -> str:
    """The first begins at the top, the others follow clockwise."""
    ends = (2 * math.pi * (number + i) / of for i in (0, 1))
    (x, y), (to_x, to_y) = ((DISC * math.sin(angle), -DISC * math.cos(angle)) for angle in ends)
    return f"M0 0L{x:.2f} {y:.2f}A{DISC} {DISC} 0 0 1 {to_x:.2f} {to_y:.2f}z"


@dataclass(frozen=True)
class Path:
    """A line through points of a chart; `method` as a Mark's, or None for what is of no single method."""

    d: str
    method: int | None
    text: str = ""
    kind: str = "line"  # or "front", "bar", "mean"

    @property
    def look(self) -> str:
        """Its classes."""
        if self.method is None:
            return self.kind
        return f"{self.kind} c{self.method % COLOURS} d{self.method // COLOURS % 4}"


@dataclass(frozen=True)
class Tick:
    """A value on an axis: where, and what is written, in one line or two."""

    at: float
    text: str
    method: int | None = None
    second: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart. `title` and `about` are read to those who cannot see it; `caption` stands below, with n."""

    title: str
    about: str
    caption: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    paths: tuple[Path, ...]
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...] = ()
    backbone: str = ""
    data: str = ""
    methods: tuple[
        int, ...
    ] = ()  # whose it is, where the page's own numbers of methods stand in it
    legend: tuple[
        tuple[int, str], ...
    ] = ()  # what its own numbers mean, where they are not the page's
    left: float = LEFT
    height: float = HEIGHT
    width: float = WIDTH

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the plot."""
        return self.left, TOP, self.width - RIGHT, self.height - BOTTOM

    def local(self, legend: tuple[tuple[int, str], ...]) -> Figure:
        """With a legend of its own instead of the page's methods."""
        return replace(self, legend=legend, methods=())


@dataclass(frozen=True)
class Frame:
    """Maps values to places."""

    x: Axis
    y: Axis
    left: float = LEFT
    height: float = HEIGHT

    def to_x(self, value: float) -> float:
        """From the left."""
        return round(self.left + self.x.at(value) * (WIDTH - RIGHT - self.left), 1)

    def to_y(self, value: float) -> float:
        """From the top, as SVG counts."""
        return round(self.height - BOTTOM - self.y.at(value) * (self.height - BOTTOM - TOP), 1)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Straight lines between points."""
        return "M" + "L".join(f"{self.to_x(x):g} {self.to_y(y):g}" for x, y in points)

    def x_ticks(self) -> tuple[Tick, ...]:
        """Of the x axis."""
        return tuple(Tick(self.to_x(value), text) for value, text in self.x.ticks())

    def y_ticks(self) -> tuple[Tick, ...]:
        """Of the y axis."""
        return tuple(Tick(self.to_y(value), text) for value, text in self.y.ticks())


@dataclass(frozen=True)
class SeriesWay:
    """A line of a chart, and what it is called."""

    name: str
    method: int
    points: Sequence[tuple[float, float]]


def lines(
    ways: Sequence[SeriesWay], x_title: str, y_title: str, *, log: bool = False, **about: Any
) -> Figure:
    """Lines over steps; `log`: the y axis may be logarithmic."""
    frame = Frame(
        Axis.around(x_title, [x for way in ways for x, _ in way.points], whole=True),
        Axis.around(y_title, [y for way in ways for _, y in way.points], log=log),
    )
    paths = tuple(
        Path(frame.path(way.points), way.method, f"{way.name}: ends at {way.points[-1][1]:.4g}")
        for way in ways
    )
    return Figure(
        **about,
        about=f"{len(ways)} lines. {'; '.join(path.text for path in paths)}.",
        x_title=x_title,
        y_title=f"{y_title}, log scale" if frame.y.log else y_title,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        paths=paths,
        marks=(),
        methods=tuple(way.method for way in ways),
    )


@dataclass(frozen=True)
class FigureRow:
    """A row of a strip chart: a method, and its value for each seed."""

    name: str
    method: int
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """Of its values."""
        return sum(self.values) / len(self.values)


def strips(rows: Sequence[FigureRow], x_title: str, **about: Any) -> Figure:
    """One row a method, the best on top; one dot a seed, a bar at their mean."""
    ordered = sorted(rows, key=lambda row: (-row.mean, row.method))
    left = min(170.0, 12 + CHARACTER * max(len(row.name) for row in rows))
    height = TOP + BOTTOM + ROW * len(rows)
    frame = Frame(
        Axis.around(x_title, [value for row in rows for value in row.values]),
        Axis("", 0, len(rows)),
        left,
        height,
    )
    places = [(row, TOP + ROW * (i + 0.5)) for i, row in enumerate(ordered)]
    bars = tuple(
        Path(f"M{frame.to_x(row.mean):g} {y - 6:g}v12", row.method, kind="mean")
        for row, y in places
    )
    marks = tuple(
        Mark(frame.to_x(value), y, row.method, _seeds(row))
        for row, y in places
        for value in row.values
    )
    width = int((left - 10) / CHARACTER)
    return Figure(
        **about,
        about=f"{len(rows)} methods, best first. {'; '.join(_seeds(row) for row, _ in places)}.",
        x_title=x_title,
        y_title="",
        x_ticks=frame.x_ticks(),
        y_ticks=tuple(
            Tick(y, row.name if len(row.name) <= width else f"{row.name[: width - 1]}…", row.method)
            for row, y in places
        ),
        paths=bars,
        marks=marks,
        methods=tuple(row.method for row, _ in places),
        left=left,
        height=height,
    )


def _seeds(row: FigureRow) -> str:
    return f"{row.name}: {', '.join(f'{value:.1f}' for value in row.values)}"


def sites(
    ways: Sequence[tuple[str, Sequence[Sequence[float]]]],
    names: Sequence[str],
    y_title: str,
    **about: Any,
) -> Figure:
    """Last values site by site, a line through the means and a dot a seed for each setting. `ways`: name, seeds' values a site."""
    frame = Frame(
        Axis("", -0.5, len(names) - 0.5),
        Axis.around(y_title, [value for _, way in ways for seeds in way for value in seeds]),
    )
    paths, marks = list[Path](), list[Mark]()
    for number, (name, way) in enumerate(ways):
        means = [(i, sum(seeds) / len(seeds)) for i, seeds in enumerate(way) if seeds]
        paths.append(
            Path(
                frame.path(means),
                number,
                f"{name}: {', '.join(f'{mean:.3f}' for _, mean in means)}",
            )
        )
        points = [(i, value) for i, seeds in enumerate(way) for value in seeds]
        marks += [
            Mark(frame.to_x(i), frame.to_y(v), number, f"{name}, {names[i]}: {v:.4f}")
            for i, v in points
        ]
    every = -(-len(names) // SITES)
    return Figure(
        **about,
        about=f"Sites: {', '.join(names)}. {'; '.join(path.text for path in paths)}.",
        x_title="site, in the model's order",
        y_title=y_title,
        x_ticks=tuple(
            Tick(frame.to_x(i), *_two_lines(name)) for i, name in enumerate(names) if i % every == 0
        ),
        y_ticks=frame.y_ticks(),
        paths=tuple(paths),
        marks=tuple(marks),
        legend=tuple((number, name) for number, (name, _) in enumerate(ways)),
    )


def _two_lines(name: str) -> tuple[str, None, str]:
    """`enc 0 self` as "enc 0" above "self"."""
    first, _, second = name.rpartition(" ")
    return first or second, None, second if first else ""
