"""easy-VQA (https://github.com/vzhou842/easy-VQA): synthetic shapes, installed with its PyPI package, MIT licence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import DataFormat, Example, Pixels
from vlpeft.benchmark.datasets.files import (
    check_request,
    content_fingerprint,
    decode_image,
    read_json,
    require_images,
)
from vlpeft.benchmark.libraries.easy_vqa import data_folder

KINDS = {
    "yes_no": ("yes", "no"),
    "color": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
}
KIND_OF = {answer: kind for kind, answers in KINDS.items() for answer in answers}


@register("easy_vqa", tasks=("vqa",))
@dataclass(frozen=True)
class EasyVQA(DataFormat):
    """easy-VQA's folders `train` and `test`, each with `questions.json` (rows question, answer, image) and `images/ID.png`.

    `root` is the folder of the two; empty means the data inside the installed package `easy-vqa`. One answer a question;
    its kind is yes_no, color or shape. The rows have no ids, so an example's id is its split and row number.
    """

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return ("train", "test")

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example a row, in the file's order. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        path = self._folder() / split / "questions.json"
        rows = read_json(path)
        if not isinstance(rows, list) or not rows:
            raise DataError(
                f"{path}: expected a list of rows [question, answer, image id]; install easy-vqa again"
            )
        examples = [_example(row, index, split, path) for index, row in enumerate(rows)]
        wanted = ((f"{path}: {example.id}", Path(example.images[0]).name) for example in examples)
        require_images(self._folder() / split / "images", wanted)
        return examples

    def image(self, image: str) -> Pixels:
        """Decode one image by its path below the data folder. Raises DataError naming the file."""
        return decode_image(self._folder() / image)

    def fingerprint(self) -> str:
        """Hash (12 hex digits) of the bytes of both question files; images are not read."""
        return content_fingerprint(
            {split: self._folder() / split / "questions.json" for split in self.splits()}
        )

    def _folder(self) -> Path:
        if self.root:
            return Path(self.root)
        folder = data_folder()
        if folder is None:
            raise DataError("easy_vqa needs the package easy-vqa: pip install 'vlpeft[quickstart]'")
        return folder


def _example(row: object, index: int, split: str, path: Path) -> Example:
    name = f"{split}/{index}"
    match row:
        case [str(question), str(answer), int(image)] if answer in KIND_OF:
            return Example(
                name, (f"{split}/images/{image}.png",), question, (answer,), KIND_OF[answer]
            )
    raise DataError(
        f"{path}: {name}: expected [question, one of the 13 answers, image id], found {str(row)[:80]}; mend the row"
    )
