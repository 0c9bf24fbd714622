"""A training recipe: what a sweep sets under `protocol:`, in four groups of fields.

The groups are for readers. YAML files, ids and records see one flat list of keys, and so does
code: it writes `protocol.lr`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from vlpeft.benchmark.core.config import (
    Config,
    Finite,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    added_field,
)

T = TypeVar("T")

# The order in which fields came to be. Records and plans list them so, and a new field goes to
# the end. Sorted by group, a record would differ from an earlier one of the same cell.
RECORD_ORDER = (
    "lr",
    "name",
    "epochs",
    "steps",
    "batch_size",
    "betas",
    "eps",
    "weight_decay",
    "schedule",
    "warmup_fraction",
    "warmup_steps",
    "clip_norm",
    "precision",
    "images",
    "train_split",
    "eval_split",
    "train_limit",
    "eval_limit",
    "decays",
    "clean_text",
    "prompt",
    "max_input_tokens",
    "max_output_tokens",
    "max_answers",
    "answer_weights",
    "train_answers",
    "label_smoothing",
    "loss_mean",
    "answering",
    "rank_candidates",
    "beams",
    "max_generated_tokens",
    "min_generated_tokens",
    "no_repeat_ngram",
    "length_penalty",
    "early_stopping",
    "metrics",
    "metric_tokenizer",
    "label_words",
    "augment",
    "select",
    "select_split",
    "select_metric",
    "length_window",
    "views",
    "cached_features",
    "beam_length",
)


def in_record_order(cls: type[T]) -> type[T]:
    """Put the fields of a dataclass into `RECORD_ORDER`.

    `dataclasses.fields` and `vlpeft.benchmark.core.config.dump` then follow this order. Without
    it, a dataclass lists the fields of one base after those of another.

    Raises:
        TypeError: `RECORD_ORDER` lacks a field, or names one that does not exist.
    """
    declared = vars(cls)["__dataclass_fields__"]
    if different := set(declared) ^ set(RECORD_ORDER):
        raise TypeError(f"fields and RECORD_ORDER differ: {', '.join(sorted(different))}")
    for name in RECORD_ORDER:
        declared[name] = declared.pop(name)
    return cls


@dataclass(frozen=True)
class OptimizerRecipe(Config):
    """How the weights are trained: the length, the batches, AdamW, its schedule, the loss."""

    lr: PositiveFloat
    name: str = "custom"  # shown to people only
    # The length of training: exactly one of the two is set.
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive = 64  # examples per optimizer step
    # Sort the items of this many batches by length, to pad less; each item still occurs once.
    length_window: Positive = added_field(1)
    # AdamW.
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    # The parameters that weight decay acts on.
    decays: Literal["matrices", "not_biases", "all"] = "matrices"
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    # The warm-up as a share of all steps, or as a number of steps; at most one of the two is set.
    warmup_fraction: Fraction = 0.0
    warmup_steps: NonNegative = 0
    clip_norm: PositiveFloat | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    label_smoothing: Fraction = 0.0
    # What the loss is averaged over; benchmark/backbones/language.py has the equations.
    loss_mean: Literal["tokens", "sequences", "questions"] = "tokens"

    def __post_init__(self) -> None:
        """Refuse two lengths of training or of warm-up, and no length of training."""
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.warmup_fraction and self.warmup_steps:
            raise ValueError("set at most one of warmup_fraction and warmup_steps")

    def total_steps(self, batches: int) -> int:
        """Return the number of optimizer steps, given the number of batches in an epoch."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * batches


