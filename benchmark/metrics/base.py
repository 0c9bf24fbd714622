"""What a metric is: predictions of one split in, numbers in per cent out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar, Literal

Tokenizer = Literal["ptb", "treebank"]


@dataclass(frozen=True)
class Prediction:
    """What a model said about one example, and what people said: `references` as the data set holds them, at least one."""

    id: str
    text: str
    references: tuple[str, ...]
    kind: str = ""  # question type, for breakdowns


@dataclass(frozen=True)
class Scores:
    """A metric's numbers for one split, all in per cent (a CIDEr of 1.2 is 120).

    `per_example` holds, in the order of the predictions, the scores whose mean is the value of that name. Metrics that are
    not a mean over examples (BLEU, METEOR, macro-F1) have none: a paired test cannot use them.
    """

    values: Mapping[str, float]
    per_example: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Metric(ABC):
    """A way to score the predictions of one split."""

    name: ClassVar[str]  # set by @register
    values: ClassVar[
        tuple[str, ...]
    ]  # set by @register: the names of the numbers it gives, breakdowns aside

    def value_names(self, tokenizer: Tokenizer) -> tuple[str, ...]:  # noqa: ARG002 - most metrics need no tokenizer
        """Names of the numbers `evaluate` gives with this tokenizer, breakdowns aside."""
        return self.values

    @abstractmethod
    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split of at least one prediction. Raises MetricUnavailable with the reason if this machine cannot."""


def score_by_mean(
    name: str, per_example: Sequence[float], predictions: Sequence[Prediction]
) -> Scores:
    """Scores of a metric that is a mean over examples, with its breakdown by kind."""
    return Scores(
        {name: fmean(per_example), **mean_by_kind(name, per_example, predictions)},
        {name: tuple(per_example)},
    )


def mean_by_kind(
    name: str, per_example: Sequence[float], predictions: Sequence[Prediction]
) -> dict[str, float]:
    """Mean per question type, as `name/kind`, kinds sorted; predictions without a kind are left out."""
    groups: dict[str, list[float]] = {}
    for score, prediction in zip(per_example, predictions, strict=True):
        groups.setdefault(prediction.kind, []).append(score)
    return {f"{name}/{kind}": fmean(scores) for kind, scores in sorted(groups.items()) if kind}
