"""Charts as geometry: numbers and texts, which `macros.html.j2` turns into inline SVG.

Colours are classes (`c0` to `c7`), which the page's style sheet defines for light and dark. The
next eight methods have another shape or dash, so that no two of 32 look alike. A method looks the
same in every chart. Lengths are in units of the SVG view box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar

from vlpeft.benchmark.core.axes import Axis

WIDTH, HEIGHT = 360.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 10.0, 42.0
COLOURS = 8
DASHES = 4
SITES = 8  # names of sites below a chart
ROW = 17.0  # height of a row of a strip chart
CHARACTER = 5.6  # approximate width of a character in the smaller font
NAMES = 170.0  # maximal width of the names of a strip chart


@dataclass(frozen=True)
class Mark:
    """A point of a method.

    method: its number on the page.
    text: what a reader of the point sees.
    share: (slice, number of slices) where several methods share one point; (0, 1) for one method.
    """

    x: float
    y: float
    method: int
    text: str
    share: tuple[int, int] = (0, 1)

    @property
    def colour(self) -> int:
        """The class number of its colour."""
        return self.method % COLOURS

    @property
    def shape(self) -> str:
        """SVG path data around (0, 0): a circle, square, triangle or diamond, or a slice."""
        if self.share[1] == 1:
            return SHAPES[self.method // COLOURS % len(SHAPES)]
        return _slice(*self.share)


@dataclass(frozen=True)
class Label:
    """A text in a chart about some methods. It begins at `x`, or with `end` it ends there."""

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
DISC = 5.5  # radius of a disc that is cut into slices


def _slice(number: int, of: int) -> str:
    """Return the path of one slice. The first begins at the top, the others follow clockwise."""
    x, y = _on_disc(2 * math.pi * number / of)
    to_x, to_y = _on_disc(2 * math.pi * (number + 1) / of)
    return f"M0 0L{x:.2f} {y:.2f}A{DISC} {DISC} 0 0 1 {to_x:.2f} {to_y:.2f}z"


def _on_disc(angle: float) -> tuple[float, float]:
    """Return the point of the disc's edge at an angle from the top, in radians."""
    return DISC * math.sin(angle), -DISC * math.cos(angle)


@dataclass(frozen=True)
class Path:
    """A line through points of a chart.

    method: as of a Mark; None for a line of no single method.
    kind: "line", "front", "bar" or "mean".
    """

    d: str
    method: int | None
    text: str = ""
    kind: str = "line"

    @property
    def look(self) -> str:
        """The classes of its style."""
        if self.method is None:
            return self.kind
        return f"{self.kind} c{self.method % COLOURS} d{self.method // COLOURS % DASHES}"


@dataclass(frozen=True)
class Tick:
    """A value on an axis: its place, and its text in one line or two."""

    at: float
    text: str
    method: int | None = None
    second: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart.

    title, about: screen readers read them.
    caption: shown next to the title, with n.
    methods: the numbers that the page has for its methods; empty if the chart has its own numbers.
    legend: the names of the chart's own numbers.
    """

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
    methods: tuple[int, ...] = ()
    legend: tuple[tuple[int, str], ...] = ()
    left: float = LEFT
    height: float = HEIGHT
    width: ClassVar[float] = WIDTH

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the plot."""
        return self.left, TOP, self.width - RIGHT, self.height - BOTTOM

    def local(self, legend: tuple[tuple[int, str], ...]) -> Figure:
        """Return the chart with a legend of its own instead of the page's methods."""
        return replace(self, legend=legend, methods=())


@dataclass(frozen=True)
class Frame:
    """Maps values to places in a chart."""

    x: Axis
    y: Axis
    left: float = LEFT
    height: float = HEIGHT

    def to_x(self, value: float) -> float:
        """Return the place of a value, from the left."""
        return round(self.left + self.x.at(value) * (WIDTH - RIGHT - self.left), 1)

    def to_y(self, value: float) -> float:
        """Return the place of a value, from the top, as SVG counts."""
        return round(self.height - BOTTOM - self.y.at(value) * (self.height - BOTTOM - TOP), 1)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Return the path data of straight lines between points."""
        return "M" + "L".join(f"{self.to_x(x):g} {self.to_y(y):g}" for x, y in points)

    def x_ticks(self) -> tuple[Tick, ...]:
        """Return the ticks of the x axis."""
        return tuple(Tick(self.to_x(value), text) for value, text in self.x.ticks())

    def y_ticks(self) -> tuple[Tick, ...]:
        """Return the ticks of the y axis."""
        return tuple(Tick(self.to_y(value), text) for value, text in self.y.ticks())


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart, and its name."""

    name: str
    method: int
    points: Sequence[tuple[float, float]]


