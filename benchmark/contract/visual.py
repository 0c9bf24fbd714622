"""Visual features: the module that computes them from pixels, and the form that backbones read."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class VisualFeatures:
    """The visual features of a batch.

    Features are cached as one tensor per image, with the pooled vector in row 0. The properties are
    the only places that know this. They return views: a copy would have another memory layout, and
    matrix products may round differently on another layout. Precomputed features of a dataset have
    no pooled vector: `grids(0)` is all of them.

    Args:
        stored: (batch, images, 1 + tokens, width). Each image's rows come from a `VisionTower`.
    """

    stored: Tensor

    @property
    def pooled(self) -> Tensor:
        """One vector per image, (batch, images, width)."""
        return self.stored[:, :, 0]

    @property
    def tokens(self) -> Tensor:
        """The tokens of all images, one image after the other, (batch, images * tokens, width).

        There are none if the tower was asked for the pooled vector alone.
        """
        return self.stored[:, :, 1:].flatten(1, 2)

    def grids(self, leading: int) -> Tensor:
        """Return the square grid of tokens of each image, row by row.

        Args:
            leading: `VisionTower.leading`, the number of rows before the grid.

        Returns:
            (batch, images, height * width of the grid, width).
        """
        return self.stored[:, :, leading:]

    def rows(self, index: Tensor) -> VisualFeatures:
        """Select examples, for sequences that share an image.

        Args:
            index: (sequences,). The number of each sequence's example.

        Returns:
            Features of a batch of as many examples as `index` is long.
        """
        return VisualFeatures(self.stored[index])

    def repeat(self, copies: int) -> VisualFeatures:
        """Repeat each example, with its copies next to each other, as beam search orders them.

        Args:
            copies: The number of copies of each example.

        Returns:
            Features of a batch that is `copies` times as large.
        """
        return VisualFeatures(self.stored.repeat_interleave(copies, 0))


def single(visual: Tensor) -> VisualFeatures:
    """Return the features of a batch, for a backbone that reads one image per example.

    Args:
        visual: (batch, 1, 1 + tokens, width).

    Returns:
        The features: `pooled` is (batch, 1, width), `tokens` (batch, tokens, width).

    Raises:
        RuntimeError: If there is more than one image.
    """
    if visual.shape[1] != 1:
        raise RuntimeError(f"this backbone reads one image per example, got {visual.shape[1]}")
    return VisualFeatures(visual)


class VisionTower(nn.Module, ABC):
    """A module from normalised pixels to visual features.

    It maps (batch, 3, size, size) to (batch, 1 + tokens, width): the pooled vector, then the tokens
    that were asked for. The last tokens are the image's grid, row by row. `leading` rows come
    before the grid; the pooled vector is one of them.
    """

    width: int
    leading: int
    # Height and width of the input image, in pixels.
    size: int
    # Mean and standard deviation of each colour channel, for pixel values from 0 to 1.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BILINEAR

    @property
    def hub_model(self) -> PreTrainedModel | None:
        """The Hugging Face model inside the tower, or None if it is another library's."""
        return None

    def random_inputs(self, images: int) -> Tensor:
        """Draw random input, to measure speed and memory with.

        Args:
            images: The number of images.

        Returns:
            (images, 3, size, size).
        """
        return torch.randn(images, 3, self.size, self.size)
