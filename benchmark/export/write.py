"""Export a finished cell from its result folder: its trained weights, and a model card.

The weights are written alone, in peft's format, or merged into the towers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from vlpeft.benchmark.cells.cell import Cell, Planned
from vlpeft.benchmark.cells.records import Record, Store, shareable_metrics
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import new_folder, read_bytes, sha256, to_json
from vlpeft.benchmark.export.cards import card
from vlpeft.benchmark.export.folder import (
    BASE,
    CONFIG,
    TENSORS,
    AdapterFolder,
    Format,
    checksum,
    image_transform,
    plugin_module,
    rebuild_model,
)
from vlpeft.benchmark.export.hub_formats import NOTHING, Loading, write_merged, write_peft
from vlpeft.benchmark.export.predict import make_feed, read_inputs
from vlpeft.benchmark.export.weights import base_norms, base_weights
from vlpeft.benchmark.run.evaluation import predict_split
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.plugins import load_plugins
from vlpeft.benchmark.run.result import ANSWERS

ANSWERED_AGAIN = 16  # test examples that are answered again, of each task
TRAINED = ("trainable", "head", "total", "steps")  # costs that the adapter's config.json keeps
PROVENANCE = ("packages", "python", "git", "device", "data", "science", "finished")


@dataclass(frozen=True)
class FinishedCell:
    """A finished cell: its record, its folder, and the data that it read.

    Attributes:
        cell: The cell.
        record: Its record.
        folder: Its folder.
        answers: For each task, the closed answer list.
        inputs: For each task, the data; empty if the data is not on this machine.
    """

    cell: Cell
    record: Record
    folder: Path
    answers: tuple[tuple[str, ...], ...]
    inputs: tuple[Inputs, ...]

    @property
    def tensors(self) -> Path:
        """The file of the trained tensors."""
        return self.folder / "trained.safetensors"

    def predictions(self) -> list[list[str]]:
        """Return the run's texts for the first test examples of each task whose data is here."""
        if not self.inputs:
            return []
        texts = _read_texts(self.folder / "predictions.jsonl")
        first = []
        for inputs in self.inputs:
            first.append(texts[: min(ANSWERED_AGAIN, len(inputs.test))])
            texts = texts[len(inputs.test) :]
        return first


def _read_texts(path: Path) -> list[str]:
    """Read the texts of all predictions."""
    try:
        return [str(json.loads(line)["prediction"]) for line in read_bytes(path).splitlines()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({error}); delete {path.parent} and run the cell again"
        ) from error


def read_finished_cell(planned: Planned, store: Store) -> FinishedCell:
    """Read a finished cell.

    Raises:
        UserError: The cell is not finished, its files are damaged, or its data has changed. Without
            its data, also if an older version has run it, which did not keep the answer lists.
    """
    if not store.has_record(planned.id):
        raise UserError(f"cell {planned.id} is not finished in {store.root}; run it first")
    load_plugins(planned.cell.plugins)
    record, folder = store.record(planned.id), store.folder(planned.id)
    for name, digest in record.files.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is missing or damaged; delete {folder} and run the cell again"
            )
    if ANSWERS in record.files and not _has_data(planned.cell):
        return FinishedCell(planned.cell, record, folder, _read_answers(folder / ANSWERS), ())
    inputs = tuple(Inputs.open(part) for part in planned.cell.parts)
    data = "+".join(each.data.fingerprint() for each in inputs)
    if data != record.provenance.get("data"):
        raise UserError(
            f"dataset '{planned.dataset}' has changed since cell {planned.id} was run;"
            " restore the data it was run on"
        )
    answers = tuple(each.answers for each in inputs)
    return FinishedCell(planned.cell, record, folder, answers, inputs)


def _has_data(cell: Cell) -> bool:
    """Return whether the folders of all datasets are on this machine. Drawn data has none."""
    return all(not part.dataset.root or Path(part.dataset.root).exists() for part in cell.parts)


def _read_answers(path: Path) -> tuple[tuple[str, ...], ...]:
    """Read the closed answer list of each task."""
    return tuple(tuple(answers) for answers in json.loads(read_bytes(path)))


