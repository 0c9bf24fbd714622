"""CLIP-BART: BART reads the text and the image's grid, and writes the answer.

The backbone of VL-Adapter (Sung et al., CVPR 2022) and VL-PET (Hu et al., ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BartForConditionalGeneration, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from vlpeft.benchmark.backbones.clip_bart_parts import (
    Start,
    VisualEmbedding,
    append_rows,
    list_sites,
    number_tokens,
    pool_grid,
)
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
from vlpeft.benchmark.contract.backbone import (
    Backbone,
    BackboneConfig,
    Checkpoint,
    WeightFiles,
)
from vlpeft.benchmark.contract.sites import Need
from vlpeft.benchmark.contract.visual import VisionTower, VisualFeatures
from vlpeft.benchmark.core.config import NonNegative, Positive
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
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

# The number of answers scored in one forward: each has its own copy of keys and values.
RANKED_TOGETHER = 64


@register(
    "clip_bart",
    abilities=("choose", "write", "pair"),
    joint=True,
    # An encoder's text is no prompt of the decoder, whose start token counts as the end token does.
    ignores=("beam_length",),
)
@dataclass(frozen=True)
class CLIPBart(BackboneConfig):
    """BART with a trained embedding of CLIP's grid of features, as in VL-Adapter and VL-PET.

    The square grid of visual tokens is max-pooled to `grid` x `grid`. `extra_tokens` rows are
    appended to the token table (<extra_id_*>, <vis_extra_id_*>). The last of them number the visual
    tokens. They train only if the whole table does.
    """

    text: str = "facebook/bart-base"
    # CLIP's RN101, frozen in every method of VL-Adapter, full fine-tuning included.
    vision: str = "open_clip:RN101/openai"
    # None keeps the grid of the vision tower.
    grid: Positive | None = 6
    # 100 for text and 100 for images, as in VL-T5. With them the model has the 141,156,864
    # parameters of the published percentages; CLIP is not counted there.
    extra_tokens: NonNegative = 200
    # Routing functions mix in the embedded visual tokens, or their mean.
    # This is our choice, because the code of the routing paper has no CLIP-BART.
    context: Literal["pooled", "tokens"] = "pooled"

    @property
    def reads_features(self) -> bool:
        """Whether `vision` is features of a width, as VL-Adapter's own `features:2048`."""
        return self.vision.startswith(FEATURES)

    def offers(self) -> frozenset[Need]:
        """Return everything; the head is the visual embedding."""
        return frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"}
        )

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Return BART with its tokenizer, and the vision tower if there is one."""
        text = WeightFiles(self.text, "bart", ("model", "tokenizer"))
        if self.reads_features:
            return (text,)
        return text, WeightFiles(self.vision, "vit", ("model", "pixels"))

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model; `answers` are the choice of `answering: rank`."""
        return CLIPBartModel(self, answers, protocol)


