"""Questions about drawn scenes, and the balance that leaves nothing to be guessed from their wording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

from vlpeft.benchmark.datasets.drawing import COLORS, SHAPES, SIZES, Scene, Thing, pick

COUNTS = ("0", "1", "2")
CLEAR = 16  # twice the pixels by which two centres must differ before a relation is asked or told
YES_NO = ("yes", "no")
Images = TypeVar("Images")  # whatever says which images a question is about


class Question(NamedTuple):
    """A question about a scene, its answer, and all answers its wording allows."""

    kind: str
    text: str
    answer: str
    options: tuple[str, ...]


def questions(scene: Scene) -> Iterator[Question]:
    """Every question the grammar allows about a scene."""
    for asked in (_exist, _attributes, _count, _relations):
        yield from asked(scene.things)


def _exist(things: Sequence[Thing]) -> Iterator[Question]:
    kinds = {(t.color, t.shape) for t in things}
    sized = {(t.size, t.shape) for t in things}
    for shape in SHAPES:
        for color in COLORS:
            yield Question(
                "exist", f"is there a {color} {shape}?", _yes((color, shape) in kinds), YES_NO
            )
        for size in SIZES:
            yield Question(
                "exist", f"is there a {size} {shape}?", _yes((size, shape) in sized), YES_NO
            )
    present = {t.color for t in things}
    for color in COLORS:
        yield Question("exist", f"is there a {color} shape?", _yes(color in present), YES_NO)


def _attributes(things: Sequence[Thing]) -> Iterator[Question]:
    for thing in things:
        yield Question("shape", f"what is the {thing.color} shape?", thing.shape, SHAPES)
        yield Question("size", f"what size is the {thing.color} shape?", thing.size, SIZES)
        if _alone(things, thing, "shape"):
            yield Question("color", f"what color is the {thing.shape}?", thing.color, tuple(COLORS))
            yield Question("size", f"what size is the {thing.shape}?", thing.size, SIZES)
        if _alone(things, thing, "shape", "size"):
            yield Question(
                "color",
                f"what color is the {thing.size} {thing.shape}?",
                thing.color,
                tuple(COLORS),
            )
        if _alone(things, thing, "size"):
            yield Question(
                "color", f"what color is the {thing.size} shape?", thing.color, tuple(COLORS)
            )
            yield Question("shape", f"what is the {thing.size} shape?", thing.shape, SHAPES)


def _count(things: Sequence[Thing]) -> Iterator[Question]:
    yield Question("count", "how many shapes are there?", str(len(things)), ("2", "3", "4"))
    for shape in SHAPES:
        yield from _count_of(f"how many {shape}s are there?", sum(t.shape == shape for t in things))
    for size in SIZES:
        yield from _count_of(
            f"how many {size} shapes are there?", sum(t.size == size for t in things)
        )


def _count_of(text: str, n: int) -> Iterator[Question]:
    if str(n) in COUNTS:  # three or four of a kind are too rare to balance
        yield Question("count", text, str(n), COUNTS)


def _relations(things: Sequence[Thing]) -> Iterator[Question]:
    for one, other, name, holds in clear_relations(things):
        yield Question(
            "relation",
            f"is the {one.color} shape {name} the {other.color} shape?",
            _yes(holds),
            YES_NO,
        )
        if _alone(things, one, "shape") and _alone(things, other, "shape"):
            yield Question(
                "relation", f"is the {one.shape} {name} the {other.shape}?", _yes(holds), YES_NO
            )


def clear_relations(things: Sequence[Thing]) -> Iterator[tuple[Thing, Thing, str, bool]]:
    """(one, other, relation, whether it holds) for every ordered pair whose centres differ clearly along that axis."""
    for one in things:
        for other in things:
            for names, distance in (
                (("left of", "right of"), other.x - one.x),
                (("above", "below"), other.y - one.y),
            ):
                if abs(distance) >= CLEAR:
                    yield one, other, names[0], distance > 0
                    yield one, other, names[1], distance < 0


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _alone(things: Sequence[Thing], thing: Thing, *attributes: str) -> bool:
    """Whether no other thing has all these attributes of `thing`: then they name it."""
    return sum(all(getattr(t, a) == getattr(thing, a) for a in attributes) for t in things) == 1


def balance(
    asked: Sequence[tuple[Images, Question]], kinds: Sequence[str], per_kind: int, rng: Random
) -> list[tuple[Images, Question]]:
    """Keep about `per_kind` questions of each kind such that each text has each of its possible answers equally often."""
    texts: dict[
        tuple[str, str], dict[str, list[int]]
    ] = {}  # (kind, text) -> answer -> places in `asked`
    for place, (_, question) in enumerate(asked):
        answers = texts.setdefault(
            (question.kind, question.text), {option: [] for option in question.options}
        )
        answers[question.answer].append(place)
    kept: list[int] = []
    for kind in kinds:
        pools = [
            pool
            for (of, _), answers in sorted(texts.items())
            if of == kind
            for pool in [list(answers.values())]
        ]
        quota = max(1, per_kind // max(1, sum(map(len, pools))))
        for pool in pools:
            n = min(quota, *map(len, pool))
            kept += [place for places in pool for place in pick(rng, places, n)]
    return [asked[place] for place in sorted(kept)]
