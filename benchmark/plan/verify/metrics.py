"""Metrics of a few predictions. Those that need Java run only if there is a Java."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from vlpeft.benchmark.metrics import Tokenizer, score
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.plan.verify.check import FLOAT64, Check, JSONValue, NotRun

TEN = ("two", "2", "2", "two", "2", "3", "2", "two", "2", "two")
ANSWERS = (
    Prediction("0", "2", TEN, "number"),
    Prediction("1", "Yes.", ("yes",) * 7 + ("no",) * 3, "yes/no"),
    Prediction("2", "a red hat", ("red hat",) * 2 + ("hat",) * 8, "other"),
    Prediction("3", "dont know", ("don't know",) * 4 + ("unknown",) * 6, "other"),
    Prediction("4", "no", ("yes",) * 10, "yes/no"),
)
LABELS = (
    Prediction("0", "entailment", ("entailment",)),
    Prediction("1", "neutral", ("contradiction",)),
    Prediction("2", "neutral", ("neutral",)),
    Prediction("3", "contradiction", ("entailment",)),
)
CAPTIONS = (
    Prediction(
        "0",
        "a red circle and a blue square.",
        ("A red circle, and a blue square!", "two shapes: red and blue"),
    ),
    Prediction(
        "1",
        "there is a large teal triangle",
        ("a large teal triangle", "the triangle isn't small", "a teal shape"),
    ),
    Prediction("2", "", ("three brown circles in a row", "circles (brown)")),
    Prediction(
        "3", "circles circles circles", ("three circles are left of the rectangle", "some circles")
    ),
)


def answer_checks(device: object) -> Iterator[Check]:
    """Yield the checks of metrics of answers and labels."""
    yield Check("vqa_accuracy", partial(score_metric, "vqa_accuracy", ANSWERS, "ptb"), FLOAT64)
    name = "vqa_accuracy_vl_adapter"
    yield Check(name, partial(score_metric, name, ANSWERS, "ptb"), FLOAT64)
    yield Check("answer_match", partial(score_metric, "answer_match", ANSWERS, "ptb"), FLOAT64)
    yield Check("accuracy", partial(score_metric, "accuracy", LABELS, "ptb"), FLOAT64)


def caption_checks(device: object) -> Iterator[Check]:
    """Yield the checks of metrics of captions.

    They run with the tokenizer in Python and with the official one, which is a Java program.
    """
    for name in ("bleu", "rouge_l", "cider"):
        measure = partial(score_metric, name, CAPTIONS, "treebank")
        yield Check(f"{name}, treebank", measure, FLOAT64)
    yield Check("cider, ptb", partial(score_metric, "cider", CAPTIONS, "ptb"), FLOAT64)


def score_metric(name: str, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> JSONValue:
    """Return all values of a metric, and its scores by example.

    Raises:
        NotRun: the metric is not available here.
    """
    report = score([name], predictions, tokenizer)
    for value in report.values.values():
        if isinstance(value, dict):
            raise NotRun(value["absent"])
    examples = {key: list(each) for key, each in report.per_example.items()}
    return {"values": report.values, "examples": examples}
