"""Opens a dataset for the report: the questions and pictures of the shown examples."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.paths import hide_folders
from vlpeft.benchmark.datasets.base import DataFormat, Example, read_examples

LOSSLESS = 8000  # bytes; a larger PNG is a photograph, which loses nothing visible as JPEG
THUMBNAIL = 192  # pixels of the longer side


@dataclass(frozen=True)
class OpenedExamples:
    """Some examples of a dataset.

    pictures: data URIs, by image id.
    unseen: why an image is not there, by image id.
    missing: why no example is there.
    """

    examples: Mapping[str, Example] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""

    def why_missing(self, example: Example | None) -> str:
        """Return why the example or some of its images are not there, or ""."""
        if self.missing or example is None:
            return self.missing
        reasons = (self.unseen[image] for image in example.images if image in self.unseen)
        return "; ".join(dict.fromkeys(reasons))


def open_examples(cell: Planned, part: int, store: Results, names: Sequence[str]) -> OpenedExamples:
    """Read the examples `names` of one task of a cell, with their pictures."""
    where = cell.cell.parts[part]
    recorded = store.record(cell.id).provenance.get("data")
    try:
        data = where.dataset.open()
        if _is_other(data, part, recorded):
            missing = (
                f"the dataset '{where.dataset.name}' that is here is not the one that the cells saw"
            )
            return OpenedExamples(missing=missing)
        wanted = set(names)
        every = read_examples(data, where.task, where.protocol.eval_split)
        examples = {each.id: each for each in every if each.id in wanted}
    except UserError as error:
        reason = hide_folders(str(error), where.dataset.root)
        return OpenedExamples(missing=f"question and image are not here: {reason}")
    images: dict[str, None] = {}
    for name in names:
        if name in examples:
            images |= dict.fromkeys(examples[name].images)
    pictures: dict[str, str] = {}
    unseen: dict[str, str] = {}
    for image in images:
        try:
            pictures[image] = _thumbnail(data, image)
        except UserError as error:
            reason = hide_folders(str(error), where.dataset.root)
            unseen[image] = f"the image is not here: {reason}"
    return OpenedExamples(examples, pictures, unseen)


def _is_other(data: DataFormat, part: int, recorded: object) -> bool:
    """Return whether the record was made from other data.

    The record of a joint cell has the fingerprint of each task, joined by "+".
    """
    found = str(recorded).split("+")
    return part >= len(found) or data.fingerprint() != found[part]


def _thumbnail(data: DataFormat, image: str) -> str:
    """Return a data URI of the image, at most THUMBNAIL pixels wide and high.

    It is a PNG, or a JPEG if the PNG would have more than LOSSLESS bytes.
    """
    if data.has_features:
        raise UserError("this dataset contains features, not pictures")
    picture = Image.fromarray(data.image(image))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    kind, content = "png", _encode(picture, "PNG", optimize=True)
    if len(content) > LOSSLESS:
        kind, content = "jpeg", _encode(picture, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encode(picture: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
