"""What an entry of a sweep varies: lists of values, and ranges to draw from.

An entry can have three keys, each a mapping from settings to values:

* `vary: {rank: [8, 64], function: [add, mul]}`: every combination of the lists;
* `zip: {rank: [8, 64], alpha: [16, 128]}`: the first values together, the second together, ...;
* `sample: {n: 20, seed: 0, lr: log(1e-5, 1e-2)}`: n draws.

With several of these keys, the combinations of one are crossed with those of the others. A setting
is one of the entry's class (method, backbone or data format), otherwise one of the protocol.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Annotated, Any

from pydantic import Field

from vlpeft.benchmark.core.config import JSON, Config, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan.draws import Sample, draw

KEYS = ("vary", "zip", "sample")
MOST = 100_000  # combinations of one entry
PLACE = re.compile(r"\{(\w+)\}")  # of a value, in a label
Values = dict[str, JSON]
Lists = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


@dataclass(frozen=True)
class Variation(Config):
    """The three keys of an entry, or of a sweep's `protocol:`."""

    vary: Lists = field(default_factory=dict)
    zip: Lists = field(default_factory=dict)
    sample: Values = field(default_factory=dict)

    def settings(self) -> list[str]:
        """Return the settings that vary, in order; one that is named twice comes twice."""
        sampled = [key for key in self.sample if key not in Sample.OPTIONS]
        return [*self.vary, *self.zip, *sampled]


def parse_variation(item: Mapping[str, JSON], where: str) -> Variation:
    """Read the keys `vary`, `zip` and `sample` of a mapping; it may have none of them.

    Raises UserError for a list that is empty, repeats a value or lacks a partner, and for a
    setting that is named twice.
    """
    own = {key: item[key] for key in KEYS if key in item}
    for key, value in own.items():
        if value == {}:
            raise UserError(f"{where}: {key}: it is empty; name a setting, or remove the key")
    found = parse(Variation, own, where)
    for name, values in found.vary.items():
        _refuse_repeated(values, f"{where}: vary.{name}")
    _refuse_unequal(found.zip, where)
    for name, times in Counter(found.settings()).items():
        if times > 1:
            raise UserError(f"{where}: '{name}' varies twice; name it under one of {_listed(KEYS)}")
    return found


def combine(variation: Variation, where: str) -> list[Values]:
    """Return the values of every combination, in the order of the lists; the last varies fastest.

    Without any key this is one combination of nothing. Raises UserError for a bad `sample`, and
    for more than MOST combinations.
    """
    groups: list[list[Values]] = []
    for key, values in variation.vary.items():
        groups.append([{key: value} for value in values])
    if variation.zip:
        groups.append(_pair(variation.zip))
    if variation.sample:
        groups.append(draw(variation.sample, f"{where}: sample"))
    count = math.prod(map(len, groups))
    if count > MOST:
        raise UserError(f"{where}: {count:,} combinations; at most {MOST:,} are allowed")
    return [_join(chosen) for chosen in product(*groups)]


def label_values(label: str, values: Mapping[str, JSON]) -> str:
    """Return the label of one combination.

    `{key}` in a label is replaced by the value of that setting. What the label does not mention
    follows it: "lora (rank=8)". Without values the label stays as it is.

    Raises UserError for the place of a setting that does not vary.
    """
    if not values:
        return label
    for key in PLACE.findall(label):
        if key not in values:
            raise UserError(f"label: nothing named '{key}' varies here{did_you_mean(key, values)}")
    rest = []
    for key, value in values.items():
        place = f"{{{key}}}"
        if place in label:
            label = label.replace(place, show(value))
        else:
            rest.append(f"{key}={show(value)}")
    if rest:
        return f"{label} ({', '.join(rest)})"
    return label


def family(label: str, values: Mapping[str, JSON]) -> str:
    """Return a label without the places of the values: what all combinations have in common."""
    for key in values:
        label = label.replace(f"{{{key}}}", "")
    return " ".join(label.split()).strip(" ,")


def show(value: JSON) -> str:
    """Return a value as it is written in YAML."""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def split_by_owner(
    values: Mapping[str, JSON], cls: type[Any], taken: Iterable[str], where: str
) -> tuple[Values, Values]:
    """Split values into settings of a class and keys of the protocol.

    Args:
        values: What varies.
        cls: The configuration class of the entry; its own fields come first.
        taken: Settings and protocol keys that the entry sets itself.
        where: The place, for messages.

    Raises:
        UserError: A key is in neither, or the entry has a fixed value for it, too.
    """
    own = [f.name for f in fields(cls)]
    recipe = [f.name for f in fields(Protocol) if f.name != "name"]
    settings: Values = {}
    protocol: Values = {}
    fixed = set(taken)
    for key, value in values.items():
        if key in fixed:
            raise UserError(f"{where}: '{key}' varies and has a fixed value; remove one of the two")
        if key in own:
            settings[key] = value
        elif key in recipe:
            protocol[key] = value
        else:
            near = did_you_mean(key, [*own, *recipe])
            raise UserError(f"{where}: unknown key '{key}' varies here{near}")
    return settings, protocol


def _pair(lists: Mapping[str, Sequence[JSON]]) -> list[Values]:
    """Return the values that go together."""
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _refuse_repeated(values: Sequence[JSON], where: str) -> None:
    """Raise UserError for a list with two equal values."""
    for text, times in Counter(json.dumps(value, sort_keys=True) for value in values).items():
        if times > 1:
            raise UserError(f"{where}: {text} appears {times} times; remove one")


def _refuse_unequal(lists: Mapping[str, Sequence[JSON]], where: str) -> None:
    """Raise UserError for paired lists of different lengths, and for a single one."""
    lengths = {key: len(values) for key, values in lists.items()}
    if len(lengths) == 1:
        raise UserError(f"{where}: zip: one list alone has no partner; write it under `vary`")
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise UserError(f"{where}: zip: the lists must have equal lengths, but {counts} values")


def _join(chosen: Iterable[Values]) -> Values:
    """Merge the values of one combination."""
    joined: Values = {}
    for values in chosen:
        joined |= values
    return joined


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
