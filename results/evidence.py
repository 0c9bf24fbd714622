"""Records kept as evidence: one file a run of a sweep, never changed once it is written.

The file is `measured/SWEEP--ENVIRONMENT.jsonl`. Its lines are JSON:

    the head                 the schema, the plan without its cells, their number, and remarks
                             on where they ran
    each set of test images  their ids, and how many examples each has
    each cell of the plan    the planned cell, its record, and its scores by image

A kept record leaves out what the plan repeats (`id`, `cell`), the curves, which are bulky, the
hashes of files that are not kept, the host's name, and the folders of this machine. Tables and
tests of significance are the same as from the result folder: `vlpeft table SWEEP --root FILE`, or
`--measured` for the files that are shipped.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Record, Store, shareable_metrics
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.cells.scores import ImageScores, shorten_numbers
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import encode_json, open_regular, write_atomically
from vlpeft.benchmark.core.paths import hide_folders
from vlpeft.benchmark.plan.launched import LaunchedSweep
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.environments import remarks
from vlpeft.results.evidence_reader import EVIDENCE_SCHEMA, Evidence, EvidenceReader
from vlpeft.results.images import image_remarks

MEASURED = Path(__file__).resolve().parent / "measured"
SUFFIX = ".jsonl"
LEFT_OUT = ("id", "cell", "curve", "scalars", "files")
ImageSets = dict[tuple[tuple[str, ...], tuple[int, ...]], int]  # (images, examples) -> index


@dataclass(frozen=True)
class KeptSweep:
    """The sweep in a file of evidence, named by the file alone.

    root: the file.
    """

    root: Path

    @cached_property
    def evidence(self) -> Evidence:
        """The content of the file. Raises UserError for a damaged one."""
        return read_evidence(self.root)

    @property
    def name(self) -> str:
        """The name of the sweep: NAME, or NAME@SCALE."""
        return self.evidence.plan.sweep

    def as_typed(self) -> str:
        """Return the argument that names the file, quoted for a shell."""
        return shlex.quote(str(self.root))


def open_results(sweep: SweepHandle | LaunchedSweep | KeptSweep) -> tuple[Plan, Results]:
    """Open a sweep's plan and results, from a result folder or from a file of evidence.

    Raises UserError if `root` holds another sweep.
    """
    if isinstance(sweep, KeptSweep):
        return sweep.evidence.plan, sweep.evidence
    root = sweep.root
    if root.suffix != SUFFIX:
        return sweep.load_plan(), Store(root)
    evidence = read_evidence(root)
    held, wanted = evidence.plan.sweep, sweep.name
    if held != wanted:
        raise UserError(f"{root} holds the sweep '{held}', not '{wanted}'; name that one")
    return evidence.plan, evidence


def find_shipped_evidence(sweep: SweepHandle) -> Path:
    """Return the shipped evidence of a sweep; of several files, the one measured last.

    Raises UserError if none is shipped.
    """
    name = sweep.name
    files = sorted(MEASURED.glob(f"{name}--*{SUFFIX}"))
    if not files:
        known = ", ".join(_shipped_names()) or "nothing"
        raise UserError(f"--measured: no evidence of '{name}' is shipped, only of: {known}")
    if len(files) == 1:
        return files[0]
    return max(files, key=_last_finish)


def _shipped_names() -> list[str]:
    """Return the names of the sweeps with shipped evidence, sorted."""
    paths = (path.relative_to(MEASURED).as_posix() for path in MEASURED.rglob(f"*{SUFFIX}"))
    return sorted({path.partition("--")[0] for path in paths})


def _last_finish(path: Path) -> str:
    """Return when the last cell of a file ended, as ISO 8601 in UTC, which sorts by time."""
    records = read_evidence(path).records()
    return max(str(record.provenance.get("finished", "")) for record in records)


def keep(
    sweep: SweepHandle | LaunchedSweep, folder: Path = MEASURED, *, mixed: bool = False
) -> Path:
    """Write the evidence of a launched sweep into `folder` and return the new file.

    Raises:
        UserError: nothing is done, there is such a file already, or (unless `mixed`) the cells
            ran on different machines or in environments that `vlpeft.results.environments`
            refuses.
    """
    plan, store = sweep.load_plan(), Store(sweep.root)
    runnable = plan.runnable()
    records = {cell.id: store.record(cell.id) for cell in runnable if store.has_record(cell.id)}
    if not records:
        raise UserError(
            f"{sweep.root}: no cell of '{plan.sweep}' is done, so there is nothing to keep; "
            "run `vlpeft sweep` first"
        )
    path = folder / f"{plan.sweep}--{_environment(records, mixed)}{SUFFIX}"
    finished = [(cell, records[cell.id]) for cell in runnable if cell.id in records]
    notes = (*remarks(finished, mixed=mixed), *image_remarks(finished, mixed=mixed))
    content = _content(plan, store, records, notes)
    if not write_atomically(path, content, exclusive=True):
        raise UserError(
            f"{path} exists, and evidence is never overwritten: name another folder with --out"
        )
    return path


def read_evidence(path: Path) -> Evidence:
    """Read and check a file of evidence.

    Raises UserError with the file and the line that is truncated, doubled or of a newer schema.
    """
    try:
        with open_regular(path) as file:
            # Editors add a byte order mark at the front, or an empty line at the end.
            text = file.read().decode("utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not readable as evidence ({error}); give a file that `vlpeft keep` wrote"
        ) from error
    reader = EvidenceReader(path)
    for number, line in enumerate(text.split("\n") if text else (), 1):
        reader.read_line(number, line)
    return reader.evidence()


def _environment(records: Mapping[str, Record], mixed: bool) -> str:
    """Return the part of a file name with machine, device, instructions and torch.

    What differs between records becomes the word "mixed".
    """
    words = {cell_id: _words(cell_id, record.provenance) for cell_id, record in records.items()}
    machines: dict[tuple[str, ...], list[str]] = {}
    for cell_id, found in words.items():
        machines.setdefault(found[:-1], []).append(cell_id)
    if len(machines) > 1 and not mixed:
        groups = (f"{_joined(words[ids[0]])}: {', '.join(ids)}" for ids in machines.values())
        raise UserError(
            "the cells ran on different machines, but a file holds those of one; run them on one, "
            "in another --root, or pass --mixed-environments, which notes this: "
            f"{'; '.join(groups)}"
        )
    return _joined(_common(column) for column in zip(*words.values(), strict=True))


def _common(words: Iterable[str]) -> str:
    """Return the word if all are equal."""
    distinct = set(words)
    if len(distinct) > 1:
        return "mixed"
    return distinct.pop()


def _words(cell_id: str, about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return system, machine, device, vector instructions and version of torch of a record."""
    for key in ("system", "device", "packages"):
        if key not in about:
            raise UserError(
                f"cell {cell_id}: its record does not contain its {key}; "
                "delete the record and run the cell again"
            )
    # As in "Linux-6.1-x86_64-with-glibc2.36" and "macOS-14.5-arm64-arm-64bit".
    system = about["system"].partition("-")[0]
    known = re.search("x86_64|aarch64|arm64", about["system"])
    machine = known[0] if known else ""
    hardware = (system, machine, about["device"], about.get("instructions", ""))
    return tuple(map(_slug, (*hardware, f"torch{about['packages']['torch']}")))


