"""Predictions of an exported adapter for the user's own images.

The model, the prompt and the decoding are those of its run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import Config, parse
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.datasets.base import DataFormat, Example, Pixels, is_broken
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.datasets.json_files import RepeatedKey, unique_keys
from vlpeft.benchmark.export.folder import AdapterFolder
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.evaluation import predict_split
from vlpeft.benchmark.run.features import visual_inputs
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Task

TOP = 5
ROW = 'write {"image": PATH, "question": TEXT} on each line'


@dataclass(frozen=True)
class AskedQuestion(Config):
    """One input to predict for: paths of its images, and the question or hypothesis."""

    images: tuple[str, ...]
    question: str = ""


@dataclass(frozen=True)
class PredictedText:
    """The output of the model: a text, and the best of the answers that it compared.

    `top` pairs these answers with their scores; it is empty for generated text.
    """

    text: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ImageFiles(DataFormat):
    """Images by their paths, without any split."""

    name = "image files"

    def splits(self) -> tuple[str, ...]:
        """Return no splits."""
        return ()

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return no examples."""
        return ()

    def image(self, image: str) -> Pixels:
        """Decode a file to (height, width, 3) RGB values. Raises DataError naming the file."""
        return decode_image(Path(image))

    def fingerprint(self) -> str:
        """Return "": there are no annotations."""
        return ""


def parse_question(row: object, where: str) -> AskedQuestion:
    """Return an input of plain values. Raises UserError for values of other types."""
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where}: expected {{'images': [PATH], 'question': TEXT}}, got {type(row).__name__}"
        )
    return parse(AskedQuestion, dict(row), where)


def select_part(adapter: AdapterFolder, name: str) -> int:
    """Return the index of one of the adapter's tasks.

    Args:
        adapter: The adapter.
        name: `vqa` or `vqa/vqav2`; "" if the adapter has one task only.

    Raises:
        UserError: No task or several tasks have that name.
    """
    parts = adapter.cell.parts
    found = [i for i, part in enumerate(parts) if name in ("", part.task, part.name)]
    if len(found) == 1:
        return found[0]
    option = ""
    if name:
        option = f"--task {name}: "
    names = ", ".join(part.name for part in parts)
    raise UserError(f"{option}this adapter does {names}; name one of them with --task")


