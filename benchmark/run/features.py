"""Visual features of a cell's images.

They are computed once and cached if the vision tower is frozen. They are computed in every step if
the tower trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlpeft.benchmark.backbones.vision import FeatureTower, transform
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.base import DataFormat, Pixels
from vlpeft.benchmark.datasets.image_memory import MEMORY
from vlpeft.benchmark.run.augmentation import augment
from vlpeft.benchmark.run.feature_cache import Compute, Kept, open_cache

# Images, and a seed for each, to a tensor on the CPU: (images, ...).
Fetch = Callable[[Sequence[str], Sequence[str]], Tensor]
# One image and its seed to pixels: (3, size, size).
Load = Callable[[str, str], Tensor]
VIEW = "#view"  # separates the name of an image from the number of its view
BLACK = "<black>"  # the only image of a cell with `images: zeroed`
LOADERS = 4  # threads that read and transform the images of a batch


@dataclass(frozen=True)
class VisualSteps:
    """The visual features of examples, in two steps. The first step can run ahead in a thread.

    Attributes:
        fetch: first step; what the second step needs of images: (images, ...), on the CPU. The
            seeds draw augmented views.
        finish: second step; (images, ...) on any device to (images, tokens, width) on the model's.
    """

    fetch: Fetch
    finish: Callable[[Tensor], Tensor]

    def __call__(self, ids: Sequence[Sequence[str]], seeds: Sequence[str] = ()) -> Tensor:
        """Return features: (examples, images, tokens, width).

        Args:
            ids: the images of each example; all examples have the same number of images.
            seeds: one for each example, where views are drawn.
        """
        return self.features(self.fetch_examples(ids, seeds))

    def fetch_examples(self, ids: Sequence[Sequence[str]], seeds: Sequence[str] = ()) -> Tensor:
        """Do the first step: return a tensor of (examples, images, ...) on the CPU."""
        images = [image for example in ids for image in example]
        found = self.fetch(images, _image_seeds(ids, seeds))
        return found.view(len(ids), -1, *found.shape[1:])

    def features(self, fetched: Tensor) -> Tensor:
        """Do the second step: return a tensor of (examples, images, tokens, width)."""
        found = self.finish(fetched.flatten(0, 1))
        return found.view(*fetched.shape[:2], *found.shape[1:])


def _image_seeds(ids: Sequence[Sequence[str]], seeds: Sequence[str]) -> list[str]:
    """Return a seed for each image, from its example's seed and its place in the example."""
    if not seeds:
        return []
    pairs = zip(ids, seeds, strict=True)
    return [f"{seed}/{i}" for images, seed in pairs for i in range(len(images))]


def visual_inputs(
    backbone: Backbone,
    data: DataFormat,
    images: Sequence[str],
    zeroed: bool,
    cache: Path,
    kept: Kept = "float32",
) -> VisualSteps:
    """Return the visual features of `images`, without augmentation.

    Features of a frozen tower are cached. They equal the live ones, because the same call computes
    them. Features that the dataset itself holds are read when they are needed: a second copy
    would fill the disk.

    Args:
        backbone: the adapted model; its vision tower computes the features.
        data: reads images or features.
        images: all that will be asked for.
        zeroed: show the model a black image in place of each.
        cache: folder of the caches.
        kept: type of cached features; float16 rounds them.

    Raises:
        UserError: the backbone needs images and the dataset holds features, or the cache cannot be
            written.
    """
    if data.has_features:
        return _dataset_features(backbone, data, zeroed)
    live = live_features(backbone, data, zeroed)
    # These features change with every step, so no cache can hold them.
    if _trains(backbone):
        return live
    if zeroed:
        # One row serves all examples, and no stamp: a black image does not depend on the data.
        read = open_cache(backbone, [], [BLACK], _compute(live), cache, kept)
        return VisualSteps(lambda ids, _: read([BLACK] * len(ids)), _mover(backbone))
    # Sorted, so that cells which read the same images share a cache.
    names = sorted(set(images))
    read = open_cache(backbone, _stamps(data, names), names, _compute(live), cache, kept)
    return VisualSteps(lambda ids, _: read(ids), _mover(backbone))


def _trains(backbone: Backbone) -> bool:
    return any(p.requires_grad for p in backbone.vision.parameters())


def _compute(live: VisualSteps) -> Compute:
    """Return the function that fills a cache: features of several images of one example."""
    return lambda names: live([names])[0]


def _stamps(data: DataFormat, images: Sequence[str]) -> list[str]:
    """Return texts that change with the data and with the files of these images."""
    return [data.name, data.root, data.fingerprint(), *map(data.image_stamp, images)]


def live_features(backbone: Backbone, data: DataFormat, zeroed: bool) -> VisualSteps:
    """Return the features of images, computed each time that they are asked for."""
    tower = backbone.vision

    def load(image: str, _seed: str) -> Tensor:
        return transform(pixels(image), tower)

    def pixels(image: str) -> Pixels:
        if zeroed:
            return np.zeros((tower.size, tower.size, 3), np.uint8)
        return data.image(image)

    return _live(backbone, load)


