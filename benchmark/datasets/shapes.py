"""Drawn scenes with questions, captions and statements: a dataset that needs no download and that no text-only model can solve.

For every distinct question or statement of a split, each of its possible answers occurs equally often. Whatever a model that
does not see answers, it scores CHANCE for that type of question: anything above is vision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from vlpeft.benchmark.core.config import NonNegative, Positive
from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import DataFormat, Example, Pixels
from vlpeft.benchmark.datasets.drawing import CURTAIN, Scene, Thing, below, draw, pick, sample_scene
from vlpeft.benchmark.datasets.questions import Question, balance, clear_relations, questions
from vlpeft.benchmark.datasets.statements import cover_scene, hypotheses, statements

VERSION = 1  # raise it with any change to what is drawn or asked: it is part of the fingerprint
CHANCE = {  # task -> kind -> what a model scores that does not see
    "vqa": {
        "exist": 1 / 2,
        "color": 1 / 8,
        "shape": 1 / 3,
        "size": 1 / 2,
        "count": 1 / 3,
        "relation": 1 / 2,
    },
    "entailment": {"exist": 1 / 3, "absent": 1 / 3, "count": 1 / 3},
    "nlvr2": {"side": 1 / 2, "both": 1 / 2, "one": 1 / 2, "more": 1 / 2},
}
ShapesQuestion = tuple[tuple[str, ...], Question]  # the images, and what is asked about them
NUMBERS = {2: "two", 3: "three", 4: "four"}


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
    true = [
        (one, other, name) for one, other, name, holds in clear_relations(scene.things) if holds
    ]
    one, other, name = true[below(rng, len(true))]
    rest = [t for t in scene.things if t not in (one, other)]
    tail = f" and there is {_listed(rest)}" if rest else ""
    return f"{_noun(one)} is {name} {_noun(other)}{tail}"


def _listed(things: Sequence[Thing], sizes: bool = True) -> str:
    return " and ".join(_noun(t, sizes) for t in things)


def _noun(thing: Thing, sized: bool = True) -> str:
    return (
        f"a {thing.size} {thing.color} {thing.shape}"
        if sized and thing.size
        else f"a {thing.color} {thing.shape}"
    )


@register("shapes", tasks=("vqa", "captioning", "entailment", "nlvr2"))
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
        """All questions (`vqa`), scenes with five captions (`captioning`), or statements of a split, in the scenes' order."""
        if split not in self.splits():
            raise DataError(f"shapes has no split '{split}'{did_you_mean(split, self.splits())}")
        if task not in self.tasks:
            raise DataError(f"shapes has no task '{task}'{did_you_mean(task, self.tasks)}")
        if task == "captioning":
            return [self._caption(split, i) for i in range(self._size(split))]
        asked: dict[str, Callable[[str], list[ShapesQuestion]]] = {
            "vqa": self._asked,
            "entailment": self._hypotheses,
            "nlvr2": self._statements,
        }
        return self._balanced(task, split, asked[task](split))

    def image(self, image: str) -> Pixels:
        """Draw the scene of an id such as "train/17", or "train/17/left" with a curtain on the left."""
        split, _, rest = image.partition("/")
        index, slash, side = rest.partition("/")
        if not (index.isdecimal() and split in (*self.splits(), "pretrain")) or (
            slash and side not in CURTAIN
        ):
            raise DataError(
                f"shapes has no image '{image}'; expected SPLIT/NUMBER or SPLIT/NUMBER/SIDE, such as train/0"
            )
        scene = self.scene(split, int(index))
        return draw(cover_scene(scene, side) if side else scene)

    def fingerprint(self) -> str:
        """Hash of the generator's version and the settings; the scenes follow from them."""
        settings = [VERSION, self.seed, self.train_scenes, self.val_scenes, self.test_scenes]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def _size(self, split: str) -> int:
        return {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}[split]

    def _caption(self, split: str, index: int) -> Example:
        texts = captions(
            self.scene(split, index), Random(f"shapes-captions/{self.seed}/{split}/{index}")
        )
        return Example(f"{split}/{index}", (f"{split}/{index}",), "", texts)

    def _asked(self, split: str) -> list[ShapesQuestion]:
        scenes = ((i, self.scene(split, i)) for i in range(self._size(split)))
        return [
            ((f"{split}/{i}",), question) for i, scene in scenes for question in questions(scene)
        ]

    def _hypotheses(self, split: str) -> list[ShapesQuestion]:
        """About every scene twice, the second time behind a curtain."""
        asked: list[ShapesQuestion] = []
        for i in range(self._size(split)):
            scene, side = (
                self.scene(split, i),
                tuple(CURTAIN)[below(Random(f"shapes-curtain/{self.seed}/{split}/{i}"), 4)],
            )
            asked += [((f"{split}/{i}",), question) for question in hypotheses(scene)]
            asked += [
                ((f"{split}/{i}/{side}",), question)
                for question in hypotheses(cover_scene(scene, side))
            ]
        return asked

    def _statements(self, split: str) -> list[ShapesQuestion]:
        """About every scene beside the next."""
        scenes = [self.scene(split, i) for i in range(self._size(split))]
        pairs = ((i, (i + 1) % len(scenes)) for i in range(len(scenes)))
        return [
            ((f"{split}/{i}", f"{split}/{j}"), said)
            for i, j in pairs
            for said in statements(scenes[i], scenes[j])
        ]

    def _balanced(self, task: str, split: str, asked: Sequence[ShapesQuestion]) -> list[Example]:
        mark = "" if task == "vqa" else f"/{task}"
        kept = balance(
            asked,
            tuple(CHANCE[task]),
            self._size(split),
            Random(f"shapes-balance/{self.seed}/{split}{mark}"),
        )
        return [
            Example(f"{images[0]}/{n}", images, q.text, (q.answer,), q.kind)
            for n, (images, q) in enumerate(kept)
        ]