def export(planned: Planned, store: Store, output: Path, form: Format) -> AdapterFolder:
    """Export a finished cell to a new folder, which appears complete or not at all.

    Some test examples are answered again, unless the data is not on this machine.

    Args:
        planned: The cell.
        store: The results that hold it.
        output: The folder to write.
        form: The format.

    Raises:
        UserError: The folder exists, the cell is not finished, or the format cannot hold it.
    """
    if output.exists():
        raise UserError(f"{output} exists; choose another folder, or remove it")
    cell = read_finished_cell(planned, store)
    backbone = rebuild_model(cell.cell, cell.answers[0], cell.tensors)
    answers = _predict_first(backbone, cell)
    same, tried = _agreement(answers, cell.predictions())
    if 2 * same < tried:
        raise UserError(
            f"only {same} of {tried} test examples are answered as in the run: the base weights"
            f" or the code are not those that cell {planned.id} was trained with;"
            " restore them, or run the cell again"
        )
    adapter = _describe(cell, backbone, form, (same, tried))
    with _new_folder(output) as folder:
        if form == "peft":
            loading = write_peft(folder, backbone, adapter)
            adapter = _write_description(folder, adapter, loading=loading)
        elif form == "merged":
            adapter = write_merged(folder, backbone, adapter)
            merged = _rebuild_merged(folder, adapter, cell, answers)
            adapter = _write_description(folder, adapter, base=base_norms(merged))
        else:
            shutil.copyfile(cell.tensors, folder / TENSORS)
            adapter = _write_description(folder, adapter, base=base_norms(backbone))
    return adapter


def _rebuild_merged(
    folder: Path, adapter: AdapterFolder, cell: FinishedCell, answers: list[list[str]]
) -> Backbone:
    """Read the merged model back, and check that it gives the same answers."""
    built = adapter.locate_weights(folder)
    merged = rebuild_model(built, adapter.answers[0], folder / TENSORS)
    if _predict_first(merged, cell) != answers:
        raise UserError(
            "the merged model answers differently from the adapter, so it is not written;"
            " export it without `--format`"
        )
    return merged


def _agreement(made: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return how many texts are equal, and how many there are."""
    same, tried = 0, 0
    for texts, run_texts in zip(made, expected, strict=True):
        same += sum(one == other for one, other in zip(texts, run_texts, strict=True))
        tried += len(texts)
    return same, tried


def _predict_first(backbone: Backbone, cell: FinishedCell) -> list[list[str]]:
    """Return the model's texts for the first test examples of each task."""
    made = []
    with TemporaryDirectory(prefix="vlpeft-") as cache:
        for i, each in enumerate(cell.inputs):
            inputs = read_inputs(each.part, each.data, each.test[:ANSWERED_AGAIN], each.answers)
            feed = make_feed(backbone, inputs, i, Path(cache))
            texts = predict_split(
                backbone, backbone.predict, inputs, feed, inputs.test, ANSWERED_AGAIN
            )
            made.append(texts)
    return made


def _describe(
    cell: FinishedCell, backbone: Backbone, form: Format, reproduced: tuple[int, int]
) -> AdapterFolder:
    record, method = cell.record, cell.cell.method.name
    base = base_weights(cell.cell.backbone.settings)
    provenance = record.provenance
    return AdapterFolder(
        id=record.id,
        format=form,
        cell=cell.cell.without_folders(),
        method=method,
        answers=cell.answers,
        base=base,
        weights={key: value for key, value in base.items() if "@" in value},
        image=image_transform(backbone.vision),
        metrics=shareable_metrics(record.metrics),
        trained={key: record.cost[key] for key in TRAINED},
        provenance={key: provenance[key] for key in PROVENANCE if key in provenance},
        reproduced=reproduced,
        plugin=plugin_module(method),
    )


def _write_description(
    folder: Path,
    adapter: AdapterFolder,
    *,
    loading: Loading = NOTHING,
    base: Mapping[str, float] | None = None,
) -> AdapterFolder:
    """Write base.json, config.json with the checksums of the other files, and the card."""
    if base is not None:
        (folder / BASE).write_bytes(to_json(base))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    adapter = replace(
        adapter, files={path.relative_to(folder).as_posix(): sha256(path) for path in files}
    )
    values = dump(adapter)
    (folder / CONFIG).write_bytes(to_json({**values, "checksum": checksum(values)}))
    text = card(adapter, loading.python, loading.notes)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return adapter


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder; rename it to `output` at the end, or delete it after an error."""
    try:
        with new_folder(output) as folder:
            yield folder
    except OSError as error:
        raise UserError(
            f"cannot write {output}: {error.strerror or error};"
            " choose a writable folder with free space"
        ) from error
