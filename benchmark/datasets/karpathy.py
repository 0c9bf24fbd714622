"""Karpathy's caption splits (https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import added_field
from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import (
    ID,
    DataRow,
    FileFormat,
    check_request,
    check_row,
    read_rows,
    require_images,
)

SPLITS = ("train", "val", "test")
MARKS = (*SPLITS, "restval")  # what the file's `split` may say


@register("karpathy", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class Karpathy(FileFormat):
    """One JSON for all splits: `dataset_coco.json`, `dataset_flickr8k.json` or `dataset_flickr30k.json`.

    One example an image; its answers are the raw sentences and its id is the `cocoid`, or `imgid` where the file has none.
    `images` is the folder that an image's own `filepath` (Flickr files have none) is below. "restval" marks the part of
    val2014 that is in neither val nor test; nearly every paper trains on it (113,287 instead of 82,783 images).
    `feature_folder` holds feature files, NAME.h5 for the image NAME.jpg, that are given in place of images.
    """

    file: str
    images: str = ""
    restval_in_train: bool = True
    feature_folder: str = added_field("")

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: always train, val and test."""
        return SPLITS

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example an image, in the file's order. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        path = Path(self.root) / self.file
        rows = _by_image(read_rows(path, "images", filename=str, split=str, sentences=list), path)
        marks = ("train", "restval") if split == "train" and self.restval_in_train else (split,)
        chosen = {key: row for key, row in rows.items() if row["split"] in marks}
        if not chosen:
            raise DataError(
                f"{path}: no image is marked '{split}'; use another split or fetch the file again"
            )
        examples = [
            Example(key, (self._place(row),), "", _captions(row, f"{path}: image {key}"))
            for key, row in chosen.items()
        ]
        wanted = defaultdict[str, list[tuple[str, str]]](list)
        for example in examples:
            folder, _, name = example.images[0].rpartition("/")
            wanted[folder].append((f"{path}: image {example.id}", name))
        for folder, names in wanted.items():
            require_images(Path(self.root) / folder, names)
        return examples

    @property
    def precomputed(self) -> bool:
        """Where there is a folder of features."""
        return bool(self.feature_folder)

    def annotation_files(self) -> Mapping[str, str]:
        """The one file, whichever part is used."""
        return {"captions": self.file}

    def _place(self, row: DataRow) -> str:
        if self.feature_folder:
            return Path(self.feature_folder, f"{Path(row['filename']).stem}.h5").as_posix()
        return Path(self.images, str(row.get("filepath", "")), str(row["filename"])).as_posix()


def _by_image(rows: list[DataRow], path: Path) -> dict[str, DataRow]:
    out: dict[str, DataRow] = {}
    for index, row in enumerate(rows):
        field = "cocoid" if "cocoid" in row else "imgid"
        check_row(row, {field: ID}, f"{path}: images[{index}]")
        key = str(row[field])
        if key in out:
            raise DataError(f"{path}: {field} {key} occurs twice; keep one of the two records")
        if row["split"] not in MARKS:
            raise DataError(
                f"{path}: image {key}: unknown split '{row['split']}'{did_you_mean(row['split'], MARKS)}"
            )
        out[key] = row
    return out


def _captions(row: DataRow, where: str) -> tuple[str, ...]:
    if not row["sentences"]:
        raise DataError(f"{where}: has no sentences; remove the image or add one")
    for sentence in row["sentences"]:
        check_row(sentence, {"raw": str}, f"{where}: sentences")
    return tuple(sentence["raw"] for sentence in row["sentences"])
