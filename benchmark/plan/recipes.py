"""Training recipes in layers: each records its origin, and later ones override earlier ones.

From low to high:

1. what a dataset's YAML asks for,
2. a shipped protocol's defaults, then its matching rules in order (those of its `base` first),
3. the sweep's own keys,
4. the backbone's entry, then the method's entry, with what they vary; what the sweep's protocol
   varies counts as the method's,
5. a scale, if one was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.config import JSON, Config, load_yaml, merge, parse, yaml_names
from vlpeft.benchmark.core.errors import UserError, did_you_mean, error_context
from vlpeft.benchmark.core.paths import YAML
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan.vary import KEYS

FOLDER = Path(__file__).resolve().parents[1] / "protocols"
DEFAULT = "default of Protocol"  # the origin of what no layer sets


@dataclass(frozen=True)
class Layer:
    """Some settings, and a description of where they come from."""

    origin: str
    values: Mapping[str, JSON]


@dataclass(frozen=True)
class Rule(Config):
    """Settings for the cells that match all conditions; a list of values matches any of them.

    Conditions are `backbone`, `task`, `dataset` and `method` (names, never labels), and
    `method.KEY` or `backbone.KEY`: a resolved setting of theirs, defaults included. A setting
    that is itself a list cannot be a condition.
    """

    when: dict[str, JSON]
    set: dict[str, JSON]

    @property
    def describe(self) -> str:
        """The conditions in words."""
        conditions = []
        for key, value in self.when.items():
            conditions.append(f"{key}: {'|'.join(map(str, _options(value)))}")
        return ", ".join(conditions)


@dataclass(frozen=True)
class ProtocolFile(Config):
    """A file of `benchmark/protocols/`; all layers of its `base` are below its own."""

    defaults: dict[str, JSON] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    summary: str = ""
    # backbone -> tasks that it was made for; others may use it, too
    covers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    base: str | None = None


def protocol_names() -> tuple[str, ...]:
    """Return the names of the shipped protocols."""
    return yaml_names(FOLDER)


def locate_protocol(name: str, folder: Path) -> str:
    """Return the name of a shipped protocol as it is, and the path of a file from `folder`."""
    if name.endswith(YAML):
        return str(folder / name)
    return name


def load_protocol(name: str) -> ProtocolFile:
    """Read a shipped protocol, or the file of a path. Raises UserError for an unknown one."""
    path = _path(name)
    try:
        about = path.stat()
    except (OSError, ValueError):
        about = None
    if about is None and name.endswith(YAML):
        raise UserError(f"{path}: no such file; check the path of the protocol")
    if about is None or (path.parent != FOLDER and not name.endswith(YAML)):
        raise UserError(
            f"unknown protocol '{name}'{did_you_mean(name, protocol_names())}; "
            "or give the path of a YAML file"
        )
    return _read(path, (about.st_mtime_ns, about.st_size))


def protocol_files(chosen: str | Mapping[str, JSON]) -> tuple[Path, ...]:
    """Return the files behind a sweep's `protocol:`: the protocol's, and its bases'."""
    name = _base_name(chosen)
    found: list[Path] = []
    # A circle of bases ends the loop here; `protocol_layers` reports it.
    while isinstance(name, str) and _path(name) not in found:
        found.append(_path(name))
        name = load_protocol(name).base
    return tuple(found)


def sweep_layers(
    chosen: str | Mapping[str, JSON], facts: Mapping[str, JSON], where: str
) -> Iterator[Layer]:
    """Return the layers of a sweep's `protocol:`: those of a shipped one, then its own keys.

    Args:
        chosen: The value of `protocol:`: a name, or a mapping with an optional `base`.
        facts: What rules may ask for: names, and settings as `method.KEY` and `backbone.KEY`.
        where: The place in the sweep's file, for messages.
    """
    base = _base_name(chosen)
    if base is not None:
        with error_context(where):
            yield from protocol_layers(str(base), facts)
    own: dict[str, JSON] = {}
    if not isinstance(chosen, str):
        own = {key: value for key, value in chosen.items() if key not in ("base", *KEYS)}
    yield Layer("sweep", own)


