"""The cache of frozen visual features: the same bits as live features, and built once.

It never serves features of another tower or other data.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Case
from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.base import Pixels
from vlpeft.benchmark.datasets.shapes import Shapes
from vlpeft.benchmark.run.augmentation import augment
from vlpeft.benchmark.run.features import cached_views, training_views, views, visual_inputs

IMAGES = [f"train/{i}" for i in range(10)]
# Two processes ask for the same features at the same moment, and every decoded image adds a line.
# Before that, a third process is killed in the middle of the work.
BUILD = """
import hashlib, os, signal, sys
from pathlib import Path
import torch
from vlpeft.benchmark.backbones.vit_roberta import ViTRoberta
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.shapes import Shapes
from vlpeft.benchmark.run.features import visual_inputs

torch.set_num_threads(1)
cache, log = Path(sys.argv[1]), sys.argv[2]
images = [f"train/{i}" for i in range(80)]

class Logged(Shapes):
    fatal = False
    def image(self, image):
        if self.fatal and image == images[-1]:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.fatal:
            with open(log, "a") as file:
                file.write(image + "\\n")
        return super().image(image)

def build(fatal):
    config, protocol = ViTRoberta(text="tiny", vision="tiny"), Protocol(lr=1e-3, steps=1)
    backbone = config.build(["yes", "no"], protocol).requires_grad_(False)
    data = Logged(train_scenes=80, val_scenes=1, test_scenes=1)
    Logged.fatal = fatal
    features = visual_inputs(backbone, data, images, False, cache)([(image,) for image in images])
    print(hashlib.sha256(features.numpy().tobytes()).hexdigest(), flush=True)

def start(fatal):
    child = os.fork()
    if child == 0:
        build(fatal)
        os._exit(0)
    return child

assert os.waitstatus_to_exitcode(os.waitpid(start(True), 0)[1]) == -9
assert not list(cache.glob("*/features.npy"))
for child in [start(False), start(False)]:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


class Counting(Shapes):
    """Shapes that count how often an image is drawn."""

    drawn: list[str] = []  # noqa: RUF012

    def image(self, image: str) -> Pixels:
        self.drawn.append(image)
        return super().image(image)


def alone(ids: list[str]) -> list[tuple[str]]:
    """Return examples of one image each."""
    return [(image,) for image in ids]


@pytest.fixture
def data() -> Shapes:
    Counting.drawn.clear()
    return Counting(train_scenes=10, val_scenes=1, test_scenes=1)


@pytest.fixture
def frozen() -> Backbone:
    return Case("head_only", "vit_roberta").fresh().requires_grad_(False)


@torch.no_grad()
def live(data: Shapes, ids: list[str], *, zeroed: bool = False) -> torch.Tensor:
    """Compute features as for a tower that trains."""
    backbone = Case("head_only", "vit_roberta").fresh().requires_grad_(True)
    return visual_inputs(backbone, data, IMAGES, zeroed, Path("/nonexistent"))(alone(ids))


