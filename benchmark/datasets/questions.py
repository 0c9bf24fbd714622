"""Questions about drawn scenes, balanced so that the wording does not give the answer away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from operator import attrgetter
from random import Random
from typing import NamedTuple, TypeVar

from vlpeft.benchmark.datasets.drawing import COLORS, SHAPES, SIZES, Scene, Thing, pick

COUNTS = ("0", "1", "2")
# Two centres must differ by this many half pixels before a relation is asked or stated.
CLEAR = 16
YES_NO = ("yes", "no")
Images = TypeVar("Images")  # any value that names the images of a question


class Question(NamedTuple):
    """A question about a scene and its answer."""

    kind: str
    text: str
    answer: str
    options: tuple[str, ...]  # all answers that the wording allows


def questions(scene: Scene) -> Iterator[Question]:
    """Yield every question that the grammar allows about a scene."""
    for grammar in (_exist, _attributes, _count, _relations):
        yield from grammar(scene.things)


def _exist(things: Sequence[Thing]) -> Iterator[Question]:
    kinds = {(t.color, t.shape) for t in things}
    sized = {(t.size, t.shape) for t in things}
    for shape in SHAPES:
        for color in COLORS:
            answer = _yes((color, shape) in kinds)
            yield Question("exist", f"is there a {color} {shape}?", answer, YES_NO)
        for size in SIZES:
            answer = _yes((size, shape) in sized)
            yield Question("exist", f"is there a {size} {shape}?", answer, YES_NO)
    present = {t.color for t in things}
    for color in COLORS:
        yield Question("exist", f"is there a {color} shape?", _yes(color in present), YES_NO)


def _attributes(things: Sequence[Thing]) -> Iterator[Question]:
    colors = tuple(COLORS)
    for thing in things:
        color, shape, size = thing.color, thing.shape, thing.size
        yield Question("shape", f"what is the {color} shape?", shape, SHAPES)
        yield Question("size", f"what size is the {color} shape?", size, SIZES)
        if _is_only_one(things, thing, "shape"):
            yield Question("color", f"what color is the {shape}?", color, colors)
            yield Question("size", f"what size is the {shape}?", size, SIZES)
        if _is_only_one(things, thing, "shape", "size"):
            yield Question("color", f"what color is the {size} {shape}?", color, colors)
        if _is_only_one(things, thing, "size"):
            yield Question("color", f"what color is the {size} shape?", color, colors)
            yield Question("shape", f"what is the {size} shape?", shape, SHAPES)


def _count(things: Sequence[Thing]) -> Iterator[Question]:
    yield Question("count", "how many shapes are there?", str(len(things)), ("2", "3", "4"))
    for shape in SHAPES:
        n = sum(t.shape == shape for t in things)
        yield from _small_count(f"how many {shape}s are there?", n)
    for size in SIZES:
        n = sum(t.size == size for t in things)
        yield from _small_count(f"how many {size} shapes are there?", n)


def _small_count(text: str, n: int) -> Iterator[Question]:
    if str(n) in COUNTS:  # three or four things of a kind are too rare to balance
        yield Question("count", text, str(n), COUNTS)


def _relations(things: Sequence[Thing]) -> Iterator[Question]:
    for one, other, name, holds in clear_relations(things):
        answer = _yes(holds)
        text = f"is the {one.color} shape {name} the {other.color} shape?"
        yield Question("relation", text, answer, YES_NO)
        if _is_only_one(things, one, "shape") and _is_only_one(things, other, "shape"):
            text = f"is the {one.shape} {name} the {other.shape}?"
            yield Question("relation", text, answer, YES_NO)


def clear_relations(things: Sequence[Thing]) -> Iterator[tuple[Thing, Thing, str, bool]]:
    """Yield (one, other, relation, whether it holds) for ordered pairs of things.

    A pair has relations along those axes only where the centres differ clearly.
    """
    for one, other in product(things, repeat=2):
        right, down = other.x - one.x, other.y - one.y
        if abs(right) >= CLEAR:
            yield one, other, "left of", right > 0
            yield one, other, "right of", right < 0
        if abs(down) >= CLEAR:
            yield one, other, "above", down > 0
            yield one, other, "below", down < 0


def _yes(truth: bool) -> str:
    if truth:
        return "yes"
    return "no"


def _is_only_one(things: Sequence[Thing], thing: Thing, *attributes: str) -> bool:
    """Return whether no other thing has these attributes of `thing`, so that they identify it."""
    attributes_of = attrgetter(*attributes)
    return sum(attributes_of(t) == attributes_of(thing) for t in things) == 1


def balance(
    asked: Sequence[tuple[Images, Question]], kinds: Sequence[str], per_kind: int, rng: Random
) -> list[tuple[Images, Question]]:
    """Select questions such that each text has each of its possible answers equally often.

    Args:
        asked: Pairs of images and a question about them.
        kinds: The kinds of questions to keep.
        per_kind: About how many questions to keep of each kind.
        rng: Draws which questions are kept.

    Returns:
        The kept pairs, in their old order.
    """
    kept: list[int] = []
    by_text = _places_by_text(asked)
    for kind in kinds:
        # One pool per text: for each answer, the places of its questions in `asked`.
        pools = [
            list(answers.values()) for (of, _), answers in sorted(by_text.items()) if of == kind
        ]
        quota = max(1, per_kind // max(1, sum(map(len, pools))))
        for pool in pools:
            n = min(quota, *map(len, pool))  # the rarest answer limits all answers of a text
            for places in pool:
                kept += pick(rng, places, n)
    return [asked[place] for place in sorted(kept)]


def _places_by_text(
    asked: Sequence[tuple[Images, Question]],
) -> dict[tuple[str, str], dict[str, list[int]]]:
    """Return (kind, text) -> answer -> places in `asked`."""
    by_text: dict[tuple[str, str], dict[str, list[int]]] = {}
    for place, (_, question) in enumerate(asked):
        none_yet: dict[str, list[int]] = {option: [] for option in question.options}
        answers = by_text.setdefault((question.kind, question.text), none_yet)
        answers[question.answer].append(place)
    return by_text
