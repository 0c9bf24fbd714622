"""The official COCO captions files (https://cocodataset.org/#download), and any dataset converted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.config import Config
from benchmark.datasets.base import DataFormat, Example, Pixels
from benchmark.datasets.files import ID, by_id, check_request, content_fingerprint, decode_image, read_rows, require_images
from benchmark.errors import DataError
from benchmark.registry import register


@dataclass(frozen=True)
class CaptionFiles(Config):
    """The files of a split, relative to `root`: the captions JSON and the folder of its images."""

    annotations: str
    images: str


@register("coco_captions", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class COCOCaptions(DataFormat):
    """One captions JSON a split, with `images` and `annotations`, as COCO publishes them.

    One example an image; its answers are all of its captions. An image without a caption and a caption without an image
    are errors: the official files have neither, and the test sets' files (no captions) cannot be scored here.
    """

    files: dict[str, CaptionFiles]

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: the keys of `files`."""
        return tuple(self.files)

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example an image, in the order of `images`. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        files = self.files[split]
        path = Path(self.root) / files.annotations
        images = by_id(read_rows(path, "images", id=ID, file_name=str), "id", path)
        captions: dict[str, list[str]] = {image: [] for image in images}
        for row in read_rows(path, "annotations", image_id=ID, caption=str):
            if str(row["image_id"]) not in captions:
                raise DataError(f"{path}: image_id {row['image_id']} has a caption but is not in 'images'; remove the caption or add it")
            captions[str(row["image_id"])].append(row["caption"])
        if bare := [image for image, texts in captions.items() if not texts]:
            raise DataError(f"{path}: image id {bare[0]} has no caption ({len(bare)} have none); remove it from 'images' or add one")
        require_images(Path(self.root) / files.images, ((f"{path}: image id {key}", row["file_name"]) for key, row in images.items()))
        return [Example(key, (f"{files.images}/{row['file_name']}",), "", tuple(captions[key])) for key, row in images.items()]

    def image(self, image: str) -> Pixels:
        """Decode one image by its path below `root`. Raises DataError naming the file."""
        return decode_image(Path(self.root) / image)

    def fingerprint(self) -> str:
        """Hash (12 hex digits) of the bytes of every split's captions file; images are not read."""
        return content_fingerprint({split: Path(self.root) / files.annotations for split, files in self.files.items()})