class CLIPBartModel(Backbone):
    """The assembled model. `text` is the whole of BART; `head` is the visual embedding."""

    # All boxes are zero here, so no input reaches the weight of their linear map.
    inert = frozenset({"head.position.0.weight"})

    def __init__(self, config: CLIPBart, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.name = CLIPBart.name
        self.config = config
        source = WeightSource.parse(config.text, tiny="bart")
        self.vision = _make_vision(config)
        self.context_tokens = config.context == "tokens"
        self.text = source.model(BartForConditionalGeneration)
        append_rows(self.text, config.extra_tokens)
        self.token_embeddings = self.text.model.shared
        self.tokenizer = source.tokenizer()
        self.head = VisualEmbedding(self.vision.width, self.context_width)
        if config.grid is not None:
            # An error about too few rows then comes while the sweep is planned.
            number_tokens(self.token_embeddings.weight, config.grid**2, config.extra_tokens)
        self.follow(protocol, answers)
        self.sites = [*list_sites("encoder", self.text), *list_sites("decoder", self.text)]

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
                "max_input_tokens, max_output_tokens and max_generated_tokens may need "
                f"{needed} positions, {self.config.text} has {ids.max_position_embeddings}; "
                "lower them"
            )
        end = ids.eos_token_id
        self.decoding = generation(
            protocol, ids.decoder_start_token_id, end, ids.pad_token_id, forced_end=end
        )

    @property
    def encoder(self) -> nn.Module:
        """BART's encoder."""
        return cast("nn.Module", self.text.model.encoder)

    @property
    def context_width(self) -> int:
        """The width of BART, because routing functions see embedded visual tokens."""
        return int(self.text.config.d_model)

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Return the cross-entropy of `<s> target </s>` behind the start token.

        See `language_loss` for the mean.
        """
        states, mask = self.encode(self.embed(visual), prompts)
        wanted = training_targets(targets, self.protocol)
        labels = pad_rows(self._tokenize([target.text for target in wanted]), IGNORED)
        # The decoder reads the labels shifted by one. Its start token is BART's `</s>`, so the
        # model also learns to write `<s>` first.
        inputs = labels.roll(1, 1)
        inputs[:, 0] = self.text.config.decoder_start_token_id
        questions = torch.tensor([target.question for target in wanted], device=self.device)
        # One row per sequence from here on: a question may have several answers to train on.
        self.visual_context.select_rows(questions)
        written = self.decode(inputs, states[questions], mask[questions]).last_hidden_state
        weights = [target.weight for target in wanted]
        return language_loss(
            written, labels, self.token_logits, weights, len(prompts), self.protocol
        )

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """Return the likeliest listed answer, or free text by greedy or beam search.

        The last possible token is forced to be `</s>`, as in BART's configuration; `<s>` is not
        forced. `max_generated_tokens` counts `<s>` and `</s>`, but not the start token. So it is
        the papers' `max_length` minus one.
        """
        # The papers generate the answers of all tasks but NLVR2's, which they compare.
        states, mask = self.encode(self.embed(visual), prompts)
        if self.answers and self.protocol.answering == "rank":
            parts = self._rank_in_parts(states, mask)
            return [self.answers[i] for part in parts for i in part.best()]
        # The beams of one image follow each other and share its visual context.
        # Reordering them therefore never mixes images.
        self.visual_context.repeat_rows(self.protocol.beams)
        with self.generating():
            seen = BaseModelOutput(last_hidden_state=states)
            tokens = generate(self.text, self.decoding, encoder_outputs=seen, attention_mask=mask)
        return [text.replace("\n", " ").strip() for text in decode_tokens(self.tokenizer, tokens)]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the answers whose likelihoods were compared, if the protocol ranks."""
        if not self.answers or self.protocol.answering != "rank":
            return super().ranked(visual, prompts)
        states, mask = self.encode(self.embed(visual), prompts)
        parts = self._rank_in_parts(states, mask)
        return [row for part in parts for row in part.with_answers(self.answers)]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return BART without the appended rows, which every build draws again."""
        extra = self.config.extra_tokens
        if extra and self.token_embeddings.weight.requires_grad:
            raise UserError(
                "the rows appended to BART's token table have been trained, "
                "and no checkpoint of BART has a place for them"
            )
        if extra:
            self.text.resize_token_embeddings(self.text.config.vocab_size - extra)
        self.text.generation_config = GenerationConfig.from_model_config(self.text.config)
        return super().checkpoints()

    def embed(self, visual: Tensor) -> Tensor:
        """Return visual tokens, (batch, tokens, width of BART), and set the visual context.

        visual is (batch, images, tokens, width).
        """
        images = visual.shape[1]
        grids = VisualFeatures(visual).grids(self.vision.leading)
        grid = pool_grid(grids.flatten(0, 1), self.config.grid)
        table, extra = self.token_embeddings.weight, self.config.extra_tokens
        order = number_tokens(table, grid.shape[1], extra)
        head = cast("nn.Module", self.head)
        tokens: Tensor = head(grid.view(-1, images, *grid.shape[1:]), order).flatten(1, 2)
        context = tokens
        if not self.context_tokens:
            context = tokens.mean(1, keepdim=True)
        self.visual_context.value = context
        return tokens

    def encode(self, tokens: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return encoder states (batch, length, width) and mask (batch, length).

        The order is soft prompt, text, visual tokens. Soft prompts have no positions. Visual tokens
        have neither positions nor the embedding's LayerNorm.
        """
        encoder = self.text.model.encoder
        limit = self.protocol.max_input_tokens
        ids, mask = tokenize_padded(self.tokenizer, list(prompts), limit)
        mask = mask.to(self.device)
        words = embed_bart_tokens(encoder, ids.to(self.device))
        if self.prompt is not None:
            words = torch.cat([self.prompt().expand(len(prompts), -1, -1), words], 1)
        # VL-Adapter appends visual tokens behind BART's LayerNorm, because the visual embedding
        # has LayerNorms of its own.
        states = torch.cat([encoder.layernorm_embedding(words), tokens], 1)
        states = functional.dropout(states, p=encoder.dropout, training=self.training)
        # Ones for the soft prompt on the left, and for the visual tokens on the right.
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
        """Run the decoder on token ids (batch, tokens).

        Places behind the end may hold IGNORED, because no earlier token sees them.
        """
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
        """Return the logits of the next token, (..., vocabulary)."""
        logits: Tensor = self.text.lm_head(states) + self.text.final_logits_bias
        return logits

    def _rank_in_parts(self, states: Tensor, mask: Tensor) -> Iterator[Candidates]:
        """Rank as many questions at a time as fit into memory."""
        context = self.visual_context.value
        together = max(1, RANKED_TOGETHER // self.protocol.rank_candidates)
        for begin in range(0, len(states), together):
            rows = slice(begin, begin + together)
            self.visual_context.value = context[rows]
            yield self._rank(states[rows], mask[rows])

    def _rank(self, states: Tensor, mask: Tensor) -> Candidates:
        """Score the likelier answers; encoder and decoder start run once for all candidates."""
        config = self.text.config
        # `<s>` is not scored: all answers start with it.
        begin = torch.tensor([[config.decoder_start_token_id, config.bos_token_id]])
        out = self.decode(begin.expand(len(states), -1), states, mask, use_cache=True)
        first = self.token_logits(out.last_hidden_state[:, -1])
        start = Start(states, mask, out.cache, first)
        answers = pad_rows([row[1:] for row in self._tokenize(self.answers)], IGNORED)
        return rank(
            first,
            answers.to(self.device),
            self.protocol.rank_candidates,
            lambda candidates: self._score(start, candidates),
        )

    def _score(self, start: Start, candidates: Tensor) -> Tensor:
        """Map tokens (questions, keep, length) to log-likelihoods (questions, keep)."""
        keep = candidates.shape[1]
        labels = candidates.flatten(0, 1)
        repeat_cache(start.cache, keep)
        self.visual_context.repeat_rows(keep)
        states = start.states.repeat_interleave(keep, 0)
        mask = start.mask.repeat_interleave(keep, 0)
        out = self.decode(labels[:, :-1], states, mask, cache=start.cache, use_cache=True)
        # The start predicts the first token of every candidate.
        first = start.first.repeat_interleave(keep, 0)[:, None]
        likelihood = log_likelihood(first, labels[:, :1], self.protocol)
        # The head runs only where an answer has a token.
        counted = labels[:, 1:] != IGNORED
        logits = self.token_logits(out.last_hidden_state[counted])[:, None]
        per_token = log_likelihood(logits, labels[:, 1:][counted][:, None], self.protocol)
        return likelihood.index_add(0, counted.nonzero()[:, 0], per_token).view(-1, keep)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of `<s> text </s>`, at most `max_output_tokens` with both."""
        return tokenize(self.tokenizer, list(texts), self.protocol.max_output_tokens, special=True)


def _make_vision(config: CLIPBart) -> VisionTower:
    if config.reads_features:
        return FeatureTower(config.vision)
    return vision_tower(config.vision, "mean", tokens=True)
