"""Questions about drawn scenes, balanced so that the wording does not give the answer away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
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


@cache  # every scene is asked the same questions, and a million objects keep the collector busy
def ask(kind: str, text: str, answer: str, options: tuple[str, ...]) -> Question:
    """Return a question; the same object for the same arguments."""
    return Question(kind, text, answer, options)


def questions(scene: Scene) -> Iterator[Question]:
    """Yield every question that the grammar allows about a scene."""
    for grammar in (_exist, _attributes, _count, _relations):
        yield from grammar(scene.things)


def nouns() -> tuple[str, ...]:
    """Return every noun that a question or statement may use."""
    found: list[str] = []
    for shape in SHAPES:
        found += [f"{adjective} {shape}" for adjective in (*COLORS, *SIZES)]
    return (*found, *(f"{color} shape" for color in COLORS))


NOUNS = nouns()


def count_nouns(things: Sequence[Thing]) -> Counter[str]:
    """Return how many things each noun applies to."""
    found: Counter[str] = Counter()
    for thing in things:
        color, size, shape = thing.color, thing.size, thing.shape
        found.update((f"{color} {shape}", f"{size} {shape}", f"{color} shape"))
    return found


def _exist(things: Sequence[Thing]) -> Iterator[Question]:
    found = count_nouns(things)
    for noun in NOUNS:
        yield ask("exist", f"is there a {noun}?", _yes(noun in found), YES_NO)


def _attributes(things: Sequence[Thing]) -> Iterator[Question]:
    colors = tuple(COLORS)
    shapes, sizes, both = _count_shared(things)
    for thing in things:
        color, shape, size = thing.color, thing.shape, thing.size
        yield ask("shape", f"what is the {color} shape?", shape, SHAPES)
        yield ask("size", f"what size is the {color} shape?", size, SIZES)
        if shapes[shape] == 1:
            yield ask("color", f"what color is the {shape}?", color, colors)
            yield ask("size", f"what size is the {shape}?", size, SIZES)
        if both[size, shape] == 1:
            yield ask("color", f"what color is the {size} {shape}?", color, colors)
        if sizes[size] == 1:
            yield ask("color", f"what color is the {size} shape?", color, colors)
            yield ask("shape", f"what is the {size} shape?", shape, SHAPES)


def _count(things: Sequence[Thing]) -> Iterator[Question]:
    yield ask("count", "how many shapes are there?", str(len(things)), ("2", "3", "4"))
    shapes, sizes, _ = _count_shared(things)
    for shape in SHAPES:
        yield from _small_count(f"how many {shape}s are there?", shapes[shape])
    for size in SIZES:
        yield from _small_count(f"how many {size} shapes are there?", sizes[size])


def _small_count(text: str, n: int) -> Iterator[Question]:
    if str(n) in COUNTS:  # three or four things of a kind are too rare to balance
        yield ask("count", text, str(n), COUNTS)


def _relations(things: Sequence[Thing]) -> Iterator[Question]:
    shapes, _, _ = _count_shared(things)
    for one, other, name, holds in clear_relations(things):
        answer = _yes(holds)
        text = f"is the {one.color} shape {name} the {other.color} shape?"
        yield ask("relation", text, answer, YES_NO)
        if shapes[one.shape] == shapes[other.shape] == 1:
            text = f"is the {one.shape} {name} the {other.shape}?"
            yield ask("relation", text, answer, YES_NO)


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


def _count_shared(
    things: Sequence[Thing],
) -> tuple[Counter[str], Counter[str], Counter[tuple[str, str]]]:
    """Return how many things have each shape, each size, and each size and shape.

    What only one thing has identifies it.
    """
    shapes = Counter([thing.shape for thing in things])
    sizes = Counter([thing.size for thing in things])
    return shapes, sizes, Counter([(thing.size, thing.shape) for thing in things])


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
        key = (question.kind, question.text)
        if key not in by_text:
            by_text[key] = {option: [] for option in question.options}
        by_text[key][question.answer].append(place)
    return by_text
