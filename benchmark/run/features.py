"""Visual features of a cell's images: computed once and kept where the vision tower is frozen, live where it trains."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from vlpeft.benchmark.backbones.vision import FeatureTower, transform
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.datasets.base import DataFormat
from vlpeft.benchmark.run.augmentation import augment
from vlpeft.benchmark.run.compile import eager

Fetch = Callable[
    [Sequence[str], Sequence[str]], Tensor
]  # images, and a seed of each -> (images, ...) on the CPU
Load = Callable[[str, str], Tensor]  # one of them -> pixels, (3, size, size)
Kept = Literal["float32", "float16"]  # how cached features lie on the disk
VIEW = "#view"  # stands between an image and the number of its view
BLACK = "<black>"  # the one image of a cell whose images are zeroed
CHUNK = 64
LOADERS = 4  # threads that read and transform the images of a batch


@dataclass(frozen=True)
class Visual:
    """Gives the visual features of examples, in two steps, of which the first may run ahead in a thread of its own.

    fetch: what the second step needs of images, (images, ...), on the CPU; augmented views are drawn by the seeds.
    finish: (images, ...) on any device -> (images, tokens, width) on the model's.
    """

    fetch: Fetch
    finish: Callable[[Tensor], Tensor]

    def __call__(self, ids: Sequence[Sequence[str]], seeds: Sequence[str] = ()) -> Tensor:
        """Image ids of each example, and a seed of each where views are drawn -> (examples, images, tokens, width)."""
        return self.features(self.fetch_examples(ids, seeds))

    def fetch_examples(self, ids: Sequence[Sequence[str]], seeds: Sequence[str] = ()) -> Tensor:
        """The first step, (examples, images, ...); all examples of a task have as many images."""
        drawn = (
            [
                f"{seed}/{i}"
                for images, seed in zip(ids, seeds, strict=True)
                for i in range(len(images))
            ]
            if seeds
            else []
        )
        found = self.fetch([image for images in ids for image in images], drawn)
        return found.view(len(ids), -1, *found.shape[1:])

    def features(self, fetched: Tensor) -> Tensor:
        """The second step."""
        found = self.finish(fetched.flatten(0, 1))
        return found.view(*fetched.shape[:2], *found.shape[1:])


def visual_inputs(
    backbone: Backbone,
    data: DataFormat,
    images: Sequence[str],
    zeroed: bool,
    cache: Path,
    kept: Kept = "float32",
) -> Visual:
    """The visual features of `images`.

    A frozen tower's features are cached under `cache`, keyed by its weights, its transform and the data; equal to the
    live ones, because they are computed by the same call, or rounded to float16 if they are `kept` so. `zeroed` shows the
    model a black image in place of each. Features that the dataset itself holds are read as they are needed: cached again
    they would fill the disk.
    """
    if data.has_features:
        return _given(backbone, data, zeroed)
    live = live_features(backbone, data, zeroed)
    if _trains(backbone):
        return live
    wanted = [BLACK] if zeroed else sorted(set(images))
    stamps = (
        [] if zeroed else [data.name, data.root, data.fingerprint(), *map(data.image_stamp, wanted)]
    )
    read = _cached(backbone, stamps, wanted, live, cache, kept)
    return Visual(lambda ids, _: read([BLACK] * len(ids) if zeroed else ids), _moved(backbone))


def _trains(backbone: Backbone) -> bool:
    return any(p.requires_grad for p in backbone.vision.parameters())


def _cached(
    backbone: Backbone,
    stamps: Sequence[str],
    wanted: Sequence[str],
    live: Visual,
    cache: Path,
    kept: Kept,
) -> Callable[[Sequence[str]], Tensor]:
    """Read features of what is wanted from an array of all of them, which whoever comes first computes."""
    array = _open_or_build(cache / _key(backbone, stamps, wanted, kept), wanted, live, kept)
    rows = {name: i for i, name in enumerate(wanted)}
    return lambda names: torch.from_numpy(
        np.asarray(array[[rows[name] for name in names]], np.float32)
    )


def live_features(backbone: Backbone, data: DataFormat, zeroed: bool) -> Visual:
    """The features of images, computed anew each time."""
    tower = backbone.vision

    def load(image: str, _seed: str) -> Tensor:
        return transform(
            np.zeros((tower.size, tower.size, 3), np.uint8) if zeroed else data.image(image), tower
        )

    return _live(backbone, load)


def training_views(
    backbone: Backbone, data: DataFormat, images: Sequence[str], recipe: Protocol, cache: Path
) -> Visual | None:
    """What training sees in place of the images as they are: nothing else, new views, or one of a few views of each."""
    if redraws_images(recipe):
        return views(backbone, data)
    if recipe.images == "zeroed" or recipe.views is None:
        return None
    return cached_views(backbone, data, images, recipe.views, cache, recipe.cached_features)


def redraws_images(recipe: Protocol) -> bool:
    """Whether every training step sees images that no cache can hold."""
    return recipe.images == "real" and recipe.augment != "none" and recipe.views is None


def views(backbone: Backbone, data: DataFormat) -> Visual:
    """The features of augmented views of images, live: hardly any view comes twice."""
    tower = backbone.vision
    return _live(
        backbone, lambda image, seed: transform(augment(data.image(image), tower.size, seed), tower)
    )


def cached_views(
    backbone: Backbone,
    data: DataFormat,
    images: Sequence[str],
    count: int,
    cache: Path,
    kept: Kept = "float32",
) -> Visual:
    """The features of one of `count` augmented views of each image, which its seed chooses; a frozen tower's are cached."""
    tower = backbone.vision

    def load(name: str, _seed: str) -> Tensor:
        image, _, number = name.rpartition(VIEW)
        return transform(augment(data.image(image), tower.size, f"view {number}"), tower)

    def chosen(ids: Sequence[str], seeds: Sequence[str]) -> list[str]:
        return [
            f"{image}{VIEW}{_chosen(seed, count)}" for image, seed in zip(ids, seeds, strict=True)
        ]

    live = _live(backbone, load)
    if _trains(backbone):
        return Visual(lambda ids, seeds: live.fetch(chosen(ids, seeds), seeds), live.finish)
    known = sorted(set(images))
    wanted = [f"{image}{VIEW}{number}" for image in known for number in range(count)]
    stamps = [data.name, data.root, data.fingerprint(), *map(data.image_stamp, known)]
    read = _cached(backbone, stamps, wanted, live, cache, kept)
    return Visual(lambda ids, seeds: read(chosen(ids, seeds)), _moved(backbone))


