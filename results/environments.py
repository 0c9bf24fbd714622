"""Which libraries, devices and Pythons made the cells of a table, and whether they were verified.

A record lists the versions of the libraries that can change a number (`vlpeft.benchmark.cells.provenance`).
Records of earlier versions list fewer; a version that is not recorded is not a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.provenance import PACKAGES
from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.core.errors import UserError

UNKNOWN = "not recorded"
NAMED = 6  # cells that a note names; the others are counted
LISTED = 20  # cells that an error names
Made = tuple[Planned, Record]


def remarks(cells: Sequence[Made], *, mixed: bool = False) -> tuple[str, ...]:
    """Return what a caption must say about where finished cells were made, one sentence each.

    mixed: the user has asked for a table of cells from different environments.

    Raises UserError where libraries differ and not all of the cells concerned are verified,
    unless `mixed`.
    """
    cells = _once(cells)
    differing = _differing(cells)
    concerned = [made for made in cells if not _versions(made[1]).keys().isdisjoint(differing)]
    unverified = sum(verified(record) != "yes" for _, record in concerned)
    if unverified and not mixed:
        raise UserError(_refusal(concerned, differing, unverified))
    notes = [_mixture(concerned, differing, unverified)] if differing else []
    return (*notes, *_facts(cells), *_unverified(cells))


def verified(record: Record) -> str:
    """Return whether the environment of a record was verified: "yes", "no" or "not recorded"."""
    found = record.provenance.get("verified")
    if found is True:
        return "yes"
    return "no" if found is False else UNKNOWN


def environment(record: Record) -> str:
    """Return the libraries of a record with their versions, as "torch 2.15.0, numpy 2.4.6"."""
    found = _recorded(record)
    listed = (f"{name} {found[name]}" for name in PACKAGES if name in found)
    return ", ".join(listed) or UNKNOWN


def label(planned: Planned) -> str:
    """Return which cell it is, in a few words, with its id."""
    where = f"{planned.task}/{planned.dataset}"
    return f"{planned.row} on {planned.backbone}, {where}, seed {planned.seed} ({planned.id})"


def _once(cells: Iterable[Made]) -> list[Made]:
    """Each cell once; at another scale a cell may repeat an earlier one, whose id it has."""
    found: dict[str, Made] = {}
    for planned, record in cells:
        found.setdefault(planned.id, (planned, record))
    return list(found.values())


def _recorded(record: Record) -> Mapping[str, str]:
    found = record.provenance.get("packages")
    return found if isinstance(found, Mapping) else {}


def _versions(record: Record) -> dict[str, str]:
    """Versions by library. What follows "+" is the build (cpu, cu126), which goes with the device."""
    found = _recorded(record)
    return {name: found[name].partition("+")[0] for name in PACKAGES if name in found}


def _differing(cells: Iterable[Made]) -> list[str]:
    found: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for _, record in cells:
        for name, version in _versions(record).items():
            found[name].add(version)
    return [name for name, versions in found.items() if len(versions) > 1]


def _grouped(cells: Iterable[Made], key: Callable[[Record], str]) -> dict[str, list[Planned]]:
    """Cells by a text about their record, the largest group first."""
    found: dict[str, list[Planned]] = {}
    for planned, record in cells:
        found.setdefault(key(record), []).append(planned)
    return dict(sorted(found.items(), key=lambda group: -len(group[1])))


def _groups(cells: Iterable[Made], differing: Sequence[str], limit: int) -> str:
    """The versions of the libraries that differ; the cells of all groups but the largest by name."""

    def key(record: Record) -> str:
        versions = _versions(record)
        return ", ".join(f"{name} {versions.get(name, UNKNOWN)}" for name in differing)

    (first, largest), *others = _grouped(cells, key).items()
    texts = [f"{first} in {_count(len(largest))}"]
    for versions, group in others:
        texts.append(f"{versions} in {_count(len(group))} ({_named(group, limit)})")
    return "; ".join(texts)


def _mixture(cells: Sequence[Made], differing: Sequence[str], unverified: int) -> str:
    doubt = f" Of these, {_count(unverified)} not verified." if unverified else ""
    return f"Cells from different environments: {_groups(cells, differing, NAMED)}.{doubt}"


def _refusal(cells: Sequence[Made], differing: Sequence[str], unverified: int) -> str:
    return (
        "the cells come from environments that differ in libraries that can change numbers: "
        f"{_groups(cells, differing, LISTED)}; {_count(unverified)} not verified: "
        "run the cells again in one environment (delete record.json of the outdated ones), "
        "or pass --mixed-environments to `vlpeft table`, `report` or `keep`, which notes this"
    )


def _facts(cells: Sequence[Made]) -> Iterator[str]:
    """Differences that are noted and never refused."""
    for name, key in FACTS.items():
        groups = _grouped(((p, record) for p, record in cells if key(record)), key)
        if len(groups) > 1:
            listed = [f"{value} ({_count(len(group))})" for value, group in groups.items()]
            yield f"More than one {name}: {_shortened(listed, NAMED)}."


def _device(record: Record) -> str:
    return str(record.provenance.get("device", ""))


def _instructions(record: Record) -> str:
    return str(record.provenance.get("instructions", ""))


def _build(record: Record) -> str:
    return _recorded(record).get("torch", "")


def _python(record: Record) -> str:
    """The minor version, such as 3.11."""
    return ".".join(str(record.provenance.get("python", "")).split(".")[:2])


FACTS: Mapping[str, Callable[[Record], str]] = {
    "device": _device,
    "set of vector instructions": _instructions,
    "build of torch": _build,
    "Python": _python,
}


def _unverified(cells: Iterable[Made]) -> Iterator[str]:
    found = [planned for planned, record in cells if verified(record) == "no"]
    if found:
        were = "was" if len(found) == 1 else "were"
        yield f"{_count(len(found))} {were} run with --unverified: {_named(found, NAMED)}."


def _count(number: int) -> str:
    return f"{number} cell{'' if number == 1 else 's'}"


def _named(cells: Sequence[Planned], limit: int) -> str:
    return _shortened([label(planned) for planned in cells], limit)


def _shortened(texts: Sequence[str], limit: int) -> str:
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more
