"""The Backbone contract: a vision-language model assembled from pretrained parts, and the list of its sites."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlpeft.benchmark.contract.sites import ActiveTask, EncoderMask, Need, Site, VisualContext
from vlpeft.benchmark.core.config import Config, Protocol
from vlpeft.benchmark.core.errors import UserError

TINY = Path(__file__).resolve().parents[1] / "backbones" / "tiny"


@dataclass(frozen=True)
class WeightFiles:
    """Files of a weight source that a backbone opens, to look for them, or fetch them, before anything is built.

    source: as the setting has it; tiny: the shipped folder that `tiny` stands for. `pixels`: how the checkpoint scales its images.
    """

    source: str
    tiny: str
    files: tuple[Literal["model", "tokenizer", "pixels"], ...]


@dataclass(frozen=True)
class BackboneConfig(Config, ABC):
    """Settings of a backbone; `build` turns them into a model."""

    name: ClassVar[str]  # set by @register
    tasks: ClassVar[tuple[str, ...]]  # set by @register
    joint: ClassVar[bool] = (
        False  # set by @register: one model can be trained on several tasks together
    )
    ignores: ClassVar[
        tuple[str, ...]
    ] = ()  # set by @register: protocol keys that have no effect here

    @property
    def reads_features(self) -> bool:
        """Whether it reads a dataset's precomputed features in place of images, without a vision tower of its own."""
        return False

    @abstractmethod
    def offers(self) -> frozenset[Need]:
        """What a method finds at this backbone's sites."""

    @abstractmethod
    def weight_files(self) -> tuple[WeightFiles, ...]:
        """The weight sources that `build` opens."""

    @abstractmethod
    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model; under `torch.device("meta")` no weight is read.

        `answers` is the closed list to classify or to rank; the protocol says how to read, train and decode.
        """


class Checkpoint(NamedTuple):
    """A Hugging Face model, and the tokenizer that belongs to it."""

    model: PreTrainedModel
    tokenizer: Any


class Backbone(nn.Module, ABC):
    """An assembled model. `vision` maps pixels to visual features; everything else is trained or frozen by a method."""

    name: str
    vision: VisionTower
    tokenizer: Any
    # what the scores of `ranked` are, for those who read them
    score: ClassVar[str] = (
        "log-likelihood of the answer's tokens, smoothed as the labels in training"
    )
    text: Any  # the language tower, a transformers model (Any: its submodules are no typed attributes)
    head: nn.Module | None  # parts no checkpoint holds; they always train
    inert: frozenset[str] = (
        frozenset()
    )  # parameters of the head that no input reaches; published counts include them
    prompt: (
        nn.Module | None
    )  # () -> (tokens, width): soft prompts; where they stand, the backbone says
    token_embeddings: nn.Embedding
    protocol: Protocol
    answers: Sequence[str]
    context_tokens: bool  # whether routing functions see all visual tokens, or the pooled one

    def __init__(self) -> None:
        super().__init__()
        self.visual_context = VisualContext()
        self.active_task = ActiveTask()
        self.encoder_mask = EncoderMask()
        self.sites: list[Site] = []
        self.head = None
        self.prompt = None

    @abstractmethod
    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Summed training loss and how many terms it sums, so that a batch may be computed in parts.

        `visual` is (batch, images, tokens, width), each image's from `vision`; targets map text to its score.
        """

    @abstractmethod
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """One answer or caption for each prompt."""

    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:  # noqa: ARG002 - most text is written
        """The listed answers compared for each prompt and their scores, best first; none where text is written freely."""
        return [[] for _ in prompts]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Its Hugging Face models as folders hold them, by the setting that names each.

        What was appended to them is taken off, so that the backbone is of no further use. Raises UserError where that would
        lose what was trained.
        """
        found = {"text": Checkpoint(self.text, self.tokenizer)}
        if self.vision.hub_model is not None:
            found["vision"] = Checkpoint(self.vision.hub_model, None)
        return found

    def checkpoint_settings(self) -> dict[str, Any]:
        """Other settings to build it with from its own checkpoints."""
        return {}

    def follow(self, protocol: Protocol, answers: Sequence[str], task: int = 0) -> None:
        """Read, train and decode as another task of a joint cell asks (the `task`-th of its parts), from the next batch on."""
        self.protocol, self.answers, self.active_task.index = protocol, list(answers), task

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Tell the attentions of all sites that text is being written from a cache, which to some methods is another graph."""
        attentions = [site.attention for site in self.sites if site.attention is not None]
        for attention in attentions:
            attention.generating = True
        try:
            yield
        finally:
            for attention in attentions:
                attention.generating = False

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the parts that no checkpoint holds."""
        return iter(()) if self.head is None else self.head.parameters()

    def train(self, mode: bool = True) -> Self:
        """Training mode for the language tower; a frozen vision tower stays in eval mode, so its features can be cached."""
        super().train(mode)
        if not any(p.requires_grad for p in self.vision.parameters()):
            self.vision.eval()
        return self

    @property
    def encoder(self) -> nn.Module:
        """The part of the language tower whose sites are of the side `encoder`, where the backbone offers one."""
        raise RuntimeError(f"{self.name} has no encoder")

    @property
    def context_width(self) -> int:
        """Width of the visual context: the vision tower's, unless the backbone mixes in an embedding of it."""
        return self.vision.width

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device


class VisionTower(nn.Module, ABC):
    """Normalised pixels (batch, 3, size, size) to features (batch, 1 + tokens, width): the pooled vector, then the tokens asked for.

    The last tokens are the image's grid, row by row; `leading` rows, pooled vector included, stand before it.
    """

    width: int
    leading: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BILINEAR

    @property
    def hub_model(self) -> PreTrainedModel | None:
        """The Hugging Face model that it is, where it is one of its own."""
        return None

    def random_inputs(self, images: int) -> Tensor:
        """Random input of so many images, to measure with."""
        return torch.randn(images, 3, self.size, self.size)


def single(visual: Tensor) -> Tensor:
    """(batch, 1, tokens, width) to (batch, tokens, width), for a backbone that reads one image."""
    if visual.shape[1] != 1:
        raise RuntimeError(f"this backbone reads one image an example, got {visual.shape[1]}")
    return visual[:, 0]


def check_widths(vision: int, text: int, what: str) -> None:
    """Refuse towers whose widths differ where a visual vector is used as a text vector."""
    if vision != text:
        raise UserError(
            f"{what} needs vision and text towers of one width, got {vision} and {text}; choose matching towers, "
            "or `prefix: projected` with a method that does not route"
        )
