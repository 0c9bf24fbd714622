"""Scenes of coloured shapes, drawn the same on every machine.

All random numbers come from `random.Random(seed).random()`, because Python promises to keep its
stream. All pixels come from integer arithmetic. So no library's drawing, rounding or generator can
change a dataset that a table was made with. The order of the draws must stay as it is, too.
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
# RGB of the colours of easy-VQA, so that one pretrained tower serves both datasets.
COLORS: dict[str, tuple[int, int, int]] = {
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
SIDE = 64  # width and height of an image, in pixels
# Shortest and longest side in pixels; the two ranges are far enough apart to be distinguished.
EXTENTS = {"small": (8, 12), "large": (16, 22)}
SINGLE_EXTENT = (7, 32)
GAP = 2  # free pixels between two things
CURTAIN_WIDTH, CURTAIN_COLOR = 20, (96, 80, 128)
CURTAIN = {  # side -> rows and columns that the curtain covers
    "left": (slice(None), slice(CURTAIN_WIDTH)),
    "right": (slice(None), slice(-CURTAIN_WIDTH, None)),
    "top": (slice(CURTAIN_WIDTH), slice(None)),
    "bottom": (slice(-CURTAIN_WIDTH, None), slice(None)),
}
SUBSAMPLES = 4  # per pixel and axis, for smooth edges
NOISE_PERIOD = 128


@dataclass(frozen=True)
class Thing:
    """One shape and its bounding box in pixels; `size` is "" if it is neither small nor large."""

    color: str
    shape: str
    size: str
    left: int
    top: int
    width: int
    height: int

    @property
    def x(self) -> int:
        """Twice the distance of the centre from the left edge; twice, to be an integer."""
        return 2 * self.left + self.width

    @property
    def y(self) -> int:
        """Twice the distance of the centre from the top edge."""
        return 2 * self.top + self.height

    def is_near(self, other: Thing) -> bool:
        """Return whether the two bounding boxes are closer than GAP."""
        return (
            self.left < other.left + other.width + GAP
            and other.left < self.left + self.width + GAP
            and self.top < other.top + other.height + GAP
            and other.top < self.top + self.height + GAP
        )


@dataclass(frozen=True)
class Scene:
    """A light background, the things on it, and a curtain or none."""

    background: tuple[int, int, int]
    noise: tuple[int, int] | None  # offset into the noise table; None: a flat background
    things: tuple[Thing, ...]
    curtain: str = ""  # the side that it covers: left, right, top or bottom


def below(rng: Random, n: int) -> int:
    """Draw a uniform integer in [0, n)."""
    return int(rng.random() * n)


def between(rng: Random, low: int, high: int) -> int:
    """Draw a uniform integer in [low, high]."""
    return low + below(rng, high - low + 1)


def pick(rng: Random, items: Sequence[T], n: int) -> list[T]:
    """Draw `n` different items in random order.

    `Random.sample` is not used: another version of Python may draw in another way.
    """
    pool = list(items)
    for i in range(n):
        j = i + below(rng, len(pool) - i)
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:n]


def sample_scene(rng: Random) -> Scene:
    """Draw a scene of two to four things of different colours that do not touch."""
    background = (between(rng, 205, 255), between(rng, 205, 255), between(rng, 205, 255))
    noise = (below(rng, NOISE_PERIOD), below(rng, NOISE_PERIOD))
    colors = pick(rng, tuple(COLORS), 2 + below(rng, 3))
    things: list[Thing] = []
    while len(things) < len(colors):  # start again if a thing found no room
        things = []
        for color in colors:
            _place(rng, color, things)
    return Scene(background, noise, tuple(things))


def sample_single(rng: Random) -> Scene:
    """Draw a scene in the style of easy-VQA.

    It has one thing of any extent on a flat background; sometimes the edge of the image cuts it.
    """
    background = (between(rng, 230, 255), between(rng, 230, 255), between(rng, 230, 255))
    shape = SHAPES[below(rng, 3)]
    width = between(rng, *SINGLE_EXTENT)
    height = _sample_height(rng, shape, width, SINGLE_EXTENT)
    left, top = between(rng, -2, SIDE + 2 - width), between(rng, -2, SIDE + 2 - height)
    color = tuple(COLORS)[below(rng, len(COLORS))]
    return Scene(background, None, (Thing(color, shape, "", left, top, width, height),))


def _place(rng: Random, color: str, things: list[Thing]) -> None:
    """Add a thing of a random kind where there is room; add nothing if 20 draws find no room."""
    shape, size = SHAPES[below(rng, 3)], SIZES[below(rng, 2)]
    for _ in range(20):
        width = between(rng, *EXTENTS[size])
        height = _sample_height(rng, shape, width, EXTENTS[size])
        left, top = below(rng, SIDE - width + 1), below(rng, SIDE - height + 1)
        thing = Thing(color, shape, size, left, top, width, height)
        if not any(thing.is_near(other) for other in things):
            things.append(thing)
            return


def _sample_height(rng: Random, shape: str, width: int, extent: tuple[int, int]) -> int:
    """Return the height for a width; only a rectangle draws it."""
    if shape == "rectangle":
        return between(rng, *extent)
    if shape == "circle":
        return width
    return (width * 7 + 4) // 8  # a nearly equilateral triangle: 7 / 8 is close to sqrt(3) / 2


def draw(scene: Scene) -> Pixels:
    """Draw the pixels of a scene, (64, 64, 3)."""
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
    """Return how many subsamples of each pixel are inside the shape, (height, width).

    Coordinates are doubled, so the centres of the subsamples have odd coordinates.
    """
    w, h = width * SUBSAMPLES, height * SUBSAMPLES
    x, y = 2 * np.arange(w) + 1, 2 * np.arange(h)[:, None] + 1
    if shape == "circle":
        inside = (x - w) ** 2 + (y - h) ** 2 <= w * w
    elif shape == "triangle":  # apex at the top; at depth y the half width is w * y / 2h
        inside = abs(x - w) * 2 * h <= w * y
    else:
        inside = np.ones((h, w), bool)
    blocks = inside.reshape(height, SUBSAMPLES, width, SUBSAMPLES)
    count: NDArray[np.int32] = blocks.sum((1, 3)).astype(np.int32)
    return count


@lru_cache(maxsize=1)
def _noise_table() -> NDArray[np.int32]:
    """Return values from -3 to 3 by an integer hash of the place.

    Each scene uses a random window of the table.
    """
    size = NOISE_PERIOD + SIDE
    place = np.arange(size * size * 3, dtype=np.uint64)
    hashed = (place * np.uint64(2654435761) + np.uint64(97)) % np.uint64(2**32)
    hashed = ((hashed ^ (hashed >> np.uint64(15))) * np.uint64(2246822519)) % np.uint64(2**32)
    return ((hashed >> np.uint64(13)) % np.uint64(7)).astype(np.int32).reshape(size, size, 3) - 3