def _joined(words: Iterable[str]) -> str:
    return "-".join(filter(None, words))


def _slug(text: str) -> str:
    """Return text as part of a file name, without what follows a "+"."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower().partition("+")[0]).strip("-")


def _content(
    plan: Plan, store: Results, records: Mapping[str, Record], notes: Sequence[str]
) -> bytes:
    """Return the bytes of a file of evidence."""
    lines = [_head(plan, notes)]
    sets: ImageSets = {}
    written: set[str] = set()
    for cell in plan.cells:
        record, planned = records.get(cell.id), dump(_without_folders(cell))
        if record is None or cell.id in written:  # a cell that is there twice has one record
            lines.append({"cell": planned, "record": None, "scores": []})
            continue
        written.add(cell.id)
        scores = store.scores(cell.id)
        lines += _new_image_sets(scores, sets)
        kept = [_kept_scores(part, sets) for part in scores]
        lines.append({"cell": planned, "record": _compact(record), "scores": kept})
    return encode_json("".join(map(_json_line, lines)))


def _head(plan: Plan, notes: Sequence[str]) -> dict[str, Any]:
    """Return the first line."""
    about = dump(replace(plan, cells=()))
    del about["cells"], about["file"]
    head = {"evidence": EVIDENCE_SCHEMA, "plan": about, "cells": len(plan.cells)}
    if notes:
        head["remarks"] = notes
    return head


def _without_folders(planned: Planned) -> Planned:
    """Return a cell that names no folders of this machine: not of its data, nor in its reason."""
    roots = [part.dataset.root for part in planned.cell.parts]
    reason = hide_folders(planned.skipped, *roots)
    return replace(planned, cell=planned.cell.without_folders(), skipped=reason)


def _new_image_sets(scores: Iterable[ImageScores], sets: ImageSets) -> Iterator[dict[str, Any]]:
    """Number the image sets that were not seen before, and yield a line for each."""
    for part in scores:
        key = part.images, part.examples
        if key not in sets:
            sets[key] = len(sets)
            yield {"images": part.images, "examples": part.examples}


def _kept_scores(part: ImageScores, sets: ImageSets) -> dict[str, Any]:
    number = sets[part.images, part.examples]
    return {"task": part.task, "set": number, "sums": shorten_numbers(part.sums)}


def _compact(record: Record) -> dict[str, Any]:
    """Return a record without what evidence leaves out."""
    values = {key: value for key, value in dump(record).items() if key not in LEFT_OUT}
    provenance = {key: value for key, value in record.provenance.items() if key != "host"}
    metrics = shareable_metrics(record.metrics)
    return {**values, "metrics": metrics, "provenance": provenance}


def _json_line(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text + "\n"
