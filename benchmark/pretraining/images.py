"""Pretraining data of the tiny image tower: drawn scenes and their labels.

The labels are, for each colour, the shape, the size and the place of the thing of that colour. A
quarter of the scenes have one thing in easy-VQA's style; easy-VQA's own images are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlpeft.benchmark.datasets.drawing import (
    COLORS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    draw,
    sample_scene,
    sample_single,
)

PATCH = 8  # pixels
SINGLE_SHARE = 0.25  # share of the images that have one thing, as in easy-VQA
OUTPUTS = 1 + len(SHAPES) + 1 + 2  # per colour: absent or which shape, size, x and y
PATCH_CLASSES = 1 + len(COLORS) * len(SHAPES)  # background, or a coloured shape
IGNORED = -100  # the label that PyTorch's losses ignore


@dataclass(frozen=True)
class Truth:
    """The labels of a batch of scenes."""

    kind: Tensor  # (batch, colours): 0 absent, else 1 + shape
    size: Tensor  # (batch, colours): 0 small, 1 large, IGNORED without a size
    place: Tensor  # (batch, colours, 2): the centre, in [-1, 1]
    patches: Tensor  # (batch, patches): 0 background, else 1 + colour * shapes + shape


def draw_scene(seed: int, index: int) -> Scene:
    """Return scene `index` of the pretraining stream.

    The stream shares no random numbers with a split of the dataset `shapes`.
    """
    rng = Random(f"pretrain/{seed}/{index}")
    if rng.random() < SINGLE_SHARE:
        return sample_single(rng)
    return sample_scene(rng)


def pixel_values(scenes: list[Scene]) -> Tensor:
    """Return the images (batch, 3, 64, 64) in [-1, 1]: mean and standard deviation are 0.5."""
    images = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def scene_labels(scenes: list[Scene]) -> Truth:
    """Return the labels of a batch of scenes."""
    kind = torch.zeros(len(scenes), len(COLORS), dtype=torch.long)
    size = torch.full_like(kind, IGNORED)
    place = torch.zeros(*kind.shape, 2)
    patches = torch.zeros(len(scenes), SIDE // PATCH, SIDE // PATCH, dtype=torch.long)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            c = tuple(COLORS).index(thing.color)
            kind[i, c] = 1 + SHAPES.index(thing.shape)
            place[i, c] = torch.tensor([thing.x / SIDE - 1, thing.y / SIDE - 1])
            rows, columns = patches_on(thing.top, thing.height), patches_on(thing.left, thing.width)
            patches[i, rows, columns] = 1 + c * len(SHAPES) + SHAPES.index(thing.shape)
            if thing.size:
                size[i, c] = SIZES.index(thing.size)
    return Truth(kind, size, place, patches.flatten(1))


def patches_on(start: int, extent: int) -> slice:
    """Return the patches along one axis whose centre is on a thing, but at least one patch.

    Args:
        start: The first pixel of the thing.
        extent: The size of the thing in pixels.
    """
    first = (max(0, start) + PATCH // 2 - 1) // PATCH
    end = (start + extent + PATCH // 2 - 1) // PATCH
    if end > first:
        return slice(first, end)
    middle = (2 * start + extent) // (2 * PATCH)  # the patch of the thing's own centre
    return slice(middle, middle + 1)


def scene_loss(outputs: Tensor, patches: Tensor, truth: Truth) -> Tensor:
    """Return the loss of the labels read from the pooled vector, and of those of each patch.

    Without the loss of the patches, the tower learns shapes far more slowly.

    Args:
        outputs: Predictions from the pooled vector, (batch, colours, OUTPUTS).
        patches: Predictions from the patches, (batch, patches, PATCH_CLASSES).
        truth: The labels.
    """
    present = truth.kind > 0
    kind = F.cross_entropy(outputs[..., :4].flatten(0, 1), truth.kind.flatten())
    sized = truth.size != IGNORED
    size = F.binary_cross_entropy_with_logits(
        outputs[..., 4][sized], truth.size[sized].float(), reduction="sum"
    )
    place = F.mse_loss(outputs[..., 5:][present], truth.place[present], reduction="sum")
    local = F.cross_entropy(patches.flatten(0, 1), truth.patches.flatten())
    return 4 * kind + (size + 4 * place) / present.sum() + 4 * local


def scene_scores(outputs: Tensor, truth: Truth) -> dict[str, float]:
    """Return the accuracies of attributes and of whole scenes, and the error of places."""
    present, sized = truth.kind > 0, truth.size != IGNORED
    kind = outputs[..., :4].argmax(-1)
    right = kind == truth.kind
    large = outputs[..., 4] > 0
    distance = (outputs[..., 5:] - truth.place)[present].abs().mean().item()
    return {
        "presence": ((kind > 0) == present).float().mean().item(),
        "shape_of_present": right[present].float().mean().item(),
        "size_of_present": (large == truth.size)[sized].float().mean().item(),
        "place_error_pixels": distance * SIDE / 2,
        "whole_scene_presence_and_shapes": right.all(-1).float().mean().item(),
    }
