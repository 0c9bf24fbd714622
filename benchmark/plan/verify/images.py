"""Images to the pixel: drawn, decoded, resized, scaled, augmented."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.datasets.base import Pixels
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.datasets.shapes import Shapes
from vlpeft.benchmark.plan.verify.check import Check, JSONValue
from vlpeft.benchmark.run.augmentation import augment

SCENES = tuple(f"test/{i}" for i in range(4))
SIZE = 48
RESAMPLINGS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
# Scene test/0 as a JPEG file of quality 60. Other versions of the decoder may give other pixels.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNy"
    "wtQFdBRkxOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09P"
    "T09PT09PT09PT09PT09PT09PT09PT0//wAARCABAAEADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAw"
    "QFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkK"
    "FhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmq"
    "KjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEB"
    "AQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRob"
    "HBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOE"
    "hYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+P"
    "n6/9oADAMBAAIRAxEAPwDuqKKKkyCiiigAooooAKKKKACiiikAVHcTx21vJPM2EjUsxqSoLy0gvoDBdIXjJBK7iufy"
    "NDvbQuHLzLn262K2i6pHqtl56rsdWKumc49P0rQqlY6VZae7tZwmMuMN87HP5mrtKN7e9uXiHSdRujdR6X/phRRRVG"
    "IVm61fm0gVImxK54PoPWtF3WNGdzhVGSfQVx19ctd3TzN0Jwo9B2oRUUdXZXK3dqky9xyPQ9xU9czoV55Fz5Dn93Lw"
    "PZu1dNQJqxX1G6+w6bdXmzf9nheXZnG7aCcZ7dK4P/haP/UF/wDJr/7Cuz8Rf8i3qn/XnL/6Aa8HpocUei/8LR/6gv"
    "8A5Nf/AGFd3p119u021vNnl/aIUl2Zzt3AHGe/Wvn+vePDv/ItaX/15xf+gChg0kaDosiFZFDKeoIyDUP2K0/59YP+"
    "/YqeikSQCytM5FrD/wB+xU9FFAGd4i/5FvVP+vOX/wBANeD19E0UJlJ2PnavePDv/ItaX/15xf8AoArRoobBu5//2Q"
    "=="
)


class Square(VisionTower):
    """The attributes of a tower that `transform` reads."""

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, size: int, resample: Image.Resampling) -> None:
        super().__init__()
        self.size, self.resample = size, resample


def checks(device: torch.device) -> Iterator[Check]:
    """Yield the checks of images.

    All are exact: Pillow resizes in integers, and scaling is a sequence of single IEEE operations.
    """
    yield Check("scenes as drawn", scene_digests)
    yield Check("a JPEG file, decoded", decoded_digest)
    for way in RESAMPLINGS:
        name = way.name.lower()
        whole = scene(0).shape[0]
        yield Check(f"scaled, not resized, {name}", partial(transformed_digest, whole, way))
        yield Check(f"resized by {name}, smaller", partial(transformed_digest, SIZE, way))
        wide = partial(transformed_digest, 2 * SIZE, way, (40, 56))
        yield Check(f"resized by {name}, wider than high", wide)
    yield Check("augmented views", view_digests)


@cache
def scene(number: int) -> Pixels:
    """Return a drawn scene: (64, 64, 3), uint8."""
    return Shapes().image(SCENES[number])


def digest(pixels: Any) -> JSONValue:
    """Return shape, type, mean and hash. The mean shows how far off other pixels are."""
    if not isinstance(pixels, np.ndarray | torch.Tensor):
        return f"a {type(pixels).__name__}"
    array = np.ascontiguousarray(np.asarray(pixels))
    mean = round(float(array.astype(np.float64).mean()), 9)
    return {
        "shape": list(array.shape),
        "type": str(array.dtype),
        "mean": mean,
        "sha256": hashlib.sha256(array.tobytes()).hexdigest()[:16],
    }


def scene_digests() -> JSONValue:
    """Return the digests of all scenes. They are drawn again, because `scene` caches them."""
    return [digest(Shapes().image(name)) for name in SCENES]


def decoded_digest() -> JSONValue:
    """Return the digest of the pixels that datasets read from a JPEG file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scene.jpg"
        path.write_bytes(JPEG)
        return digest(decode_image(path))


def transformed_digest(
    size: int, way: Image.Resampling, cut: tuple[int, int] | None = None
) -> JSONValue:
    """Return the digest of a scene as the input of a tower; `cut` takes a (height, width) part."""
    pixels = scene(0)
    if cut is not None:
        pixels = pixels[: cut[0], : cut[1]]
    return digest(transform(pixels, cast("VisionTower", Square(size, way))))


def view_digests() -> JSONValue:
    """Return the digests of views of several seeds: crops, flips and RandAugment."""
    return [digest(augment(scene(1), SIZE, f"seed {i}")) for i in range(8)]
