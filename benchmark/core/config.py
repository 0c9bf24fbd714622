"""Typed configuration: read YAML into frozen dataclasses.

An unknown key or a wrong type raises an error that names the place. pydantic validates the values
in strict mode: `"8"` is not a number, and `1e-4` is one, as in YAML 1.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vlpeft.benchmark.core.errors import UserError, did_you_mean

T = TypeVar("T")
JSON = Any  # any value that json.dumps accepts
ADDED = "added"
UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")  # pydantic's error types
MISSING_KEY = ("missing", "missing_argument")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Config:
    """Base of every configuration dataclass; it forbids unknown keys, NaN and infinity."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


def added_field(default: T) -> T:
    """Declare a field that was added after cells had been given ids.

    Ids leave such a field out while it has its default, so a new setting keeps every old id.
    To change the default later, raise `vlpeft.benchmark.cells.cell.SCIENCE`.
    """
    made: T = field(default=default, metadata={ADDED: True})
    return made


@dataclass(frozen=True)
class Protocol(Config):
    """A training recipe. Every field but `name` is part of a cell's identity.

    The order of the fields is fixed. A new field must be `added_field(default)`, with a default
    that keeps the behaviour of earlier versions; then all ids stay the same.
    """

    lr: PositiveFloat
    name: str = "custom"  # shown to people only
    # The length of training: exactly one of the two is set.
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive = 64  # examples per optimizer step
    # AdamW.
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    # The warm-up as a share of all steps, or as a number of steps; at most one of the two is set.
    warmup_fraction: Fraction = 0.0
    warmup_steps: NonNegative = 0
    clip_norm: PositiveFloat | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    images: Literal["real", "zeroed"] = "real"  # zeroed: every image is black (the blind row)
    train_split: str = "train"
    eval_split: str = "test"
    # Use only the first examples of the split.
    train_limit: Positive | None = None
    eval_limit: Positive | None = None
    # The parameters that weight decay acts on.
    decays: Literal["matrices", "not_biases", "all"] = "matrices"
    # blip: lower case, without most punctuation, at most 20 words (30 in captions).
    # sentence: lower case, without the final full stop.
    clean_text: Literal["none", "blip", "sentence"] = "none"
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
    label_smoothing: Fraction = 0.0
    # What the loss is averaged over; benchmark/backbones/language.py has the equations.
    loss_mean: Literal["tokens", "sequences", "questions"] = "tokens"
    # rank: choose from the answer list by likelihood. generate: write free text.
    answering: Literal["rank", "generate"] = "rank"
    rank_candidates: Positive = 32  # answers that pass the first stage of ranking
    beams: Positive = 1
    max_generated_tokens: Positive | None = None  # None: max_output_tokens
    min_generated_tokens: NonNegative = 0
    no_repeat_ngram: NonNegative = 0
    length_penalty: Finite = 1.0
    early_stopping: bool = False
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: all of the task
    metric_tokenizer: Literal["ptb", "treebank"] = "ptb"
    # The word that the model writes for each label of entailment or nlvr2. None: the label itself.
    label_words: dict[str, str] | None = added_field(None)
    # The augmentation of training images, see benchmark/run/augmentation.py.
    augment: Literal["none", "blip"] = added_field("none")
    # The weights to test: those of the last step, or those of the best epoch.
    select: Literal["last", "best"] = added_field("last")
    # The split that compares the epochs; `eval_limit` applies to it, too.
    select_split: str = added_field("val")
    # Compare epochs by the sum of these metric values, named as in records, without a tokenizer.
    # None: the first value of the task's first metric.
    select_metric: Annotated[tuple[str, ...], Field(min_length=1)] | None = added_field(None)
    # Sort the items of this many batches by length, to pad less; each item still occurs once.
    length_window: Positive = added_field(1)
    # The number of augmented views per image, each computed once. None: a new view every time.
    views: Positive | None = added_field(None)
    # The number type in which the features of a frozen tower are stored.
    cached_features: Literal["float32", "float16"] = added_field("float32")

    def __post_init__(self) -> None:
        """Refuse combinations of settings that contradict each other."""
        if self.views is not None and self.augment == "none":
            raise ValueError(
                "views: without `augment`, an image has one view only; remove one of the two keys"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.warmup_fraction and self.warmup_steps:
            raise ValueError("set at most one of warmup_fraction and warmup_steps")
        if self.select == "best" and self.epochs is None:
            raise ValueError(
                "`select: best` compares epochs: set `epochs` instead of `steps`, or `select: last`"
            )
        if unknown := set(re.findall(r"\{\w*\}", self.prompt)) - {"{text}"}:
            raise ValueError(
                f"prompt: unknown {min(unknown)};"
                " {text} is the placeholder for the question or the hypothesis"
            )

    def total_steps(self, batches: int) -> int:
        """Return the number of optimizer steps, given the number of batches in an epoch."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * batches


def parse(cls: type[T], values: Mapping[str, JSON], where: str) -> T:
    """Build the dataclass `cls` from plain values, in strict mode.

    Args:
        cls: The dataclass.
        values: Plain JSON values, for instance those of a YAML file.
        where: The file or setting, for error messages.

    Raises:
        UserError: A value does not fit; the message names `where`, the key and the fix.
    """
    try:
        text = json.dumps(values)
    except TypeError as error:
        raise UserError(f"{where}: {error}; quote the value if it is meant as text") from error
    except ValueError as error:  # an anchor that contains itself
        raise UserError(f"{where}: {error}; write plain values") from error
    return parse_json(cls, text, where)


def parse_json(cls: type[T], text: str | bytes, where: str) -> T:
    """Build the dataclass `cls` from the text of a JSON file, like `parse`.

    pydantic parses the text itself: for 10,000 cells that saves a second over `json.loads`.

    Raises:
        UserError: The text is not JSON, or a value does not fit.
    """
    try:
        parsed: T = _adapter(cast("Hashable", cls)).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, cls)}") from error
    return parsed


def dump(config: object) -> dict[str, JSON]:
    """Return a configuration dataclass as plain JSON values, including all defaults."""
    adapter = _adapter(cast("Hashable", type(config)))
    plain: dict[str, JSON] = adapter.dump_python(config, mode="json")
    return plain


def dump_identity(config: Any) -> dict[str, JSON]:
    """Return `dump` without those `added_field`s that have their default."""
    plain = dump(config)
    for key, value in dump_defaults(config).items():
        if plain[key] == value:
            del plain[key]
    return plain


def dump_defaults(config: Any) -> dict[str, JSON]:
    """Return the defaults of the `added_field`s of a dataclass, as plain JSON values."""
    defaults = {f.name: f.default for f in fields(config) if f.metadata.get(ADDED)}
    plain: dict[str, JSON] = json.loads(json.dumps(defaults))
    return plain


def load_yaml(path: Path) -> dict[str, JSON]:
    """Read a YAML 1.2 file that holds one mapping.

    Raises:
        UserError: The file cannot be read or is not such a mapping; names the file and line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            values = YAML(typ="safe", pure=True).load(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else "?"
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (YAMLError, RecursionError) as error:  # such as control characters: without a mark
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: expected `key: value` lines at the top level, found {type(values).__name__}"
        )
    return values


def merge(*layers: Mapping[str, JSON]) -> dict[str, JSON]:
    """Merge mappings key by key; later layers win, and nested mappings are merged, too."""
    out: dict[str, JSON] = {}
    for layer in layers:
        for key, value in layer.items():
            old = out.get(key)
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                out[key] = merge(old, value)
            else:
                out[key] = value
    return out


@cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", cls))


def _explain(error: ValidationError, cls: type[Any]) -> str:
    """Return the first problem in one line, with the key and the fix."""
    problems = error.errors()
    # Report a misspelt key first: it explains why a required key is missing.
    unknown = [problem for problem in problems if problem["type"] in UNKNOWN_KEY]
    first = (unknown or problems)[0]
    key = _dotted(first["loc"])
    if unknown:
        word = str(first["loc"][-1])
        return f"unknown key '{key}'{did_you_mean(word, [f.name for f in fields(cls)])}"
    if first["type"] in MISSING_KEY:
        return f"'{key}' is required"
    got = json.dumps(first["input"], default=str)[:80]
    message = first["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if first["type"] in ("tuple_type", "list_type"):
        example = "[0, 1, 2]" if key == "seeds" else f"[{got}]"
        message = f"write a list, such as {example}"
    if not first["loc"]:  # a check of several keys together, from __post_init__
        return message
    return f"{key}: {message}, got {got}"


def _dotted(place: tuple[int | str, ...]) -> str:
    """Write a pydantic location as people do: ("tasks", 0, "name") is tasks[0].name."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}"
    return text.removeprefix(".")
