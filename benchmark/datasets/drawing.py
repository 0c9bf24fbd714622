"""Scenes of coloured shapes, drawn the same on every machine.

Random numbers come only from `random.Random(seed).random()`, whose stream Python promises to keep, and pixels only
from integer arithmetic: no library's drawing, rounding or generator can change a dataset that a table was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlpeft.benchmark.datasets.base import Pixels

T = TypeVar("T")
COLORS: dict[
    str, tuple[int, int, int]
] = {  # those of easy-VQA, so that one pretrained tower serves both
    "teal": (0, 128, 128),
    "black": (0, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
    "red": (255, 0, 0),
    "brown": (165, 42, 42),
}
SHAPES = ("circle", "rectangle", "triangle")
SIZES = ("small", "large")
SIDE = 64  # of an image, in pixels
EXTENTS = {
    "small": (8, 12),
    "large": (16, 22),
}  # shortest and longest side, far enough apart to be told apart
SINGLE_EXTENT = (7, 32)
GAP = 2  # free pixels between two things
CURTAIN_WIDTH, CURTAIN_COLOR = 20, (96, 80, 128)
CURTAIN = {  # rows and columns that it covers
    "left": (slice(None), slice(CURTAIN_WIDTH)),
    "right": (slice(None), slice(-CURTAIN_WIDTH, None)),
    "top": (slice(CURTAIN_WIDTH), slice(None)),
    "bottom": (slice(-CURTAIN_WIDTH, None), slice(None)),
}
SUBSAMPLES = 4  # per pixel and axis, for smooth edges
NOISE_PERIOD = 128


@dataclass(frozen=True)
class Thing:
    """One shape and its bounding box in pixels. `size` is "" where sizes are not classed."""

    color: str
    shape: str
    size: str
    left: int
    top: int
    width: int
    height: int

    @property
    def x(self) -> int:
        """Twice the centre's distance from the left edge (twice, to stay an integer)."""
        return 2 * self.left + self.width

    @property
    def y(self) -> int:
        """Twice the centre's distance from the top edge."""
        return 2 * self.top + self.height

    def is_near(self, other: Thing) -> bool:
        """Whether the two bounding boxes come closer than GAP."""
        return (
            self.left < other.left + other.width + GAP
            and other.left < self.left + self.width + GAP
            and self.top < other.top + other.height + GAP
            and other.top < self.top + self.height + GAP
        )


@dataclass(frozen=True)
class Scene:
    """A light background, the things on it, and a curtain or none. `noise` is an offset into the noise table; None: flat."""

    background: tuple[int, int, int]
    noise: tuple[int, int] | None
    things: tuple[Thing, ...]
    curtain: str = ""  # the side it hangs along: left, right, top or bottom


def below(rng: Random, n: int) -> int:
    """Uniform integer in [0, n)."""
    return int(rng.random() * n)


def between(rng: Random, low: int, high: int) -> int:
    """Uniform integer in [low, high]."""
    return low + below(rng, high - low + 1)


def pick(rng: Random, items: Sequence[T], n: int) -> list[T]:
    """`n` different items in random order (`Random.sample` may draw otherwise in another Python)."""
    pool = list(items)
    for i in range(n):
        j = i + below(rng, len(pool) - i)
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:n]


def sample_scene(rng: Random) -> Scene:
    """Two to four things of different colours that do not touch."""
    background = (between(rng, 205, 255), between(rng, 205, 255), between(rng, 205, 255))
    noise = (below(rng, NOISE_PERIOD), below(rng, NOISE_PERIOD))
    colors = pick(rng, tuple(COLORS), 2 + below(rng, 3))
    things: list[Thing] = []
    while len(things) < len(colors):  # a crowded draw starts again
        things = []
        for color in colors:
            _place(rng, color, things)
    return Scene(background, noise, tuple(things))


