"""TextCaps (https://textvqa.org/textcaps/): captions of images with text in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request, find_images, read_rows


@dataclass(frozen=True)
class TextCapsFiles(Config):
    """The files of a split, relative to `root`: the captions JSON and the folders to look for images in."""

    captions: str
    images: tuple[str, ...]


@register("textcaps", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class TextCaps(FileFormat):
    """One JSON a split, whose list `data` has a record a caption: `image_id` and `caption_str`.

    One example an image, called `image_id`; its answers are all of its captions. The images are `image_id`.jpg. The test
    set comes without captions and is scored by a server only, so it cannot be a split here.
    """

    files: dict[str, TextCapsFiles]

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: the keys of `files`."""
        return tuple(self.files)

    def annotation_files(self) -> Mapping[str, str]:
        """Every split's captions."""
        return {split: files.captions for split, files in self.files.items()}

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example an image, in the order of first captions. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        path = root / files.captions
        captions: dict[str, list[str]] = {}
        for row in read_rows(path, "data", image_id=str, caption_str=str):
            captions.setdefault(row["image_id"], []).append(row["caption_str"])
        places = find_images(
            root, files.images, ((f"{path}: image_id {key}", f"{key}.jpg") for key in captions)
        )
        return [
            Example(key, (places[f"{key}.jpg"],), "", tuple(texts))
            for key, texts in captions.items()
        ]
