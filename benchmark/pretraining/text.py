"""Pretraining text of the tiny towers: descriptions of drawn scenes, then questions and answers.

A tower learns to look up a word in its context and to compare. It sees no image. The context always
has the answer, so the tower learns nothing from the wording of a question that would help it on the
balanced datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from vlpeft.benchmark.datasets.drawing import (
    COLORS,
    SHAPES,
    Scene,
    Thing,
    below,
    pick,
    sample_scene,
    sample_single,
)
from vlpeft.benchmark.datasets.questions import clear_relations, questions
from vlpeft.benchmark.datasets.shapes import captions

ASKED = 2  # questions after a description
SINGLE_SHARE = 0.3  # share of the scenes that have one thing, as in easy-VQA

# The grammar of easy-VQA; {} is a noun such as "red shape" or "circle".
PRESENT = (
    "does the image contain a {}?",
    "is a {} present?",
    "is there a {} in the image?",
    "is there a {}?",
)
ABSENT = (
    "does the image not contain a {}?",
    "is no {} present?",
    "is there not a {} in the image?",
    "is there not a {}?",
)
WHICH_SHAPE = (
    "what shape does the image contain?",
    "what shape is in the image?",
    "what shape is present?",
)
WHICH_COLOR = ("what color is the {}?", "what is the color of the {}?")
AXES = (("left of", "right of"), ("above", "below"))
QuestionAndAnswer = tuple[str, str]


def easy_questions(scene: Scene) -> Iterator[QuestionAndAnswer]:
    """Yield questions in easy-VQA's wording, with their answers.

    Questions for the shape or the colour are asked only if the scene has one thing.
    """
    present = {t.shape for t in scene.things} | {f"{t.color} shape" for t in scene.things}
    for noun in (*SHAPES, *(f"{color} shape" for color in COLORS)):
        answer, opposite = "no", "yes"
        if noun in present:
            answer, opposite = "yes", "no"
        for template in PRESENT:
            yield template.format(noun), answer
        for template in ABSENT:
            yield template.format(noun), opposite
    if len(scene.things) == 1:
        yield from _attribute_questions(scene.things[0])


def _attribute_questions(thing: Thing) -> Iterator[QuestionAndAnswer]:
    for text in (*WHICH_SHAPE, f"what is the {thing.color} shape?"):
        yield text, thing.shape
    for template in WHICH_COLOR:
        for noun in ("shape", thing.shape):
            yield template.format(noun), thing.color


def sample_dialogue(rng: Random) -> str:
    """Draw a description, perhaps with a relation, and a few questions with answers.

    For example: `a small red circle. is there a circle? yes`.
    """
    scene = _sample_any_scene(rng)
    if len(scene.things) == 1:
        parts = [_single_caption(scene.things[0], rng)]
        asked = _draw_by_answer(rng, list(easy_questions(scene)))
    else:
        parts, asked = _sample_several(scene, rng)
    return ". ".join([*parts, *(f"{text} {answer}" for text, answer in asked)])


def _sample_any_scene(rng: Random) -> Scene:
    if rng.random() < SINGLE_SHARE:
        return sample_single(rng)
    return sample_scene(rng)


def sample_caption(rng: Random) -> str:
    """Draw one caption."""
    return pick(rng, captions(sample_scene(rng), rng), 1)[0]


def sample_caption_pair(rng: Random) -> str:
    """Draw two captions of one scene; each names things that the other describes less."""
    return ". ".join(pick(rng, captions(sample_scene(rng), rng), 2))


def sample_questions(rng: Random) -> str:
    """Draw a dialogue without the description."""
    return ". ".join(part for part in sample_dialogue(rng).split(". ") if "?" in part)


def scene_caption(scene: Scene, rng: Random) -> str:
    """Draw one caption of a given scene of one thing or several."""
    if len(scene.things) > 1:
        return pick(rng, captions(scene, rng), 1)[0]
    (thing,) = scene.things
    return _single_caption(thing, rng)


def _single_caption(thing: Thing, rng: Random) -> str:
    noun = f"a {thing.color} {thing.shape}"
    if below(rng, 2):
        return noun
    return f"there is {noun}"


def _sample_several(scene: Scene, rng: Random) -> tuple[list[str], list[QuestionAndAnswer]]:
    """Draw the description of a scene of several things, and questions with answers."""
    texts = captions(scene, rng)
    # These captions name sizes and no relation.
    parts = [texts[k] for k in pick(rng, (0, 1, 3), 1)]
    kind = below(rng, 3)
    if kind == 0:
        return parts, _draw_by_answer(rng, list(easy_questions(scene)))
    if kind == 1:
        asked = [(q.text, q.answer) for q in questions(scene) if q.kind != "relation"]
        return parts, _draw_by_answer(rng, asked)
    true = [relation for relation in clear_relations(scene.things) if relation[-1]]
    one, other, name, _ = pick(rng, true, 1)[0]
    parts.append(f"the {one.color} {one.shape} is {name} the {other.color} {other.shape}")
    asked = list(_relation_questions(scene, one, other, name))
    return parts, pick(rng, asked, min(2, len(asked)))


def _relation_questions(
    scene: Scene, one: Thing, other: Thing, name: str
) -> Iterator[QuestionAndAnswer]:
    """Yield the questions about a pair of things along the axis of a relation."""
    same_axis = next(words for words in AXES if name in words)
    for question in questions(scene):
        text = question.text
        if question.kind != "relation" or f"{one.color} shape" not in text:
            continue
        if f"{other.color} shape" in text and any(word in text for word in same_axis):
            yield text, question.answer


def _draw_by_answer(rng: Random, asked: list[QuestionAndAnswer]) -> list[QuestionAndAnswer]:
    """Draw a few questions.

    The answer is drawn first, so "no" is not a better guess than "yes".
    """
    by_answer: dict[str, list[str]] = {}
    for text, answer in asked:
        by_answer.setdefault(answer, []).append(text)
    drawn = [pick(rng, tuple(by_answer), 1)[0] for _ in range(ASKED)]
    return [(pick(rng, by_answer[answer], 1)[0], answer) for answer in drawn]
