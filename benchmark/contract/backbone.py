"""The backbone contract.

A backbone is a vision-language model assembled from pretrained parts, plus the list of its sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlpeft.benchmark.contract.abilities import Ability
from vlpeft.benchmark.contract.sites import ActiveTask, EncoderMask, Need, Site, VisualContext
from vlpeft.benchmark.contract.texts import Length, Room, usable_positions
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol

# The shipped towers of a few layers, which need no download.
TINY = Path(__file__).resolve().parents[1] / "backbones" / "tiny"


@dataclass(frozen=True)
class WeightFiles:
    """The files of one weight source that a backbone opens, listed before anything is built.

    Args:
        source: The source as the setting names it.
        tiny: The shipped folder that `tiny` means for this source.
        files: The kinds of files. `pixels` says how the checkpoint scales its images.
    """

    source: str
    tiny: str
    files: tuple[Literal["model", "tokenizer", "pixels"], ...]


@dataclass(frozen=True)
class BackboneConfig(Config, ABC):
    """The settings of a backbone; `build` turns them into a model."""

    # The decorator @register sets these four. A backbone does the tasks that need no other
    # `abilities`; with `joint`, several together. `ignores` names protocol keys without effect.
    name: ClassVar[str]
    abilities: ClassVar[tuple[Ability, ...]]
    joint: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = ()

    @property
    def reads_features(self) -> bool:
        """Whether the backbone reads precomputed features in place of images."""
        return False

    @abstractmethod
    def offers(self) -> frozenset[Need]:
        """Return the needs of methods that this backbone can meet.

        Returns:
            A subset of the names in `Need`.
        """

    @abstractmethod
    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Return the weight sources that `build` opens.

        Returns:
            One entry per source.
        """

    @abstractmethod
    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model.

        Under `torch.device("meta")` no weight is read, so that a plan can count parameters.

        Args:
            answers: The closed list of answers to classify or to rank; empty if there is none.
            protocol: How to read, train and decode.

        Returns:
            The model in evaluation mode, before any method is applied.

        Raises:
            UserError: If the settings do not fit each other.
            WeightsError: If weights cannot be loaded.
        """


class Checkpoint(NamedTuple):
    """A Hugging Face model, and the tokenizer that belongs to it or None."""

    model: PreTrainedModel
    tokenizer: Any


class Backbone(nn.Module, ABC):
    """An assembled model.

    `vision` maps pixels to visual features. A method decides which other parameters are trained.
    """

    name: str
    # The setting that names the weights of the language tower, for messages.
    source: str = ""
    vision: VisionTower
    tokenizer: Any
    # A description of the scores in `ranked`, for the reader of an exported prediction.
    score: ClassVar[str] = (
        "log-likelihood of the answer's tokens, smoothed as the labels in training"
    )
    # The language tower, a transformers model. `Any`, as its submodules have no declared types.
    text: Any
    # The parts that no checkpoint holds. They always train.
    head: nn.Module | None
    # Names of head parameters that no input reaches. Published parameter counts include them.
    inert: frozenset[str] = frozenset()
    # A module () -> (tokens, width): the soft prompt. Each backbone chooses its position.
    prompt: nn.Module | None
    token_embeddings: nn.Embedding
    protocol: Protocol
    answers: Sequence[str]
    # True if routing functions see all visual tokens, False if they see the pooled one.
    context_tokens: bool

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
        """Compute the summed training loss of a batch.

        A sum and a count, in place of a mean, let the caller compute a batch in parts.

        Args:
            visual: (batch, images, tokens, width). Each image's features come from `vision`.
            prompts: One text per example.
            targets: One mapping of text to its score per example.

        Returns:
            The sum, a scalar, and the number of terms in it.
        """

    @abstractmethod
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """Return one answer or caption per prompt.

        Args:
            visual: (batch, images, tokens, width). Each image's features come from `vision`.
            prompts: One text per example.

        Returns:
            One text per example.
        """

    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the listed answers that were compared for each prompt, with their scores.

        Args:
            visual: (batch, images, tokens, width). Each image's features come from `vision`.
            prompts: One text per example.

        Returns:
            For each example, pairs of answer and score, best first. Empty lists if the text is
            generated freely. `score` describes the unit.
        """
        return [[] for _ in prompts]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Take the Hugging Face models out of the backbone, in the form that folders store.

        Rows that were appended to the models are removed, so the backbone is of no use afterwards.

        Returns:
            The models by the setting that names each.

        Raises:
            UserError: If the removal would lose something that was trained.
        """
        found = {"text": Checkpoint(self.text, self.tokenizer)}
        if self.vision.hub_model is not None:
            found["vision"] = Checkpoint(self.vision.hub_model, None)
        return found

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the other settings that rebuild the backbone from its own checkpoints.

        Returns:
            Settings that replace those of the cell.
        """
        return {}

    def follow(self, protocol: Protocol, answers: Sequence[str], task: int = 0) -> None:
        """Read, train and decode as a task of a joint cell asks, from the next batch on.

        Args:
            protocol: The task's protocol.
            answers: The task's closed list of answers; empty if it has none.
            task: The number of the task in the cell, from 0.

        Raises:
            UserError: If the protocol does not fit the backbone.
        """
        self.protocol = protocol
        self.answers = list(answers)
        self.active_task.index = task

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Mark the attentions of all sites as generating text from a cache.

        The p-Adapter release uses another graph there than in training.
        """
        attentions = [site.attention for site in self.sites if site.attention is not None]
        for attention in attentions:
            attention.generating = True
        try:
            yield
        finally:
            for attention in attentions:
                attention.generating = False

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of the parts that no checkpoint holds.

        Returns:
            The parameters of `head`; none without a head.
        """
        if self.head is None:
            return iter(())
        return self.head.parameters()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the language tower.

        A frozen vision tower stays in evaluation mode. Its features then do not depend on dropout,
        so they can be cached.

        Args:
            mode: True for training, False for evaluation.

        Returns:
            The backbone.
        """
        super().train(mode)
        if not any(p.requires_grad for p in self.vision.parameters()):
            self.vision.eval()
        return self

    @property
    def vocabulary(self) -> int:
        """The rows of the token table that the tokenizer's tokens may use: by default, all."""
        return self.token_embeddings.num_embeddings

    def lengths(self) -> tuple[Length, ...]:
        """Return the positions that texts may need, for the check that a plan makes.

        Returns:
            By default, one entry: `max_input_tokens` in the language tower.
        """
        positions = usable_positions(getattr(self, "text", None))
        return (Length("max_input_tokens", self.protocol.max_input_tokens, positions),)

    def input_room(self, images: int) -> Room:
        """Return how many tokens of a prompt are read.

        Args:
            images: The number of images of an example, which may take places of the prompt.

        Returns:
            By default, `max_input_tokens` with the tokenizer's special tokens.
        """
        return Room(self.protocol.max_input_tokens, special=True)

    def target_room(self) -> Room | None:
        """Return how many tokens of a training target are written.

        Returns:
            None, the default, if the backbone does not write.
        """
        return None

    @property
    def encoder(self) -> nn.Module:
        """The part of the language tower that holds the sites of the side `encoder`.

        Raises:
            RuntimeError: If the backbone has no encoder.
        """
        raise RuntimeError(f"{self.name} has no encoder")

    @property
    def context_width(self) -> int:
        """The number of features in the visual context: by default, those of the vision tower."""
        return self.vision.width

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


def check_widths(vision: int, text: int, what: str) -> None:
    """Refuse towers of different widths where a visual vector is used as a text vector.

    Args:
        vision: The width of the vision tower.
        text: The width of the language tower.
        what: The setting that needs equal widths, for the message.

    Raises:
        UserError: If the widths differ.
    """
    if vision != text:
        raise UserError(
            f"{what} needs vision and text towers of one width, got {vision} and {text}; "
            "choose matching towers, or `prefix: projected` with a method that does not route"
        )
