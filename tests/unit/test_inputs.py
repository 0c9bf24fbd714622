"""What one task of a cell reads: limits, splits, images and the answer list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.run.inputs import Inputs

SCENES = DatasetSpec("s", "shapes", {"train_scenes": 6, "val_scenes": 4, "test_scenes": 5}, "")


def opened(**changed: Any) -> Inputs:
    recipe = replace(Protocol(lr=1.0, epochs=1), **changed)
    return Inputs.open(Part("vqa", SCENES, recipe))


def images(examples: Any) -> list[str]:
    return [image for example in examples for image in example.images]


def test_limits_take_the_first_examples_of_each_split() -> None:
    whole = opened(select="best", select_split="val")
    some = opened(select="best", select_split="val", train_limit=7, eval_limit=3)
    assert list(some.training) == list(whole.training[:7])
    assert list(some.test) == list(whole.test[:3])
    assert list(some.selection) == list(whole.selection[:3])
    assert min(map(len, (whole.training, whole.test, whole.selection))) > 7
    assert {image.partition("/")[0] for image in images(whole.training)} == {"train"}
    assert {image.partition("/")[0] for image in images(whole.test)} == {"test"}
    assert {image.partition("/")[0] for image in images(whole.selection)} == {"val"}
    assert some.split_size() == len(whole.test)


def test_only_selection_reads_its_split() -> None:
    assert list(opened(select="last").selection) == []


def test_augmented_training_images_are_not_seen_unchanged() -> None:
    limits = {"train_limit": 7, "eval_limit": 3, "select": "best", "select_split": "val"}
    plain, augmented = opened(**limits), opened(**limits, augment="blip")
    tested = [*images(plain.selection), *images(plain.test)]
    assert plain.images == [*images(plain.training), *tested]
    assert augmented.images == tested


def test_prompts_and_items_follow_the_examples() -> None:
    inputs = opened(train_limit=7, prompt="Q: {text}")
    assert inputs.prompts(inputs.training) == [f"Q: {each.question}" for each in inputs.training]
    assert [item.images for item in inputs.items] == [each.images for each in inputs.training]
    assert [item.prompt for item in inputs.items] == inputs.prompts(inputs.training)
    assert set(inputs.answers) == {answer for each in inputs.training for answer in each.answers}


def test_one_answer_with_a_weight_is_enough_to_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = opened(train_limit=2, eval_limit=2)
    weighted = [replace(item, targets={"x": 0.0, "y": 1.0}) for item in inputs.items]
    monkeypatch.setattr(type(inputs.task), "items", lambda *_: weighted)
    inputs.check()
    empty = [replace(item, targets={"x": 0.0}) for item in weighted]
    monkeypatch.setattr(type(inputs.task), "items", lambda *_: empty)
    with pytest.raises(UserError, match="has an answer to train on"):
        inputs.check()
