"""BLIP (Li et al. 2022): a ViT, and a text decoder with cross-attention to the image.

It is the backbone of the p-Adapter paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vlpeft.benchmark.backbones.beam_search import beam_search, beam_settings
from vlpeft.benchmark.backbones.blip_language import BLIPLanguage, Memory
from vlpeft.benchmark.backbones.blip_parts import (
    Weights,
    assemble_checkpoint,
    list_sites,
    load,
    start_id,
    text_towers,
    tokenizer_source,
)
from vlpeft.benchmark.backbones.language import (
    IGNORED,
    Candidates,
    generation,
    language_loss,
    log_likelihood,
    pad_rows,
    rank,
    token_id,
    training_targets,
)
from vlpeft.benchmark.contract.backbone import (
    Backbone,
    BackboneConfig,
    Checkpoint,
    WeightFiles,
)
from vlpeft.benchmark.contract.sites import Need
from vlpeft.benchmark.contract.visual import VisionTower, VisualFeatures, single
from vlpeft.benchmark.core.config import Fraction, Positive
from vlpeft.benchmark.core.libraries.transformers import (
    call_model,
    decode_tokens,
    generate,
    new_cache,
    reorder_own_cache,
    select_cache_rows,
)
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import register

# The number of answers that are scored in one forward.
RANKED_TOGETHER = 64


@register("blip", abilities=("choose", "write"), joint=True)
@dataclass(frozen=True)
class BLIP(BackboneConfig):
    """BLIP as the p-Adapter paper uses it (`form: decoder`), or BLIP's own form for questions.

    `form: decoder`: the prompt is the decoder's first text, and the answer or caption follows.

    `form: vqa`: a text encoder reads the question and the image. The decoder writes the answer and
    looks at the states of the question. The question is framed by [CLS] and [SEP], as in the
    transformers port. BLIP's own code writes [ENC] in place of [CLS].

    The decoder reads `[DEC] prompt answer [SEP]`. Prompt and answer are tokenised separately, so a
    prompt's end never fuses with an answer's first word-piece. The p-Adapter release joins their
    texts without a separator.

    A soft prompt follows the first token of the tower that reads the prompt: [DEC] of the decoder,
    or [CLS] of the text encoder (`form: vqa`).
    """

    # A hub id, a folder, `tiny`, `random:ID`, or BLIP's own model_*.pth. The p-Adapter release
    # starts from BLIP's own model_base_capfilt_large.pth.
    weights: str = "Salesforce/blip-image-captioning-base"
    # An id or a folder. None: next to the weights, and bert-base-uncased for a .pth.
    tokenizer: str | None = None
    form: Literal["decoder", "vqa"] = "decoder"
    # A size other than the checkpoint's interpolates its position embeddings. The p-Adapter uses
    # 224: 14 x 14 patches and CLS, so cross-attention has 197 keys.
    image_size: Positive = 224
    # The visual tokens that routing functions mix in.
    context: Literal["pooled", "tokens"] = "pooled"
    # The rate in the text towers. None: the checkpoint's, which is 0 on the hub and 0.1 in a .pth.
    dropout: Fraction | None = None

    def offers(self) -> frozenset[Need]:
        """Return everything except a head that could learn a task alone.

        A text encoder comes with `form: vqa` only.
        """
        common: frozenset[Need] = frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context"}
        )
        if self.form == "vqa":
            return common | {"encoder"}
        return common

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Return the checkpoint, and the tokenizer if it has another source."""
        words = tokenizer_source(self.weights, self.tokenizer)
        if words == self.weights:
            return (WeightFiles(words, "blip", ("model", "pixels", "tokenizer")),)
        model = WeightFiles(self.weights, "blip", ("model", "pixels"))
        return model, WeightFiles(words, "blip", ("tokenizer",))

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model; the answers are ranked if the protocol says so."""
        return BLIPModel(self, answers, protocol)


class ReadPrompts(NamedTuple):
    """A batch of prompts that the decoder has read; answers continue from here.

    Shapes: mask (batch, length), first (batch, vocabulary).
    """

    image: VisualFeatures
    memory: Memory
    mask: Tensor
    cache: Any
    # The logits of the token that follows the prompt.
    first: Tensor


class BLIPTower(VisionTower):
    """BLIP's ViT: the CLS state after the final norm, then all states, including that of CLS."""

    leading = 2
    resample = Image.Resampling.BICUBIC

    def __init__(self, loaded: Weights) -> None:
        super().__init__()
        self.model: Any = loaded.model.vision_model
        self.width = int(self.model.config.hidden_size)
        self.size = int(self.model.config.image_size)
        self.mean = loaded.mean
        self.std = loaded.std

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = call_model(self.model, pixel_values=pixels).last_hidden_state
        return torch.cat([states[:, :1], states], 1)


