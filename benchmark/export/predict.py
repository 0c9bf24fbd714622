"""Answers of an exported adapter for images of one's own: the model, the prompt and the decoding are those of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import Config, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.base import DataFormat, Example, Pixels
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.export.folder import AdapterFolder
from vlpeft.benchmark.run.evaluation import predict_split
from vlpeft.benchmark.run.features import visual_inputs
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import Feed
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Task

TOP = 5
ROW = 'write {"image": PATH, "question": TEXT} on each line'


@dataclass(frozen=True)
class AskedQuestion(Config):
    """One thing to predict: paths of its images, and the question or hypothesis."""

    images: tuple[str, ...]
    question: str = ""


@dataclass(frozen=True)
class Said:
    """What the model says; `top` are the best of the answers it compared, with their scores, none of written text."""

    text: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ImageFiles(DataFormat):
    """Images by their paths, without any split."""

    name = "image files"

    def splits(self) -> tuple[str, ...]:
        """None."""
        return ()

    def examples(self, task: str, split: str) -> Sequence[Example]:  # noqa: ARG002 - the contract's signature
        """None."""
        return ()

    def image(self, image: str) -> Pixels:
        """Decode a file."""
        return decode_image(Path(image))

    def fingerprint(self) -> str:
        """Nothing but the images matters."""
        return ""


def select_part(adapter: AdapterFolder, name: str) -> int:
    """Which of the adapter's tasks is meant: `name` is `vqa` or `vqa/vqav2`, "" where there is but one."""
    parts = adapter.cell.parts
    found = [i for i, part in enumerate(parts) if name in ("", part.task, part.name)]
    if len(found) != 1:
        which = f"--task {name}: " if name else ""
        raise UserError(
            f"{which}this adapter does {', '.join(part.name for part in parts)}; name one of them with --task"
        )
    return found[0]


def read_rows(path: Path) -> list[AskedQuestion]:
    """JSON lines of {"image": PATH or "images": [PATH, PATH], "question": TEXT}; relative paths start at the file's folder."""
    if not path.exists():
        raise UserError(f"{path} is no file; check the path of `--from`")
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(file)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give `--from` a file that can be read"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is no UTF-8 text; {ROW}") from error
    if asked := [
        _row(line, path, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]:
        return asked
    raise UserError(f"{path} asks nothing; {ROW}")


def _row(line: str, path: Path, where: str) -> AskedQuestion:
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}; {ROW}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: {ROW}")
    if "image" in values:
        values = {"images": [values.pop("image")], **values}
    asked = parse(AskedQuestion, values, where)
    return AskedQuestion(tuple(str(path.parent / image) for image in asked.images), asked.question)


def check(asked: AskedQuestion, task: Task, where: str = "") -> None:
    """Refuse what the task cannot take: too few or too many images, a question too much or too little, no image."""
    if len(asked.images) != task.images:
        fix = "give `--image` once" if task.images == 1 else "give `--image LEFT --image RIGHT`"
        raise UserError(
            f"{where}{task.name} reads {task.images} image{'s'[: task.images - 1]}, got {len(asked.images)}; {fix}"
        )
    if task.asks and not asked.question.strip():
        raise UserError(f"{where}{task.name} needs a text beside the image; give `--question`")
    if asked.question and not task.asks:
        raise UserError(f"{where}{task.name} takes no question; leave it out")
    for image in asked.images:
        if not Path(image).is_file():
            raise UserError(f"{where}image {image} is no file; check the path")


def predict(
    adapter: AdapterFolder,
    backbone: Backbone,
    part: int,
    wanted: Sequence[AskedQuestion],
    batch: int,
    top: int,
) -> list[Said]:
    """What the model says of each; with `top`, the best answers and their scores too."""
    place = adapter.cell.parts[part]
    if not adapter.image:
        raise UserError(
            f"this adapter reads features that {place.dataset.name} holds, not images; use a backbone with a vision tower"
        )
    examples = [Example(str(i), asked.images, asked.question, ()) for i, asked in enumerate(wanted)]
    inputs = read_inputs(place, ImageFiles(), examples, adapter.answers[part])
    with TemporaryDirectory(prefix="vlpeft-") as cache:
        feed = make_feed(backbone, inputs, part, Path(cache))
        texts = predict_split(backbone, backbone.predict, inputs, feed, examples, batch)
        best = (
            predict_split(backbone, backbone.ranked, inputs, feed, examples, batch)
            if top
            else [[] for _ in texts]
        )
    return [Said(text, tuple(each[:top])) for text, each in zip(texts, best, strict=True)]


def read_inputs(
    part: Part, data: DataFormat, examples: Sequence[Example], answers: tuple[str, ...]
) -> Inputs:
    """What a run reads, without anything to train on."""
    return Inputs(part, data, TASKS.load(part.task)(), (), examples, answers)


def make_feed(backbone: Backbone, inputs: Inputs, part: int, cache: Path) -> Feed:
    """What a run shows the model."""
    protocol = inputs.part.protocol
    visual = visual_inputs(backbone, inputs.data, inputs.images, protocol.images == "zeroed", cache)
    return Feed((), visual, protocol, inputs.answers, part)


def as_rows(
    wanted: Sequence[AskedQuestion], made: Sequence[Said], score: str
) -> Iterator[dict[str, Any]]:
    """Plain values for scripts; `score` says what the scores of the best answers are."""
    for asked, each in zip(wanted, made, strict=True):
        top = (
            {
                "score_is": score,
                "top": [{"answer": answer, "score": value} for answer, value in each.top],
            }
            if each.top
            else {}
        )
        yield {
            "images": list(asked.images),
            "question": asked.question,
            "prediction": each.text,
            **top,
        }
