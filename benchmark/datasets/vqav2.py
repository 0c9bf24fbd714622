"""The official VQA v2 files (https://visualqa.org/download.html), and any dataset converted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import (
    ID,
    FileFormat,
    answer_texts,
    check_pattern,
    check_request,
    image_name,
    index_by_id,
    read_rows,
    require_images,
)


@dataclass(frozen=True)
class VQAFiles(Config):
    """The files of a split, relative to `root`; `pattern` makes an image's file name of its `image_id`."""

    questions: str
    annotations: str
    images: str
    pattern: str

    def __post_init__(self) -> None:
        check_pattern(self.pattern, "image_id")


@register("vqav2", tasks=("vqa",))
@dataclass(frozen=True, kw_only=True)
class VQAv2(FileFormat):
    """Questions and annotations as two JSON files a split, as VQA v2 publishes them.

    An example's kind is the official `answer_type` (yes/no, number, other). Questions and annotations must match one to
    one: a leftover on either side means files of two different splits. The official test sets come without annotations
    and are scored by a server only, so they cannot be a split here.
    """

    files: dict[str, VQAFiles]

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: the keys of `files`."""
        return tuple(self.files)

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example a question, in the questions' order. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        asked, answered = root / files.questions, root / files.annotations
        questions = index_by_id(
            read_rows(asked, "questions", question_id=ID, image_id=ID, question=str),
            "question_id",
            asked,
        )
        annotations = index_by_id(
            read_rows(answered, "annotations", question_id=ID, answers=list),
            "question_id",
            answered,
        )
        for left, path, known, other in (
            (questions, asked, annotations, answered),
            (annotations, answered, questions, asked),
        ):
            if lonely := [name for name in left if name not in known]:
                raise DataError(
                    f"{path}: question_id {lonely[0]} is not in {other} ({len(lonely)} are not); use the two files of one split"
                )
        images = {
            name: image_name(
                files.pattern, "image_id", row["image_id"], f"{asked}: question_id {name}"
            )
            for name, row in questions.items()
        }
        require_images(
            root / files.images,
            ((f"{asked}: question_id {name}", image) for name, image in images.items()),
        )
        return [
            Example(
                id=name,
                images=(f"{files.images}/{images[name]}",),
                question=row["question"],
                answers=answer_texts(annotations[name], f"{answered}: question_id {name}"),
                kind=str(annotations[name].get("answer_type", "")),
            )
            for name, row in questions.items()
        ]

    def annotation_files(self) -> Mapping[str, str]:
        """Every split's questions and annotations."""
        roles = {f"{split}/questions": files.questions for split, files in self.files.items()}
        return roles | {
            f"{split}/annotations": files.annotations for split, files in self.files.items()
        }
