"""Drawn scenes with questions and captions: a dataset that needs no download and that no text-only model can solve.

For every distinct question text of a split, each of its possible answers occurs equally often. Whatever a model that
does not see answers, it scores CHANCE for that type of question: anything above is vision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from benchmark.config import NonNegative, Positive
from benchmark.datasets.base import DataFormat, Example, Pixels
from benchmark.datasets.drawing import COLORS, SHAPES, SIZES, Scene, Thing, below, draw, pick, sample_scene
from benchmark.errors import DataError, did_you_mean
from benchmark.registry import register

VERSION = 1  # raise it with any change to what is drawn or asked: it is part of the fingerprint
COUNTS = ("0", "1", "2")
KINDS = ("exist", "color", "shape", "size", "count", "relation")
CHANCE = {"exist": 1 / 2, "color": 1 / 8, "shape": 1 / 3, "size": 1 / 2, "count": 1 / 3, "relation": 1 / 2}
CLEAR = 16  # twice the pixels by which two centres must differ before a relation is asked or told
NUMBERS = {2: "two", 3: "three", 4: "four"}
YES_NO = ("yes", "no")


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
            yield Question("exist", f"is there a {color} {shape}?", _yes((color, shape) in kinds), YES_NO)
        for size in SIZES:
            yield Question("exist", f"is there a {size} {shape}?", _yes((size, shape) in sized), YES_NO)
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
            yield Question("color", f"what color is the {thing.size} {thing.shape}?", thing.color, tuple(COLORS))
        if _alone(things, thing, "size"):
            yield Question("color", f"what color is the {thing.size} shape?", thing.color, tuple(COLORS))
            yield Question("shape", f"what is the {thing.size} shape?", thing.shape, SHAPES)


def _count(things: Sequence[Thing]) -> Iterator[Question]:
    yield Question("count", "how many shapes are there?", str(len(things)), ("2", "3", "4"))
    for shape in SHAPES:
        yield from _count_of(f"how many {shape}s are there?", sum(t.shape == shape for t in things))
    for size in SIZES:
        yield from _count_of(f"how many {size} shapes are there?", sum(t.size == size for t in things))


def _count_of(text: str, n: int) -> Iterator[Question]:
    if str(n) in COUNTS:  # three or four of a kind are too rare to balance
        yield Question("count", text, str(n), COUNTS)


def _relations(things: Sequence[Thing]) -> Iterator[Question]:
    for one, other, name, holds in clear_relations(things):
        yield Question("relation", f"is the {one.color} shape {name} the {other.color} shape?", _yes(holds), YES_NO)
        if _alone(things, one, "shape") and _alone(things, other, "shape"):
            yield Question("relation", f"is the {one.shape} {name} the {other.shape}?", _yes(holds), YES_NO)


def clear_relations(things: Sequence[Thing]) -> Iterator[tuple[Thing, Thing, str, bool]]:
    """(one, other, relation, whether it holds) for every ordered pair whose centres differ clearly along that axis."""
    for one in things:
        for other in things:
            for names, distance in ((("left of", "right of"), other.x - one.x), (("above", "below"), other.y - one.y)):
                if abs(distance) >= CLEAR:
                    yield one, other, names[0], distance > 0
                    yield one, other, names[1], distance < 0


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _alone(things: Sequence[Thing], thing: Thing, *attributes: str) -> bool:
    """Whether no other thing has all these attributes of `thing`: then they name it."""
    return sum(all(getattr(t, a) == getattr(thing, a) for a in attributes) for t in things) == 1


def captions(scene: Scene, rng: Random) -> tuple[str, ...]:
    """Five different captions, each naming every thing: words and spaces only, so that all tokenizers agree."""
    one, two, three, four = (pick(rng, scene.things, len(scene.things)) for _ in range(4))
    number = NUMBERS[len(scene.things)]
    return (
        f"there is {_listed(one)}",
        f"{number} shapes with {_listed(two)}",
        f"an image of {_listed(three, sizes=False)}",
        f"{_listed(four)} on a light background",
        _related(scene, rng),
    )


def _related(scene: Scene, rng: Random) -> str:
    """One true relation, then the other things. Every pair is clear along some axis, as the boxes keep a gap."""
    true = [(one, other, name) for one, other, name, holds in clear_relations(scene.things) if holds]
    one, other, name = true[below(rng, len(true))]
    rest = [t for t in scene.things if t not in (one, other)]
    tail = f" and there is {_listed(rest)}" if rest else ""
    return f"{_noun(one)} is {name} {_noun(other)}{tail}"


def _listed(things: Sequence[Thing], sizes: bool = True) -> str:
    return " and ".join(_noun(t, sizes) for t in things)


def _noun(thing: Thing, sized: bool = True) -> str:
    return f"a {thing.size} {thing.color} {thing.shape}" if sized and thing.size else f"a {thing.color} {thing.shape}"


@register("shapes", tasks=("vqa", "captioning"))
@dataclass(frozen=True)
class Shapes(DataFormat):
    """Two to four coloured shapes on a light background, drawn on demand; questions balanced against blind guessing.

    Scene `i` of a split depends on seed, split and `i` alone. The stream `pretrain` has no end and no examples: it is
    what the shipped towers are pretrained on.
    """

    seed: NonNegative = 0
    train_scenes: Positive = 4000
    val_scenes: Positive = 500
    test_scenes: Positive = 1000

    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have examples."""
        return ("train", "val", "test")

    def scene(self, split: str, index: int) -> Scene:
        """Scene `index` of a split or of the stream `pretrain`."""
        return sample_scene(Random(f"shapes/{self.seed}/{split}/{index}"))

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """All questions (`vqa`) or scenes with five captions (`captioning`) of a split, in the scenes' order."""
        if split not in self.splits():
            raise DataError(f"shapes has no split '{split}'{did_you_mean(split, self.splits())}")
        if task not in ("vqa", "captioning"):
            raise DataError(f"shapes has no task '{task}'{did_you_mean(task, ('vqa', 'captioning'))}")
        if task == "captioning":
            return [self._caption(split, i) for i in range(self._size(split))]
        return self._balanced(split)

    def image(self, image: str) -> Pixels:
        """Draw the scene of an id such as "train/17"."""
        split, slash, index = image.partition("/")
        if not (slash and index.isdecimal() and split in (*self.splits(), "pretrain")):
            raise DataError(f"shapes has no image '{image}'; expected SPLIT/NUMBER, such as train/0")
        return draw(self.scene(split, int(index)))

    def fingerprint(self) -> str:
        """Hash of the generator's version and the settings; the scenes follow from them."""
        settings = [VERSION, self.seed, self.train_scenes, self.val_scenes, self.test_scenes]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def _size(self, split: str) -> int:
        return {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}[split]

    def _caption(self, split: str, index: int) -> Example:
        texts = captions(self.scene(split, index), Random(f"shapes-captions/{self.seed}/{split}/{index}"))
        return Example(f"{split}/{index}", f"{split}/{index}", "", texts)

    def _balanced(self, split: str) -> list[Example]:
        scenes = [self.scene(split, i) for i in range(self._size(split))]
        asked = [(i, question) for i, scene in enumerate(scenes) for question in questions(scene)]
        kept = balance(asked, len(scenes), Random(f"shapes-balance/{self.seed}/{split}"))
        return [Example(f"{split}/{i}/{n}", f"{split}/{i}", q.text, (q.answer,), q.kind) for n, (i, q) in enumerate(kept)]


def balance(asked: Sequence[tuple[int, Question]], per_kind: int, rng: Random) -> list[tuple[int, Question]]:
    """Keep about `per_kind` questions of each kind such that each text has each of its possible answers equally often."""
    texts: dict[tuple[str, str], dict[str, list[int]]] = {}  # (kind, text) -> answer -> places in `asked`
    for place, (_, question) in enumerate(asked):
        answers = texts.setdefault((question.kind, question.text), {option: [] for option in question.options})
        answers[question.answer].append(place)
    kept: list[int] = []
    for kind in KINDS:
        pools = [pool for (of, _), answers in sorted(texts.items()) if of == kind for pool in [list(answers.values())]]
        quota = max(1, per_kind // max(1, sum(map(len, pools))))
        for pool in pools:
            n = min(quota, *map(len, pool))
            kept += [place for places in pool for place in pick(rng, places, n)]
    return [asked[place] for place in sorted(kept)]
