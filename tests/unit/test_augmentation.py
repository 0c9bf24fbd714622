"""BLIP's training view of an image: torchvision's crop, ten operations, and one seed for all."""

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from vlpeft.benchmark.run.augmentation import GREY, OPERATION, augment, crop_box

SIZE = 32


def image(width: int = 48, height: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth() -> Image.Image:
    """Draw slowly varying colours, so that half a pixel hardly matters.

    No channel spans the whole range.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return Image.fromarray(
        np.stack([40 + 4 * x, 60 + 3 * y, 30 + 2 * (x + y)], -1).astype(np.uint8)
    )


@given(st.integers(1, 60), st.integers(1, 60), st.text(max_size=9))
def test_a_view_is_a_function_of_its_seed(width: int, height: int, seed: str) -> None:
    pixels = image(width, height)
    view = augment(pixels, SIZE, seed)
    assert view.shape == (SIZE, SIZE, 3)
    assert view.dtype == np.uint8
    assert np.array_equal(view, augment(pixels, SIZE, seed))


def test_seeds_give_other_views_and_change_nothing_else() -> None:
    pixels = image()
    kept, state = pixels.copy(), torch.random.get_rng_state()
    views = {augment(pixels, SIZE, f"0/{i}").tobytes() for i in range(50)}
    assert len(views) == 50
    assert np.array_equal(pixels, kept)
    assert torch.equal(torch.random.get_rng_state(), state)


@given(st.integers(1, 300), st.integers(1, 300), st.integers())
def test_crops_stay_inside_the_image(width: int, height: int, seed: int) -> None:
    left, upper, right, lower = crop_box(width, height, Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height


@pytest.mark.parametrize(
    ("width", "height"), [(640, 480), (224, 224), (300, 900), (1000, 100), (100, 1000)]
)
def test_crops_are_drawn_as_torchvision_draws_them(width: int, height: int) -> None:
    draw, blank = Random(0), torch.empty(3, height, width)
    torch.manual_seed(0)
    ours = np.array([crop_box(width, height, draw) for _ in range(3000)], float)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)],
        float,
    )  # top, left, height, width
    found = np.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], 1)
    spread = np.array([height, width, height, width])
    assert np.abs(found.mean(0) - theirs.mean(0)).max() < 0.02 * spread.max()
    assert (
        np.abs(
            np.quantile(found, [0.1, 0.5, 0.9], 0) - np.quantile(theirs, [0.1, 0.5, 0.9], 0)
        ).max()
        < 0.04 * spread.max()
    )


def test_all_ten_operations_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    used: Counter[str] = Counter()
    for name in OPERATION:
        monkeypatch.setitem(OPERATION, name, lambda view, _, name=name: used.update([name]) or view)
    for i in range(4000):
        augment(image(8, 8), 8, str(i))
    assert set(used) == set(OPERATION)
    assert len(OPERATION) == 10
    assert used.total() == pytest.approx(4000, rel=0.05), (
        "two are drawn, each is used half the time"
    )
    assert all(n == pytest.approx(400, rel=0.2) for n in used.values())


@pytest.mark.parametrize("name", ["identity", "brightness", "sharpness"])
def test_operations_without_effect_at_magnitude_5(name: str) -> None:
    assert OPERATION[name](smooth(), 1) == smooth()
    for operation in (F.adjust_brightness, F.adjust_sharpness):
        assert np.array_equal(operation(smooth(), 0.1 + 1.8 * 5 / 10), smooth())


@pytest.mark.parametrize(
    ("name", "operation"), [("autocontrast", F.autocontrast), ("equalize", F.equalize)]
)
def test_histograms(name: str, operation) -> None:
    assert np.array_equal(OPERATION[name](smooth(), 1), operation(smooth()))
    assert not np.array_equal(OPERATION[name](smooth(), 1), smooth())


def warped(where) -> np.ndarray:
    """Warp the image by OpenCV's definition: bilinear, and a pixel's place is its index.

    `where` maps the result to the source.
    """
    source = np.asarray(smooth(), float)
    out = np.empty_like(source)
    for y in range(SIZE):
        for x in range(SIZE):
            sx, sy = where(x, y)
            left, upper = int(np.floor(sx)), int(np.floor(sy))
            value = np.zeros(3)
            for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
                inside = 0 <= left + i < SIZE and 0 <= upper + j < SIZE
                colour = source[upper + j, left + i] if inside else np.array(GREY, float)
                value += colour * abs(1 - i - (sx - left)) * abs(1 - j - (sy - upper))
            out[y, x] = value
    return out


COS, SIN, HALF = np.cos(np.radians(15)), np.sin(np.radians(15)), SIZE / 2
PLACES = {
    "shear_x": lambda x, y, s: (x - s * 0.15 * y, y),
    "shear_y": lambda x, y, s: (x, y - s * 0.15 * x),
    "translate_x": lambda x, y, s: (x - s * 5, y),
    "translate_y": lambda x, y, s: (x, y - s * 5),
    "rotate": lambda x, y, s: (
        HALF + (x - HALF) * COS - s * (y - HALF) * SIN,
        HALF + s * (x - HALF) * SIN + (y - HALF) * COS,
    ),
}


@pytest.mark.parametrize("sign", [1, -1])
def test_translations_move_whole_pixels_along_one_axis(sign: int) -> None:
    source = np.asarray(smooth())
    for name, axis in (("translate_x", 1), ("translate_y", 0)):
        moved = np.asarray(OPERATION[name](smooth(), sign))
        rolled = np.roll(source, sign * 5, axis)
        inside = [slice(6, -6), slice(6, -6)]  # the edges are filled with grey
        assert np.array_equal(moved[tuple(inside)], rolled[tuple(inside)])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", PLACES)
def test_movements_equal_opencv_except_half_a_pixel_and_the_edge(name: str, sign: int) -> None:
    ours = np.asarray(OPERATION[name](smooth(), sign), float)
    theirs = warped(lambda x, y: PLACES[name](x, y, sign))
    apart = np.abs(ours - theirs).max(-1)
    assert np.mean(apart <= 4) > 0.93, "four levels are a pixel's step"
    filled = np.all(ours == GREY, -1)
    assert filled.any()
    other = np.asarray(OPERATION[name](smooth(), -sign), float)
    assert np.abs(ours - other).max() > 20


def test_a_view_is_a_crop_flipped_half_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crop is the first draw from the seed, the flip the next one."""
    for name in OPERATION:
        monkeypatch.setitem(OPERATION, name, lambda view, _: view)
    pixels, flipped = image(), 0
    for i in range(200):
        draw = Random(str(i))
        box = crop_box(48, 40, draw)
        crop = Image.fromarray(pixels).crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        flip = draw.random() < 0.5
        expected = np.asarray(crop)[:, ::-1] if flip else np.asarray(crop)
        assert np.array_equal(augment(pixels, SIZE, str(i)), expected)
        flipped += flip
    assert 70 < flipped < 130


def test_operations_follow_each_other_with_their_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """After crop and flip: two names at once, then a sign and a chance for each."""
    used: list[tuple[str, int]] = []
    for name in OPERATION:

        def note(view: Image.Image, sign: int, name: str = name) -> Image.Image:
            used.append((name, sign))
            return view

        monkeypatch.setitem(OPERATION, name, note)
    expected = []
    for i in range(50):
        augment(image(), SIZE, str(i))
        draw = Random(str(i))
        crop_box(48, 40, draw)
        draw.random()
        for name in draw.choices(list(OPERATION), k=2):
            sign = draw.choice((1, -1))
            if draw.random() < 0.5:
                expected.append((name, sign))
    assert used == expected
    assert {sign for _, sign in used} == {1, -1}
