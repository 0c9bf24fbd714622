"""Libraries, devices and Pythons that made the cells of a table, and if they were verified.

A record lists the versions of the libraries that can change a number
(`vlpeft.benchmark.cells.provenance`). Records of earlier versions list fewer; a version that is not
recorded is not a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.provenance import PACKAGES
from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.words import count_cells
from vlpeft.results.code_versions import Made, code_remarks

UNKNOWN = "not recorded"
NAMED = 6  # cells that a note names; the others are counted
LISTED = 20  # cells that an error names


def remarks(cells: Sequence[Made], *, mixed: bool = False) -> tuple[str, ...]:
    """Return what a caption must say about where finished cells were made, one sentence each.

    mixed: the user has asked for a table of cells from different environments.

    Raises UserError where libraries differ and not all of the cells concerned are verified, or
    where the seeds of a row were computed by different code, unless `mixed`.
    """
    cells = _distinct(cells)
    differing = _differing(cells)
    concerned = [made for made in cells if _has_any(made[1], differing)]
    unverified = sum(verified(record) != "yes" for _, record in concerned)
    if unverified and not mixed:
        raise UserError(_refusal(concerned, differing, unverified))
    notes = []
    if differing:
        notes.append(_mixture(concerned, differing, unverified))
    code = code_remarks(cells, mixed=mixed)
    return (*notes, *code, *_facts(cells), *_unverified(cells))


def verified(record: Record) -> str:
    """Return whether the environment of a record was verified: "yes", "no" or "not recorded"."""
    found = record.provenance.get("verified")
    if found is True:
        return "yes"
    if found is False:
        return "no"
    return UNKNOWN


def environment(record: Record) -> str:
    """Return the libraries of a record with their versions, as "torch 2.15.0, numpy 2.4.6"."""
    found = _recorded(record)
    listed = (f"{name} {found[name]}" for name in PACKAGES if name in found)
    return ", ".join(listed) or UNKNOWN


def label(planned: Planned) -> str:
    """Return a short description of a cell, with its id."""
    where = f"{planned.task}/{planned.dataset}"
    return f"{planned.row} on {planned.backbone}, {where}, seed {planned.seed} ({planned.id})"


def _distinct(cells: Iterable[Made]) -> list[Made]:
    """Return each cell once. At another scale a cell may repeat an earlier one's id."""
    found: dict[str, Made] = {}
    for planned, record in cells:
        found.setdefault(planned.id, (planned, record))
    return list(found.values())


def _recorded(record: Record) -> Mapping[str, str]:
    """Return the recorded versions by library, with the name of the build."""
    found = record.provenance.get("packages")
    if isinstance(found, Mapping):
        return found
    return {}


def _versions(record: Record) -> dict[str, str]:
    """Return versions by library, without the build.

    The build ("+cpu", "+cu126") follows from the device, so it is not a difference of versions.
    """
    found = _recorded(record)
    return {name: found[name].partition("+")[0] for name in PACKAGES if name in found}


def _has_any(record: Record, libraries: Sequence[str]) -> bool:
    """Return whether a record has the version of any of these libraries."""
    return not _versions(record).keys().isdisjoint(libraries)


def _differing(cells: Iterable[Made]) -> list[str]:
    """Return the libraries of which the records have more than one version."""
    found: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for _, record in cells:
        for name, version in _versions(record).items():
            found[name].add(version)
    return [name for name, versions in found.items() if len(versions) > 1]


def _grouped(cells: Iterable[Made], key: Callable[[Record], str]) -> dict[str, list[Planned]]:
    """Group cells by a text about their record, the largest group first."""
    found: dict[str, list[Planned]] = {}
    for planned, record in cells:
        found.setdefault(key(record), []).append(planned)
    return dict(sorted(found.items(), key=lambda group: -len(group[1])))


def _groups(cells: Iterable[Made], differing: Sequence[str], limit: int) -> str:
    """Describe each group of equal versions. All groups but the largest list their cells."""

    def key(record: Record) -> str:
        versions = _versions(record)
        return ", ".join(f"{name} {versions.get(name, UNKNOWN)}" for name in differing)

    (first, largest), *others = _grouped(cells, key).items()
    texts = [f"{first} in {count_cells(len(largest))}"]
    for versions, group in others:
        texts.append(f"{versions} in {count_cells(len(group))} ({_named(group, limit)})")
    return "; ".join(texts)


def _mixture(cells: Sequence[Made], differing: Sequence[str], unverified: int) -> str:
    doubt = ""
    if unverified:
        doubt = f" Of these, {count_cells(unverified)} not verified."
    return f"Cells from different environments: {_groups(cells, differing, NAMED)}.{doubt}"


def _refusal(cells: Sequence[Made], differing: Sequence[str], unverified: int) -> str:
    return (
        "the cells come from environments that differ in libraries that can change numbers: "
        f"{_groups(cells, differing, LISTED)}; {count_cells(unverified)} not verified: "
        "run the cells again in one environment (delete record.json of the outdated ones), "
        "or pass --mixed-environments to `vlpeft table`, `report` or `keep`, which notes this"
    )


def _facts(cells: Sequence[Made]) -> Iterator[str]:
    """Yield differences that are noted and never refused."""
    for name, key in FACTS.items():
        groups = _grouped((made for made in cells if key(made[1])), key)
        if len(groups) > 1:
            listed = [f"{value} ({count_cells(len(group))})" for value, group in groups.items()]
            yield f"More than one {name}: {_shortened(listed, NAMED)}."


def _device(record: Record) -> str:
    return str(record.provenance.get("device", ""))


def _instructions(record: Record) -> str:
    return str(record.provenance.get("instructions", ""))


def _build(record: Record) -> str:
    return _recorded(record).get("torch", "")


def _python(record: Record) -> str:
    """Return the minor version, such as 3.11."""
    return ".".join(str(record.provenance.get("python", "")).split(".")[:2])


FACTS: Mapping[str, Callable[[Record], str]] = {
    "device": _device,
    "instruction set": _instructions,
    "torch build": _build,
    "Python": _python,
}


def _unverified(cells: Iterable[Made]) -> Iterator[str]:
    """Yield a sentence about cells that were run with --unverified, if there are any."""
    found = [planned for planned, record in cells if verified(record) == "no"]
    if len(found) == 1:
        yield f"1 cell was run with --unverified: {_named(found, NAMED)}."
    elif found:
        yield f"{count_cells(len(found))} were run with --unverified: {_named(found, NAMED)}."


def _named(cells: Sequence[Planned], limit: int) -> str:
    return _shortened([label(planned) for planned in cells], limit)


def _shortened(texts: Sequence[str], limit: int) -> str:
    """Join texts, at most `limit` of them, and count the others."""
    listed = "; ".join(texts[:limit])
    if len(texts) > limit:
        return f"{listed} and {len(texts) - limit} more"
    return listed