def lines(
    series: Sequence[ChartLine], x_title: str, y_title: str, *, log: bool = False, **about: Any
) -> Figure:
    """Draw lines over steps. `log`: the y axis may be logarithmic."""
    points: list[tuple[float, float]] = []
    for own in series:
        points += own.points
    x_axis = Axis.around(x_title, [x for x, _ in points], whole=True)
    y_axis = Axis.around(y_title, [y for _, y in points], log=log)
    frame = Frame(x_axis, y_axis)
    paths = tuple(_line_path(frame, own) for own in series)
    return Figure(
        **about,
        about=f"{len(series)} lines. {'; '.join(path.text for path in paths)}.",
        x_title=x_title,
        y_title=f"{y_title}, log scale" if frame.y.log else y_title,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        paths=paths,
        marks=(),
        methods=tuple(own.method for own in series),
    )


def _line_path(frame: Frame, own: ChartLine) -> Path:
    _, last = own.points[-1]
    return Path(frame.path(own.points), own.method, f"{own.name}: ends at {last:.4g}")


@dataclass(frozen=True)
class FigureRow:
    """A row of a strip chart: a method, and its value for each seed."""

    name: str
    method: int
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean of its values."""
        return sum(self.values) / len(self.values)


def strips(rows: Sequence[FigureRow], x_title: str, **about: Any) -> Figure:
    """Draw one row per method, the best on top: a dot a seed, and a bar at their mean."""
    ordered = sorted(rows, key=lambda row: (-row.mean, row.method))
    left = min(NAMES, 12 + CHARACTER * max(len(row.name) for row in rows))
    height = TOP + BOTTOM + ROW * len(rows)
    every: list[float] = []
    for row in rows:
        every += row.values
    frame = Frame(Axis.around(x_title, every), Axis("", 0, len(rows)), left, height)
    room = int((left - 10) / CHARACTER)  # for a name, in characters
    bars, marks, ticks = [], [], []
    for i, row in enumerate(ordered):
        y = TOP + ROW * (i + 0.5)
        bars.append(Path(f"M{frame.to_x(row.mean):g} {y - 6:g}v12", row.method, kind="mean"))
        marks += [Mark(frame.to_x(value), y, row.method, _seeds(row)) for value in row.values]
        ticks.append(Tick(y, _cut(row.name, room), row.method))
    return Figure(
        **about,
        about=f"{len(rows)} methods, best first. {'; '.join(map(_seeds, ordered))}.",
        x_title=x_title,
        y_title="",
        x_ticks=frame.x_ticks(),
        y_ticks=tuple(ticks),
        paths=tuple(bars),
        marks=tuple(marks),
        methods=tuple(row.method for row in ordered),
        left=left,
        height=height,
    )


def _cut(name: str, room: int) -> str:
    """Return a name of at most `room` characters."""
    if len(name) <= room:
        return name
    return f"{name[: room - 1]}…"


def _seeds(row: FigureRow) -> str:
    return f"{row.name}: {', '.join(f'{value:.1f}' for value in row.values)}"


def sites(
    series: Sequence[tuple[str, Sequence[Sequence[float]]]],
    names: Sequence[str],
    y_title: str,
    **about: Any,
) -> Figure:
    """Draw the last values site by site: a line through the means, and a dot per seed.

    series: for each setting its name, and the values of its seeds at each site.
    names: of the sites.
    """
    every: list[float] = []
    for _, own in series:
        every += chain.from_iterable(own)
    frame = Frame(Axis("", -0.5, len(names) - 0.5), Axis.around(y_title, every))
    paths: list[Path] = []
    marks: list[Mark] = []
    for number, (name, own) in enumerate(series):
        means = [(i, sum(seeds) / len(seeds)) for i, seeds in enumerate(own) if seeds]
        listed = ", ".join(f"{mean:.3f}" for _, mean in means)
        paths.append(Path(frame.path(means), number, f"{name}: {listed}"))
        for i, seeds in enumerate(own):
            for value in seeds:
                text = f"{name}, {names[i]}: {value:.4f}"
                marks.append(Mark(frame.to_x(i), frame.to_y(value), number, text))
    return Figure(
        **about,
        about=f"Sites: {', '.join(names)}. {'; '.join(path.text for path in paths)}.",
        x_title="site, in the model's order",
        y_title=y_title,
        x_ticks=tuple(_site_ticks(frame, names)),
        y_ticks=frame.y_ticks(),
        paths=tuple(paths),
        marks=tuple(marks),
        legend=tuple((number, name) for number, (name, _) in enumerate(series)),
    )


def _site_ticks(frame: Frame, names: Sequence[str]) -> Iterator[Tick]:
    """Yield ticks for at most SITES sites: `enc 0 self` is "enc 0" above "self"."""
    step = max(1, -(-len(names) // SITES))  # rounded up
    for i in range(0, len(names), step):
        first, _, second = names[i].rpartition(" ")
        if first:
            yield Tick(frame.to_x(i), first, None, second)
        else:
            yield Tick(frame.to_x(i), second)
