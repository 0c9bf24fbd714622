"""The official COCO captions files, and data converted to their layout.

Source: https://cocodataset.org/#download
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config, added_field
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.json_files import ID, DataRow, index_by_id, read_rows

# Flags of VizWiz captions: a stock phrase for an image that shows nothing, and spam.
FLAGS = ("is_precanned", "is_rejected")


@dataclass(frozen=True)
class CaptionFiles(Config):
    """The files of a split, relative to `root`: the captions JSON and the folder of its images."""

    annotations: str
    images: str


@register("coco_captions", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class COCOCaptions(FileFormat):
    """One captions JSON per split, with `images` and `annotations`, as COCO publishes them.

    Each image is one example; its answers are all of its captions. An image without a caption and a
    caption without an image are errors, because the official files have neither. The test sets have
    no captions, so they cannot be scored here.

    `drop_flagged` leaves out captions that VizWiz marks as `is_precanned` or `is_rejected`, and
    images that keep no caption.
    """

    files: dict[str, CaptionFiles]
    drop_flagged: bool = added_field(False)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits: the keys of `files`."""
        return tuple(self.files)

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per image, in the order of `images`.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        files = self.files[split]
        path = Path(self.root) / files.annotations
        images = index_by_id(read_rows(path, "images", id=ID, file_name=str), "id", path)
        captions = self._captions_by_image(images, path)
        kept = {key: row for key, row in images.items() if captions[key]}
        wanted = ((f"{path}: image id {key}", row["file_name"]) for key, row in kept.items())
        places = find_images(Path(self.root), (files.images,), wanted)
        return [
            Example(key, (places[row["file_name"]],), "", tuple(captions[key]))
            for key, row in kept.items()
        ]

    def record_place(self, split: str, identifier: str) -> str:
        """Return the captions file and the id of an image."""
        return self.place_in((self.files[split].annotations,), f"image id {identifier}")

    def counts(self, split: str, examples: Sequence[Example]) -> dict[str, int]:
        """Count also the images and captions in the file, if `drop_flagged` may drop some."""
        counts = super().counts(split, examples)
        if self.drop_flagged:
            path = Path(self.root) / self.files[split].annotations
            counts["images in the file"] = len(read_rows(path, "images"))
            counts["captions in the file"] = len(self._caption_rows(path))
        return counts

    def annotation_files(self) -> Mapping[str, str]:
        """Return the captions file of every split."""
        return {split: files.annotations for split, files in self.files.items()}

    def _captions_by_image(self, images: Mapping[str, DataRow], path: Path) -> dict[str, list[str]]:
        captions: dict[str, list[str]] = {image: [] for image in images}
        for row in self._caption_rows(path):
            image = str(row["image_id"])
            if image not in captions:
                raise DataError(
                    f"{path}: image_id {image} has a caption but is not in 'images';"
                    " remove the caption or add the image"
                )
            if not self._is_dropped(row):
                captions[image].append(row["caption"])
        bare = [image for image, texts in captions.items() if not texts]
        if bare and not self.drop_flagged:
            raise DataError(
                f"{path}: image id {bare[0]} has no caption ({len(bare)} have none);"
                " remove it from 'images' or add one"
            )
        return captions

    def _is_dropped(self, row: DataRow) -> bool:
        return self.drop_flagged and any(row[flag] for flag in FLAGS)

    def _caption_rows(self, path: Path) -> list[DataRow]:
        flags: dict[str, type] = {}
        if self.drop_flagged:
            flags = dict.fromkeys(FLAGS, bool)
        return read_rows(path, "annotations", image_id=ID, caption=str, **flags)
