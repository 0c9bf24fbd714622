"""NLVR2 (https://lil.nlp.cornell.edu/nlvr/): is a statement true of two photographs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.image_names import check_pattern, image_name
from vlpeft.benchmark.datasets.json_files import DataRow, index_by_id, read_lines, read_list

NLVR2Layout = Literal["official", "vl_t5"]
LABELS: dict[NLVR2Layout, dict[object, str]] = {
    "official": {"True": "true", "False": "false"},
    "vl_t5": {1: "true", 0: "false"},
}
SENTENCE: dict[NLVR2Layout, str] = {"official": "sentence", "vl_t5": "sent"}


@dataclass(frozen=True)
class StatementFiles(Config):
    """The files of a split, relative to `root`: the statements, and folders with images."""

    statements: str
    images: tuple[str, ...]


@register("nlvr2", tasks=("nlvr2",))
@dataclass(frozen=True, kw_only=True)
class NLVR2(FileFormat):
    """Statements about two images, true or false. `layout` is the layout of the records.

    * official: one record per line, `identifier`, `sentence` and `label` ("True" or "False"). The
      images of dev-850-0-1 are dev-850-0-img0 and dev-850-0-img1.
    * vl_t5: a list of `identifier`, `sent`, `img0`, `img1` and `label` (1 or 0).

    `pattern` makes a file name from the id of an image, {image}; for feature files it ends in .h5.
    """

    files: dict[str, StatementFiles]
    layout: NLVR2Layout = "official"
    pattern: str = "{image}.png"

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
        """Return the file of statements of every split."""
        return {split: files.statements for split, files in self.files.items()}

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per statement and pair of images, in the order of the file.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        path = root / files.statements
        rows = index_by_id(self._read(path), "identifier", path)
        names = {key: self._images(row, f"{path}: identifier {key}") for key, row in rows.items()}
        wanted: list[tuple[str, str]] = []
        for key, pair in names.items():
            wanted += [(f"{path}: identifier {key}", name) for name in pair]
        places = find_images(root, files.images, wanted)
        examples = []
        for key, row in rows.items():
            images = tuple(places[name] for name in names[key])
            label = self._label(row, f"{path}: identifier {key}")
            examples.append(Example(key, images, str(row[SENTENCE[self.layout]]), (label,)))
        return examples

    def _read(self, path: Path) -> list[DataRow]:
        if self.layout == "official":
            return read_lines(path, identifier=str, sentence=str, label=str)
        return read_list(path, identifier=str, sent=str, img0=str, img1=str, label=int)

    def _label(self, row: DataRow, where: str) -> str:
        known = LABELS[self.layout]
        if row["label"] not in known:
            raise DataError(
                f"{where}: label {row['label']!r} is none of {', '.join(map(repr, known))};"
                " fix or remove the record"
            )
        return known[row["label"]]

    def _images(self, row: DataRow, where: str) -> tuple[str, str]:
        """Return the file names of the left and the right image."""
        if self.layout == "vl_t5":
            first, second = row["img0"], row["img1"]
        else:
            pair, dash, _ = row["identifier"].rpartition("-")
            if not dash:
                raise DataError(
                    f"{where}: expected SPLIT-SET-PAIR-SENTENCE, as in dev-850-0-1;"
                    " fix or remove the record"
                )
            first, second = f"{pair}-img0", f"{pair}-img1"
        left = image_name(self.pattern, "image", first, where)
        return left, image_name(self.pattern, "image", second, where)

    def record_place(self, split: str, identifier: str) -> str:
        """Return the file and the identifier of a statement."""
        return self.place_in((self.files[split].statements,), f"identifier {identifier}")
