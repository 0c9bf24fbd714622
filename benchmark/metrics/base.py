"""What a metric is: predictions of one split in, numbers in percent out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar, Literal

Tokenizer = Literal["ptb", "treebank"]


@dataclass(frozen=True)
class Prediction:
    """What a model said about one example, and what people said."""

    id: str
    text: str
    references: tuple[str, ...]  # as the dataset has them; at least one
    kind: str = ""  # question type, for breakdowns


@dataclass(frozen=True)
class Scores:
    """A metric's numbers for one split, all multiplied by 100.

    They are percentages, or CIDEr x 100: a CIDEr of 1.2 is 120.

    Attributes:
        values: by name.
        per_example: scores in the order of the predictions. Their mean is the value of that name.
            Metrics that are not a mean over examples (BLEU, METEOR, macro-F1) have none, so a
            paired test cannot use them.
    """

    values: Mapping[str, float]
    per_example: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Metric(ABC):
    """A way to score the predictions of one split.

    Higher values must be better: bold type, selection of epochs and `tune:` rely on it. Give an
    error as its negative, or as 100 minus it.
    """

    name: ClassVar[str]  # set by @register
    # Set by @register: the names of the numbers that the metric gives, without breakdowns.
    values: ClassVar[tuple[str, ...]]
    # Set by @register if the values are not percentages: "x 100" for CIDEr.
    unit: ClassVar[str] = "%"

    def value_names(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """Return the names of the numbers that `evaluate` gives, without breakdowns."""
        return self.values

    @abstractmethod
    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split of at least one prediction.

        Raises:
            MetricUnavailable: the metric cannot run on this machine; the message is the reason.
        """


def score_by_mean(
    name: str, per_example: Sequence[float], predictions: Sequence[Prediction]
) -> Scores:
    """Return the scores of a metric that is a mean over examples, with its breakdown by kind."""
    by_kind = mean_by_kind(name, per_example, predictions)
    return Scores({name: fmean(per_example), **by_kind}, {name: tuple(per_example)})


def mean_by_kind(
    name: str, per_example: Sequence[float], predictions: Sequence[Prediction]
) -> dict[str, float]:
    """Return the mean of each question type as `name/kind`, in the order of the kinds.

    Predictions without a kind are left out.
    """
    groups: dict[str, list[float]] = {}
    for score, prediction in zip(per_example, predictions, strict=True):
        groups.setdefault(prediction.kind, []).append(score)
    return {f"{name}/{kind}": fmean(scores) for kind, scores in sorted(groups.items()) if kind}
