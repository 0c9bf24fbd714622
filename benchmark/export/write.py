"""Take a finished cell out of its result folder: the trained delta alone, peft's format, or merged weights; each with a model card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from vlpeft.benchmark.cells.cell import Cell, Part, Planned
from vlpeft.benchmark.cells.records import Record, Store, sha256, to_json
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.export.cards import card
from vlpeft.benchmark.export.folder import (
    BASE,
    CONFIG,
    TENSORS,
    AdapterFolder,
    Format,
    base_norms,
    base_weights,
    image_transform,
    plugin,
    rebuild_model,
)
from vlpeft.benchmark.export.hub_formats import NOTHING, Loading, write_merged, write_peft
from vlpeft.benchmark.export.predict import make_feed, read_inputs
from vlpeft.benchmark.run.evaluation import predict_split
from vlpeft.benchmark.run.inputs import Inputs

TRIED = 16  # test examples that are answered again


@dataclass(frozen=True)
class Finished:
    """A finished cell: its record, its folder, and what it read of its data."""

    cell: Cell
    record: Record
    folder: Path
    inputs: tuple[Inputs, ...]

    @property
    def tensors(self) -> Path:
        """What was trained."""
        return self.folder / "trained.safetensors"

    def predictions(self) -> list[list[str]]:
        """The run's texts for the first test examples of each task."""
        taken = []
        with (self.folder / "predictions.jsonl").open(encoding="utf-8") as lines:
            texts = [json.loads(line)["prediction"] for line in lines]
        for inputs in self.inputs:
            taken.append(texts[: min(TRIED, len(inputs.test))])
            texts = texts[len(inputs.test) :]
        return taken


def read_finished_cell(planned: Planned, store: Store) -> Finished:
    """Read a cell. Raises UserError where it is not finished, its files are damaged, or its data is another now."""
    if not store.has_record(planned.id):
        raise UserError(f"cell {planned.id} is not finished in {store.root}; run it first")
    record, folder = store.record(planned.id), store.folder(planned.id)
    for name, digest in record.files.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is missing or damaged; delete {folder} and run the cell again"
            )
    inputs = tuple(Inputs.open(part) for part in planned.cell.parts)
    data = "+".join(each.data.fingerprint() for each in inputs)
    if data != record.provenance.get("data"):
        raise UserError(
            f"dataset '{planned.dataset}' has changed since cell {planned.id} was run; bring back the data it was run on"
        )
    return Finished(planned.cell, record, folder, inputs)


def export(planned: Planned, store: Store, output: Path, form: Format) -> AdapterFolder:
    """Write the folder `output`: whole, or not at all. Raises UserError where it exists, or the cell has no such form."""
    if output.exists():
        raise UserError(f"{output} exists; choose another folder, or remove it")
    cell = read_finished_cell(planned, store)
    backbone = rebuild_model(cell.cell, cell.inputs[0].answers, cell.tensors)
    answers = _answers(backbone, cell)
    same, tried = _agreement(answers, cell.predictions())
    if 2 * same < tried:
        raise UserError(
            f"only {same} of {tried} test examples are answered as in the run: the base weights or the code are not those that cell "
            f"{planned.id} was trained with; bring them back, or run it again"
        )
    adapter = _describe(cell, backbone, form, (same, tried))
    with _whole(output) as folder:
        if form == "peft":
            adapter = _finish(folder, adapter, loading=write_peft(folder, backbone, adapter))
        elif form == "merged":
            adapter = write_merged(folder, backbone, adapter)
            merged = rebuild_model(
                adapter.locate_weights(folder), adapter.answers[0], folder / TENSORS
            )
            if _answers(merged, cell) != answers:
                raise UserError(
                    "the merged model answers otherwise than the adapter, so it is not written; export it without `--format`"
                )
            adapter = _finish(folder, adapter, base=base_norms(merged))
        else:
            shutil.copyfile(cell.tensors, folder / TENSORS)
            adapter = _finish(folder, adapter, base=base_norms(backbone))
    return adapter


def _agreement(made: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> tuple[int, int]:
    pairs = [pair for rows in zip(made, expected, strict=True) for pair in zip(*rows, strict=True)]
    return sum(one == other for one, other in pairs), len(pairs)


def _answers(backbone: Backbone, cell: Finished) -> list[list[str]]:
    """What the model says of the first test examples of each task."""
    made = []
    with TemporaryDirectory(prefix="vlpeft-") as cache:
        for i, each in enumerate(cell.inputs):
            inputs = read_inputs(each.part, each.data, each.test[:TRIED], each.answers)
            made.append(
                predict_split(
                    backbone,
                    backbone.predict,
                    inputs,
                    make_feed(backbone, inputs, i, Path(cache)),
                    inputs.test,
                    TRIED,
                )
            )
    return made


def _describe(
    cell: Finished, backbone: Backbone, form: Format, reproduced: tuple[int, int]
) -> AdapterFolder:
    record, name, base = (
        cell.record,
        cell.cell.method.name,
        base_weights(cell.cell.backbone.settings),
    )
    kept = ("packages", "python", "git", "device", "data", "science", "finished")
    return AdapterFolder(
        id=record.id,
        format=form,
        cell=_without_paths(cell.cell),
        method=name,
        answers=tuple(inputs.answers for inputs in cell.inputs),
        base=base,
        weights={key: value for key, value in base.items() if "@" in value},
        image=image_transform(backbone.vision),
        metrics=record.metrics,
        trained={key: record.cost[key] for key in ("trainable", "head", "total", "steps")},
        provenance={key: record.provenance[key] for key in kept if key in record.provenance},
        reproduced=reproduced,
        plugin=plugin(name),
    )


def _without_paths(cell: Cell) -> Cell:
    """The cell without the places of its data on this machine; its id stays."""
    first, *also = (
        Part(part.task, replace(part.dataset, root=""), part.protocol) for part in cell.parts
    )
    return replace(cell, dataset=first.dataset, also=tuple(also))


def _finish(
    folder: Path,
    adapter: AdapterFolder,
    *,
    loading: Loading = NOTHING,
    base: Mapping[str, float] | None = None,
) -> AdapterFolder:
    """Write what says of the other files what they are."""
    if base is not None:
        (folder / BASE).write_bytes(to_json(base))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    adapter = replace(
        adapter, files={path.relative_to(folder).as_posix(): sha256(path) for path in files}
    )
    (folder / CONFIG).write_bytes(to_json(dump(adapter)))
    (folder / "README.md").write_text(
        card(adapter, loading.python, loading.notes), encoding="utf-8"
    )
    return adapter


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A folder to write to that becomes `output` at the end, or vanishes where something goes wrong."""
    folder = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.rename(output)
    except OSError as error:
        raise UserError(
            f"cannot write {output}: {error.strerror or error}; choose a writable folder with free space"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