@dataclass(frozen=True)
class InputRecipe(Config):
    """What a model reads, as text and images, and which answers it learns from."""

    train_split: str = "train"
    train_limit: Positive | None = None  # use only the first examples of the split
    images: Literal["real", "zeroed"] = "real"  # zeroed: every image is black (the blind row)
    # The augmentation of training images, see benchmark/run/augmentation.py.
    augment: Literal["none", "blip"] = added_field("none")
    # The number of augmented views per image, each computed once. None: a new view every time.
    views: Positive | None = added_field(None)
    # The number type in which the features of a frozen tower are stored.
    cached_features: Literal["float32", "float16"] = added_field("float32")
    # blip: lower case, without most punctuation, at most 20 words (30 in captions).
    # sentence: lower case, without the final full stop.
    # strip: without white space at both ends.
    clean_text: Literal["none", "blip", "sentence", "strip"] = "none"
    # What the model reads. {text} is the question or the hypothesis, and empty for captioning.
    prompt: str = "{text}"
    max_input_tokens: Positive = 20
    max_output_tokens: Positive = 20  # of training targets
    # The length of the closed answer list, which holds the most frequent training answers.
    max_answers: Positive = 3129
    # The score of a training answer: the score of the metric, or its share of the ten answers.
    answer_weights: Literal["official", "frequency"] = "official"
    # For a question with several answers: train on all, or draw one per step by its weight.
    train_answers: Literal["all", "sampled"] = "all"
    # The word that the model writes for each label of entailment or nlvr2. None: the label itself.
    label_words: dict[str, str] | None = added_field(None)

    def __post_init__(self) -> None:
        """Refuse views without augmentation, and unknown placeholders in the prompt."""
        if self.views is not None and self.augment == "none":
            raise ValueError(
                "views: without `augment`, an image has one view only; remove one of the two keys"
            )
        if unknown := set(re.findall(r"\{\w*\}", self.prompt)) - {"{text}"}:
            raise ValueError(
                f"prompt: unknown {min(unknown)};"
                " {text} is the placeholder for the question or the hypothesis"
            )


@dataclass(frozen=True)
class DecodingRecipe(Config):
    """How a model answers in evaluation: by choosing from a list, or by writing."""

    # rank: choose from the answer list by likelihood. generate: write free text.
    answering: Literal["rank", "generate"] = "rank"
    rank_candidates: Positive = 32  # answers that pass the first stage of ranking
    beams: Positive = 1
    max_generated_tokens: Positive | None = None  # None: max_output_tokens
    min_generated_tokens: NonNegative = 0
    no_repeat_ngram: NonNegative = 0
    length_penalty: Finite = 1.0
    early_stopping: bool = False
    # The length of a text that beam search divides its log likelihood by (to the power of
    # length_penalty). generated: generated tokens and the end token, as in transformers today.
    # whole: all tokens with the prompt, without the end token, as in transformers 4.15.
    beam_length: Literal["generated", "whole"] = added_field("generated")

    def __post_init__(self) -> None:
        """Refuse a rule that the older beam search does not have here."""
        if self.beam_length == "whole" and self.no_repeat_ngram:
            raise ValueError(
                "no_repeat_ngram: only `beam_length: generated` has this rule; remove one of them"
            )


@dataclass(frozen=True)
class EvaluationRecipe(Config):
    """Which weights are tested, on which examples, and with which metrics."""

    eval_split: str = "test"
    eval_limit: Positive | None = None  # use only the first examples of the split
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: all of the task
    metric_tokenizer: Literal["ptb", "treebank"] = "ptb"
    # The weights to test: those of the last step, or those of the best epoch.
    select: Literal["last", "best"] = added_field("last")
    # The split that compares the epochs; `eval_limit` applies to it, too.
    select_split: str = added_field("val")
    # Compare epochs by the sum of these metric values, named as in records, without a tokenizer.
    # None: the first value of the task's first metric.
    select_metric: Annotated[tuple[str, ...], Field(min_length=1)] | None = added_field(None)


# A dataclass takes the fields of its last base first, so the list runs backwards: `lr`, which
# has no default, must come first.
@in_record_order
@dataclass(frozen=True)
class Protocol(EvaluationRecipe, DecodingRecipe, InputRecipe, OptimizerRecipe):
    """A training recipe. Every field but `name` is part of a cell's identity.

    A new field belongs to one of the four groups, and to the end of `RECORD_ORDER`. It must be
    `added_field(default)`, with a default that keeps the behaviour of earlier versions; then
    all ids stay the same.
    """

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, within a group or between groups."""
        OptimizerRecipe.__post_init__(self)
        InputRecipe.__post_init__(self)
        DecodingRecipe.__post_init__(self)
        if self.select == "best" and self.epochs is None:
            raise ValueError(
                "`select: best` compares epochs: set `epochs` instead of `steps`, or `select: last`"
            )
