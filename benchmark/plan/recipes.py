"""Training recipes in layers: each says where its values come from; later layers stand over earlier ones.

From low to high: what a dataset's YAML asks for, a shipped protocol's defaults and its matching rules in order (those of
its `base` before), the sweep's own keys, the backbone's entry, the method's entry, a scale asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.config import JSON, Config, Protocol, load_yaml, merge, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean, error_context

FOLDER = Path(__file__).resolve().parents[1] / "protocols"
DEFAULT = "default of Protocol"  # the origin of what no layer sets


@dataclass(frozen=True)
class Layer:
    """Some settings, and where they stand in words."""

    origin: str
    values: Mapping[str, JSON]


@dataclass(frozen=True)
class Rule(Config):
    """Settings for the cells that match all conditions; a list of values matches any of them.

    Conditions are `backbone`, `task`, `dataset` and `method` (names, never labels), and `method.KEY` or `backbone.KEY`, a
    setting of theirs as it is resolved, defaults included; a setting that is itself a list cannot be asked for.
    """

    when: dict[str, JSON]
    set: dict[str, JSON]

    @property
    def describe(self) -> str:
        """The conditions, as one would say them."""
        return ", ".join(
            f"{key}: {'|'.join(map(str, _options(value)))}" for key, value in self.when.items()
        )


@dataclass(frozen=True)
class ProtocolFile(Config):
    """A file of `benchmark/protocols/`; all layers of `base`, another one, stand below its own."""

    defaults: dict[str, JSON] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    summary: str = ""
    covers: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # backbone -> tasks it was made for; others may use it
    base: str | None = None


def protocol_names() -> tuple[str, ...]:
    """Names of the shipped protocols."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_protocol(name: str) -> ProtocolFile:
    """Read a shipped protocol. Raises UserError for an unknown one."""
    known = protocol_names()
    if name not in known:
        raise UserError(f"unknown protocol '{name}'{did_you_mean(name, known)}")
    return _read(_path(name), _path(name).read_bytes())


def protocol_files(chosen: str | Mapping[str, JSON]) -> tuple[Path, ...]:
    """The files that a sweep's `protocol:` rests on: a shipped protocol's and those of its bases."""
    name = chosen if isinstance(chosen, str) else chosen.get("base")
    found: list[Path] = []
    while isinstance(name, str) and _path(name) not in found:
        base = load_protocol(name).base
        found.append(_path(name))
        name = base
    return tuple(found)


def sweep_layers(
    chosen: str | Mapping[str, JSON], facts: Mapping[str, JSON], where: str
) -> Iterator[Layer]:
    """What a sweep's `protocol:` stands for: a shipped protocol's layers, then the sweep's own keys.

    `facts` are what rules may ask for: names, and under `method.KEY` and `backbone.KEY` their settings.
    """
    own = (
        {}
        if isinstance(chosen, str)
        else {key: value for key, value in chosen.items() if key != "base"}
    )
    base = chosen if isinstance(chosen, str) else chosen.get("base")
    if base is not None:
        with error_context(where):
            yield from protocol_layers(str(base), facts)
    yield Layer("sweep", own)


def protocol_layers(
    name: str, facts: Mapping[str, JSON], _derived: tuple[str, ...] = ()
) -> Iterator[Layer]:
    """The layers of a shipped protocol for a cell of these facts. Raises UserError for an unknown name or condition."""
    file = load_protocol(name)
    if name in _derived:
        raise UserError(
            f"{_path(name)}: base: {' -> '.join((*_derived, name))} goes round in a circle"
        )
    if file.base is not None:
        yield from protocol_layers(file.base, facts, (*_derived, name))
    yield Layer(f"protocol {name}", {"name": name, **file.defaults})
    yield from matching_rules(file.rules, facts, f"protocol {name}", str(_path(name)))


def matching_rules(
    rules: Sequence[Rule], facts: Mapping[str, JSON], origin: str, where: str
) -> Iterator[Layer]:
    """The rules whose conditions these facts meet, in order."""
    for number, rule in enumerate(rules, 1):
        if _matches(rule, facts, f"{where}: rules[{number - 1}]"):
            yield Layer(f"{origin}, rule {number} ({rule.describe})", rule.set)


def resolve(layers: Sequence[Layer], where: str) -> Protocol:
    """The recipe that the layers make. Raises UserError naming the key."""
    return parse(Protocol, merge(*(layer.values for layer in layers)), where)


def origins(layers: Sequence[Layer], resolved: Mapping[str, JSON], default: str) -> dict[str, str]:
    """For each resolved setting the origin of the layer that has the last word on it, or `default`."""
    last = {key: layer.origin for layer in layers for key in layer.values}
    return {key: last.get(key, default) for key in resolved}


def _matches(rule: Rule, facts: Mapping[str, JSON], where: str) -> bool:
    names = {key for key in facts if "." not in key}
    for key in rule.when:
        kind, _, setting = key.partition(".")
        if kind not in (("method", "backbone") if setting else names):
            raise UserError(f"{where}: unknown condition '{key}'{did_you_mean(key, names)}")
    plain = {key: value for key, value in rule.when.items() if "." not in key}
    if any(facts[key] not in _options(value) for key, value in plain.items()):
        return False
    for key in set(rule.when) - set(plain):
        if key not in facts and key.partition(".")[0] in plain:
            raise UserError(
                f"{where}: unknown condition '{key}'{did_you_mean(key, [known for known in facts if '.' in known])}"
            )
    return all(key in facts and facts[key] in _options(value) for key, value in rule.when.items())


def _options(value: JSON) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


@cache
def _read(path: Path, content: bytes) -> ProtocolFile:  # noqa: ARG001 - once for all cells of a sweep, until it changes
    return parse(ProtocolFile, load_yaml(path), str(path))


def _path(name: str) -> Path:
    return FOLDER / f"{name}.yaml"
