"""Image augmentation by name.

`blip` is what BLIP and the p-Adapter train on: transform/randaugment.py of BLIP's repository, with
N=2 and M=5.

All draws of a view come from one generator. So a view is a function of its seed alone, and a
resumed run repeats it exactly.

There are differences from BLIP's OpenCV code, all below one pixel. Pillow takes the centre of a
pixel where OpenCV takes its corner, which moves sheared and rotated images by up to half a pixel
times the factor. Pillow also does not blend the edge of an image with the fill colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageOps

from vlpeft.benchmark.datasets.base import Pixels

# Of the crop: share of the area, ratio of width to height, and number of draws.
SCALE = (0.5, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10
# Of RandAugment: number of operations drawn, and the probability that each is then applied.
OPERATIONS = 2
CHANCE = 0.5
# At magnitude 5 of 10. TRANSLATE is in pixels of the cropped image.
SHEAR, TRANSLATE, DEGREES = 0.15, 5, 15
GREY = (128, 128, 128)
Affine = tuple[float, float, float, float, float, float]
Operation = Callable[[Image.Image, int], Image.Image]  # image and a drawn sign, 1 or -1


def augment(pixels: Pixels, size: int, seed: str) -> Pixels:
    """Return a view of an image: (size, size, 3).

    It is a crop of half the area or more, flipped half the time, and then RandAugment. The order of
    the draws is part of the definition: another order would give other views for old seeds.
    """
    draw = Random(seed)
    image = Image.fromarray(pixels)
    # At least half of the area; torchvision's default allows 8 %.
    crop = image.crop(crop_box(*image.size, draw))
    view = crop.resize((size, size), resample=Image.Resampling.BICUBIC)
    # BLIP flips for VQA and entailment as well, where left and right may matter.
    if draw.random() < 0.5:
        view = ImageOps.mirror(view)
    for operation in draw.choices(list(OPERATION.values()), k=OPERATIONS):
        sign = draw.choice((1, -1))
        if draw.random() < CHANCE:
            view = operation(view, sign)
    return np.asarray(view)


def crop_box(width: int, height: int, draw: Random) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower edge of a crop, in pixels.

    It is drawn like torchvision's RandomResizedCrop, which itself accepts no generator.
    """
    low, high = map(math.log, RATIO)
    for _ in range(ATTEMPTS):
        area = width * height * draw.uniform(*SCALE)
        ratio = math.exp(draw.uniform(low, high))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, upper, left + w, upper + h
    # No crop fits a very long image: take its middle, as wide or as high as RATIO allows.
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _transform(image: Image.Image, inverse: Affine) -> Image.Image:
    """Apply an affine map; `inverse` maps points of the result to points of the image."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        inverse,
        resample=Image.Resampling.BILINEAR,
        fillcolor=GREY,
    )


def _identity(image: Image.Image, sign: int) -> Image.Image:
    return image


def _autocontrast(image: Image.Image, sign: int) -> Image.Image:
    return ImageOps.autocontrast(image, cutoff=0, ignore=None, preserve_tone=False)


def _equalize(image: Image.Image, sign: int) -> Image.Image:
    return ImageOps.equalize(image, mask=None)


def _rotate(image: Image.Image, sign: int) -> Image.Image:
    return image.rotate(
        sign * DEGREES, resample=Image.Resampling.BILINEAR, expand=False, fillcolor=GREY
    )


# Brightness and sharpness scale by 0.1 + 1.8 x 5/10. At this magnitude the factor is 1, so they
# change nothing, in BLIP's code as well. They stay in the table because they can be drawn.
OPERATION: dict[str, Operation] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "brightness": _identity,
    "sharpness": _identity,
    "equalize": _equalize,
    "shear_x": lambda image, sign: _transform(image, (1, -sign * SHEAR, 0, 0, 1, 0)),
    "shear_y": lambda image, sign: _transform(image, (1, 0, 0, -sign * SHEAR, 1, 0)),
    "translate_x": lambda image, sign: _transform(image, (1, 0, -sign * TRANSLATE, 0, 1, 0)),
    "translate_y": lambda image, sign: _transform(image, (1, 0, 0, 0, 1, -sign * TRANSLATE)),
    "rotate": _rotate,
}
