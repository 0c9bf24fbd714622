"""CLIP-BART: BART reads the text and the image's grid and writes the answer (VL-Adapter, Sung et al., CVPR 2022; VL-PET, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BartForConditionalGeneration, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from vlpeft.benchmark.backbones.language import (
    IGNORED,
    Candidates,
    generation,
    language_loss,
    log_likelihood,
    pad_rows,
    rank,
    training_targets,
)
from vlpeft.benchmark.backbones.vision import FEATURES, FeatureTower, vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig, Checkpoint, WeightFiles
from vlpeft.benchmark.contract.method import init_normal
from vlpeft.benchmark.contract.sites import Need, Projection, Site, Slot
from vlpeft.benchmark.core.config import NonNegative, Positive, Protocol
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.libraries.transformers import (
    call_model,
    decode_tokens,
    embed_bart_tokens,
    generate,
    repeat_cache,
    run_bart_encoder,
    tokenize,
    tokenize_padded,
)

RANKED_TOGETHER = 64  # answers scored in one forward: each holds its own copy of the keys and values it attends to
STD = 0.02  # of every new embedding row and linear map
ROLES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


@register("clip_bart", tasks=("vqa", "captioning", "entailment", "nlvr2"), joint=True)
@dataclass(frozen=True)
class CLIPBart(BackboneConfig):
    """BART behind a trained embedding of CLIP's grid of features, as in the VL-Adapter and VL-PET benchmarks.

    The square grid of visual tokens is max-pooled to `grid` x `grid`. `extra_tokens` rows are appended to the token table
    (<extra_id_*>, <vis_extra_id_*>); the last of them number the visual tokens and train only where the whole table does.
    """

    text: str = "facebook/bart-base"
    vision: str = "open_clip:RN101/openai"
    grid: Positive | None = 6  # None: as the vision tower gives it
    extra_tokens: NonNegative = 200
    # What routing functions mix in: the embedded visual tokens, or their mean. Our choice: the paper's code has no CLIP-BART.
    context: Literal["pooled", "tokens"] = "pooled"

    @property
    def reads_features(self) -> bool:
        """`vision: features:2048` reads the dataset's features, 2048 wide, in place of images: VL-Adapter's own setting."""
        return self.vision.startswith(FEATURES)

    def offers(self) -> frozenset[Need]:
        """Everything: linears, sub-layers, attentions, embeddings, visual context, encoder and a head (the visual embedding)."""
        return frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"}
        )

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """BART with its tokenizer; and the vision tower, where there is one."""
        text = WeightFiles(self.text, "bart", ("model", "tokenizer"))
        return (
            (text,)
            if self.reads_features
            else (text, WeightFiles(self.vision, "vit", ("model", "pixels")))
        )

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model; `answers` are what `answering: rank` chooses from."""
        return CLIPBartModel(self, answers, protocol)


