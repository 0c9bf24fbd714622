"""The result of a cell: scores of each task, the record, and the files next to it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from vlpeft.benchmark import metrics
from vlpeft.benchmark.cells import scores
from vlpeft.benchmark.cells.cell import SCIENCE, Cell
from vlpeft.benchmark.cells.code import Code
from vlpeft.benchmark.cells.provenance import provenance
from vlpeft.benchmark.cells.records import Record, Selected
from vlpeft.benchmark.cells.scores import ImageScores
from vlpeft.benchmark.cells.verified import is_covered
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import encode_json, sha256, write_atomically
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.run.checkpoint import save_trained
from vlpeft.benchmark.run.cost import gpu_hours, parameters
from vlpeft.benchmark.run.distributed import Ranks
from vlpeft.benchmark.run.flops import StepFlops
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import TrainingState
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.benchmark.run.texts import CutTexts

PREDICTIONS, TRAINED = "predictions.jsonl", "trained.safetensors"
ANSWERS = "answers.json"
MetricValues = dict[str, float | dict[str, str]]  # {"absent": reason} where a metric could not run


@dataclass(frozen=True)
class TaskResult:
    """The result of one task of a cell.

    Attributes:
        values: Its metrics.
        lines: The lines of its predictions.
        by_image: Its scores by image.
        scored: How many examples and images were scored, of which split, and of how many examples.
        answers: The closed answer list.
    """

    values: MetricValues
    lines: str
    by_image: ImageScores
    scored: dict[str, int | str]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Readings:
    """What the meters read after training and after evaluation; see `cost.Meter.read`."""

    training: Mapping[str, float]
    evaluation: Mapping[str, float]


def score_task(cell: Cell, inputs: Inputs, made: Sequence[Prediction], ranks: Ranks) -> TaskResult:
    """Score the predictions of the test split of a task."""
    protocol, name = inputs.part.protocol, inputs.part.name
    names = inputs.task.metrics if protocol.metrics is None else protocol.metrics
    report = ranks.once(lambda: metrics.score(names, made, protocol.metric_tokenizer))
    values: MetricValues = {}
    for key, value in report.values.items():
        values[key] = {"absent": value["absent"]} if isinstance(value, dict) else value
    images = [example.images for example in inputs.test]
    by_image = scores.by_image(name, images, report.per_example)
    about = {"task": name} if cell.also else {}  # several tasks share one file
    scored = _count_scored(inputs)
    return TaskResult(values, _lines(made, report, about), by_image, scored, inputs.answers)


def _count_scored(inputs: Inputs) -> dict[str, int | str]:
    """Return what was scored; captions say so where it is less than the split."""
    return {
        "split": inputs.part.protocol.eval_split,
        "examples": len(inputs.test),
        "images": len({image for example in inputs.test for image in example.images}),
        "of": inputs.split_size(),
    }


def _lines(
    predictions: Sequence[Prediction], report: metrics.MetricReport, about: dict[str, str]
) -> str:
    """Return one JSON line for each prediction, with its references and scores."""
    rows = []
    for i, p in enumerate(predictions):
        row = {
            **about,
            "id": p.id,
            "kind": p.kind,
            "prediction": p.text,
            "references": list(p.references),
            "scores": {name: values[i] for name, values in report.per_example.items()},
        }
        rows.append(json.dumps(row, sort_keys=True, ensure_ascii=False))
    return "\n".join(rows) + "\n"


def check_places(folder: Path) -> None:
    """Raise UserError if results could not be written where they belong.

    It is asked before training: afterwards it would cost the training.
    """
    for name in ("record.json", PREDICTIONS, scores.NAME, ANSWERS, TRAINED):
        path = folder / name
        if os.path.lexists(path) and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a file, or a link to nothing"
            raise UserError(f"{path}: {kind}; delete it, a result will be written there")


def write_files(folder: Path, backbone: Backbone, results: Sequence[TaskResult]) -> int:
    """Write what is next to the record; return the size of the trained tensors in bytes."""
    lines = "".join(result.lines for result in results)
    write_atomically(folder / PREDICTIONS, lines.encode())
    write_atomically(folder / scores.NAME, scores.to_bytes([each.by_image for each in results]))
    answers = json.dumps([each.answers for each in results], ensure_ascii=False)
    write_atomically(folder / ANSWERS, encode_json(answers))
    return save_trained(folder / TRAINED, backbone)


def total_cost(
    state: TrainingState,
    work: StepFlops,
    readings: Readings,
    device: torch.device,
    ranks: Ranks,
    delta_bytes: int,
) -> dict[str, float]:
    """Return the cost of a cell, as `Record` describes it.

    Args:
        state: after training; it has the seconds of earlier attempts, too.
        work: what the first step does.
        readings: of this attempt.
        device: of this rank.
        ranks: the processes of the cell.
        delta_bytes: size of the file of trained tensors.
    """
    evaluated = readings.evaluation
    train_seconds = sum(state.step_seconds)
    seconds = train_seconds + sum(state.selection_seconds) + evaluated["seconds"]
    # The median, because the first steps also compile and load libraries.
    step_seconds = median(state.step_seconds)
    cost = {
        **parameters(state.backbone),
        **work.per_second(step_seconds),
        "flops_per_step": work.flops,
        "gpu_hours": gpu_hours(device, seconds, ranks.world),
        "steps": state.total,
        "train_seconds": train_seconds,
        "eval_seconds": evaluated["seconds"],
        "cpu_seconds": readings.training["cpu_seconds"] + evaluated["cpu_seconds"],
        "step_ms": 1000 * step_seconds,
        "peak_memory_mb": readings.training["peak_memory_mb"],
        "delta_bytes": delta_bytes,
    }
    return {key: float(value) for key, value in cost.items()}


def describe_origin(
    cell: Cell,
    runtime: Runtime,
    device: torch.device,
    code: Code,
    sources: Mapping[str, str],
    data: str,
    images: str,
    ranks: Ranks,
) -> dict[str, object]:
    """Return the provenance of a record.

    `sources` are the hashes of `cell_code`, `data` and `images` are fingerprints of the datasets.
    """
    return provenance(str(device), code) | {
        "data": data,
        "images": images,
        "code": sources,
        "science": SCIENCE,
        "ranks": ranks.world,
        "compile": runtime.compile,
        "verified": runtime.verified and is_covered(cell),
    }


def make_record(
    cell: Cell,
    folder: Path,
    state: TrainingState,
    selected: Selected | None,
    results: Sequence[TaskResult],
    cost: dict[str, float],
    origin: dict[str, object],
    cut: dict[str, CutTexts],
) -> Record:
    """Return the record of a cell whose files are written."""
    values: MetricValues = {}
    for i, result in enumerate(results):
        prefix = cell.metric_prefix(i)
        values |= {prefix + name: value for name, value in result.values.items()}
    # Hashes show later whether one of these files was changed.
    names = (PREDICTIONS, scores.NAME, ANSWERS, TRAINED)
    scored = {part.name: each.scored for part, each in zip(cell.parts, results, strict=True)}
    return Record(
        id=cell.id,
        cell=dump(cell),
        metrics=values,
        cost=cost,
        curve=state.curve,
        scalars=state.scalars,
        selection=selected,
        provenance={**origin, "scored": scored},
        files={name: sha256(folder / name) for name in names},
        cut=cut,
    )