def protocol_layers(
    name: str, facts: Mapping[str, JSON], _derived: tuple[str, ...] = ()
) -> Iterator[Layer]:
    """Return the layers of a shipped protocol for a cell with these facts.

    `_derived` holds the protocols that have this one as a base. Raises UserError for an
    unknown name, an unknown condition, and a circle of bases.
    """
    file = load_protocol(name)
    if name in _derived:
        chain = " -> ".join((*_derived, name))
        raise UserError(f"{_path(name)}: base: {chain} is circular")
    if file.base is not None:
        yield from protocol_layers(file.base, facts, (*_derived, name))
    short = _path(name).stem
    yield Layer(f"protocol {short}", {"name": short, **file.defaults})
    yield from matching_rules(file.rules, facts, f"protocol {short}", str(_path(name)))


def matching_rules(
    rules: Sequence[Rule], facts: Mapping[str, JSON], origin: str, where: str
) -> Iterator[Layer]:
    """Return a layer for each rule whose conditions these facts meet, in order."""
    for number, rule in enumerate(rules, 1):
        if _matches(rule, facts, f"{where}: rules[{number - 1}]"):
            yield Layer(f"{origin}, rule {number} ({rule.describe})", rule.set)


def resolve(layers: Sequence[Layer], where: str) -> Protocol:
    """Merge layers into a recipe. Raises UserError with the bad key."""
    return parse(Protocol, merge(*(layer.values for layer in layers)), where)


def origins(layers: Sequence[Layer], resolved: Mapping[str, JSON], default: str) -> dict[str, str]:
    """Return where each resolved setting comes from: the last layer to set it, or `default`."""
    last = {key: layer.origin for layer in layers for key in layer.values}
    return {key: last.get(key, default) for key in resolved}


def _base_name(chosen: str | Mapping[str, JSON]) -> JSON:
    """Return the shipped protocol that a sweep's `protocol:` starts from, or None."""
    if isinstance(chosen, str):
        return chosen
    return chosen.get("base")


def _matches(rule: Rule, facts: Mapping[str, JSON], where: str) -> bool:
    """True if the facts meet all conditions. Raises UserError for an unknown condition."""
    names = [key for key in facts if "." not in key]
    for key in rule.when:
        _check_condition(key, names, where)
    plain = [key for key in rule.when if "." not in key]
    if any(facts[key] not in _options(rule.when[key]) for key in plain):
        return False
    # A rule that names its method (or backbone) may ask only for settings which that one has.
    # Without the name, such a rule simply does not match those that lack the setting.
    for key in rule.when:
        kind = key.partition(".")[0]
        if key not in facts and kind in plain:
            settings = [known for known in facts if "." in known]
            raise UserError(f"{where}: unknown condition '{key}'{did_you_mean(key, settings)}")
    return all(_meets(facts, key, value) for key, value in rule.when.items())


def _check_condition(key: str, names: Iterable[str], where: str) -> None:
    """Raise UserError unless a condition is a name, or a setting of a method or backbone."""
    kind, _, setting = key.partition(".")
    allowed = names
    if setting:
        allowed = ("method", "backbone")
    if kind not in allowed:
        raise UserError(f"{where}: unknown condition '{key}'{did_you_mean(key, names)}")


def _meets(facts: Mapping[str, JSON], key: str, value: JSON) -> bool:
    return key in facts and facts[key] in _options(value)


def _options(value: JSON) -> list[Any]:
    """Return the values that a condition accepts."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


@cache
def _read(path: Path, _stamp: tuple[int, int]) -> ProtocolFile:
    """Read a protocol file once for all cells of a sweep, and again after it has changed.

    `_stamp` is its time of modification and its size, which show a change.
    """
    file = parse(ProtocolFile, load_yaml(path), str(path))
    if file.base is None:
        return file
    return replace(file, base=locate_protocol(file.base, path.parent))


def _path(name: str) -> Path:
    if name.endswith(YAML):
        return Path(name)
    return FOLDER / f"{name}.yaml"
