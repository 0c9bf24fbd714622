"""RoBERTa + ViT with an answer classifier: the encoder-only assembly of the routing-functions paper (ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import RobertaModel

from vlpeft.benchmark.backbones.vision import Pool, vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig, WeightFiles, check_widths
from vlpeft.benchmark.contract.method import init_normal
from vlpeft.benchmark.contract.sites import Need, Projection, Site, Slot
from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.libraries.transformers import call_model, make_roberta_pooler, tokenize_padded

SHORTEST = 5  # tokens: two images, <s>, one of text, </s>


@register(
    "vit_roberta",
    tasks=("vqa", "entailment", "nlvr2"),
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
    ),
)
@dataclass(frozen=True)
class ViTRoberta(BackboneConfig):
    """RoBERTa reads the question behind a visual prefix; a classifier over the answer list reads one position.

    `pooler` is the tanh layer before the classifier. roberta-base and roberta-large hold no weights for it, so that the
    release reads through a frozen `random` one; `checkpoint` takes the checkpoint's own, frozen; `trained` is new and trains.

    The defaults are the authors' release; `embed_text_twice: false` and `read: text` repair what it does by accident.
    """

    text: str = "roberta-base"
    vision: str = "google/vit-base-patch16-224-in21k"
    pool: Pool = "pooler"
    context: Literal["pooled", "tokens"] = "pooled"  # what routing functions mix in
    prefix: Literal["raw", "projected", "none"] = "raw"
    embed_text_twice: bool = (
        True  # the release embeds the text, then sends it through the embedding layer again
    )
    read: Literal["prefix", "text"] = (
        "prefix"  # position the classifier reads: the visual prefix, or <s>
    )
    pooler: Literal["checkpoint", "random", "trained"] = "random"
    head_layers: Literal[1, 2] = 2

    def offers(self) -> frozenset[Need]:
        """Everything: linears, sub-layers, attentions, embeddings, visual context, encoder and a head."""
        return frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"}
        )

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Both towers and the tokenizer."""
        return WeightFiles(self.text, "roberta", ("model", "tokenizer")), WeightFiles(
            self.vision, "vit", ("model", "pixels")
        )

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
                f"max_input_tokens: {protocol.max_input_tokens} leaves no room for text; choose at least {SHORTEST}"
            )
        self.name, self.config, self.protocol, self.answers = (
            ViTRoberta.name,
            config,
            protocol,
            list(answers),
        )
        source = WeightSource.parse(config.text, tiny="roberta")
        self.vision = vision_tower(config.vision, config.pool, tokens=config.context == "tokens")
        self.context_tokens = config.context == "tokens"
        self.text = source.model(RobertaModel, add_pooling_layer=config.pooler == "checkpoint")
        self.token_embeddings = self.text.embeddings.word_embeddings
        self.tokenizer = source.tokenizer()
        self.head = nn.ModuleDict(
            {"classifier": _classifier(self.width, len(answers), config.head_layers)}
        )
        if config.pooler == "trained":
            self.head["pooler"] = _new_pooler(self.text.config)
        elif config.pooler == "random":
            self.text.pooler = _new_pooler(self.text.config)
        if config.prefix == "projected":
            self.head["prefix"] = nn.Linear(self.vision.width, self.width)
        elif config.prefix == "raw":
            check_widths(self.vision.width, self.width, "prefix: raw")
        self.answer_index = {answer: i for i, answer in enumerate(answers)}
        self.sites = [
            site
            for i, layer in enumerate(self.text.encoder.layer)
            for site in _sites(i, layer, self.text)
        ]

    @property
    def encoder(self) -> nn.Module:
        """The whole language tower."""
        return cast("nn.Module", self.text)

    @property
    def width(self) -> int:
        """Width of the language tower."""
        return int(self.text.config.hidden_size)

    def logits(self, visual: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of all answers, (batch, answers)."""
        # Of two images the prefix holds both, in order; routing functions mix in their mean, or the tokens of both.
        self.visual_context.value = (
            visual[:, :, 1:].flatten(1, 2)
            if self.context_tokens
            else visual[:, :, 0].mean(1, keepdim=True)
        )
        prefix = self._prefix(visual[:, :, 0])
        shown = visual.shape[1] if self.config.prefix != "none" else 0
        ids, mask = self._tokenize(prompts, self.protocol.max_input_tokens - shown)
        words = (
            call_model(self.text.embeddings, input_ids=ids)
            if self.config.embed_text_twice
            else self.token_embeddings(ids)
        )
        embeds = torch.cat([prefix, words], 1)
        mask = torch.cat([mask.new_ones(mask.shape[0], prefix.shape[1]), mask], 1)
        self.encoder_mask.value = mask
        states = call_model(self.text, inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        position = prefix.shape[1] if self.config.read == "text" else 0
        head = cast("nn.ModuleDict", self.head)
        pooler = head["pooler"] if self.config.pooler == "trained" else self.text.pooler
        scores: Tensor = head["classifier"](pooler(states[:, position : position + 1]))
        return scores

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Binary cross-entropy of soft scores, one term for each question and answer. Answers outside the list carry no score."""
        logits = self.logits(visual, prompts)
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
        """The highest-scoring answer of each question."""
        return [self.answers[i] for i in self.logits(visual, prompts).argmax(-1).tolist()]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """All answers and the sigmoids of their logits, each by itself, best first."""
        scores, order = (
            self.logits(visual, prompts)
            .float()
            .sigmoid()
            .sort(dim=-1, descending=True, stable=True)
        )
        rows = zip(order.tolist(), scores.tolist(), strict=True)
        return [[(self.answers[i], score) for i, score in zip(*row, strict=True)] for row in rows]

    def checkpoint_settings(self) -> dict[str, Any]:
        """A random pooler lies in the text tower's checkpoint."""
        return {"pooler": "checkpoint"} if self.config.pooler == "random" else {}

    def _prefix(self, pooled: Tensor) -> Tensor:
        parts = []
        if self.config.prefix != "none":
            parts.append(
                cast("nn.ModuleDict", self.head)["prefix"](pooled)
                if self.config.prefix == "projected"
                else pooled
            )
        if self.prompt is not None:
            parts.append(self.prompt().expand(pooled.shape[0], -1, -1))
        return torch.cat(parts, 1) if parts else pooled.new_zeros(pooled.shape[0], 0, self.width)

    def _tokenize(self, prompts: Sequence[str], limit: int) -> tuple[Tensor, Tensor]:
        ids, mask = tokenize_padded(self.tokenizer, list(prompts), limit)
        return ids.to(self.device), mask.to(self.device)


def _new_pooler(config: Any) -> nn.Module:
    pooler = make_roberta_pooler(config)
    init_normal(pooler.dense, config.initializer_range)
    made: nn.Module = pooler
    return made


def _classifier(width: int, answers: int, layers: int) -> nn.Module:
    if layers == 1:
        return nn.Sequential(nn.Dropout(0.1), nn.Linear(width, answers))
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.LayerNorm(2 * width, eps=1e-5),
        nn.GELU(approximate="none"),
        nn.Linear(2 * width, answers),
    )


def _sites(index: int, layer: Any, tower: Any) -> tuple[Site, Site]:
    width = tower.config.hidden_size
    attention, out, up, down = (
        layer.attention.self,
        layer.attention.output,
        layer.intermediate,
        layer.output,
    )
    whole = (0, width)
    linears = {role: Projection(Slot(attention, role), whole) for role in ("query", "key", "value")}
    linears["output"] = Projection(Slot(out, "dense"), whole)
    reader = Attention(attention, tower, causal=False)
    wide = (0, up.dense.out_features)
    ffn = {
        "up": Projection(Slot(up, "dense"), wide),
        "down": Projection(Slot(down, "dense"), whole),
    }
    return (
        Site(
            f"layer.{index}.self",
            "self",
            "encoder",
            index,
            width,
            linears,
            Slot(out, "dropout"),
            out.LayerNorm,
            reader,
        ),
        Site(
            f"layer.{index}.ffn",
            "ffn",
            "encoder",
            index,
            width,
            ffn,
            Slot(down, "dropout"),
            down.LayerNorm,
        ),
    )