class CLIPBartModel(Backbone):
    """The assembled model. `text` is the whole of BART; `head` is the visual embedding."""

    inert = frozenset({"head.position.0.weight"})

    def __init__(self, config: CLIPBart, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.name, self.config = CLIPBart.name, config
        source = WeightSource.parse(config.text, tiny="bart")
        self.vision = (
            FeatureTower(config.vision)
            if config.reads_features
            else vision_tower(config.vision, "mean", tokens=True)
        )
        self.context_tokens = config.context == "tokens"
        self.text = source.model(BartForConditionalGeneration)
        _append_rows(self.text, config.extra_tokens)
        self.token_embeddings = self.text.model.shared
        self.tokenizer = source.tokenizer()
        self.head = VisualEmbedding(self.vision.width, self.context_width)
        if config.grid is not None:
            self._order(config.grid**2)  # too few rows show while planning
        self.follow(protocol, answers)
        self.sites = [*_sites("encoder", self.text), *_sites("decoder", self.text)]

    def follow(self, protocol: Protocol, answers: Sequence[str], task: int = 0) -> None:
        """Read, train and decode as this protocol says."""
        super().follow(protocol, answers, task)
        ids = self.text.config
        needed = max(
            protocol.max_input_tokens,
            protocol.max_output_tokens,
            1 + (protocol.max_generated_tokens or 0),
        )
        if needed > ids.max_position_embeddings:
            raise UserError(
                f"max_input_tokens, max_output_tokens and max_generated_tokens may need {needed} positions, {self.config.text} has "
                f"{ids.max_position_embeddings}; lower them"
            )
        end = ids.eos_token_id
        self.decoding = generation(
            protocol, ids.decoder_start_token_id, end, ids.pad_token_id, forced_end=end
        )

    @property
    def encoder(self) -> nn.Module:
        """BART's."""
        return cast("nn.Module", self.text.model.encoder)

    @property
    def context_width(self) -> int:
        """Width of BART: routing functions see embedded visual tokens."""
        return int(self.text.config.d_model)

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Cross-entropy of `<s> target </s>`, which the decoder writes behind its start token; see `language_loss`."""
        states, mask = self.encode(self.embed(visual), prompts)
        wanted = training_targets(targets, self.protocol)
        labels = pad_rows(self._tokenize([t.text for t in wanted]), IGNORED)
        inputs = labels.roll(1, 1)
        inputs[:, 0] = self.text.config.decoder_start_token_id
        questions = torch.tensor([t.question for t in wanted], device=self.device)
        self.visual_context.value = self.visual_context.value[questions]
        written = self.decode(inputs, states[questions], mask[questions]).last_hidden_state
        return language_loss(
            written,
            labels,
            self.token_logits,
            [t.weight for t in wanted],
            len(prompts),
            self.protocol,
        )

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """The likeliest listed answer, or free text by greedy or beam search.

        The last token that may be written is forced to be `</s>`, as BART's configuration has it; `<s>` is not forced.
        `max_generated_tokens` counts `<s>` and `</s>`, but not the start token: the papers' `max_length` less one.
        """
        states, mask = self.encode(self.embed(visual), prompts)
        if self.answers and self.protocol.answering == "rank":
            return [self.answers[i] for part in self._rankings(states, mask) for i in part.best()]
        # Beams of one image lie side by side and share its visual context, so reordering beams never mixes images.
        self.visual_context.value = self.visual_context.value.repeat_interleave(
            self.protocol.beams, 0
        )
        with self.generating():
            seen = BaseModelOutput(last_hidden_state=states)
            tokens = generate(self.text, self.decoding, encoder_outputs=seen, attention_mask=mask)
        return [text.replace("\n", " ").strip() for text in decode_tokens(self.tokenizer, tokens)]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """The answers whose likelihoods are compared, if any are."""
        if not self.answers or self.protocol.answering != "rank":
            return super().ranked(visual, prompts)
        return [
            row
            for part in self._rankings(*self.encode(self.embed(visual), prompts))
            for row in part.with_answers(self.answers)
        ]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """BART without the appended rows, which are drawn alike whenever it is built."""
        if self.config.extra_tokens and self.token_embeddings.weight.requires_grad:
            raise UserError(
                "the rows appended to BART's token table have been trained, and no checkpoint of BART has a place for them"
            )
        if self.config.extra_tokens:
            self.text.resize_token_embeddings(
                self.text.config.vocab_size - self.config.extra_tokens
            )
        self.text.generation_config = GenerationConfig.from_model_config(self.text.config)
        return super().checkpoints()

    def embed(self, visual: Tensor) -> Tensor:
        """Visual features to visual tokens, (batch, tokens, width of BART), and the visual context of this forward."""
        grid = _pool(visual[:, :, self.vision.leading :].flatten(0, 1), self.config.grid)
        order, images = self._order(grid.shape[1]), visual.shape[1]
        tokens: Tensor = cast("nn.Module", self.head)(
            grid.view(-1, images, *grid.shape[1:]), order
        ).flatten(1, 2)
        self.visual_context.value = tokens if self.context_tokens else tokens.mean(1, keepdim=True)
        return tokens

    def encode(self, tokens: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encoder states and mask, (batch, length, width) and (batch, length): soft prompt, text, visual tokens.

        Soft prompts have no positions; visual tokens neither positions nor the embedding's LayerNorm.
        """
        encoder, limit = self.text.model.encoder, self.protocol.max_input_tokens
        ids, mask = (
            each.to(self.device) for each in tokenize_padded(self.tokenizer, list(prompts), limit)
        )
        words = embed_bart_tokens(encoder, ids)
        if self.prompt is not None:
            words = torch.cat([self.prompt().expand(len(prompts), -1, -1), words], 1)
        states = torch.cat([encoder.layernorm_embedding(words), tokens], 1)
        states = functional.dropout(states, p=encoder.dropout, training=self.training)
        mask = functional.pad(mask, (words.shape[1] - mask.shape[1], tokens.shape[1]), value=1)
        self.encoder_mask.value = mask
        return run_bart_encoder(encoder, states, mask), mask

    def decode(
        self,
        ids: Tensor,
        states: Tensor,
        mask: Tensor,
        cache: Any = None,
        *,
        use_cache: bool = False,
    ) -> Any:
        """The decoder on token ids (batch, tokens); places behind the end may hold IGNORED, as nothing before them sees them."""
        ids = ids.masked_fill(ids == IGNORED, self.text.config.pad_token_id).to(self.device)
        return call_model(
            self.text.model.decoder,
            input_ids=ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            cache=cache,
            use_cache=use_cache,
        )

    def token_logits(self, states: Tensor) -> Tensor:
        """Next-token scores, (..., vocabulary)."""
        scores: Tensor = self.text.lm_head(states) + self.text.final_logits_bias
        return scores

    def _rankings(self, states: Tensor, mask: Tensor) -> Iterator[Candidates]:
        """Rank for so many questions at a time as fit."""
        context, together = (
            self.visual_context.value,
            max(1, RANKED_TOGETHER // self.protocol.rank_candidates),
        )
        for begin in range(0, len(states), together):
            rows = slice(begin, begin + together)
            self.visual_context.value = context[rows]
            yield self._rank(states[rows], mask[rows])

    def _rank(self, states: Tensor, mask: Tensor) -> Candidates:
        """Score the likelier answers of each question. The encoder and the decoder's start run once for all candidates."""
        start = torch.tensor(
            [[self.text.config.decoder_start_token_id, self.text.config.bos_token_id]]
        )
        begun = self.decode(start.expand(len(states), -1), states, mask, use_cache=True)
        first = self.token_logits(begun.last_hidden_state[:, -1])

        def score(candidates: Tensor) -> Tensor:
            keep, cache, labels = candidates.shape[1], begun.cache, candidates.flatten(0, 1)
            repeat_cache(cache, keep)
            self.visual_context.value = self.visual_context.value.repeat_interleave(keep, 0)
            repeated = (states.repeat_interleave(keep, 0), mask.repeat_interleave(keep, 0))
            written = self.decode(
                labels[:, :-1], *repeated, cache=cache, use_cache=True
            ).last_hidden_state
            likelihood = log_likelihood(
                first.repeat_interleave(keep, 0)[:, None], labels[:, :1], self.protocol
            )
            counted = labels[:, 1:] != IGNORED  # the head runs only where an answer has a token
            each = log_likelihood(
                self.token_logits(written[counted])[:, None],
                labels[:, 1:][counted][:, None],
                self.protocol,
            )
            return likelihood.index_add(0, counted.nonzero()[:, 0], each).view(-1, keep)

        answers = pad_rows([row[1:] for row in self._tokenize(self.answers)], IGNORED).to(
            self.device
        )
        return rank(first, answers, self.protocol.rank_candidates, score)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """`<s> text </s>` of each, at most `max_output_tokens` ids with both."""
        return tokenize(self.tokenizer, list(texts), self.protocol.max_output_tokens, special=True)

    def _order(self, count: int) -> Tensor:
        """The embeddings that number the visual tokens: the token table's rows from its end, as they are."""
        if count > self.config.extra_tokens:
            raise UserError(
                f"extra_tokens: {count} visual tokens need as many extra tokens, got {self.config.extra_tokens}"
            )
        return self.token_embeddings.weight[-count:].flip(0)


class VisualEmbedding(nn.Module):
    """LN(W_f x + b_f) + LN(W_p box + b_p) + image order + token order, trained from random (VL-Adapter; VL-T5's, after it).

    All boxes and areas are zero in this benchmark, so that the second term is one vector for all tokens. The image order
    tells the two images of NLVR2 apart; the token order starts again with the second.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.feature = nn.Sequential(
            init_normal(nn.Linear(inputs, width), STD), nn.LayerNorm(width, eps=1e-5)
        )
        self.position = nn.Sequential(
            init_normal(nn.Linear(5, width), STD), nn.LayerNorm(width, eps=1e-5)
        )
        self.image_order = nn.Embedding(2, width)
        nn.init.normal_(self.image_order.weight, std=STD)

    def forward(self, grid: Tensor, order: Tensor) -> Tensor:
        """Features (batch, images, tokens, inputs) and token order (tokens, width) to (batch, images, tokens, width)."""
        image = self.image_order.weight[: grid.shape[1], None]
        embedded: Tensor = self.feature(grid) + self.position(grid.new_zeros(5)) + image + order
        return embedded


def _pool(tokens: Tensor, side: int | None) -> Tensor:
    """Adaptive max-pooling of a square grid, (batch, n * n, width) to (batch, side * side, width); windows may overlap."""
    own = isqrt(tokens.shape[1])
    if own * own != tokens.shape[1] or (side or 1) > own:
        raise UserError(
            f"grid: cannot make a square of {side or own} x {side or own} from {tokens.shape[1]} visual tokens; choose another"
        )
    if side is None:
        return tokens
    square = tokens.transpose(1, 2).view(len(tokens), -1, own, own)
    return functional.adaptive_max_pool2d(square, side).flatten(2).transpose(1, 2)


@torch.no_grad()
def _append_rows(text: Any, extra: int) -> None:
    """Grow the token table by N(0, 0.02) rows. Most methods freeze them, so they are drawn like a checkpoint's: always the same."""
    if extra:
        text.resize_token_embeddings(text.config.vocab_size + extra, mean_resizing=False)
        drawn = torch.randn(
            extra,
            text.config.d_model,
            generator=torch.Generator("cpu").manual_seed(0),
            device="cpu",
        )
        text.model.shared.weight[-extra:].copy_(STD * drawn)


def _sites(side: Literal["encoder", "decoder"], text: Any) -> Iterator[Site]:
    """Self-attention, cross-attention (decoder) and feed-forward block of every layer.

    BART drops out by a function, so a sub-layer's output is its last linear map: adapters stand right behind it and before
    dropout, as in VL-Adapter.
    """
    attentions: tuple[tuple[Literal["self", "cross"], str], ...] = (
        ("self", "self_attn"),
        ("cross", "encoder_attn"),
    )
    width = text.config.d_model
    for i, layer in enumerate(getattr(text.model, side).layers):
        for kind, name in attentions[: 1 if side == "encoder" else 2]:
            module, norm = getattr(layer, name), getattr(layer, f"{name}_layer_norm")
            linears = {
                role: Projection(Slot(module, attribute), (0, width))
                for role, attribute in ROLES.items()
            }
            reader = Attention(module, text, causal=side == "decoder")
            yield Site(
                f"{side}.layer.{i}.{kind}",
                kind,
                side,
                i,
                width,
                linears,
                Slot(module, "out_proj"),
                norm,
                reader,
            )
        up, down = (
            Projection(Slot(layer, "fc1"), (0, layer.fc1.out_features)),
            Projection(Slot(layer, "fc2"), (0, width)),
        )
        ffn = {"up": up, "down": down}
        yield Site(
            f"{side}.layer.{i}.ffn",
            "ffn",
            side,
            i,
            width,
            ffn,
            Slot(layer, "fc2"),
            layer.final_layer_norm,
        )
