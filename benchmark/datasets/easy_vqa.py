"""easy-VQA: drawn shapes, installed with its PyPI package (MIT licence).

Source: https://github.com/vzhou842/easy-VQA
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.libraries.easy_vqa import data_folder
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import DataFormat, Example, Pixels
from vlpeft.benchmark.datasets.files import check_request, content_fingerprint
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.json_files import read_json, show

KINDS = {
    "yes_no": ("yes", "no"),
    "color": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
}
KIND_OF = {answer: kind for kind, answers in KINDS.items() for answer in answers}


@register("easy_vqa", tasks=("vqa",))
@dataclass(frozen=True)
class EasyVQA(DataFormat):
    """easy-VQA's folders `train` and `test`, each with `questions.json` and `images/ID.png`.

    The rows of `questions.json` are question, answer and image id. `root` is the folder of `train`
    and `test`; "" means the data in the installed package `easy-vqa`. Every question has one
    answer; its kind is yes_no, color or shape. The rows have no ids, so the id of an example is
    its split and row number.
    """

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return ("train", "test")

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per row, in the order of the file.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        path = self._folder() / split / "questions.json"
        rows = read_json(path)
        if not isinstance(rows, list) or not rows:
            raise DataError(
                f"{path}: expected a list of rows [question, answer, image id];"
                " install easy-vqa again"
            )
        examples = [_example(row, index, split, path) for index, row in enumerate(rows)]
        wanted = ((f"{path}: {example.id}", Path(example.images[0]).name) for example in examples)
        find_images(self._folder(), (f"{split}/images",), wanted)
        return examples

    def image(self, image: str) -> Pixels:
        """Decode one image by its path in the data folder. Raises DataError naming the file."""
        return decode_image(self._folder() / image)

    def fingerprint(self) -> str:
        """Return a hash (12 hex digits) of the bytes of both question files; read no image."""
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
            picture = f"{split}/images/{image}.png"
            return Example(name, (picture,), question, (answer,), KIND_OF[answer])
    raise DataError(
        f"{path}: {name}: expected [question, one of the 13 answers, image id],"
        f" found {show(row)}; fix the row"
    )
