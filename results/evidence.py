"""Records kept as evidence: `measured/SWEEP--ENVIRONMENT.jsonl`, one file a run of a sweep, never changed once it is written.

A line of JSON each for the head (schema, the plan but for its cells, how many these are, and remarks on where
they ran), every set of test images, and every cell of the plan: how it was planned, its record, and its scores by
image. Left out of a record: what the plan repeats (`id`, `cell`), the curves,
which are bulky, the hashes of files that are not kept, and the host's name. So tables and tests of significance come out as from the
result folder itself, by `vlpeft table SWEEP --root FILE`, or `--measured` for those that are shipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import RECORD_SCHEMA, Record, Store, write_atomically
from vlpeft.benchmark.cells.scores import ImageScores, check_lengths, shorten_numbers
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.sweep import load_plan, sweep_name, sweep_path
from vlpeft.results.environments import remarks

MEASURED = Path(__file__).resolve().parent / "measured"
SUFFIX = ".jsonl"
EVIDENCE_SCHEMA = 1
LEFT_OUT = ("id", "cell", "curve", "scalars", "files")


@dataclass(frozen=True)
class Evidence(Store):
    """A result folder in one file, to be read only: nothing runs, waits or has failed in it."""

    plan: Plan = field(kw_only=True)
    records_: Mapping[str, Record] = field(kw_only=True)
    scores_: Mapping[str, tuple[ImageScores, ...]] = field(kw_only=True)

    def has_record(self, cell_id: str) -> bool:
        """True for a finished cell."""
        return cell_id in self.records_

    def record(self, cell_id: str) -> Record:
        """Its record, without curves."""
        return self.records_[cell_id]

    def records(self) -> Iterator[Record]:
        """All records, by id."""
        return (self.records_[cell_id] for cell_id in sorted(self.records_))

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Its scores by image."""
        return self.scores_.get(cell_id, ())


def open_results(name_or_path: str, root: Path, scale: str = "") -> tuple[Plan, Store]:
    """A sweep's plan and results, from a result folder or from a file of evidence. Raises UserError if `root` holds another sweep."""
    if root.suffix != SUFFIX:
        return load_plan(name_or_path, root, scale), Store(root)
    found = read_evidence(root)
    wanted = _name(name_or_path, scale)
    if found.plan.sweep != wanted:
        raise UserError(
            f"{root} holds the sweep '{found.plan.sweep}', not '{wanted}'; name that one"
        )
    return found.plan, found


def find_shipped_evidence(name_or_path: str, scale: str = "") -> Path:
    """Return the shipped evidence of a sweep; of several files, the one that was measured last.

    Raises UserError where none is shipped.
    """
    name = _name(name_or_path, scale)
    files = sorted(path for path in MEASURED.glob(f"{name}--*{SUFFIX}"))
    if not files:
        known = sorted(
            {
                path.relative_to(MEASURED).as_posix().partition("--")[0]
                for path in MEASURED.rglob(f"*{SUFFIX}")
            }
        )
        raise UserError(
            f"--measured: no evidence of '{name}' is shipped; there is of: {', '.join(known) or 'nothing'}"
        )
    return files[0] if len(files) == 1 else max(files, key=_finished)


def _finished(path: Path) -> str:
    """When the last cell of a file ended; ISO 8601 in UTC, so that text compares as time."""
    return max(
        str(record.provenance.get("finished", "")) for record in read_evidence(path).records()
    )


def keep(
    name_or_path: str, root: Path, folder: Path = MEASURED, scale: str = "", *, mixed: bool = False
) -> Path:
    """Write the evidence of a launched sweep into `folder`; the file that it has become.

    Raises UserError if nothing is done, if there is such a file already, and unless `mixed`, if the cells ran on
    different machines or in environments that `vlpeft.results.environments` refuses.
    """
    plan, store = load_plan(name_or_path, root, scale), Store(root)
    records = {
        cell.id: store.record(cell.id) for cell in plan.runnable() if store.has_record(cell.id)
    }
    if not records:
        raise UserError(
            f"{root}: no cell of '{plan.sweep}' is done, so there is nothing to keep; run `vlpeft sweep` first"
        )
    path = folder / f"{plan.sweep}--{_environment(records, mixed)}{SUFFIX}"
    said = remarks(
        [(cell, records[cell.id]) for cell in plan.runnable() if cell.id in records], mixed=mixed
    )
    if not write_atomically(path, _content(plan, store, records, said), exclusive=True):
        raise UserError(
            f"{path} exists, and evidence is only ever added to: name another folder by --out"
        )
    return path