def sample_single(rng: Random) -> Scene:
    """One thing of any extent on a flat background, now and then cut by the image's edge: easy-VQA's style."""
    background = (between(rng, 230, 255), between(rng, 230, 255), between(rng, 230, 255))
    shape = SHAPES[below(rng, 3)]
    width = between(rng, *SINGLE_EXTENT)
    height = between(rng, *SINGLE_EXTENT) if shape == "rectangle" else _height(shape, width)
    left, top = between(rng, -2, SIDE + 2 - width), between(rng, -2, SIDE + 2 - height)
    color = tuple(COLORS)[below(rng, len(COLORS))]
    return Scene(background, None, (Thing(color, shape, "", left, top, width, height),))


def _place(rng: Random, color: str, things: list[Thing]) -> None:
    """Add a thing of a random kind where there is room; add nothing if 20 draws find none."""
    shape, size = SHAPES[below(rng, 3)], SIZES[below(rng, 2)]
    for _ in range(20):
        width = between(rng, *EXTENTS[size])
        height = between(rng, *EXTENTS[size]) if shape == "rectangle" else _height(shape, width)
        left, top = below(rng, SIDE - width + 1), below(rng, SIDE - height + 1)
        thing = Thing(color, shape, size, left, top, width, height)
        if not any(thing.is_near(other) for other in things):
            things.append(thing)
            return


def _height(shape: str, width: int) -> int:
    """A circle is as high as wide; a triangle is nearly equilateral (sqrt(3) / 2 = 0.866)."""
    return width if shape == "circle" else (width * 7 + 4) // 8


def draw(scene: Scene) -> Pixels:
    """Rasterise a scene to (64, 64, 3) pixels."""
    canvas = np.empty((SIDE, SIDE, 3), np.int32)
    canvas[:] = scene.background
    if scene.noise is not None:
        row, column = scene.noise
        canvas += _noise_table()[row : row + SIDE, column : column + SIDE]
    for thing in scene.things:
        _paint(canvas, thing)
    if scene.curtain:
        canvas[CURTAIN[scene.curtain]] = CURTAIN_COLOR
    return canvas.clip(0, 255).astype(np.uint8)


def _paint(canvas: NDArray[np.int32], thing: Thing) -> None:
    top, left = max(thing.top, 0), max(thing.left, 0)
    part = canvas[top : thing.top + thing.height, left : thing.left + thing.width]
    inside = _coverage(thing.shape, thing.width, thing.height)[
        top - thing.top :, left - thing.left :
    ]
    alpha = inside[: part.shape[0], : part.shape[1], None]
    full = SUBSAMPLES**2
    part[:] = (
        alpha * np.array(COLORS[thing.color], np.int32) + (full - alpha) * part + full // 2
    ) // full


@lru_cache(maxsize=4096)
def _coverage(shape: str, width: int, height: int) -> NDArray[np.int32]:
    """(height, width): how many of a pixel's subsamples lie inside. Odd coordinates are the subsamples' centres."""
    w, h = width * SUBSAMPLES, height * SUBSAMPLES
    x, y = 2 * np.arange(w) + 1, 2 * np.arange(h)[:, None] + 1
    if shape == "circle":
        inside = (x - w) ** 2 + (y - h) ** 2 <= w * w
    elif shape == "triangle":  # apex at the top, half width w * y / 2h at depth y
        inside = abs(x - w) * 2 * h <= w * y
    else:
        inside = np.ones((h, w), bool)
    count: NDArray[np.int32] = (
        inside.reshape(height, SUBSAMPLES, width, SUBSAMPLES).sum((1, 3)).astype(np.int32)
    )
    return count


@lru_cache(maxsize=1)
def _noise_table() -> NDArray[np.int32]:
    """Values from -3 to 3 by an integer hash of the place; scenes look at it through random windows."""
    size = NOISE_PERIOD + SIDE
    place = np.arange(size * size * 3, dtype=np.uint64)
    hashed = (place * np.uint64(2654435761) + np.uint64(97)) % np.uint64(2**32)
    hashed = ((hashed ^ (hashed >> np.uint64(15))) * np.uint64(2246822519)) % np.uint64(2**32)
    return ((hashed >> np.uint64(13)) % np.uint64(7)).astype(np.int32).reshape(size, size, 3) - 3
