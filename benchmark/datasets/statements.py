"""Statements about drawn scenes, for entailment and for pairs of images.

Each wording has each of its labels equally often. For entailment every scene is shown twice: as it
is, and with a curtain along one side. Things that the curtain touches are left out, so every
visible thing is visible as a whole. A claimed thing that is not visible is then neutral, not false.
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
OPPOSITE = dict(zip(ENTAILMENT, reversed(ENTAILMENT), strict=True))
TRUTH = ("true", "false")


def cover_scene(scene: Scene, side: str) -> Scene:
    """Return the scene with a curtain along a side, without the things that it would touch."""
    visible = tuple(thing for thing in scene.things if not _touches(thing, side))
    return replace(scene, curtain=side, things=visible)


def _touches(thing: Thing, side: str) -> bool:
    inner = SIDE - CURTAIN_WIDTH
    return {
        "left": thing.left <= CURTAIN_WIDTH,
        "right": thing.left + thing.width >= inner,
        "top": thing.top <= CURTAIN_WIDTH,
        "bottom": thing.top + thing.height >= inner,
    }[side]


def hypotheses(scene: Scene) -> Iterator[Question]:
    """Yield every hypothesis that the grammar allows about a scene, with or without a curtain."""
    hidden = bool(scene.curtain)
    for noun, found in _nouns(scene.things):
        presence = _presence_label(found > 0, hidden)
        yield Question("exist", f"there is a {noun}", presence, ENTAILMENT)
        absence = OPPOSITE[presence]
        yield Question("absent", f"there is no {noun}", absence, ENTAILMENT)
    for shape in SHAPES:
        found = sum(thing.shape == shape for thing in scene.things)
        label = _presence_label(found > 1, hidden)
        yield Question("count", f"there are at least two {shape}s", label, ENTAILMENT)


def _presence_label(seen: bool, hidden: bool) -> str:
    """Return the label of a claim that something is there.

    Args:
        seen: Whether it is visible.
        hidden: Whether a part of the scene is hidden, so that it might be there.
    """
    if seen:
        return "entailment"
    if hidden:
        return "neutral"
    return "contradiction"


def statements(left: Scene, right: Scene) -> Iterator[Question]:
    """Yield every statement that the grammar allows about two scenes."""
    for (noun, one), (_, other) in zip(_nouns(left.things), _nouns(right.things), strict=True):
        a, b = one > 0, other > 0
        yield _statement("side", f"there is a {noun} in the left image", a)
        yield _statement("side", f"there is a {noun} in the right image", b)
        yield _statement("both", f"both images have a {noun}", a and b)
        yield _statement("one", f"exactly one image has a {noun}", a != b)
    lefts, rights = len(left.things), len(right.things)
    if lefts != rights:
        yield _statement("more", "the left image has more shapes than the right", lefts > rights)
        yield _statement("more", "the right image has more shapes than the left", lefts < rights)


def _statement(kind: str, text: str, holds: bool) -> Question:
    return Question(kind, text, TRUTH[not holds], TRUTH)


def _nouns(things: Sequence[Thing]) -> Iterator[tuple[str, int]]:
    """Yield each noun that a statement may use, and how many things it applies to."""
    for shape in SHAPES:
        for color in COLORS:
            yield f"{color} {shape}", sum((t.color, t.shape) == (color, shape) for t in things)
        for size in SIZES:
            yield f"{size} {shape}", sum((t.size, t.shape) == (size, shape) for t in things)
    for color in COLORS:
        yield f"{color} shape", sum(t.color == color for t in things)