def read_evidence(path: Path) -> Evidence:
    """Read and check a file. Raises UserError naming the file and the line that is truncated, doubled, or of a newer schema."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not readable as evidence ({error}); give a file that `vlpeft keep` wrote"
        ) from error
    reading = _Reading(path)
    for number, line in enumerate(lines, 1):
        reading.line(number, line)
    return reading.evidence()


def _name(name_or_path: str, scale: str) -> str:
    return sweep_name(sweep_path(name_or_path)) + (f"@{scale}" if scale else "")


def _environment(records: Mapping[str, Record], mixed: bool) -> str:
    """What a file is named after: machine, device, instructions, torch. Of what differs, "mixed"."""
    words = {cell_id: _words(cell_id, record.provenance) for cell_id, record in records.items()}
    machines: dict[tuple[str, ...], list[str]] = {}
    for cell_id, found in words.items():
        machines.setdefault(found[:-1], []).append(cell_id)
    if len(machines) > 1 and not mixed:
        listed = "; ".join(
            f"{_joined(words[ids[0]])}: {', '.join(ids)}" for ids in machines.values()
        )
        raise UserError(
            "the cells ran on different machines, and a file holds those of one; run them on one, "
            f"in another --root, or pass --mixed-environments, which notes this: {listed}"
        )
    columns = (dict.fromkeys(column) for column in zip(*words.values(), strict=True))
    return _joined([next(iter(column)) if len(column) == 1 else "mixed" for column in columns])


def _words(cell_id: str, about: Mapping[str, Any]) -> tuple[str, ...]:
    """System, machine, device, vector instructions and version of torch of a record."""
    if unknown := [key for key in ("system", "device", "packages") if key not in about]:
        raise UserError(
            f"cell {cell_id}: its record does not tell its {unknown[0]}; delete the record and run the cell again"
        )
    system, machine = re.fullmatch(
        r"([^-]*).*?((?:x86_64|aarch64|arm64)?)(?:-with.*)?", about["system"]
    ).groups()  # type: ignore[union-attr]
    hardware = (system, machine, about["device"], about.get("instructions", ""))
    return tuple(map(_slug, (*hardware, f"torch{about['packages']['torch']}")))


def _joined(words: Iterable[str]) -> str:
    return "-".join(filter(None, words))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower().partition("+")[0]).strip("-")


def _content(plan: Plan, store: Store, records: Mapping[str, Record], said: Sequence[str]) -> bytes:
    head = {key: value for key, value in dump(replace(plan, cells=())).items() if key != "cells"}
    about = {"remarks": said} if said else {}
    lines: list[dict[str, Any]] = [
        {"evidence": EVIDENCE_SCHEMA, "plan": head, "cells": len(plan.cells), **about}
    ]
    sets: dict[tuple[Any, ...], int] = {}
    for cell in plan.cells:
        record = records.get(cell.id)
        scores = store.scores(cell.id) if record is not None else ()
        for part in scores:
            if (part.images, part.examples) not in sets:
                sets[part.images, part.examples] = len(sets)
                lines.append({"images": part.images, "examples": part.examples})
        kept = [
            {
                "task": part.task,
                "set": sets[part.images, part.examples],
                "sums": shorten_numbers(part.sums),
            }
            for part in scores
        ]
        lines.append({"cell": dump(cell), "record": record and _compact(record), "scores": kept})
    return "".join(
        json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
        for line in lines
    ).encode()


def _compact(record: Record) -> dict[str, Any]:
    values = {key: value for key, value in dump(record).items() if key not in LEFT_OUT}
    return {
        **values,
        "provenance": {key: value for key, value in record.provenance.items() if key != "host"},
    }


@dataclass(frozen=True)
class _Set(Config):
    """A line of test images."""

    images: tuple[str, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class _KeptScores(Config):
    """Scores of a cell's task on the images of a line, the first of which is 0."""

    task: str
    set: int
    sums: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class _Line(Config):
    """A line of a cell."""

    cell: Planned
    record: dict[str, Any] | None
    scores: tuple[_KeptScores, ...]


