"""The official VQA v2 files (https://visualqa.org/download.html), and data converted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.image_names import check_pattern, image_name
from vlpeft.benchmark.datasets.json_files import (
    ID,
    DataRow,
    answer_texts,
    index_by_id,
    kind_text,
    read_rows,
)


@dataclass(frozen=True)
class VQAFiles(Config):
    """The files of a split, relative to `root`.

    `pattern` makes the file name of an image from its `image_id`.
    """

    questions: str
    annotations: str
    images: str
    pattern: str

    def __post_init__(self) -> None:
        """Refuse a pattern that is not a file name with the id of an image."""
        check_pattern(self.pattern, "image_id")


@register("vqav2", tasks=("vqa",))
@dataclass(frozen=True, kw_only=True)
class VQAv2(FileFormat):
    """Questions and annotations in two JSON files per split, as VQA v2 publishes them.

    The kind of an example is the official `answer_type` (yes/no, number, other). Questions and
    annotations must match one to one: a leftover on either side means files of different splits.
    The official test sets have no annotations and only a server scores them, so they cannot be
    splits here.
    """

    files: dict[str, VQAFiles]

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits: the keys of `files`."""
        return tuple(self.files)

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per question, in the order of the questions.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        asked, answered = root / files.questions, root / files.annotations
        questions, annotations = _read_questions(asked), _read_annotations(answered)
        _require_match(questions, asked, annotations, answered)
        _require_match(annotations, answered, questions, asked)
        examples, wanted = [], []
        for key, row in questions.items():
            where = f"{asked}: question_id {key}"
            image = image_name(files.pattern, "image_id", row["image_id"], where)
            wanted.append((where, image))
        places = find_images(root, (files.images,), wanted)
        for (key, row), (_, image) in zip(questions.items(), wanted, strict=True):
            where = f"{answered}: question_id {key}"
            example = Example(
                id=key,
                images=(places[image],),
                question=row["question"],
                answers=answer_texts(annotations[key], where),
                kind=kind_text(annotations[key].get("answer_type", ""), where),
            )
            examples.append(example)
        return examples

    def record_place(self, split: str, identifier: str) -> str:
        """Return the files and the question_id of a question."""
        files = self.files[split]
        return self.place_in((files.questions, files.annotations), f"question_id {identifier}")

    def annotation_files(self) -> Mapping[str, str]:
        """Return the questions and the annotations of every split."""
        roles = {f"{split}/questions": files.questions for split, files in self.files.items()}
        return roles | {
            f"{split}/annotations": files.annotations for split, files in self.files.items()
        }


def _read_questions(path: Path) -> dict[str, DataRow]:
    """Return question id -> question."""
    rows = read_rows(path, "questions", question_id=ID, image_id=ID, question=str)
    return index_by_id(rows, "question_id", path)


def _read_annotations(path: Path) -> dict[str, DataRow]:
    """Return question id -> annotation."""
    rows = read_rows(path, "annotations", question_id=ID, answers=list)
    return index_by_id(rows, "question_id", path)


def _require_match(
    rows: Mapping[str, DataRow], path: Path, known: Mapping[str, DataRow], other: Path
) -> None:
    """Raise DataError if a record of `path` has no counterpart in the file `other`."""
    lonely = [key for key in rows if key not in known]
    if lonely:
        raise DataError(
            f"{path}: question_id {lonely[0]} is not in {other} ({len(lonely)} are not);"
            " use the two files of one split"
        )