def training_views(
    backbone: Backbone, data: DataFormat, images: Sequence[str], recipe: Protocol, cache: Path
) -> VisualSteps | None:
    """Return what training sees in place of the images, or None if it sees them unchanged.

    These are new views in every step, or one of a few fixed views of each image.
    """
    if redraws_images(recipe):
        return views(backbone, data)
    # A black image stays black, so its views are not drawn.
    if recipe.images == "zeroed" or recipe.views is None:
        return None
    return cached_views(backbone, data, images, recipe.views, cache, recipe.cached_features)


def redraws_images(recipe: Protocol) -> bool:
    """Return whether every training step draws new views, which no cache can hold."""
    return recipe.images == "real" and recipe.augment != "none" and recipe.views is None


def views(backbone: Backbone, data: DataFormat) -> VisualSteps:
    """Return the features of augmented views, live: hardly any view occurs twice."""
    tower = backbone.vision

    def load(image: str, seed: str) -> Tensor:
        return transform(augment(data.image(image), tower.size, seed), tower)

    return _live(backbone, load)


def cached_views(
    backbone: Backbone,
    data: DataFormat,
    images: Sequence[str],
    count: int,
    cache: Path,
    kept: Kept = "float32",
) -> VisualSteps:
    """Return the features of one of `count` augmented views of each image.

    The seed of an example chooses the view. Features of a frozen tower are cached, so augmentation
    costs `count` passes through the tower, not one in every epoch.
    """
    tower = backbone.vision

    def load(name: str, _seed: str) -> Tensor:
        image, _, number = name.rpartition(VIEW)
        return transform(augment(data.image(image), tower.size, f"view {number}"), tower)

    def choose(ids: Sequence[str], seeds: Sequence[str]) -> list[str]:
        pairs = zip(ids, seeds, strict=True)
        return [f"{image}{VIEW}{_choose_view(seed, count)}" for image, seed in pairs]

    live = _live(backbone, load)
    if _trains(backbone):
        return VisualSteps(lambda ids, seeds: live.fetch(choose(ids, seeds), seeds), live.finish)
    known = sorted(set(images))
    names = [f"{image}{VIEW}{number}" for image in known for number in range(count)]
    read = open_cache(backbone, _stamps(data, known), names, _compute(live), cache, kept)
    return VisualSteps(lambda ids, seeds: read(choose(ids, seeds)), _mover(backbone))


def _choose_view(seed: str, count: int) -> int:
    """Return a number below `count` that depends on the seed alone."""
    # Python's own `hash` differs between processes, and a resumed run would see other views.
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % count


def _live(backbone: Backbone, load: Load) -> VisualSteps:
    """Return the tower's features of the pixels that `load` returns for each image."""

    def load_bounded(image: str, seed: str) -> Tensor:
        # Until the image has the size of the tower: a folder may hold many huge images.
        with MEMORY.hold():
            return load(image, seed)

    def fetch(ids: Sequence[str], seeds: Sequence[str]) -> Tensor:
        # Pillow decodes without Python's global lock, so threads are enough.
        with ThreadPoolExecutor(LOADERS) as pool:
            return torch.stack(list(pool.map(load_bounded, ids, seeds or [""] * len(ids))))

    move = _mover(backbone)
    return VisualSteps(fetch, lambda pixels: backbone.vision(move(pixels)))


def _mover(backbone: Backbone) -> Callable[[Tensor], Tensor]:
    """Return the function that moves tensors to the model's device.

    From pinned memory the copy does not block, so that it overlaps with computation.
    """
    return lambda found: found.to(backbone.device, non_blocking=True)


def _dataset_features(backbone: Backbone, data: DataFormat, zeroed: bool) -> VisualSteps:
    """Return the features that the dataset holds.

    Raises:
        UserError: the backbone or the protocol needs images.
    """
    tower = backbone.vision
    if not isinstance(tower, FeatureTower):
        raise UserError(
            f"{backbone.name} needs images, but this dataset holds features; "
            "use clip_bart with `vision: features:2048`"
        )
    if zeroed:
        raise UserError(
            "images: zeroed needs images, but this dataset holds features; leave it out"
        )

    def load(image: str) -> Tensor:
        features = data.features(image)
        width = features.shape[1]
        if width != tower.width:
            raise DataError(
                f"image {image}: features of width {width}, not {tower.width}; "
                f"set `vision: features:{width}`"
            )
        return torch.from_numpy(features)

    def fetch(ids: Sequence[str], _seeds: Sequence[str]) -> Tensor:
        with ThreadPoolExecutor(LOADERS) as pool:
            found = list(pool.map(load, ids))
        _check_tokens(ids, found)
        return torch.stack(found)

    return VisualSteps(fetch, _mover(backbone))


def _check_tokens(ids: Sequence[str], found: Sequence[Tensor]) -> None:
    """Raise DataError unless all images have the same number of tokens."""
    for image, features in zip(ids, found, strict=True):
        if len(features) != len(found[0]):
            raise DataError(
                f"image {image}: another number of tokens than image {ids[0]}; "
                "replace the file that is wrong"
            )