@dataclass
class _Reading:
    """What the lines so far have said."""

    path: Path
    plan: Plan | None = None
    planned: int | None = (
        None  # how many cells the head promises; files of earlier versions do not say
    )
    sets: list[_Set] = field(default_factory=list)
    cells: list[Planned] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    scores: dict[str, tuple[ImageScores, ...]] = field(default_factory=dict)

    def line(self, number: int, text: str) -> None:
        where = f"{self.path}, line {number}"
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(
                f"{where}: not readable ({error}); restore the file, evidence is never changed"
            ) from error
        if not isinstance(values, dict):
            raise UserError(
                f"{where}: a {type(values).__name__} where a mapping should be; restore the file, evidence is never changed"
            )
        if number == 1:
            self._head(values, where)
        elif "images" in values:
            self.sets.append(parse(_Set, values, where))
        else:
            self._cell(parse(_Line, values, where), where)

    def _head(self, values: dict[str, Any], where: str) -> None:
        if values.get("evidence") != EVIDENCE_SCHEMA:
            raise UserError(
                f"{where}: evidence schema {values.get('evidence')}, this version reads {EVIDENCE_SCHEMA}; use a matching version"
            )
        plan = values.get("plan")
        if not isinstance(plan, dict):
            raise UserError(f"{where}: no plan; restore the file, evidence is never changed")
        self.plan = parse(Plan, {**plan, "cells": []}, where)
        self.planned = values.get("cells")

    def _cell(self, line: _Line, where: str) -> None:
        cell = line.cell
        if cell.id in self.records:
            raise UserError(
                f"{where}: a second record of cell {cell.id}; restore the file, evidence is never changed"
            )
        self.cells.append(cell)
        if line.record is None:
            return
        if line.record.get("schema") != RECORD_SCHEMA:
            raise UserError(
                f"{where}: record schema {line.record.get('schema')}, this version reads {RECORD_SCHEMA}; use a matching version"
            )
        left_out = {"id": cell.id, "cell": dump(cell.cell), "curve": []}
        self.records[cell.id] = parse(Record, {**line.record, **left_out}, where)
        self.scores[cell.id] = tuple(self._scores(kept, where) for kept in line.scores)

    def _scores(self, kept: _KeptScores, where: str) -> ImageScores:
        if kept.set not in range(len(self.sets)):
            raise UserError(
                f"{where}: refers to images of set {kept.set}, which no line above holds; restore the file"
            )
        images = self.sets[kept.set]
        part = ImageScores(kept.task, images.images, images.examples, kept.sums)
        check_lengths(part, where)
        return part

    def evidence(self) -> Evidence:
        """What all lines together say. Raises UserError for an empty file."""
        if self.plan is None:
            raise UserError(f"{self.path}: empty; restore the file, evidence is never changed")
        if self.planned not in (None, len(self.cells)):
            raise UserError(
                f"{self.path}: {len(self.cells)} of {self.planned} cells are here; restore the file, evidence is never changed"
            )
        about = ", ".join(dict.fromkeys(_made(record) for record in self.records.values()))
        notes = "\n".join(filter(None, (self.plan.notes, f"From {self.path.name}: {about}.")))
        plan = replace(self.plan, notes=notes, cells=tuple(self.cells))
        return Evidence(self.path, plan=plan, records_=self.records, scores_=self.scores)


def _made(record: Record) -> str:
    about = record.provenance
    packages = about.get("packages", {})
    return f"{about.get('finished', 'undated')[:10]}, {about.get('device', 'unknown device')}, torch {packages.get('torch', 'unknown')}"
