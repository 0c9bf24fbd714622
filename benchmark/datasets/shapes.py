"""Drawn scenes with questions, captions and statements.

The dataset needs no download, and no text-only model can solve it. For each different question or
statement of a split, each of its possible answers occurs equally often. So a model that does not
see scores CHANCE for that kind of question with any answer; a higher score comes from the image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Annotated

from pydantic import Field

from vlpeft.benchmark.core.config import NonNegative
from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import DataFormat, Example, Pixels
from vlpeft.benchmark.datasets.drawing import CURTAIN, Scene, Thing, below, draw, pick, sample_scene
from vlpeft.benchmark.datasets.questions import Question, balance, clear_relations, questions
from vlpeft.benchmark.datasets.statements import cover_scene, hypotheses, statements

# Part of the fingerprint. Raise it with every change to the drawings, texts or answers.
VERSION = 1
CHANCE = {  # task -> kind -> score of a model that does not see the image
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
ShapesQuestion = tuple[tuple[str, ...], Question]  # ids of images, and a question about them
NUMBERS = {2: "two", 3: "three", 4: "four"}


def captions(scene: Scene, rng: Random) -> tuple[str, ...]:
    """Return five different captions; each names every thing.

    They have words and spaces only, because tokenizers split other characters differently.
    """
    one, two, three, four = (pick(rng, scene.things, len(scene.things)) for _ in range(4))
    number = NUMBERS[len(scene.things)]
    return (
        f"there is {_join(one)}",
        f"{number} shapes with {_join(two)}",
        f"an image of {_join(three, sizes=False)}",
        f"{_join(four)} on a light background",
        _relation_caption(scene, rng),
    )


def _relation_caption(scene: Scene, rng: Random) -> str:
    """Name one true relation, then the other things.

    There always is one: the boxes keep a gap, so every pair differs clearly along some axis.
    """
    true = [relation for relation in clear_relations(scene.things) if relation[-1]]
    one, other, name, _ = true[below(rng, len(true))]
    text = f"{_noun(one)} is {name} {_noun(other)}"
    rest = [t for t in scene.things if t not in (one, other)]
    if rest:
        text = f"{text} and there is {_join(rest)}"
    return text


def _join(things: Sequence[Thing], sizes: bool = True) -> str:
    return " and ".join(_noun(t, sizes) for t in things)


def _noun(thing: Thing, sized: bool = True) -> str:
    if sized and thing.size:
        return f"a {thing.size} {thing.color} {thing.shape}"
    return f"a {thing.color} {thing.shape}"


# All questions of a split are drawn when it is opened: about a millisecond a scene.
Scenes = Annotated[int, Field(gt=0, le=20_000)]


@register("shapes", tasks=("vqa", "captioning", "entailment", "nlvr2"))
@dataclass(frozen=True)
class Shapes(DataFormat):
    """Two to four coloured shapes on a light background, with balanced questions.

    The images are drawn on demand. Scene `i` of a split depends on seed, split and `i` alone. The
    endless stream `pretrain` has no examples; the shipped towers are pretrained on its scenes.
    """

    seed: NonNegative = 0
    train_scenes: Scenes = 4000
    val_scenes: Scenes = 500
    test_scenes: Scenes = 1000

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits that have examples."""
        return ("train", "val", "test")

    def scene(self, split: str, index: int) -> Scene:
        """Return scene `index` of a split or of the stream `pretrain`."""
        return _scene(self.seed, split, index)

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return the examples of a split, in the order of the scenes.

        They are questions (`vqa`), scenes with five captions (`captioning`), or statements.

        Raises:
            DataError: The split or the task is unknown.
        """
        if split not in self.splits():
            raise DataError(f"shapes has no split '{split}'{did_you_mean(split, self.splits())}")
        if task not in self.tasks:
            raise DataError(f"shapes has no task '{task}'{did_you_mean(task, self.tasks)}")
        if task == "captioning":
            return [self._caption(split, i) for i in range(self._size(split))]
        grammars: dict[str, Callable[[str], list[ShapesQuestion]]] = {
            "vqa": self._questions,
            "entailment": self._hypotheses,
            "nlvr2": self._statements,
        }
        return self._balanced_examples(task, split, grammars[task](split))

    def image(self, image: str) -> Pixels:
        """Draw the scene of an id: "train/17", or "train/17/left" with a curtain on the left.

        Raises:
            DataError: There is no such image.
        """
        split, _, rest = image.partition("/")
        index, slash, side = rest.partition("/")
        exists = index.isdecimal() and split in (*self.splits(), "pretrain")
        if not exists or (slash and side not in CURTAIN):
            raise DataError(
                f"shapes has no image '{image}';"
                " expected SPLIT/NUMBER or SPLIT/NUMBER/SIDE, such as train/0"
            )
        scene = self.scene(split, int(index))
        if side:
            scene = cover_scene(scene, side)
        return draw(scene)

    def fingerprint(self) -> str:
        """Return a hash of the generator's version and the settings; they determine the scenes."""
        settings = [VERSION, self.seed, self.train_scenes, self.val_scenes, self.test_scenes]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def _size(self, split: str) -> int:
        return {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}[split]

    def _caption(self, split: str, index: int) -> Example:
        rng = Random(f"shapes-captions/{self.seed}/{split}/{index}")
        texts = captions(self.scene(split, index), rng)
        return Example(f"{split}/{index}", (f"{split}/{index}",), "", texts)

    def _questions(self, split: str) -> list[ShapesQuestion]:
        asked: list[ShapesQuestion] = []
        for i in range(self._size(split)):
            images = (f"{split}/{i}",)
            asked += [(images, question) for question in questions(self.scene(split, i))]
        return asked

    def _hypotheses(self, split: str) -> list[ShapesQuestion]:
        """Return hypotheses about every scene, first without and then with a curtain."""
        asked: list[ShapesQuestion] = []
        for i in range(self._size(split)):
            scene = self.scene(split, i)
            images = (f"{split}/{i}",)
            asked += [(images, question) for question in hypotheses(scene)]
            side = tuple(CURTAIN)[below(Random(f"shapes-curtain/{self.seed}/{split}/{i}"), 4)]
            covered = cover_scene(scene, side)
            images = (f"{split}/{i}/{side}",)
            asked += [(images, question) for question in hypotheses(covered)]
        return asked

    def _statements(self, split: str) -> list[ShapesQuestion]:
        """Return statements about every scene paired with the next one."""
        asked: list[ShapesQuestion] = []
        scenes = [self.scene(split, i) for i in range(self._size(split))]
        for i, left in enumerate(scenes):
            j = (i + 1) % len(scenes)
            images = (f"{split}/{i}", f"{split}/{j}")
            asked += [(images, statement) for statement in statements(left, scenes[j])]
        return asked

    def _balanced_examples(
        self, task: str, split: str, asked: Sequence[ShapesQuestion]
    ) -> list[Example]:
        seed = f"shapes-balance/{self.seed}/{split}"
        if task != "vqa":
            seed = f"{seed}/{task}"
        kept = balance(asked, tuple(CHANCE[task]), self._size(split), Random(seed))
        return [
            Example(f"{images[0]}/{n}", images, q.text, (q.answer,), q.kind)
            for n, (images, q) in enumerate(kept)
        ]


@lru_cache(2**13)  # the scenes of the default splits; all tasks ask about the same ones
def _scene(seed: int, split: str, index: int) -> Scene:
    return sample_scene(Random(f"shapes/{seed}/{split}/{index}"))
