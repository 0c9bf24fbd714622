"""TextCaps (https://textvqa.org/textcaps/): captions of images that contain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.json_files import read_rows


@dataclass(frozen=True)
class TextCapsFiles(Config):
    """The files of a split, relative to `root`: the captions JSON, and folders with images."""

    captions: str
    images: tuple[str, ...]


@register("textcaps", tasks=("captioning",))
@dataclass(frozen=True, kw_only=True)
class TextCaps(FileFormat):
    """One JSON per split; its list `data` has one record per caption.

    A record has `image_id` and `caption_str`. Each image is one example with the id `image_id`; its
    answers are all of its captions. The image files are `image_id`.jpg. The test set has no
    captions and only a server scores it, so it cannot be a split here.
    """

    files: dict[str, TextCapsFiles]

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits: the keys of `files`."""
        return tuple(self.files)

    def annotation_files(self) -> Mapping[str, str]:
        """Return the captions file of every split."""
        return {split: files.captions for split, files in self.files.items()}

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per image, in the order of the first captions.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        files, root = self.files[split], Path(self.root)
        path = root / files.captions
        captions: dict[str, list[str]] = {}
        for row in read_rows(path, "data", image_id=str, caption_str=str):
            captions.setdefault(row["image_id"], []).append(row["caption_str"])
        wanted = ((f"{path}: image_id {key}", f"{key}.jpg") for key in captions)
        places = find_images(root, files.images, wanted)
        return [
            Example(key, (places[f"{key}.jpg"],), "", tuple(texts))
            for key, texts in captions.items()
        ]

    def record_place(self, split: str, identifier: str) -> str:
        """Return the captions file and the id of an image."""
        return self.place_in((self.files[split].captions,), f"image_id {identifier}")
