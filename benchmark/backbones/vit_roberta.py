"""RoBERTa + ViT with an answer classifier: the encoder-only assembly of Qu et al., ECCV 2024."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import RobertaModel

from vlpeft.benchmark.backbones.language import token_id
from vlpeft.benchmark.backbones.vision import Pooling, vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig, WeightFiles, check_widths
from vlpeft.benchmark.contract.parameters import init_normal
from vlpeft.benchmark.contract.sites import Need, Projection, Site, Slot
from vlpeft.benchmark.contract.texts import Length, Room, usable_positions
from vlpeft.benchmark.contract.visual import VisualFeatures
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.libraries.transformers import (
    call_model,
    make_roberta_pooler,
    tokenize_padded,
)
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import register

# The fewest tokens that make sense: two images, <s>, one token of text, </s>.
SHORTEST = 5


@register(
    "vit_roberta",
    abilities=("choose", "pair"),
    ignores=(
        "train_answers",
        "loss_mean",
        "label_smoothing",
        "answering",
        "rank_candidates",
        "beams",
        "max_generated_tokens",
        "min_generated_tokens",
        "no_repeat_ngram",
        "length_penalty",
        "early_stopping",
        "beam_length",
    ),
)
@dataclass(frozen=True)
class ViTRoberta(BackboneConfig):
    """RoBERTa reads a visual prefix and the question; a classifier reads the state of one position.

    `pooler` is the tanh layer before the classifier. roberta-base and roberta-large contain no
    weights for it, so the release reads through a frozen `random` one. `checkpoint` takes the
    checkpoint's own, frozen. `trained` is new and trains.

    The defaults are the authors' release. `embed_text_twice: false` and `read: text` repair what it
    does by accident.
    """

    text: str = "roberta-base"
    vision: str = "google/vit-base-patch16-224-in21k"
    # All scripts of the release read the ViT's tanh pooler, not the CLS state before it.
    pool: Pooling = "pooler"
    # The visual tokens that routing functions mix in. The release's element-wise functions run on
    # one pooled token only.
    context: Literal["pooled", "tokens"] = "pooled"
    # `raw` is the release's: the vector enters the embedding space without a projection.
    prefix: Literal["raw", "projected", "none"] = "raw"
    # The release embeds the text, then sends it through the embedding layer again.
    embed_text_twice: bool = True
    # The position that the classifier reads: the visual prefix, or <s>.
    read: Literal["prefix", "text"] = "prefix"
    pooler: Literal["checkpoint", "random", "trained"] = "random"
    # The head of two layers, which the release's scripts use, has 5,993,529 parameters for 3,129
    # answers at width 768. That is more than the methods have.
    head_layers: Literal[1, 2] = 2

    def offers(self) -> frozenset[Need]:
        """Return everything that a method can need."""
        return frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"}
        )

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Return both towers and the tokenizer."""
        text = WeightFiles(self.text, "roberta", ("model", "tokenizer"))
        return text, WeightFiles(self.vision, "vit", ("model", "pixels"))

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model for this answer list."""
        return ViTRobertaModel(self, answers, protocol)


class ViTRobertaModel(Backbone):
    """The assembled model."""

    score = "sigmoid of the answer's own logit; those of all answers do not sum to 1"

    def __init__(self, config: ViTRoberta, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        if protocol.max_input_tokens < SHORTEST:
            raise UserError(
                f"max_input_tokens: {protocol.max_input_tokens} leaves no room for text; "
                f"choose at least {SHORTEST}"
            )
        self.name = ViTRoberta.name
        self.config = config
        self.source = config.text
        self.protocol = protocol
        self.answers = list(answers)
        source = WeightSource.parse(config.text, tiny="roberta")
        self.vision = vision_tower(config.vision, config.pool, tokens=config.context == "tokens")
        self.context_tokens = config.context == "tokens"
        self.text = source.model(RobertaModel, add_pooling_layer=config.pooler == "checkpoint")
        self.token_embeddings = self.text.embeddings.word_embeddings
        self.tokenizer = source.tokenizer()
        _check_padding(self.tokenizer, self.text.config.pad_token_id, config.text)
        classifier = _make_classifier(self.width, len(answers), config.head_layers)
        self.head = nn.ModuleDict({"classifier": classifier})
        if config.pooler == "trained":
            self.head["pooler"] = _make_pooler(self.text.config)
        elif config.pooler == "random":
            self.text.pooler = _make_pooler(self.text.config)
        if config.prefix == "projected":
            self.head["prefix"] = nn.Linear(self.vision.width, self.width)
        elif config.prefix == "raw":
            check_widths(self.vision.width, self.width, "prefix: raw")
        self.answer_index = {answer: i for i, answer in enumerate(answers)}
        self.sites = list(_list_sites(self.text))

    @property
    def encoder(self) -> nn.Module:
        """The whole language tower."""
        return cast("nn.Module", self.text)

    @property
    def width(self) -> int:
        """The width of the language tower."""
        return int(self.text.config.hidden_size)

    def lengths(self) -> tuple[Length, ...]:
        """Return the positions of the visual prefix and text together, and of the soft prompt."""
        soft = 0
        if self.prompt is not None:
            soft = len(self.prompt())
        needed = self.protocol.max_input_tokens + soft
        return (Length("max_input_tokens and soft prompts", needed, usable_positions(self.text)),)

    def input_room(self, images: int) -> Room:
        """Return the room for text; the visual prefix takes one place per image."""
        return Room(self._room_for_text(images), special=True)

    def logits(self, visual: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the logits of all answers, (batch, answers).

        visual is (batch, images, tokens, width).
        """
        images = VisualFeatures(visual)
        self._set_visual_context(images)
        # In the release the prefix takes one of 20 positions, so the text has 19 tokens.
        prefix = self._embed_prefix(images.pooled)
        ids, mask = self._tokenize(prompts, self._room_for_text(visual.shape[1]))
        embeds = torch.cat([prefix, self._embed_text(ids)], 1)
        mask = torch.cat([mask.new_ones(mask.shape[0], prefix.shape[1]), mask], 1)
        self.encoder_mask.value = mask
        states = call_model(self.text, inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        # RoBERTa's pooler reads the first position, which is the visual prefix in the release.
        # `read: text` takes <s>, which is at this place where RoBERTa was pretrained.
        position = 0
        if self.config.read == "text":
            position = prefix.shape[1]
        pooled = self._pooler(states[:, position : position + 1])
        scores: Tensor = self._head_part("classifier")(pooled)
        return scores

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Return the binary cross-entropy of soft scores, one term per question and answer.

        Answers outside the list carry no score.
        """
        logits = self.logits(visual, prompts)
        # The release's loss, BCEWithLogits on soft targets: an answer's target is its VQA score.
        # Built on the CPU: one copy to the device costs less than one write per answer.
        goal = torch.zeros(logits.shape)
        for row, scores in enumerate(targets):
            for answer, score in scores.items():
                if answer in self.answer_index:
                    goal[row, self.answer_index[answer]] = score
        total = functional.binary_cross_entropy_with_logits(
            logits.float(), goal.to(logits.device), reduction="sum"
        )
        return total, goal.numel()

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """Return the highest-scoring answer of each question."""
        return [self.answers[i] for i in self.logits(visual, prompts).argmax(-1).tolist()]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return all answers and the sigmoids of their logits, best first."""
        sigmoids = self.logits(visual, prompts).float().sigmoid()
        scores, order = sigmoids.sort(dim=-1, descending=True, stable=True)
        result = []
        for numbers, values in zip(order.tolist(), scores.tolist(), strict=True):
            answers = [self.answers[i] for i in numbers]
            result.append(list(zip(answers, values, strict=True)))
        return result

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the setting that finds a random pooler in the text tower's checkpoint."""
        if self.config.pooler == "random":
            return {"pooler": "checkpoint"}
        return {}

    def _set_visual_context(self, images: VisualFeatures) -> None:
        """Set the tokens that routing functions mix in.

        For two images these are the mean of the pooled vectors, or the tokens of both images.
        """
        # The release routes one image. The mean keeps one token for NLVR2's two, because the
        # element-wise functions broadcast one token over the text.
        if self.context_tokens:
            self.visual_context.value = images.tokens
        else:
            self.visual_context.value = images.pooled.mean(1, keepdim=True)

    def _room_for_text(self, images: int) -> int:
        """Return the number of tokens left for text; the prefix has one token per image."""
        room = self.protocol.max_input_tokens
        if self.config.prefix != "none":
            room -= images
        return room

    def _embed_text(self, ids: Tensor) -> Tensor:
        """Return embeddings of token ids, (batch, tokens, width).

        The tower adds positions and types to them and normalises them. With `embed_text_twice` that
        was done before, as in the release.
        """
        embeds: Tensor
        if self.config.embed_text_twice:
            embeds = call_model(self.text.embeddings, input_ids=ids)
        else:
            embeds = self.token_embeddings(ids)
        return embeds

    def _embed_prefix(self, pooled: Tensor) -> Tensor:
        """Return visual prefix and soft prompt, (batch, length, width), from the pooled vectors.

        pooled is (batch, images, width of the vision tower). The length may be 0.
        """
        parts = []
        if self.config.prefix == "projected":
            parts.append(self._head_part("prefix")(pooled))
        elif self.config.prefix == "raw":
            parts.append(pooled)
        if self.prompt is not None:
            parts.append(self.prompt().expand(pooled.shape[0], -1, -1))
        if not parts:
            return pooled.new_zeros(pooled.shape[0], 0, self.width)
        return torch.cat(parts, 1)

    @property
    def _pooler(self) -> Any:
        if self.config.pooler == "trained":
            return self._head_part("pooler")
        return self.text.pooler

    def _head_part(self, name: str) -> nn.Module:
        return cast("nn.ModuleDict", self.head)[name]

    def _tokenize(self, prompts: Sequence[str], limit: int) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, (batch, tokens)."""
        ids, mask = tokenize_padded(self.tokenizer, list(prompts), limit)
        return ids.to(self.device), mask.to(self.device)


def _check_padding(tokenizer: Any, padding: object, source: str) -> None:
    """Refuse a tokenizer that pads with another token than the tower numbers positions by."""
    found = token_id(tokenizer, ("pad_token",), padding, source)
    if found != padding:
        raise WeightsError(
            f"{source}: its tokenizer pads with token {found}, and config.json has "
            f"pad_token_id: {padding}, by which positions are numbered; make them equal"
        )


def _make_pooler(config: Any) -> nn.Module:
    """Return a tanh pooler whose weights are drawn like those of the tower."""
    pooler: Any = make_roberta_pooler(config)
    init_normal(pooler.dense, config.initializer_range)
    module: nn.Module = pooler
    return module


def _make_classifier(width: int, answers: int, layers: int) -> nn.Module:
    """Return the classifier of the release, in its form of one or two layers."""
    # Its dropout is 0 in the form of two layers and 0.1 in the form of one.
    if layers == 1:
        return nn.Sequential(nn.Dropout(0.1), nn.Linear(width, answers))
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.LayerNorm(2 * width, eps=1e-5),
        nn.GELU(approximate="none"),
        nn.Linear(2 * width, answers),
    )


def _list_sites(tower: Any) -> Iterator[Site]:
    """Yield the self-attention and the feed-forward block of every layer."""
    for index, layer in enumerate(tower.encoder.layer):
        yield _attention_site(index, layer, tower)
        yield _feed_forward_site(index, layer, tower)


def _attention_site(index: int, layer: Any, tower: Any) -> Site:
    width = tower.config.hidden_size
    inner, out = layer.attention.self, layer.attention.output
    projections = {
        role: Projection(Slot(inner, role), (0, width)) for role in ("query", "key", "value")
    }
    projections["output"] = Projection(Slot(out, "dense"), (0, width))
    attention = Attention(inner, tower, causal=False)
    name = f"layer.{index}.self"
    output = Slot(out, "dropout")
    return Site(
        name, "self", "encoder", index, width, projections, output, out.LayerNorm, attention
    )


def _feed_forward_site(index: int, layer: Any, tower: Any) -> Site:
    width = tower.config.hidden_size
    up, down = layer.intermediate, layer.output
    projections = {
        "up": Projection(Slot(up, "dense"), (0, up.dense.out_features)),
        "down": Projection(Slot(down, "dense"), (0, width)),
    }
    name = f"layer.{index}.ffn"
    output = Slot(down, "dropout")
    return Site(name, "ffn", "encoder", index, width, projections, output, down.LayerNorm)
