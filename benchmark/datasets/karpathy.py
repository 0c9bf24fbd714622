"""Karpathy's caption splits.

Source: https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlpeft.benchmark.core.config import added_field
from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.image_names import inner_path
from vlpeft.benchmark.datasets.json_files import ID, DataRow, check_row, read_rows

SPLITS = ("train", "val", "test")
MARKS = (*SPLITS, "restval")  # the values of `split` in the file


@register("karpathy", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class Karpathy(FileFormat):
    """One JSON for all splits, such as `dataset_coco.json` or `dataset_flickr30k.json`.

    Each image is one example; its answers are the raw sentences. Its id is the `cocoid`, or `imgid`
    if the file has no `cocoid`. `images` is the folder that contains the `filepath` of every image;
    Flickr files have no `filepath`.

    "restval" marks the part of val2014 that is in neither val nor test. Nearly every paper trains
    on it: 113,287 instead of 82,783 images.

    `feature_folder` holds feature files, NAME.h5 for the image NAME.jpg, which are read instead of
    images.
    """

    file: str
    images: str = ""
    restval_in_train: bool = True
    feature_folder: str = added_field("")

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits: always train, val and test."""
        return SPLITS

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per image, in the order of the file.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        path = Path(self.root) / self.file
        rows = self._rows_of_split(path, split)
        names = {key: self._image(row, f"{path}: image {key}") for key, row in rows.items()}
        if self.feature_folder:
            names = _feature_names(names, path)
        folder = PurePosixPath(self.feature_folder or self.images).as_posix().removeprefix(".")
        wanted = ((f"{path}: image {key}", name) for key, name in names.items())
        places = find_images(Path(self.root), (folder,), wanted)
        return [
            Example(key, (places[names[key]],), "", _captions(row, f"{path}: image {key}"))
            for key, row in rows.items()
        ]

    @property
    def has_features(self) -> bool:
        """Whether a folder of features is set."""
        return bool(self.feature_folder)

    def annotation_files(self) -> Mapping[str, str]:
        """Return the one file that holds all splits."""
        return {"captions": self.file}

    def _rows_of_split(self, path: Path, split: str) -> dict[str, DataRow]:
        marks = [split]
        if split == "train" and self.restval_in_train:
            marks.append("restval")
        rows = _by_image(read_rows(path, "images", filename=str, split=str, sentences=list), path)
        chosen = {key: row for key, row in rows.items() if row["split"] in marks}
        if not chosen:
            raise DataError(
                f"{path}: no image is marked '{split}'; use another split or fetch the file again"
            )
        return chosen

    def record_place(self, split: str, identifier: str) -> str:
        """Return the file and the id of an image."""
        return self.place_in((self.file,), f"image {identifier}")

    def _image(self, row: DataRow, where: str) -> str:
        """Return the path of an image below the folder `images`."""
        folder = row.get("filepath", "")
        if not isinstance(folder, str):
            raise DataError(f"{where}: 'filepath' must be str; fix the record")
        name = inner_path(row["filename"], where)
        if not folder:
            return name
        return inner_path(f"{folder}/{name}", where)


def _feature_names(images: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return the names of feature files: NAME.h5, without the folder of the image.

    Raises:
        DataError: Two images would share a feature file.
    """
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key, image in images.items():
        names[key] = f"{Path(image).stem}.h5"
        other = owners.setdefault(names[key], image)
        if other != image:
            raise DataError(
                f"{path}: image {key}: '{image}' and '{other}' would share the features"
                f" {names[key]}; rename one of them"
            )
    return names


def _by_image(rows: list[DataRow], path: Path) -> dict[str, DataRow]:
    out: dict[str, DataRow] = {}
    for index, row in enumerate(rows):
        field = "imgid"
        if "cocoid" in row:
            field = "cocoid"
        check_row(row, {field: ID}, f"{path}: images[{index}]")
        key = str(row[field])
        if key in out:
            raise DataError(f"{path}: {field} {key} occurs twice; keep one of the two records")
        if row["split"] not in MARKS:
            near = did_you_mean(row["split"], MARKS)
            raise DataError(f"{path}: image {key}: unknown split '{row['split']}'{near}")
        out[key] = row
    return out


def _captions(row: DataRow, where: str) -> tuple[str, ...]:
    if not row["sentences"]:
        raise DataError(f"{where}: has no sentences; remove the image or add one")
    for sentence in row["sentences"]:
        check_row(sentence, {"raw": str}, f"{where}: sentences")
    return tuple(sentence["raw"] for sentence in row["sentences"])
