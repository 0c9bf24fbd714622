"""GPT-2 + ViT for captioning: the decoder-only assembly of the routing-functions paper (ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2LMHeadModel

from vlpeft.benchmark.backbones.language import generation
from vlpeft.benchmark.backbones.vision import Pool, vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import (
    Backbone,
    BackboneConfig,
    WeightFiles,
    check_widths,
    single,
)
from vlpeft.benchmark.contract.sites import Need, Projection, Site, Slot
from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.libraries.transformers import call_model, decode_tokens, generate, tokenize

RELEASE_IGNORED = 0  # the release masks GPT-2's "!" (id 0) in the loss, taking it for padding


@register(
    "vit_gpt2",
    tasks=("captioning",),
    ignores=(
        "prompt",
        "train_answers",
        "loss_mean",
        "label_smoothing",
        "answering",
        "rank_candidates",
    ),
)
@dataclass(frozen=True)
class ViTGPT2(BackboneConfig):
    """GPT-2 writes the caption behind a visual prefix.

    `loss: release` is what the authors' code does: captions are padded with the end token to the full length and the
    padding counts, token id 0 does not, and the first caption token is never trained. `loss: repaired` trains every
    caption token and one end token, nothing else.
    """

    text: str = "gpt2"
    vision: str = "google/vit-base-patch16-224-in21k"
    pool: Pool = "pooler"
    context: Literal["pooled", "tokens"] = "pooled"  # what routing functions mix in
    prefix: Literal["raw", "projected", "none"] = "raw"
    loss: Literal["release", "repaired"] = "release"

    def offers(self) -> frozenset[Need]:
        """Everything but a head that could learn a task alone: captions come from the language model's own head."""
        return frozenset({"linears", "sublayers", "attention", "embeddings", "visual_context"})

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Both towers and the tokenizer."""
        return WeightFiles(self.text, "gpt2", ("model", "tokenizer")), WeightFiles(
            self.vision, "vit", ("model", "pixels")
        )

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model."""
        return ViTGPT2Model(self, answers, protocol)


class ViTGPT2Model(Backbone):
    """The assembled model."""

    def __init__(self, config: ViTGPT2, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.name, self.config, self.protocol, self.answers = (
            ViTGPT2.name,
            config,
            protocol,
            answers,
        )
        source = WeightSource.parse(config.text, tiny="gpt2")
        self.vision = vision_tower(config.vision, config.pool, tokens=config.context == "tokens")
        self.context_tokens = config.context == "tokens"
        self.text = source.model(GPT2LMHeadModel)
        self.token_embeddings = self.text.transformer.wte
        self.tokenizer = source.tokenizer()
        self.end = int(self.text.config.eos_token_id)
        if config.prefix == "projected":
            self.head = nn.ModuleDict({"prefix": nn.Linear(self.vision.width, self.width)})
        elif config.prefix == "raw":
            check_widths(self.vision.width, self.width, "prefix: raw")
        self.sites = [
            site
            for i, block in enumerate(self.text.transformer.h)
            for site in _sites(i, block, self.text)
        ]

    @property
    def width(self) -> int:
        """Width of the language tower."""
        return int(self.text.config.n_embd)

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:  # noqa: ARG002
        """Cross-entropy of the caption (each target mapping's first key), one term for each token that counts."""
        context = self.embed_context(visual)
        tokens, mask = self._captions([next(iter(target)) for target in targets])
        embeds = torch.cat([context, self.token_embeddings(tokens.to(self.device))], 1)
        seen = torch.cat([mask.new_ones(mask.shape[0], context.shape[1]), mask], 1)
        out = call_model(
            self.text.transformer,
            inputs_embeds=embeds,
            attention_mask=seen.to(self.device),
            use_cache=False,
        )
        states = out.last_hidden_state
        counted = mask.bool()
        if self.config.loss == "release":
            counted = tokens != RELEASE_IGNORED
            counted[:, 0] = False
        # The state before a token predicts it; the head runs only where a token counts.
        logits = self.text.lm_head(
            states[:, context.shape[1] - 1 : -1][counted.to(self.device)]
        ).float()
        goal = tokens[counted]
        return functional.cross_entropy(
            logits, goal.to(self.device), reduction="sum", label_smoothing=0.0
        ), goal.numel()

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:  # noqa: ARG002 - captioning has no prompt
        """Captions by greedy or beam search."""
        embeds = self.embed_context(visual)
        # Beams of one image lie side by side and share its visual context, so reordering beams never mixes images.
        self.visual_context.value = self.visual_context.value.repeat_interleave(
            self.protocol.beams, 0
        )
        with self.generating():
            tokens = generate(
                self.text,
                generation(self.protocol, None, self.end, self.end),
                inputs_embeds=embeds,
                attention_mask=embeds.new_ones(embeds.shape[:2], dtype=torch.long),
            )
        return [text.replace("\n", " ").strip() for text in decode_tokens(self.tokenizer, tokens)]

    def embed_context(self, visual: Tensor) -> Tensor:
        """What stands before the caption, (batch, at least 1, width): visual prefix, soft prompts, or the end token as a start."""
        visual = single(visual)
        self.visual_context.value = (
            visual[:, 1:] if self.config.context == "tokens" else visual[:, :1]
        )
        pooled, parts = visual[:, :1], []
        if self.config.prefix == "none":
            parts.append(self.token_embeddings.weight[self.end].expand(pooled.shape[0], 1, -1))
        else:
            parts.append(
                cast("nn.ModuleDict", self.head)["prefix"](pooled)
                if self.config.prefix == "projected"
                else pooled
            )
        if self.prompt is not None:
            parts.append(self.prompt().expand(pooled.shape[0], -1, -1))
        return torch.cat(parts, 1)

    def _captions(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (batch, tokens), on the CPU: caption, end token, padding with the end token (masked)."""
        limit = self.protocol.max_output_tokens
        rows = [
            [*ids[: limit - 1], self.end]
            for ids in tokenize(self.tokenizer, list(captions), None, special=True)
        ]
        length = limit if self.config.loss == "release" else max(map(len, rows))
        tokens = torch.tensor([row + [self.end] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return tokens, mask


def _sites(index: int, block: Any, tower: Any) -> tuple[Site, Site]:
    width = tower.config.n_embd
    fused = Slot(block.attn, "c_attn")
    linears = {
        role: Projection(fused, (i * width, (i + 1) * width))
        for i, role in enumerate(("query", "key", "value"))
    }
    linears["output"] = Projection(Slot(block.attn, "c_proj"), (0, width))
    reader = Attention(block.attn, tower, causal=True)
    wide = (0, block.mlp.c_fc.weight.shape[1])
    ffn = {
        "up": Projection(Slot(block.mlp, "c_fc"), wide),
        "down": Projection(Slot(block.mlp, "c_proj"), (0, width)),
    }
    return (
        Site(
            f"layer.{index}.self",
            "self",
            "decoder",
            index,
            width,
            linears,
            Slot(block.attn, "resid_dropout"),
            block.ln_1,
            reader,
        ),
        Site(
            f"layer.{index}.ffn",
            "ffn",
            "decoder",
            index,
            width,
            ffn,
            Slot(block.mlp, "dropout"),
            block.ln_2,
        ),
    )