def test_cached_features_equal_live_ones_bit_for_bit(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    expected = live(data, IMAGES)
    for _ in ("built", "read"):
        cached = visual_inputs(frozen, data, IMAGES, False, tmp_path)
        assert torch.equal(cached(alone(IMAGES)), expected)
        assert cached(alone(IMAGES)).dtype is torch.float32
        some = ["train/7", "train/0", "train/7"]
        assert torch.equal(cached(alone(some)), expected[[7, 0, 7]])
    torch.testing.assert_close(live(data, ["train/7"])[0], expected[7], rtol=1e-5, atol=1e-6)


def test_the_second_use_does_not_draw_images(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    visual_inputs(frozen, data, [*IMAGES, *reversed(IMAGES)], False, tmp_path)
    assert sorted(Counting.drawn) == sorted(IMAGES), "each image once"
    visual_inputs(frozen, data, list(reversed(IMAGES)), False, tmp_path)(alone(IMAGES))
    assert len(Counting.drawn) == len(IMAGES)
    assert len(list(tmp_path.iterdir())) == 1


def test_zeroed_images_are_all_one_black_image(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    zeroed = visual_inputs(frozen, data, IMAGES, True, tmp_path)(alone(IMAGES))
    assert Counting.drawn == []
    assert all(torch.equal(row, zeroed[0]) for row in zeroed)
    torch.testing.assert_close(zeroed, live(data, IMAGES, zeroed=True), rtol=1e-5, atol=1e-6)
    black = transform(np.zeros((9, 9, 3), np.uint8), frozen.vision)
    torch.testing.assert_close(zeroed[0, 0], frozen.vision(black[None])[0], rtol=1e-4, atol=1e-5)
    real = visual_inputs(frozen, data, IMAGES, False, tmp_path)(alone(IMAGES))
    assert not torch.allclose(zeroed, real, rtol=1e-2)
    assert len(list(tmp_path.iterdir())) == 2


def test_features_are_those_of_the_pixels_in_the_order_of_each_example(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    pairs = [("train/3", "train/1"), ("train/0", "train/3")]
    expected = {
        image: frozen.vision(transform(data.image(image), frozen.vision)[None])[0]
        for image in ("train/0", "train/1", "train/3")
    }
    found = visual_inputs(frozen, data, IMAGES, False, tmp_path)(pairs)
    assert found.shape[:2] == (2, 2)
    for row, pair in zip(found, pairs, strict=True):
        for one, image in zip(row, pair, strict=True):
            torch.testing.assert_close(one, expected[image], rtol=1e-4, atol=1e-5)


def test_training_sees_what_the_recipe_asks_for(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    def seen(**changed: Any) -> torch.Tensor | None:
        recipe = Protocol(lr=1.0, steps=1, **changed)
        found = training_views(frozen, data, IMAGES, recipe, tmp_path)
        return found and found([["train/1"]], ["5"])

    assert seen() is None
    assert seen(augment="blip", views=2, images="zeroed") is None
    assert seen(augment="blip", images="zeroed") is None
    new = views(frozen, data)([["train/1"]], ["5"])
    torch.testing.assert_close(seen(augment="blip"), new)
    fixed = cached_views(frozen, data, IMAGES, 2, tmp_path)([["train/1"]], ["5"])
    torch.testing.assert_close(seen(augment="blip", views=2), fixed)
    assert not torch.allclose(new, fixed, rtol=1e-2)


def test_each_image_of_an_example_has_its_own_view(data: Shapes) -> None:
    """View i of an example has the seed `SEED/i`, and a cached view is chosen by its hash."""
    backbone = Case("head_only", "vit_roberta").fresh().requires_grad_(False)
    tower, pair = backbone.vision, ("train/3", "train/3")
    fetched = views(backbone, data).fetch_examples([pair], ["5/0"])
    for i in (0, 1):
        view = augment(data.image("train/3"), tower.size, f"5/0/{i}")
        assert torch.equal(fetched[0, i], transform(view, tower))
    trained = Case("full_finetuning", "vit_roberta", {"vision": True}).build()
    fetched = cached_views(trained, data, IMAGES, 3, Path("/nonexistent")).fetch_examples(
        [pair], ["5/0"]
    )
    for i in (0, 1):
        number = int(hashlib.sha256(f"5/0/{i}".encode()).hexdigest()[:16], 16) % 3
        view = augment(data.image("train/3"), tower.size, f"view {number}")
        assert torch.equal(fetched[0, i], transform(view, tower))


def test_reading_gives_independent_tensors(frozen: Backbone, data: Shapes, tmp_path: Path) -> None:
    cached = visual_inputs(frozen, data, IMAGES, False, tmp_path)
    before = cached(alone(IMAGES)).clone()
    cached(alone(IMAGES)).zero_()
    assert torch.equal(cached(alone(IMAGES)), before)


def key(backbone: Backbone, data: Shapes, cache: Path, images: list[str] = IMAGES) -> str:
    before = {path.name for path in cache.iterdir()} if cache.exists() else set()
    visual_inputs(backbone, data, images, False, cache)
    made = {path.name for path in cache.iterdir()} - before
    return made.pop() if made else ""


def test_anything_that_changes_the_features_changes_the_key(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    assert key(frozen, data, tmp_path)
    assert not key(frozen, data, tmp_path), "the same key again"
    assert not key(frozen, data, tmp_path, IMAGES[::-1]), "order and repetition play no part"
    assert not key(Case("lora", "vit_roberta").build(seed=5), data, tmp_path), (
        "the method plays no part"
    )
    assert key(frozen, replace(data, seed=1), tmp_path), "other data"
    assert key(frozen, data, tmp_path, IMAGES[:5]), "other images"
    for pool in ("cls", "mean"):
        assert key(
            Case("head_only", "vit_roberta", {}, {"pool": pool}).fresh().requires_grad_(False),
            data,
            tmp_path,
        ), pool
    tokens = (
        Case("head_only", "vit_roberta", {}, {"context": "tokens"}).fresh().requires_grad_(False)
    )
    assert key(tokens, data, tmp_path), "all tokens"
    for setting in ("mean", "std"):
        kept = getattr(frozen.vision, setting)
        setattr(frozen.vision, setting, (0.4, 0.5, 0.5))
        assert key(frozen, data, tmp_path), setting
        setattr(frozen.vision, setting, kept)
    assert not key(frozen, data, tmp_path)
    with torch.no_grad():
        list(frozen.vision.parameters())[-1].view(-1)[0] += 1e-3
    assert key(frozen, data, tmp_path), "one weight"


def test_a_tower_that_trains_is_never_cached(data: Shapes, tmp_path: Path) -> None:
    case = Case("full_finetuning", "vit_roberta", {"vision": True})
    backbone = case.build()
    features = visual_inputs(backbone, data, IMAGES, False, tmp_path)(alone(IMAGES))
    assert features.requires_grad
    assert not list(tmp_path.iterdir())


def test_a_tower_of_which_a_part_trains_is_not_cached(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    next(frozen.vision.parameters()).requires_grad_(True)
    features = visual_inputs(frozen, data, IMAGES, False, tmp_path)(alone(IMAGES))
    assert features.requires_grad
    assert not list(tmp_path.iterdir())


def test_images_are_loaded_in_the_order_asked_for(data: Shapes) -> None:
    forward = live(data, IMAGES)
    assert torch.equal(live(data, IMAGES[::-1]), forward.flip(0))


def test_two_processes_build_once_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "cache"), str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    hashes = done.stdout.split()
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    assert sorted((tmp_path / "log").read_text().split()) == sorted(f"train/{i}" for i in range(80))
    (file,) = (tmp_path / "cache").glob("*/features.npy")
    assert np.load(file).shape == (80, 1, 128)


@torch.no_grad()
def test_a_view_is_drawn_from_its_example_s_seed_and_its_place(
    frozen: Backbone, data: Shapes
) -> None:
    tower = frozen.vision
    found = views(frozen, data)([["train/1", "train/2"], ["train/1", "train/1"]], ["a", "b"])
    drawn = [("train/1", "a/0"), ("train/2", "a/1"), ("train/1", "b/0"), ("train/1", "b/1")]
    expected = torch.stack(
        [transform(augment(data.image(image), tower.size, seed), tower) for image, seed in drawn]
    )
    assert torch.equal(found.flatten(0, 1), tower(expected))
    assert len({row.numpy().tobytes() for row in found.flatten(0, 1)}) == 4
    assert not found.requires_grad


def test_half_precision_features_are_only_rounded(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    whole = visual_inputs(frozen, data, IMAGES, False, tmp_path)(alone(IMAGES))
    half = visual_inputs(frozen, data, IMAGES, False, tmp_path, "float16")(alone(IMAGES))
    assert half.dtype is torch.float32
    assert torch.equal(half, whole.half().float())
    sizes = sorted(path.stat().st_size - 128 for path in tmp_path.glob("*/features.npy"))
    assert sizes[1] == 2 * sizes[0]


def test_features_too_large_for_half_precision_are_refused(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    with torch.no_grad():
        frozen.vision.model.layernorm.weight.fill_(1e7)
        frozen.vision.pool = "cls"
    with pytest.raises(UserError, match="float16 cannot hold"):
        visual_inputs(frozen, data, IMAGES, False, tmp_path, "float16")


CACHE_DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"hello hello hello"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "rows": lambda path: np.save(path, np.load(path)[:1]),
    "type": lambda path: np.save(path, np.load(path).astype(np.float64)),
    "number": lambda path: np.save(path, np.float32(1)),
    "objects": lambda path: np.save(path, np.array([{}, []], object), allow_pickle=True),
    "header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x06\x00{'a':("),
    "dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", CACHE_DAMAGES.values(), ids=CACHE_DAMAGES.keys())
def test_a_damaged_cache_is_computed_again(
    frozen: Backbone, data: Shapes, tmp_path: Path, damage, capsys
) -> None:
    before = visual_inputs(frozen, data, IMAGES, False, tmp_path)(alone(IMAGES))
    (file,) = tmp_path.glob("*/features.npy")
    damage(file)
    assert torch.equal(visual_inputs(frozen, data, IMAGES, False, tmp_path)(alone(IMAGES)), before)
    assert "features.npy: damaged" in capsys.readouterr().err
    assert sorted(path.name for path in file.parent.iterdir()) == ["features.npy", "lock"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cached_features_that_are_not_finite_are_named(
    frozen: Backbone, data: Shapes, tmp_path: Path, value
) -> None:
    visual_inputs(frozen, data, IMAGES, False, tmp_path)
    (file,) = tmp_path.glob("*/features.npy")
    array = np.load(file)
    array[3] = value
    np.save(file, array)
    cached = visual_inputs(frozen, data, IMAGES, False, tmp_path)
    with pytest.raises(UserError, match=r"features\.npy: damaged.*delete it"):
        cached(alone(IMAGES))


def test_a_tower_whose_features_are_not_finite_is_refused(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    with torch.no_grad():
        frozen.vision.model.layernorm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="vision tower computes features that are not finite"):
        visual_inputs(frozen, data, IMAGES, False, tmp_path)
    assert not list(tmp_path.glob("*/*features*"))


@pytest.mark.parametrize("place", ["features.npy", "lock"])
def test_a_folder_in_place_of_a_cache_is_one_line(
    frozen: Backbone, data: Shapes, tmp_path: Path, place
) -> None:
    visual_inputs(frozen, data, IMAGES, False, tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / place).unlink()
    (folder / place).mkdir()
    with pytest.raises(UserError, match=r"feature cache .*delete it"):
        visual_inputs(frozen, data, IMAGES, False, tmp_path)


@torch.no_grad()
def test_some_views_of_each_image_are_computed_once(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    """The seed of an example selects its view, which equals the view that is drawn live.

    A tower that trains sees the same views.
    """
    tower, images = frozen.vision, ["train/1", "train/2"]
    look = cached_views(frozen, data, images, 3, tmp_path)
    assert sorted(Counting.drawn) == sorted(3 * images)
    seeds = [str(i) for i in range(20)]
    found = look([images[:1]] * 20, seeds)[:, 0]
    assert len(Counting.drawn) == 6, "nothing is drawn again"
    drawn = [
        transform(augment(data.image("train/1"), tower.size, f"view {k}"), tower) for k in range(3)
    ]
    expected = torch.cat([tower(each[None]) for each in drawn])
    distances = (found[:, None] - expected[None]).abs().amax((2, 3))
    assert distances.min(1).values.max() < 1e-4
    assert set(distances.argmin(1).tolist()) == {0, 1, 2}
    assert torch.equal(look([images[:1]] * 20, seeds)[:, 0], found)
    trains = Case("full_finetuning", "vit_roberta", {"vision": True}).build()
    again = cached_views(trains, data, images, 3, Path("/nonexistent"))([images[:1]] * 20, seeds)[
        :, 0
    ]
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_another_number_of_views_is_computed_again(
    frozen: Backbone, data: Shapes, tmp_path: Path
) -> None:
    """The number of views and their precision are parts of the key.

    The order of images and the seeds of examples are not.
    """
    images, seeds = ["train/1", "train/2"], [str(i) for i in range(9)]
    kept = cached_views(frozen, data, images, 2, tmp_path)([images[:1]] * 9, seeds)
    assert len(Counting.drawn) == 4
    assert torch.equal(
        cached_views(frozen, data, images[::-1] * 2, 2, tmp_path)([images[:1]] * 9, seeds), kept
    )
    assert len(Counting.drawn) == 4, "read"
    cached_views(frozen, data, images, 3, tmp_path)
    assert len(Counting.drawn) == 4 + 6
    half = cached_views(frozen, data, images, 2, tmp_path, "float16")([images[:1]] * 9, seeds)
    assert len(Counting.drawn) == 4 + 6 + 4
    assert torch.equal(half, kept.half().float())
    visual_inputs(frozen, data, images, False, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4, "images as they are have a place of their own"
