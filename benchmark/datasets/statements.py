"""Statements about drawn scenes, for entailment and for pairs of images.

Each wording has each of its labels equally often. For entailment every scene is shown twice: as it
is, and with a curtain along one side. Things that the curtain touches are left out, so every
visible thing is visible as a whole. A claimed thing that is not visible is then neutral, not false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from vlpeft.benchmark.datasets.drawing import (
    CURTAIN_WIDTH,
    SHAPES,
    SIDE,
    Scene,
    Thing,
)
from vlpeft.benchmark.datasets.questions import NOUNS, Question, ask, count_nouns

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
    hidden, found = bool(scene.curtain), count_nouns(scene.things)
    for noun in NOUNS:
        presence = _presence_label(noun in found, hidden)
        yield ask("exist", f"there is a {noun}", presence, ENTAILMENT)
        absence = OPPOSITE[presence]
        yield ask("absent", f"there is no {noun}", absence, ENTAILMENT)
    shapes = Counter(thing.shape for thing in scene.things)
    for shape in SHAPES:
        label = _presence_label(shapes[shape] > 1, hidden)
        yield ask("count", f"there are at least two {shape}s", label, ENTAILMENT)


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
    at_left, at_right = count_nouns(left.things), count_nouns(right.things)
    for noun in NOUNS:
        a, b = noun in at_left, noun in at_right
        yield _statement("side", f"there is a {noun} in the left image", a)
        yield _statement("side", f"there is a {noun} in the right image", b)
        yield _statement("both", f"both images have a {noun}", a and b)
        yield _statement("one", f"exactly one image has a {noun}", a != b)
    lefts, rights = len(left.things), len(right.things)
    if lefts != rights:
        yield _statement("more", "the left image has more shapes than the right", lefts > rights)
        yield _statement("more", "the right image has more shapes than the left", lefts < rights)


def _statement(kind: str, text: str, holds: bool) -> Question:
    return ask(kind, text, TRUTH[not holds], TRUTH)
