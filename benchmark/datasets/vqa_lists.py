"""Questions and answers in one file per split.

These are VizWiz-VQA, GQA, and the lists of VL-T5 (LXMERT, VL-Adapter) and BLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

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
    Types,
    answer_texts,
    index_by_id,
    kind_text,
    read_list,
    read_mapping,
    read_rows,
    show,
    texts,
)

VQALayout = Literal["vizwiz", "gqa", "vl_t5", "blip"]


class _Fields(NamedTuple):
    """The fields of a record: which of them has what, and the types of all that are read."""

    identifier: str  # "": the file is an object by id
    image: str
    question: str
    types: Types


FIELDS: dict[VQALayout, _Fields] = {
    "vizwiz": _Fields(
        "image", "image", "question", {"image": str, "question": str, "answers": list}
    ),
    "gqa": _Fields("", "imageId", "question", {"imageId": ID, "question": str, "answer": str}),
    "vl_t5": _Fields(
        "question_id", "img_id", "sent", {"question_id": ID, "img_id": ID, "sent": str}
    ),
    "blip": _Fields(
        "question_id",
        "image",
        "question",
        {"question_id": ID, "image": str, "question": str, "answer": list},
    ),
}


@dataclass(frozen=True)
class QuestionFiles(Config):
    """The files of a split, relative to `root`: files of questions, and folders with images.

    `annotations` (layout vl_t5) are official VQA v2 annotations. Together they hold the ten answers
    of all questions of the split.
    """

    questions: tuple[str, ...]
    images: tuple[str, ...]
    annotations: tuple[str, ...] = ()


class _LocatedRow(NamedTuple):
    """A record, and its file and id for error messages."""

    where: str
    row: DataRow


@register("vqa_lists", tasks=("vqa",))
@dataclass(frozen=True, kw_only=True)
class VQALists(FileFormat):
    """Records that hold question, image and answers together. `layout` is the layout of a record.

    * vizwiz: a list. `image` is the file and the id, `answers` are ten objects, and the kind is
      `answer_type`.
    * gqa: an object by question id. It has `imageId` and one `answer`; the kind is
      `types.structural`.
    * vl_t5: a list of `question_id`, `img_id`, `sent`. The ten answers come from `annotations`.
      Without these, the `label` of a record must hold one answer of score 1, as GQA's does.
    * blip: a list of `question_id`, `image` and `question`, and the texts of `answer`.

    `pattern` makes a file name from the id of an image, {image}; for feature files it ends in .h5.
    """

    layout: VQALayout
    files: dict[str, QuestionFiles]
    pattern: str = "{image}"

    def __post_init__(self) -> None:
        """Refuse a pattern that is not a file name with the id of an image."""
        check_pattern(self.pattern, "image")

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits: the keys of `files`."""
        return tuple(self.files)

    @property
    def has_features(self) -> bool:
        """Whether the pattern ends in .h5, and so names feature files."""
        return self.pattern.endswith(".h5")

    def annotation_files(self) -> Mapping[str, str]:
        """Return the questions of every split, and the answers if these have their own files."""
        roles: dict[str, str] = {}
        for split, files in self.files.items():
            for i, name in enumerate(files.questions):
                roles[f"{split}/questions/{i}"] = name
        for split, files in self.files.items():
            for i, name in enumerate(files.annotations):
                roles[f"{split}/annotations/{i}"] = name
        return roles

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per question, in the order of the files.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        fields = FIELDS[self.layout]
        rows = self._read_questions(root, files.questions)
        annotations = None
        if files.annotations:
            annotations = _read_annotations(root, files.annotations)
        names = {
            key: image_name(self.pattern, "image", row[fields.image], where)
            for key, (where, row) in rows.items()
        }
        wanted = ((where, names[key]) for key, (where, _) in rows.items())
        places = find_images(root, files.images, wanted)
        examples = []
        for key, located in rows.items():
            answers, kind = self._answers(key, located, annotations)
            question = located.row[fields.question]
            examples.append(Example(key, (places[names[key]],), question, answers, kind))
        return examples

    def record_place(self, split: str, identifier: str) -> str:
        """Return the files of questions and annotations, and the id of a question."""
        files = self.files[split]
        return self.place_in((*files.questions, *files.annotations), f"question {identifier}")

    def _read_questions(self, root: Path, names: Sequence[str]) -> dict[str, _LocatedRow]:
        """Return question id -> record."""
        out: dict[str, _LocatedRow] = {}
        fields = FIELDS[self.layout]
        for name in names:
            path = root / name
            if fields.identifier:
                found = index_by_id(read_list(path, **fields.types), fields.identifier, path)
            else:
                found = read_mapping(path, **fields.types)
            for key, row in found.items():
                if key in out:
                    raise DataError(
                        f"{path}: question {key} is in {_file_of(out[key])} too;"
                        " remove it from one of them"
                    )
                out[key] = _LocatedRow(f"{path}: question {key}", row)
        return out

    def _answers(
        self, key: str, located: _LocatedRow, annotations: Mapping[str, _LocatedRow] | None
    ) -> tuple[tuple[str, ...], str]:
        """Return the answers and the kind of a question."""
        where, row = located
        if self.layout == "gqa":
            return (row["answer"],), _structural_type(row, where)
        if self.layout == "blip":
            return texts(row, "answer", where), ""
        if annotations is not None:
            if key not in annotations:
                raise DataError(
                    f"{where}: has no answers in the split's annotations;"
                    " add the official file that holds them"
                )
            where, row = annotations[key]
        if self.layout == "vizwiz" or annotations is not None:
            answers = answer_texts(row, where)
        else:
            answers = (_sole_label(row, where),)
        return answers, kind_text(row.get("answer_type", ""), where)


def _read_annotations(root: Path, names: Sequence[str]) -> dict[str, _LocatedRow]:
    """Return question id -> official annotation."""
    out: dict[str, _LocatedRow] = {}
    for name in names:
        path = root / name
        rows = read_rows(path, "annotations", question_id=ID, answers=list)
        for key, row in index_by_id(rows, "question_id", path).items():
            if key in out:
                raise DataError(
                    f"{path}: question_id {key} is in {_file_of(out[key])} too;"
                    " name one of the files only"
                )
            out[key] = _LocatedRow(f"{path}: question_id {key}", row)
    return out


def _file_of(located: _LocatedRow) -> str:
    return located.where.rpartition(":")[0]


def _structural_type(row: DataRow, where: str) -> str:
    """Return the `types.structural` of a GQA record, or "" if it has none."""
    kinds = row.get("types")
    if not isinstance(kinds, dict):
        return ""
    return kind_text(kinds.get("structural", ""), where)


def _sole_label(row: DataRow, where: str) -> str:
    match row.get("label"):
        case {**label} if len(label) == 1 and next(iter(label.values())) == 1:
            return str(next(iter(label)))
    raise DataError(
        f"{where}: 'label' must hold one answer of score 1, found {show(row.get('label'))}; "
        "where questions have ten answers, name the official files in 'annotations'"
    )