class BLIPModel(BLIPLanguage):
    """The assembled model."""

    def __init__(self, config: BLIP, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__(config.form, config.weights)
        self.name = BLIP.name
        self.config = config
        loaded = load(config.weights, config.tokenizer, config.form, config.image_size)
        self.vision = BLIPTower(loaded)
        self.context_tokens = config.context == "tokens"
        self.text = text_towers(loaded.model, config.form, config.dropout)
        self.token_embeddings = self.reader.embeddings.word_embeddings
        self.tokenizer = loaded.tokenizer
        ids, words = self.decoder.config, loaded.words
        # [DEC] is in the configuration alone, because the tokenizers do not know it.
        self.start = start_id(self.tokenizer, ids.bos_token_id, self.vocabulary, config.weights)
        self.end = token_id(self.tokenizer, ("sep_token", "eos_token"), ids.sep_token_id, words)
        self.pad = token_id(self.tokenizer, ("pad_token",), ids.pad_token_id, words)
        self.follow(protocol, answers)
        layers = self.decoder.bert.encoder.layer
        # With `form: vqa` the decoder looks at questions, which are padded.
        self.sites = [*list_sites(layers, "decoder", fixed=config.form == "decoder")]
        if config.form == "vqa":
            self.sites += list_sites(self.reader.encoder.layer, "encoder", fixed=True)

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Return the cross-entropy of answers or captions and their [SEP].

        The protocol chooses the answers that train, and the kind of mean; see `language_loss`.
        """
        image = single(visual)
        chosen = training_targets(targets, self.protocol)
        rows = torch.tensor([target.question for target in chosen], device=visual.device)
        # A question is encoded once, even if several of its answers train.
        memory = self.memory_of(image, prompts).rows(rows)
        self.set_visual_context(image.rows(rows))
        embeds, mask = self.embed_prefix([prompts[target.question] for target in chosen])
        labels = self._targets([target.text for target in chosen]).to(self.device)
        states = self._states(embeds, mask, labels, memory)
        weights = [target.weight for target in chosen]
        return language_loss(states, labels, self.decoder.cls, weights, len(targets), self.protocol)

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """Return the likeliest answer of the list, or the text that beam search generates.

        Captions have no list, so they are always generated.
        """
        image = single(visual)
        if self.answers and self.protocol.answering == "rank":
            return [self.answers[i] for i in self._rank(image, prompts).best()]
        with self.generating():
            if self.protocol.beams > 1 and self.protocol.beam_length == "whole":
                tokens = self._search(image, prompts)
            else:
                tokens = self._generate(image, prompts)
        return [text.strip() for text in decode_tokens(self.tokenizer, tokens)]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the answers whose likelihoods were compared, if the protocol ranks."""
        if not self.answers or self.protocol.answering != "rank":
            return super().ranked(visual, prompts)
        return self._rank(single(visual), prompts).with_answers(self.answers)

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return the whole of BLIP as one checkpoint."""
        model = assemble_checkpoint(self.config.form, self.vision.model, self.text)
        return {"weights": Checkpoint(model, self.tokenizer)}

    def _generate(self, image: VisualFeatures, prompts: Sequence[str]) -> Tensor:
        """Return the token ids that transformers generates."""
        memory = self.memory_of(image, prompts)
        embeds, mask = self.embed_prefix(prompts)
        # `generate` repeats the image's features for its beams, which follow each other.
        # Reordering the beams of one image therefore never mixes images. The p-Adapter release
        # lost BLIP's own repeat, so its captioning fails for batches of several images.
        self.set_visual_context(image.repeat(self.protocol.beams))
        return generate(
            self.decoder,
            generation(self.protocol, None, self.end, self.pad),
            inputs_embeds=embeds,
            attention_mask=mask,
            encoder_hidden_states=memory.states,
            encoder_attention_mask=memory.mask,
        )

    def _search(self, image: VisualFeatures, prompts: Sequence[str]) -> Tensor:
        """Return the token ids that the beam search of the p-Adapter release finds."""
        read = self._read(image, prompts)
        beams = self.protocol.beams
        images = torch.arange(len(prompts), device=self.device)
        mask = read.mask.repeat_interleave(beams, 0)
        cache = select_cache_rows(read.cache, images.repeat_interleave(beams), images)
        self.set_visual_context(image.repeat(beams))

        def step(ids: Tensor, rows: Tensor) -> Tensor:
            nonlocal mask
            reorder_own_cache(cache, rows)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            # All beams of an image look at one row of the memory.
            states = self.decode(self.embed_words(ids[:, None]), mask, read.memory, cache)
            logits: Tensor = self.decoder.cls(states.last_hidden_state[:, -1])
            return logits

        # A soft prompt is not text: it has no part in the length of a text.
        soft = 0 if self.prompt is None else len(self.prompt())
        lengths = [length - soft for length in read.mask.sum(1).tolist()]
        found = beam_search(
            step, read.first, lengths, beam_settings(self.protocol, self.end, self.pad)
        )
        return pad_rows(found, self.pad)

    def _read(self, image: VisualFeatures, prompts: Sequence[str]) -> ReadPrompts:
        """Read the prompts of a batch, and keep what later tokens need."""
        memory = self.memory_of(image, prompts)
        embeds, mask = self.embed_prefix(prompts)
        self.set_visual_context(image)
        out = self.decode(embeds, mask, memory, new_cache())
        first = self.decoder.cls(out.last_hidden_state[:, -1])
        return ReadPrompts(image, memory, mask, out.cache, first)

    def _rank(self, image: VisualFeatures, prompts: Sequence[str]) -> Candidates:
        """Score the likelier answers; a prompt and its image are encoded once."""
        # BLIP ranks in two stages: by an answer's first token, then by all of its tokens. The
        # p-Adapter release keeps 32 answers of VQA, and all 3 labels of SNLI-VE.
        prefix = self._read(image, prompts)
        answers = self._targets(self.answers).to(self.device)
        return rank(
            prefix.first,
            answers,
            self.protocol.rank_candidates,
            lambda tokens: self._score(prefix, tokens),
        )

    def _score(self, prefix: ReadPrompts, tokens: Tensor) -> Tensor:
        """Map tokens (questions, keep, length) to log-likelihoods (questions, keep)."""
        together = max(1, RANKED_TOGETHER // tokens.shape[1])
        questions = torch.arange(len(tokens), device=tokens.device)
        starts = range(0, len(questions), together)
        slices = [questions[start : start + together] for start in starts]
        parts = [self._score_part(prefix, tokens, part) for part in slices]
        return torch.cat(parts)

    def _score_part(self, prefix: ReadPrompts, tokens: Tensor, questions: Tensor) -> Tensor:
        """Score the candidates of these questions in one forward, which continues their cache."""
        keep = tokens.shape[1]
        rows = questions.repeat_interleave(keep)
        labels = tokens[questions].flatten(0, 1)
        first = prefix.first[rows][:, None]
        if labels.shape[1] == 1:  # blank answers are their end alone
            return log_likelihood(first, labels, self.protocol).view(-1, keep)
        self.set_visual_context(prefix.image.rows(rows))
        seen = torch.cat([prefix.mask[rows], (labels[:, :-1] != IGNORED).long()], 1)
        cache = select_cache_rows(prefix.cache, rows, questions)
        words = self.embed_words(labels[:, :-1])
        states = self.decode(words, seen, prefix.memory.rows(questions), cache)
        # The prefix predicts the first token, so only the others need a forward.
        later = self.decoder.cls(states.last_hidden_state)
        logits = torch.cat([first, later], 1)
        return log_likelihood(logits, labels, self.protocol).view(-1, keep)
