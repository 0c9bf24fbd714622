"""Image augmentation by name. `blip` is what BLIP and the p-Adapter train on (its repository: transform/randaugment.py, N=2, M=5).

All draws come from one generator a view, so that a view is a function of its seed alone: resuming repeats it exactly.

Differences from BLIP's OpenCV code, all below a pixel: Pillow takes a pixel's centre where OpenCV takes its corner (which moves
sheared and rotated images by up to half a pixel times the factor), and does not blend an image's edge with the fill colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageOps

from vlpeft.benchmark.datasets.base import Pixels

SCALE, RATIO, ATTEMPTS = (
    (0.5, 1.0),
    (3 / 4, 4 / 3),
    10,
)  # of the crop: share of the area, width to height, draws
OPERATIONS, CHANCE = 2, 0.5  # of RandAugment: operations drawn, and how likely each is then used
SHEAR, TRANSLATE, DEGREES = 0.15, 5, 15  # at magnitude 5 of 10; pixels of the cropped image
GREY = (128, 128, 128)
Affine = tuple[float, float, float, float, float, float]
Operation = Callable[[Image.Image, int], Image.Image]  # image and a drawn sign, 1 or -1


def augment(pixels: Pixels, size: int, seed: str) -> Pixels:
    """A view of an image, (size, size, 3): a crop of half its area or more, flipped half the time, then RandAugment."""
    draw = Random(seed)
    image = Image.fromarray(pixels)
    view = image.crop(crop_box(*image.size, draw)).resize(
        (size, size), resample=Image.Resampling.BICUBIC
    )
    if draw.random() < 0.5:
        view = ImageOps.mirror(view)
    for operation in draw.choices(list(OPERATION.values()), k=OPERATIONS):
        sign = draw.choice((1, -1))
        if draw.random() < CHANCE:
            view = operation(view, sign)
    return np.asarray(view)


def crop_box(width: int, height: int, draw: Random) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge, drawn as torchvision's RandomResizedCrop does (which takes no generator)."""
    low, high = map(math.log, RATIO)
    for _ in range(ATTEMPTS):
        area, ratio = width * height * draw.uniform(*SCALE), math.exp(draw.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, upper, left + w, upper + h
    w = min(
        width, round(height * RATIO[1])
    )  # a long image: its middle, as wide or as high as the ratio allows
    h = min(height, round(width / RATIO[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _moved(image: Image.Image, inverse: Affine) -> Image.Image:
    """`inverse` maps places of the result to places of the image."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        inverse,
        resample=Image.Resampling.BILINEAR,
        fillcolor=GREY,
    )


def _same(image: Image.Image, sign: int) -> Image.Image:  # noqa: ARG001
    return image


# Brightness and sharpness scale by 0.1 + 1.8 x 5/10, which is 1 at this magnitude: they change nothing, in BLIP's code as here.
OPERATION: dict[str, Operation] = {
    "identity": _same,
    "autocontrast": lambda image, _: ImageOps.autocontrast(
        image, cutoff=0, ignore=None, preserve_tone=False
    ),
    "brightness": _same,
    "sharpness": _same,
    "equalize": lambda image, _: ImageOps.equalize(image, mask=None),
    "shear_x": lambda image, sign: _moved(image, (1, -sign * SHEAR, 0, 0, 1, 0)),
    "shear_y": lambda image, sign: _moved(image, (1, 0, 0, -sign * SHEAR, 1, 0)),
    "translate_x": lambda image, sign: _moved(image, (1, 0, -sign * TRANSLATE, 0, 1, 0)),
    "translate_y": lambda image, sign: _moved(image, (1, 0, 0, 0, 1, -sign * TRANSLATE)),
    "rotate": lambda image, sign: image.rotate(
        sign * DEGREES, resample=Image.Resampling.BILINEAR, expand=False, fillcolor=GREY
    ),
}
