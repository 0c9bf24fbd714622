"""Questions and answers in one file a split: VizWiz-VQA, GQA, and the lists of VL-T5 (LXMERT, VL-Adapter) and BLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import (
    ID,
    DataRow,
    FileFormat,
    Types,
    answer_texts,
    check_pattern,
    check_request,
    find_images,
    image_name,
    index_by_id,
    read_list,
    read_mapping,
    read_rows,
    texts,
)

VQALayout = Literal["vizwiz", "gqa", "vl_t5", "blip"]
FIELDS: dict[
    VQALayout, tuple[str, str, str, Types]
] = {  # identifier, image, question, and the types of all that is read
    "vizwiz": ("image", "image", "question", {"image": str, "question": str, "answers": list}),
    "gqa": ("", "imageId", "question", {"imageId": ID, "question": str, "answer": str}),
    "vl_t5": ("question_id", "img_id", "sent", {"question_id": ID, "img_id": ID, "sent": str}),
    "blip": (
        "question_id",
        "image",
        "question",
        {"question_id": ID, "image": str, "question": str, "answer": list},
    ),
}


@dataclass(frozen=True)
class QuestionFiles(Config):
    """The files of a split, relative to `root`: one or more of questions, and the folders to look for images in.

    `annotations` (layout vl_t5) are official VQA v2 annotations that hold the ten answers of all questions of the split.
    """

    questions: tuple[str, ...]
    images: tuple[str, ...]
    annotations: tuple[str, ...] = ()


@register("vqa_lists", tasks=("vqa",))
@dataclass(frozen=True, kw_only=True)
class VQALists(FileFormat):
    """Records that hold question, image and answers together. `layout` says how they are written.

    * vizwiz: a list; `image` is the file and the id, `answers` are ten objects, the kind is `answer_type`.
    * gqa: an object by question id; `imageId`, one `answer`, the kind is `types.structural`.
    * vl_t5: a list; `question_id`, `img_id`, `sent`. The ten answers come from `annotations`; without these a record's
      `label` must hold one answer of score 1, as GQA's does.
    * blip: a list; `question_id`, `image` (its folders do not count), `question`, and the texts of `answer`.

    `pattern` makes a file name of the image's id, which it calls {image}; one of feature files ends in .h5.
    """

    layout: VQALayout
    files: dict[str, QuestionFiles]
    pattern: str = "{image}"

    def __post_init__(self) -> None:
        check_pattern(self.pattern, "image")

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: the keys of `files`."""
        return tuple(self.files)

    @property
    def precomputed(self) -> bool:
        """A pattern that ends in .h5 names feature files."""
        return self.pattern.endswith(".h5")

    def annotation_files(self) -> Mapping[str, str]:
        """Every split's questions, and the answers where they lie apart."""
        parts = {
            f"{split}/questions/{i}": name
            for split, files in self.files.items()
            for i, name in enumerate(files.questions)
        }
        return parts | {
            f"{split}/annotations/{i}": name
            for split, files in self.files.items()
            for i, name in enumerate(files.annotations)
        }

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example a question, in the files' order. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        rows = self._rows(root, files.questions)
        given = _annotated(root, files.annotations)
        _, image, question, _ = FIELDS[self.layout]
        names = {key: self._image(row[image], where) for key, (where, row) in rows.items()}
        places = find_images(
            root, files.images, ((where, names[key]) for key, (where, _) in rows.items())
        )
        return [
            Example(
                key,
                (places[names[key]],),
                row[question],
                *self._answers(key, row, where, given if files.annotations else None),
            )
            for key, (where, row) in rows.items()
        ]

    def _rows(self, root: Path, names: Sequence[str]) -> dict[str, tuple[str, DataRow]]:
        """Question id -> (file and id, record)."""
        out: dict[str, tuple[str, DataRow]] = {}
        for name in names:
            path, (field, _, _, types) = root / name, FIELDS[self.layout]
            found = (
                index_by_id(read_list(path, **types), field, path)
                if field
                else read_mapping(path, **types)
            )
            for key, row in found.items():
                if key in out:
                    raise DataError(
                        f"{path}: question {key} is in {out[key][0].rpartition(':')[0]} too; remove it from one of them"
                    )
                out[key] = f"{path}: question {key}", row
        return out

    def _image(self, value: object, where: str) -> str:
        return image_name(
            self.pattern, "image", Path(value).name if self.layout == "blip" else value, where
        )  # type: ignore[arg-type]

    def _answers(
        self, key: str, row: DataRow, where: str, given: Mapping[str, tuple[str, DataRow]] | None
    ) -> tuple[tuple[str, ...], str]:
        """Answers and kind of a question."""
        if self.layout == "gqa":
            kinds = row.get("types")
            return (row["answer"],), str(kinds.get("structural", "")) if isinstance(
                kinds, dict
            ) else ""
        if self.layout == "blip":
            return texts(row, "answer", where), ""
        if given is not None:
            if key not in given:
                raise DataError(
                    f"{where}: has no answers in the split's annotations; add the official file that holds them"
                )
            where, row = given[key]
        answers = (
            answer_texts(row, where)
            if self.layout == "vizwiz" or given is not None
            else (_sole_label(row, where),)
        )
        return answers, str(row.get("answer_type", ""))


def _annotated(root: Path, names: Sequence[str]) -> dict[str, tuple[str, DataRow]]:
    """Question id -> (file and id, official annotation)."""
    out: dict[str, tuple[str, DataRow]] = {}
    for path in (root / name for name in names):
        rows = index_by_id(
            read_rows(path, "annotations", question_id=ID, answers=list), "question_id", path
        )
        for key, row in rows.items():
            if key in out:
                raise DataError(
                    f"{path}: question_id {key} is in {out[key][0].rpartition(':')[0]} too; name one of the files only"
                )
            out[key] = f"{path}: question_id {key}", row
    return out


def _sole_label(row: DataRow, where: str) -> str:
    match row.get("label"):
        case {**label} if len(label) == 1 and next(iter(label.values())) == 1:
            return str(next(iter(label)))
    raise DataError(
        f"{where}: 'label' must hold one answer of score 1, found {str(row.get('label'))[:60]}; "
        "where questions have ten answers, name the official files in 'annotations'"
    )
