"""GPT-2 + ViT for captioning: the decoder-only assembly of the routing paper (Qu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2LMHeadModel

from vlpeft.benchmark.backbones.language import generation, token_id
from vlpeft.benchmark.backbones.vision import Pooling, vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import (
    Backbone,
    BackboneConfig,
    WeightFiles,
    check_widths,
)
from vlpeft.benchmark.contract.sites import Need, Projection, Site, Slot
from vlpeft.benchmark.contract.texts import Length, Room, usable_positions
from vlpeft.benchmark.contract.visual import single
from vlpeft.benchmark.core.libraries.transformers import (
    call_model,
    decode_tokens,
    generate,
    tokenize,
)
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import register

# The release masks this id in the loss, which it takes for padding. It is GPT-2's "!". GPT-2 has no
# padding token: the release pads with the end token, 50256.
RELEASE_IGNORED = 0


@register(
    "vit_gpt2",
    abilities=("write",),
    ignores=(
        "prompt",
        "train_answers",
        "loss_mean",
        "label_smoothing",
        "answering",
        "rank_candidates",
        "beam_length",
    ),
)
@dataclass(frozen=True)
class ViTGPT2(BackboneConfig):
    """GPT-2 writes the caption behind a visual prefix.

    `loss: release` is what the authors' code does. Captions are padded with the end token to the
    full length, and the padding counts. Token id 0 does not count, and the first token of a caption
    is never trained. `loss: repaired` trains every token of the caption and one end token, and
    nothing else.
    """

    text: str = "gpt2"
    vision: str = "google/vit-base-patch16-224-in21k"
    # All scripts of the release read the ViT's tanh pooler, not the CLS state before it.
    pool: Pooling = "pooler"
    # The visual tokens that routing functions mix in. The release's element-wise functions run on
    # one pooled token only.
    context: Literal["pooled", "tokens"] = "pooled"
    # The release puts the vector into the embedding space as it is, without a projection. So both
    # towers must have one width: 768 for the base models, 1024 for ViT-L with GPT-2 medium.
    prefix: Literal["raw", "projected", "none"] = "raw"
    loss: Literal["release", "repaired"] = "release"

    def offers(self) -> frozenset[Need]:
        """Return everything except a head that could learn a task alone.

        Captions come from the language model's own head.
        """
        return frozenset({"linears", "sublayers", "attention", "embeddings", "visual_context"})

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Return both towers and the tokenizer."""
        text = WeightFiles(self.text, "gpt2", ("model", "tokenizer"))
        return text, WeightFiles(self.vision, "vit", ("model", "pixels"))

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model."""
        return ViTGPT2Model(self, answers, protocol)


class ViTGPT2Model(Backbone):
    """The assembled model."""

    def __init__(self, config: ViTGPT2, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.name = ViTGPT2.name
        self.config = config
        self.source = config.text
        self.protocol = protocol
        self.answers = answers
        source = WeightSource.parse(config.text, tiny="gpt2")
        self.vision = vision_tower(config.vision, config.pool, tokens=config.context == "tokens")
        self.context_tokens = config.context == "tokens"
        self.text = source.model(GPT2LMHeadModel)
        self.token_embeddings = self.text.transformer.wte
        self.tokenizer = source.tokenizer()
        self.end = token_id(
            self.tokenizer, ("eos_token",), self.text.config.eos_token_id, config.text
        )
        if config.prefix == "projected":
            self.head = nn.ModuleDict({"prefix": nn.Linear(self.vision.width, self.width)})
        elif config.prefix == "raw":
            check_widths(self.vision.width, self.width, "prefix: raw")
        self.sites = list(_list_sites(self.text))

    @property
    def width(self) -> int:
        """The width of the language tower."""
        return int(self.text.config.n_embd)

    def lengths(self) -> tuple[Length, ...]:
        """Return the positions of the visual prefix, the soft prompt and the caption."""
        soft = 0
        if self.prompt is not None:
            soft = len(self.prompt())
        protocol = self.protocol
        written = max(protocol.max_output_tokens, protocol.max_generated_tokens or 0)
        keys = "max_output_tokens, max_generated_tokens, the visual prefix and soft prompts"
        return (Length(keys, 1 + soft + written, usable_positions(self.text)),)

    def target_room(self) -> Room:
        """Return the room for a caption; the end token takes one of its places."""
        return Room(self.protocol.max_output_tokens - 1, special=True)

    def loss(
        self,
        visual: Tensor,
        prompts: Sequence[str],
        targets: Sequence[Mapping[str, float]],
    ) -> tuple[Tensor, int]:
        """Return the cross-entropy of the captions, one term per token that counts.

        The caption is the first key of each target mapping.
        """
        context = self.embed_context(visual)
        tokens, mask = self._tokenize_captions([next(iter(target)) for target in targets])
        embeds = torch.cat([context, self.token_embeddings(tokens.to(self.device))], 1)
        seen = torch.cat([mask.new_ones(mask.shape[0], context.shape[1]), mask], 1)
        out = call_model(
            self.text.transformer,
            inputs_embeds=embeds,
            attention_mask=seen.to(self.device),
            use_cache=False,
        )
        counted = self._counted_tokens(tokens, mask)
        # The state before a token predicts it. The head runs only where a token counts.
        states = out.last_hidden_state[:, context.shape[1] - 1 : -1]
        logits = self.text.lm_head(states[counted.to(self.device)]).float()
        goal = tokens[counted]
        total = functional.cross_entropy(
            logits, goal.to(self.device), reduction="sum", label_smoothing=0.0
        )
        return total, goal.numel()

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """Return captions by greedy or beam search."""
        embeds = self.embed_context(visual)
        # The beams of one image follow each other and share its visual context.
        # Reordering them therefore never mixes images.
        self.visual_context.repeat_rows(self.protocol.beams)
        with self.generating():
            tokens = generate(
                self.text,
                generation(self.protocol, None, self.end, self.end),
                inputs_embeds=embeds,
                attention_mask=embeds.new_ones(embeds.shape[:2], dtype=torch.long),
            )
        return [text.replace("\n", " ").strip() for text in decode_tokens(self.tokenizer, tokens)]

    def embed_context(self, visual: Tensor) -> Tensor:
        """Embed everything before the caption, (batch, length, width), and set the visual context.

        These are the visual prefix and the soft prompt. Without a visual prefix the end token is
        the start, so there is always a state that predicts the first token.
        visual is (batch, 1, tokens, width).
        """
        image = single(visual)
        if self.context_tokens:
            self.visual_context.value = image.tokens
        else:
            self.visual_context.value = image.pooled
        # The prefix is a position like any other: methods adapt its state, too, and routing mixes
        # the image into it.
        parts = [self._embed_prefix(image.pooled)]
        if self.prompt is not None:
            parts.append(self.prompt().expand(visual.shape[0], -1, -1))
        return torch.cat(parts, 1)

    def _embed_prefix(self, pooled: Tensor) -> Tensor:
        """Return the visual prefix of the pooled vector, (batch, 1, width)."""
        if self.config.prefix == "none":
            # The end token is GPT-2's only special token, and its usual start of a text.
            return self.token_embeddings.weight[self.end].expand(pooled.shape[0], 1, -1)
        if self.config.prefix == "projected":
            projected: Tensor = cast("nn.ModuleDict", self.head)["prefix"](pooled)
            return projected
        return pooled

    def _counted_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return which tokens train, (batch, tokens)."""
        if self.config.loss == "repaired":
            return mask.bool()
        # The release sets `ignore_index=0` and shifts labels within the caption. So "!" and the
        # first token never count, and the padding of 50256 does.
        counted = tokens != RELEASE_IGNORED
        counted[:, 0] = False
        return counted

    def _tokenize_captions(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, (batch, tokens), on the CPU.

        The padding is the end token, which is masked. `loss: repaired` writes an end token of its
        own behind each caption, which is not masked.
        """
        limit = self.protocol.max_output_tokens
        texts = tokenize(self.tokenizer, list(captions), None, special=True)
        if self.config.loss == "release":
            # The release pads to the full length and writes no end token: the first token of the
            # padding is the end of the text. It counts in the loss but is masked in the attention.
            rows = [ids[:limit] for ids in texts]
            length = limit
        else:
            rows = [[*ids[: limit - 1], self.end] for ids in texts]
            length = max(map(len, rows))
        tokens = torch.tensor([row + [self.end] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return tokens, mask


def _list_sites(tower: Any) -> Iterator[Site]:
    """Yield the self-attention and the feed-forward block of every layer."""
    width = tower.config.n_embd
    for index, block in enumerate(tower.transformer.h):
        name = f"layer.{index}"
        # One module computes query, key and value, as three spans of its output. The release's
        # LoRA on it concatenates the bottlenecks of query and value before it routes.
        fused = Slot(block.attn, "c_attn")
        linears = {
            role: Projection(fused, (i * width, (i + 1) * width))
            for i, role in enumerate(("query", "key", "value"))
        }
        linears["output"] = Projection(Slot(block.attn, "c_proj"), (0, width))
        attention = Attention(block.attn, tower, causal=True)
        output = Slot(block.attn, "resid_dropout")
        yield Site(
            f"{name}.self", "self", "decoder", index, width, linears, output, block.ln_1, attention
        )
        ffn = {
            "up": Projection(Slot(block.mlp, "c_fc"), (0, block.mlp.c_fc.weight.shape[1])),
            "down": Projection(Slot(block.mlp, "c_proj"), (0, width)),
        }
        output = Slot(block.mlp, "dropout")
        yield Site(f"{name}.ffn", "ffn", "decoder", index, width, ffn, output, block.ln_2)
