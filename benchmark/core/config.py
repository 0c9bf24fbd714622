"""Typed configuration: YAML in, frozen dataclasses out; an unknown key or a wrong type is an error that names the place.

Values are validated by pydantic in strict mode, so `"8"` is not a number and `1e-4` (YAML 1.2) is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vlpeft.benchmark.core.errors import UserError, did_you_mean

T = TypeVar("T")
JSON = Any  # whatever json.dumps takes
ADDED = "added"

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Config:
    """Base of every configuration dataclass: unknown keys are forbidden, NaN and infinity too."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


def added_field(default: T) -> T:
    """A field that came after cells had been given ids. While it has its default it is left out of what ids are made of.

    So a new setting keeps every old id; to change such a default later, raise `vlpeft.benchmark.cells.cell.SCIENCE`.
    """
    made: T = field(default=default, metadata={ADDED: True})
    return made


@dataclass(frozen=True)
class Protocol(Config):
    """A training recipe. `name` is for people; every other field is part of a cell's identity.

    A field that is added must be `added(default)`, where the default is what was done before it was there: ids stay.
    """

    lr: PositiveFloat
    name: str = "custom"
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive = 64
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_fraction: Fraction = 0.0
    warmup_steps: NonNegative = 0
    clip_norm: PositiveFloat | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    images: Literal["real", "zeroed"] = "real"
    train_split: str = "train"
    eval_split: str = "test"
    train_limit: Positive | None = None
    eval_limit: Positive | None = None
    decays: Literal["matrices", "not_biases", "all"] = "matrices"  # what weight decay acts on
    # blip: lower-case, most punctuation removed, at most 20 (captions: 30) words; sentence: lower-case, without a last full stop
    clean_text: Literal["none", "blip", "sentence"] = "none"
    prompt: str = (
        "{text}"  # what the model reads; {text} is the question, the hypothesis, or nothing
    )
    max_input_tokens: Positive = 20
    max_output_tokens: Positive = 20  # of training targets
    max_answers: Positive = (
        3129  # length of the closed answer list: the most frequent training answers
    )
    answer_weights: Literal["official", "frequency"] = (
        "official"  # score of a training answer: the metric's, or its share of the ten
    )
    train_answers: Literal["all", "sampled"] = (
        "all"  # of a question with several: all, or one a step, drawn by weight
    )
    label_smoothing: Fraction = 0.0
    loss_mean: Literal["tokens", "sequences", "questions"] = (
        "tokens"  # see benchmark/backbones/language.py
    )
    answering: Literal["rank", "generate"] = (
        "rank"  # choose from the answer list by likelihood, or write freely
    )
    rank_candidates: Positive = 32  # answers that pass the first stage of ranking
    beams: Positive = 1
    max_generated_tokens: Positive | None = None  # None: as many as training targets have
    min_generated_tokens: NonNegative = 0
    no_repeat_ngram: NonNegative = 0
    length_penalty: Finite = 1.0
    early_stopping: bool = False
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | None = (
        None  # None: all the task's metrics
    )
    metric_tokenizer: Literal["ptb", "treebank"] = "ptb"
    label_words: dict[str, str] | None = added_field(
        None
    )  # what is written for a label of entailment or nlvr2; None: the label
    augment: Literal["none", "blip"] = added_field(
        "none"
    )  # of training images, see benchmark/run/augmentation.py
    select: Literal["last", "best"] = added_field(
        "last"
    )  # whose weights are tested: the last step's, or the best epoch's
    select_split: str = added_field(
        "val"
    )  # what the epochs are compared on; `eval_limit` holds for it, too
    # The sum of these values of metrics, as records name them, without a tokenizer; None: the first one of the task's first metric.
    select_metric: Annotated[tuple[str, ...], Field(min_length=1)] | None = added_field(None)
    length_window: Positive = added_field(
        1
    )  # batches whose items are sorted by length together, to pad less; each item still comes once
    views: Positive | None = added_field(
        None
    )  # of `augment`, of each image: so many, computed once; None: a new one every time
    cached_features: Literal["float32", "float16"] = added_field(
        "float32"
    )  # how a frozen tower's features are kept

    def __post_init__(self) -> None:
        if self.views is not None and self.augment == "none":
            raise ValueError(
                "views: there is one view of an image without `augment`; leave one of the two out"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.warmup_fraction and self.warmup_steps:
            raise ValueError("set at most one of warmup_fraction and warmup_steps")
        if self.select == "best" and self.epochs is None:
            raise ValueError(
                "`select: best` compares epochs: set `epochs` in place of `steps`, or `select: last`"
            )
        if unknown := set(re.findall(r"\{\w*\}", self.prompt)) - {"{text}"}:
            raise ValueError(
                f"prompt: unknown {min(unknown)}; {{text}} stands for the question or the hypothesis"
            )

    def total_steps(self, batches: int) -> int:
        """Optimizer steps, where an epoch has so many batches."""
        return self.steps if self.steps is not None else (self.epochs or 0) * batches


def parse(cls: type[T], values: Mapping[str, JSON], where: str) -> T:
    """Build the dataclass `cls` from plain values, strictly. Raises UserError naming `where`, the key and the fix."""
    try:
        text = json.dumps(values)
    except TypeError as error:
        raise UserError(f"{where}: {error}; quote the value if it is meant as text") from error
    except ValueError as error:  # an anchor that contains itself
        raise UserError(f"{where}: {error}; write plain values") from error
    return parse_json(cls, text, where)


def parse_json(cls: type[T], text: str | bytes, where: str) -> T:
    """The same from the text of a JSON file: of 10,000 cells that saves a second. Raises UserError for what is no JSON, too."""
    try:
        parsed: T = _adapter(cast("Hashable", cls)).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, cls)}") from error
    return parsed