def read_rows(path: Path) -> list[AskedQuestion]:
    """Read inputs from JSON lines: {"image": PATH or "images": [PATH, PATH], "question": TEXT}.

    Relative paths start at the folder of the file.

    Raises:
        UserError: The file or a line is wrong; names the line.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; check the path of `--from`")
    try:
        # Excel and Notepad write a byte order mark, which `utf-8-sig` skips.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give `--from` a file that can be read"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 text; save the file as UTF-8, and {ROW}"
        ) from error
    rows = [
        _row(line, path, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not rows:
        raise UserError(f"{path} contains no requests; {ROW}")
    return rows


def _row(line: str, path: Path, where: str) -> AskedQuestion:
    try:
        values: Any = json.loads(line, object_pairs_hook=unique_keys)
    except RepeatedKey as error:
        raise UserError(f"{where}: {error}; keep one of them") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise UserError(f"{where}: not JSON: {error}; {ROW}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: {ROW}")
    if "image" in values:
        if "images" in values:
            raise UserError(f"{where}: both `image` and `images`; remove one of the two")
        values = {"images": [values.pop("image")], **values}
    asked = parse(AskedQuestion, values, where)
    return AskedQuestion(tuple(str(path.parent / image) for image in asked.images), asked.question)


def check(asked: AskedQuestion, task: Task, where: str = "") -> None:
    """Check the number of images and the question of one input.

    Args:
        asked: The input.
        task: The task of the adapter.
        where: The beginning of the error message, for inputs from a file.

    Raises:
        UserError: The task cannot take this input.
    """
    if len(asked.images) != task.images:
        count, fix = "1 image", "give `--image` once"
        if task.images != 1:
            count, fix = f"{task.images} images", "give `--image LEFT --image RIGHT`"
        raise UserError(f"{where}{task.name} reads {count}, got {len(asked.images)}; {fix}")
    _check_text(asked, where)
    if task.asks and not asked.question.strip():
        raise UserError(f"{where}{task.name} needs a text for the image; give `--question`")
    if asked.question and not task.asks:
        raise UserError(f"{where}{task.name} takes no question; leave it out")


def image_problem(asked: AskedQuestion) -> str:
    """Return why an image of an input cannot be read; "" if all can."""
    for image in asked.images:
        if not _is_file(image):
            return f"image {image} is not a file; check the path"
        try:
            decode_image(Path(image))
        except DataError as error:
            return str(error)
    return ""


def _check_text(asked: AskedQuestion, where: str) -> None:
    """Raise UserError for half a character, which no tokenizer and no terminal can write."""
    for text in (asked.question, *asked.images):
        if is_broken(text):
            raise UserError(
                f"{where}{ascii(text)[:80]} holds half a character (a lone surrogate);"
                " write the whole character"
            )


def _is_file(image: str) -> bool:
    try:
        return Path(image).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def predict(
    adapter: AdapterFolder,
    backbone: Backbone,
    part: int,
    wanted: Sequence[AskedQuestion],
    batch: int,
    top: int,
) -> list[PredictedText]:
    """Predict for each input.

    Args:
        adapter: The adapter.
        backbone: Its model, from `rebuild`.
        part: The index of the task, from `select_part`.
        wanted: The inputs.
        batch: How many inputs to predict for together.
        top: How many of the best answers to return with their scores; 0: none.

    Raises:
        UserError: The adapter reads features, not images.
    """
    place = adapter.cell.parts[part]
    if not adapter.image:
        raise UserError(
            f"this adapter reads features that {place.dataset.name} holds, not images;"
            " use a backbone with a vision tower"
        )
    examples = [Example(str(i), asked.images, asked.question, ()) for i, asked in enumerate(wanted)]
    inputs = read_inputs(place, ImageFiles(), examples, adapter.answers[part])
    with TemporaryDirectory(prefix="vlpeft-") as cache:
        feed = make_feed(backbone, inputs, part, Path(cache))
        texts = predict_split(backbone, backbone.predict, inputs, feed, examples, batch)
        best: list[Any] = [[] for _ in texts]
        if top:
            best = predict_split(backbone, backbone.ranked, inputs, feed, examples, batch)
    return [PredictedText(text, tuple(each[:top])) for text, each in zip(texts, best, strict=True)]


def read_inputs(
    part: Part, data: DataFormat, examples: Sequence[Example], answers: tuple[str, ...]
) -> Inputs:
    """Return the inputs of a run that has nothing to train on."""
    return Inputs(part, data, TASKS.load(part.task)(), (), examples, answers)


def make_feed(backbone: Backbone, inputs: Inputs, part: int, cache: Path) -> Feed:
    """Return the feed of such a run, which gives the images to the model as a run does."""
    protocol = inputs.part.protocol
    visual = visual_inputs(backbone, inputs.data, inputs.images, protocol.images == "zeroed", cache)
    return Feed((), visual, protocol, inputs.answers, part)


def as_rows(
    wanted: Sequence[AskedQuestion], made: Sequence[PredictedText], score: str
) -> Iterator[dict[str, Any]]:
    """Yield the predictions as plain values for scripts.

    Args:
        wanted: The inputs.
        made: Their predictions.
        score: The meaning of the scores of the best answers.
    """
    for asked, prediction in zip(wanted, made, strict=True):
        row: dict[str, Any] = {
            "images": list(asked.images),
            "question": asked.question,
            "prediction": prediction.text,
        }
        if prediction.top:
            row["score_is"] = score
            row["top"] = [{"answer": answer, "score": value} for answer, value in prediction.top]
        yield row