def _chosen(seed: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % count


def _live(backbone: Backbone, load: Load) -> Visual:
    """The tower's features of what `load` makes of each image."""

    def fetch(ids: Sequence[str], seeds: Sequence[str]) -> Tensor:
        with ThreadPoolExecutor(LOADERS) as pool:
            return torch.stack(list(pool.map(load, ids, seeds or [""] * len(ids))))

    move = _moved(backbone)
    return Visual(fetch, lambda pixels: backbone.vision(move(pixels)))


def _moved(backbone: Backbone) -> Callable[[Tensor], Tensor]:
    """To the model's device; from pinned memory without waiting for it."""
    return lambda found: found.to(backbone.device, non_blocking=True)


def _given(backbone: Backbone, data: DataFormat, zeroed: bool) -> Visual:
    """The dataset's own features. Raises UserError where the backbone or the protocol needs images."""
    tower = backbone.vision
    if not isinstance(tower, FeatureTower):
        raise UserError(
            f"{backbone.name} needs images, this dataset holds features; use clip_bart with `vision: features:2048`"
        )
    if zeroed:
        raise UserError("images: zeroed needs images, this dataset holds features; leave it out")

    def load(image: str) -> Tensor:
        features = data.features(image)
        if features.shape[1] != tower.width:
            raise DataError(
                f"image {image}: features of width {features.shape[1]}, not {tower.width}; set `vision: features:{features.shape[1]}`"
            )
        return torch.from_numpy(features)

    def fetch(ids: Sequence[str], _seeds: Sequence[str]) -> Tensor:
        with ThreadPoolExecutor(LOADERS) as pool:
            found = list(pool.map(load, ids))
        if other := next(
            (image for image, each in zip(ids, found, strict=True) if len(each) != len(found[0])),
            None,
        ):
            raise DataError(
                f"image {other}: another number of tokens than image {ids[0]}; replace the file that is wrong"
            )
        return torch.stack(found)

    return Visual(fetch, _moved(backbone))


def _key(backbone: Backbone, data: Sequence[str], images: Sequence[str], kept: Kept) -> str:
    tower = backbone.vision
    digest = hashlib.sha256(
        json.dumps(
            [
                list(data),
                backbone.device.type,
                tower.size,
                tower.resample,
                tower.mean,
                tower.std,
                repr(tower),
                list(images),
            ]
        ).encode()
    )
    if kept != "float32":
        digest.update(kept.encode())
    digest.update(
        f"{getattr(tower, 'pool', '')} {getattr(tower, 'tokens', '')} {torch.get_num_threads()}".encode()
    )
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _open_or_build(
    folder: Path, images: Sequence[str], live: Visual, kept: Kept
) -> NDArray[np.floating]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "features.npy"
        with FileLock(
            folder / "lock"
        ):  # many cells start together; one computes, the others wait for it
            if not path.exists():
                _build(path, images, live, kept)
    except OSError as error:
        raise UserError(
            f"cannot write the feature cache {folder}: {error.strerror}; choose a writable --root with free space"
        ) from error
    array: NDArray[np.floating] = np.load(path, mmap_mode="r")
    return array


@torch.inference_mode()
def _build(path: Path, images: Sequence[str], live: Visual, kept: Kept) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    array: Any = None
    try:
        for start, part in _chunks(images):
            with eager():  # cells that are compiled and cells that are not share them
                features = live([part])[0].float().cpu().numpy()
            if array is None:
                shape = (len(images), *features.shape[1:])
                array = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=np.dtype(kept), shape=shape
                )
                _allocate(temporary)
            if kept == "float16" and (largest := np.abs(features).max()) > np.finfo(np.float16).max:
                raise UserError(
                    f"cached_features: {kept} cannot hold a feature of {largest:.3g}; set `cached_features: float32`"
                )
            array[start : start + len(part)] = features
        array.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _allocate(path: Path) -> None:
    """Take the room on the disk now: where there is too little, writing to memory would kill the process by SIGBUS."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _chunks(images: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    for start in range(0, len(images), CHUNK):
        yield start, images[start : start + CHUNK]
