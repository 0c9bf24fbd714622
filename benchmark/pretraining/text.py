"""The text the tiny towers are pretrained on: descriptions of drawn scenes, then questions about them and their answers.

A tower learns to look a word up in its context and to compare. It sees no image, and the context always holds the
answer, so the question's wording alone says nothing that the balanced datasets would reward.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from vlpeft.benchmark.datasets.drawing import (
    COLORS,
    SHAPES,
    Scene,
    below,
    pick,
    sample_scene,
    sample_single,
)
from vlpeft.benchmark.datasets.questions import clear_relations, questions
from vlpeft.benchmark.datasets.shapes import captions

ASKED = 2  # questions after a description
SINGLE_SHARE = 0.3  # of the scenes hold one thing, as in easy-VQA

# easy-VQA's grammar; {} is a noun such as "red shape" or "circle"
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


def easy_questions(scene: Scene) -> Iterator[tuple[str, str]]:
    """Questions in easy-VQA's wording with their answers; which shape and colour only where there is one thing."""
    present = {t.shape for t in scene.things} | {f"{t.color} shape" for t in scene.things}
    for noun in (*SHAPES, *(f"{color} shape" for color in COLORS)):
        for template in PRESENT:
            yield template.format(noun), "yes" if noun in present else "no"
        for template in ABSENT:
            yield template.format(noun), "no" if noun in present else "yes"
    if len(scene.things) == 1:
        (thing,) = scene.things
        yield from (
            (text, thing.shape) for text in (*WHICH_SHAPE, f"what is the {thing.color} shape?")
        )
        yield from (
            (t.format(noun), thing.color) for t in WHICH_COLOR for noun in ("shape", thing.shape)
        )


def sample_dialogue(rng: Random) -> str:
    """Description, relations, then a few questions with answers: `a small red circle. is there a circle? yes.`"""
    scene = sample_single(rng) if rng.random() < SINGLE_SHARE else sample_scene(rng)
    if len(scene.things) == 1:
        thing = scene.things[0]
        parts = [
            f"a {thing.color} {thing.shape}"
            if below(rng, 2)
            else f"there is a {thing.color} {thing.shape}"
        ]
        asked = _draw_by_answer(rng, list(easy_questions(scene)))
    else:
        parts, asked = _described(scene, rng)
    return ". ".join([*parts, *(f"{text} {answer}" for text, answer in asked)])


def sample_caption(rng: Random) -> str:
    """One caption alone."""
    return pick(rng, captions(sample_scene(rng), rng), 1)[0]


def sample_caption_pair(rng: Random) -> str:
    """Two captions of one scene: what one leaves open the other tells."""
    return ". ".join(pick(rng, captions(sample_scene(rng), rng), 2))


def sample_questions(rng: Random) -> str:
    """A dialogue without the description."""
    return ". ".join(part for part in sample_dialogue(rng).split(". ") if "?" in part)


def scene_caption(scene: Scene, rng: Random) -> str:
    """One caption of a given scene, of one thing or several."""
    if len(scene.things) > 1:
        return pick(rng, captions(scene, rng), 1)[0]
    (thing,) = scene.things
    return f"{'' if below(rng, 2) else 'there is '}a {thing.color} {thing.shape}"


def _described(scene: Scene, rng: Random) -> tuple[list[str], list[tuple[str, str]]]:
    told = captions(scene, rng)
    parts = [
        told[k] for k in pick(rng, (0, 1, 3), 1)
    ]  # those that name sizes and keep to no relation
    kind = below(rng, 3)
    if kind == 0:
        return parts, _draw_by_answer(rng, list(easy_questions(scene)))
    if kind == 1:
        asked = [(q.text, q.answer) for q in questions(scene) if q.kind != "relation"]
        return parts, _draw_by_answer(rng, asked)
    one, other, name, _ = pick(rng, [r for r in clear_relations(scene.things) if r[3]], 1)[0]
    parts.append(f"the {one.color} {one.shape} is {name} the {other.color} {other.shape}")
    pair = {f"{one.color} shape", f"{other.color} shape"}
    same_axis = ("left of", "right of") if name in ("left of", "right of") else ("above", "below")
    told_of = [
        (q.text, q.answer)
        for q in questions(scene)
        if q.kind == "relation"
        and all(noun in q.text for noun in pair)
        and any(word in q.text for word in same_axis)
    ]
    return parts, pick(rng, told_of, min(2, len(told_of)))


def _draw_by_answer(rng: Random, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A few different questions; the answer is drawn first, so that "no" is no better guess than "yes"."""
    by_answer: dict[str, list[str]] = {}
    for text, answer in asked:
        by_answer.setdefault(answer, []).append(text)
    drawn = [pick(rng, tuple(by_answer), 1)[0] for _ in range(ASKED)]
    return [(pick(rng, by_answer[answer], 1)[0], answer) for answer in drawn]