def dump(config: object) -> dict[str, JSON]:
    """Plain JSON values of a configuration dataclass, defaults spelled out."""
    plain: dict[str, JSON] = _adapter(cast("Hashable", type(config))).dump_python(
        config, mode="json"
    )
    return plain


def dump_identity(config: Any) -> dict[str, JSON]:
    """`dump`, without `added` fields that have their default."""
    plain = dump(config)
    defaults = dump_defaults(config)
    return {
        key: value for key, value in plain.items() if key not in defaults or value != defaults[key]
    }


def dump_defaults(config: Any) -> dict[str, JSON]:
    """Plain defaults of the `added` fields of a configuration dataclass."""
    plain: dict[str, JSON] = json.loads(
        json.dumps({f.name: f.default for f in fields(config) if f.metadata.get(ADDED)})
    )
    return plain


def load_yaml(path: Path) -> dict[str, JSON]:
    """Read a YAML 1.2 file holding one mapping. Raises UserError with the file and line."""
    try:
        with path.open(encoding="utf-8") as file:
            values = YAML(typ="safe", pure=True).load(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (
        YAMLError,
        RecursionError,
    ) as error:  # control characters and the like, which carry no mark
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: expected `key: value` lines at the top level, found {type(values).__name__}"
        )
    return values


def merge(*layers: Mapping[str, JSON]) -> dict[str, JSON]:
    """Later layers override earlier ones, key by key; nested mappings are merged."""
    out: dict[str, JSON] = {}
    for layer in layers:
        for key, value in layer.items():
            old = out.get(key)
            out[key] = (
                merge(old, value)
                if isinstance(old, Mapping) and isinstance(value, Mapping)
                else value
            )
    return out


@cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", cls))


def _explain(error: ValidationError, cls: type[Any]) -> str:
    found = error.errors()
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = next(
        (e for e in found if e["type"] in unknown), found[0]
    )  # a misspelt key explains why a required one is missing
    place: Sequence[int | str] = first["loc"]
    key = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in place
    ).removeprefix(".")
    if first["type"] in unknown:
        return f"unknown key '{key}'{did_you_mean(str(place[-1]), [f.name for f in fields(cls)])}"
    if first["type"] in ("missing", "missing_argument"):
        return f"'{key}' is required"
    message = first["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    got = json.dumps(first["input"], default=str)[:80]
    if first["type"] in ("tuple_type", "list_type"):
        message = f"write a list, such as {'[0, 1, 2]' if key == 'seeds' else f'[{got}]'}"
    return f"{key}: {message}, got {got}" if place else message
