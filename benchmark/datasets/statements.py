"""Statements about drawn scenes, for entailment and for two images: each wording has each of its labels equally often.

For entailment every scene is shown twice, as it is and with a curtain along one side. A thing that the curtain touches is
left out, so that what can be seen is seen whole; what is claimed to be there and is not seen is then neutral, not false.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vlpeft.benchmark.datasets.drawing import (
    COLORS,
    CURTAIN_WIDTH,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
)
from vlpeft.benchmark.datasets.questions import Question

ENTAILMENT = ("entailment", "neutral", "contradiction")
TRUTH = ("true", "false")


def cover_scene(scene: Scene, side: str) -> Scene:
    """The scene with a curtain along a side, and without the things that it would touch."""
    return replace(
        scene,
        curtain=side,
        things=tuple(thing for thing in scene.things if not _touches(thing, side)),
    )


def _touches(thing: Thing, side: str) -> bool:
    inner = SIDE - CURTAIN_WIDTH
    return {
        "left": thing.left <= CURTAIN_WIDTH,
        "right": thing.left + thing.width >= inner,
        "top": thing.top <= CURTAIN_WIDTH,
        "bottom": thing.top + thing.height >= inner,
    }[side]


def hypotheses(scene: Scene) -> Iterator[Question]:
    """Every hypothesis the grammar allows about a scene, curtain or not."""
    hidden = bool(scene.curtain)
    for noun, found in _nouns(scene.things):
        yield _hypothesis("exist", f"there is a {noun}", seen=found > 0, open_=hidden)
        yield _hypothesis(
            "absent", f"there is no {noun}", seen=found > 0, open_=hidden, claims_absence=True
        )
    for shape in SHAPES:
        found = sum(thing.shape == shape for thing in scene.things)
        yield _hypothesis("count", f"there are at least two {shape}s", seen=found > 1, open_=hidden)


def _hypothesis(
    kind: str, text: str, *, seen: bool, open_: bool, claims_absence: bool = False
) -> Question:
    """`seen`: what is spoken of is in view; `open_`: it might be out of view."""
    if seen:
        label = "contradiction" if claims_absence else "entailment"
    elif open_:
        label = "neutral"
    else:
        label = "entailment" if claims_absence else "contradiction"
    return Question(kind, text, label, ENTAILMENT)


def statements(left: Scene, right: Scene) -> Iterator[Question]:
    """Every statement the grammar allows about two scenes."""
    for (noun, one), (_, other) in zip(_nouns(left.things), _nouns(right.things), strict=True):
        a, b = one > 0, other > 0
        yield _statement("side", f"there is a {noun} in the left image", a)
        yield _statement("side", f"there is a {noun} in the right image", b)
        yield _statement("both", f"both images have a {noun}", a and b)
        yield _statement("one", f"exactly one image has a {noun}", a != b)
    if len(left.things) != len(right.things):
        yield _statement(
            "more",
            "the left image has more shapes than the right",
            len(left.things) > len(right.things),
        )
        yield _statement(
            "more",
            "the right image has more shapes than the left",
            len(left.things) < len(right.things),
        )


def _statement(kind: str, text: str, holds: bool) -> Question:
    return Question(kind, text, TRUTH[not holds], TRUTH)


def _nouns(things: Sequence[Thing]) -> Iterator[tuple[str, int]]:
    """What a statement may speak of, and how many of it there are."""
    for shape in SHAPES:
        for color in COLORS:
            yield f"{color} {shape}", sum((t.color, t.shape) == (color, shape) for t in things)
        for size in SIZES:
            yield f"{size} {shape}", sum((t.size, t.shape) == (size, shape) for t in things)
    for color in COLORS:
        yield f"{color} shape", sum(t.color == color for t in things)
