"""The official COCO captions files (https://cocodataset.org/#download), and any dataset converted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config, added_field
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import (
    ID,
    DataRow,
    FileFormat,
    check_request,
    index_by_id,
    read_rows,
    require_images,
)

FLAGS = (
    "is_precanned",
    "is_rejected",
)  # of VizWiz's captions: a stock phrase for an image that shows nothing, spam


@dataclass(frozen=True)
class CaptionFiles(Config):
    """The files of a split, relative to `root`: the captions JSON and the folder of its images."""

    annotations: str
    images: str


@register("coco_captions", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class COCOCaptions(FileFormat):
    """One captions JSON a split, with `images` and `annotations`, as COCO publishes them.

    One example an image; its answers are all of its captions. An image without a caption and a caption without an image
    are errors: the official files have neither, and the test sets' files (no captions) cannot be scored here.
    `drop_flagged` leaves out what VizWiz marks `is_precanned` or `is_rejected`, and images that keep no caption.
    """

    files: dict[str, CaptionFiles]
    drop_flagged: bool = added_field(False)

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: the keys of `files`."""
        return tuple(self.files)

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example an image, in the order of `images`. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        files = self.files[split]
        path = Path(self.root) / files.annotations
        images = index_by_id(read_rows(path, "images", id=ID, file_name=str), "id", path)
        captions: dict[str, list[str]] = {image: [] for image in images}
        for row in self._captions(path):
            if str(row["image_id"]) not in captions:
                raise DataError(
                    f"{path}: image_id {row['image_id']} has a caption but is not in 'images'; remove the caption or add it"
                )
            captions[str(row["image_id"])] += (
                [] if self.drop_flagged and any(row[flag] for flag in FLAGS) else [row["caption"]]
            )
        bare = [image for image, texts in captions.items() if not texts]
        if bare and not self.drop_flagged:
            raise DataError(
                f"{path}: image id {bare[0]} has no caption ({len(bare)} have none); remove it from 'images' or add one"
            )
        kept = {key: row for key, row in images.items() if captions[key]}
        require_images(
            Path(self.root) / files.images,
            ((f"{path}: image id {key}", row["file_name"]) for key, row in kept.items()),
        )
        return [
            Example(key, (f"{files.images}/{row['file_name']}",), "", tuple(captions[key]))
            for key, row in kept.items()
        ]

    def counts(self, split: str, examples: Sequence[Example]) -> dict[str, int]:
        """With the numbers before anything is dropped, where something may be."""
        counts = super().counts(split, examples)
        if self.drop_flagged:
            path = Path(self.root) / self.files[split].annotations
            counts |= {
                "images in the file": len(read_rows(path, "images")),
                "captions in the file": len(self._captions(path)),
            }
        return counts

    def annotation_files(self) -> Mapping[str, str]:
        """Every split's captions file."""
        return {split: files.annotations for split, files in self.files.items()}

    def _captions(self, path: Path) -> list[DataRow]:
        flags = dict.fromkeys(FLAGS, bool) if self.drop_flagged else {}
        return read_rows(path, "annotations", image_id=ID, caption=str, **flags)
