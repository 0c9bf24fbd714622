"""BLIP (Li et al. 2022): a ViT, and a text decoder that looks at the image by cross-attention; the p-Adapter paper's backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn

from vlpeft.benchmark.backbones.blip_parts import (
    Weights,
    assemble_checkpoint,
    load,
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
    training_targets,
)
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import (
    Backbone,
    BackboneConfig,
    Checkpoint,
    VisionTower,
    WeightFiles,
    single,
)
from vlpeft.benchmark.contract.sites import Need, Projection, Site, Slot
from vlpeft.benchmark.core.config import Fraction, Positive, Protocol
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.libraries.transformers import (
    call_model,
    decode_tokens,
    generate,
    new_cache,
    select_cache_rows,
    tokenize,
)

SOFT = -1  # stands for the soft prompt among token ids
RANKED_TOGETHER = 64  # answers scored in one forward


@register("blip", tasks=("vqa", "captioning", "entailment"), joint=True)
@dataclass(frozen=True)
class BLIP(BackboneConfig):
    """`form: decoder` is the p-Adapter paper's use: the prompt is the decoder's first text, the answer or caption follows.

    `form: vqa` is BLIP's own for questions: a text encoder reads the question and the image, the decoder writes the
    answer and looks at the question's states. The question is framed [CLS] ... [SEP], as in the transformers port
    (BLIP's own code writes [ENC] in place of [CLS]).

    The decoder reads `[DEC] prompt answer [SEP]`. Prompt and answer are tokenised apart, so that a prompt's end never
    fuses with an answer's first word-piece; the p-Adapter release joins their texts without a separator. Soft prompts stand
    behind the first token of what reads the prompt: [DEC] of the decoder, or [CLS] of the text encoder (`form: vqa`).
    """

    weights: str = "Salesforce/blip-image-captioning-base"  # an id, a folder, `tiny`, `random:ID`, or BLIP's own model_*.pth
    tokenizer: str | None = (
        None  # an id or a folder; None: beside the weights, and bert-base-uncased for a .pth
    )
    form: Literal["decoder", "vqa"] = "decoder"
    image_size: Positive = (
        224  # another size than the checkpoint's interpolates its position embeddings
    )
    context: Literal["pooled", "tokens"] = "pooled"  # what routing functions mix in
    dropout: Fraction | None = (
        None  # of the text towers; None: the checkpoint's (0 on the hub, 0.1 in a .pth, as BLIP has it)
    )

    def offers(self) -> frozenset[Need]:
        """Everything but a head that could learn a task alone; a text encoder with `form: vqa`."""
        common: frozenset[Need] = frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context"}
        )
        return common | {"encoder"} if self.form == "vqa" else common

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """The checkpoint, and the tokenizer where that is another's."""
        words = tokenizer_source(self.weights, self.tokenizer)
        if words == self.weights:
            return (WeightFiles(words, "blip", ("model", "pixels", "tokenizer")),)
        return WeightFiles(self.weights, "blip", ("model", "pixels")), WeightFiles(
            words, "blip", ("tokenizer",)
        )

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model; the answers are ranked if the protocol says so."""
        return BLIPModel(self, answers, protocol)


class Memory(NamedTuple):
    """What the decoder's cross-attention looks at: (batch, tokens, width), and which tokens are no padding (None: all)."""

    states: Tensor
    mask: Tensor | None

    def rows(self, index: Tensor) -> Memory:
        """These rows of the batch."""
        return Memory(self.states[index], None if self.mask is None else self.mask[index])


class BLIPTower(VisionTower):
    """BLIP's ViT: the CLS state after the final norm, then all states, CLS among them."""

    leading = 2
    resample = Image.Resampling.BICUBIC

    def __init__(self, loaded: Weights) -> None:
        super().__init__()
        self.model: Any = loaded.model.vision_model
        self.width, self.size = (
            int(self.model.config.hidden_size),
            int(self.model.config.image_size),
        )
        self.mean, self.std = loaded.mean, loaded.std

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = call_model(self.model, pixel_values=pixels).last_hidden_state
        return torch.cat([states[:, :1], states], 1)


class BLIPModel(Backbone):
    """The assembled model."""

    def __init__(self, config: BLIP, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.name, self.config = BLIP.name, config
        loaded = load(config.weights, config.tokenizer, config.form, config.image_size)
        self.vision = BLIPTower(loaded)
        self.context_tokens = config.context == "tokens"
        self.text = text_towers(loaded.model, config.form, config.dropout)
        self.token_embeddings = self.reader.embeddings.word_embeddings
        self.tokenizer = loaded.tokenizer
        ids = self.decoder.config  # the tokenizers do not know [DEC]
        self.start, self.end, self.pad = (
            int(ids.bos_token_id),
            int(ids.sep_token_id),
            int(ids.pad_token_id),
        )
        self.follow(protocol, answers)
        layers = enumerate(self.decoder.bert.encoder.layer)
        self.sites = [
            site
            for i, layer in layers
            for site in _sites(i, layer, "decoder", fixed=config.form == "decoder")
        ]
        if config.form == "vqa":
            self.sites += [
                site
                for i, layer in enumerate(self.reader.encoder.layer)
                for site in _sites(i, layer, "encoder", fixed=True)
            ]

    def __setattr__(self, name: str, value: Any) -> None:
        """A soft prompt takes positions; those that are too many are refused before anything runs."""
        if name == "prompt" and value is not None:
            self._check_length(value().shape[0])
        super().__setattr__(name, value)

    def follow(self, protocol: Protocol, answers: Sequence[str], task: int = 0) -> None:
        """Read, train and decode as this protocol says."""
        super().follow(protocol, answers, task)
        self._check_length(0 if self.prompt is None else len(self.prompt()))

    @property
    def decoder(self) -> Any:
        """The tower that writes, with its language-model head."""
        return self.text if self.config.form == "decoder" else self.text["decoder"]

    @property
    def encoder(self) -> nn.Module:
        """The text encoder of `form: vqa`."""
        return cast("nn.Module", self.reader) if self.config.form == "vqa" else super().encoder

    @property
    def reader(self) -> Any:
        """The tower that reads the prompt."""
        return self.text.bert if self.config.form == "decoder" else self.text["encoder"]

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Cross-entropy of answers or captions and their [SEP]; which of them train and what is averaged, the protocol says."""
        visual, chosen = single(visual), training_targets(targets, self.protocol)
        rows = torch.tensor([target.question for target in chosen], device=visual.device)
        memory = self.memory_of(visual, prompts).rows(rows)
        self.set_visual_context(visual[rows])
        embeds, mask = self.embed_prefix([prompts[target.question] for target in chosen])
        labels = self._targets([target.text for target in chosen]).to(self.device)
        states = self._states(embeds, mask, labels, memory)
        return language_loss(
            states,
            labels,
            self.decoder.cls,
            [target.weight for target in chosen],
            len(targets),
            self.protocol,
        )

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """The likeliest answer of the list, or what beam search writes; captions, which have no list, are always written."""
        visual = single(visual)
        if self.answers and self.protocol.answering == "rank":
            return [self.answers[i] for i in self._rank(visual, prompts).best()]
        memory = self.memory_of(visual, prompts)
        embeds, mask = self.embed_prefix(prompts)
        # `generate` repeats the image's features for its beams, which lie side by side: reordering them never mixes images.
        self.set_visual_context(visual.repeat_interleave(self.protocol.beams, 0))
        with self.generating():
            tokens = generate(
                self.decoder,
                generation(self.protocol, None, self.end, self.pad),
                inputs_embeds=embeds,
                attention_mask=mask,
                encoder_hidden_states=memory.states,
                encoder_attention_mask=memory.mask,
            )
        return [text.strip() for text in decode_tokens(self.tokenizer, tokens)]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """The answers whose likelihoods are compared, if any are."""
        if not self.answers or self.protocol.answering != "rank":
            return super().ranked(visual, prompts)
        return self._rank(single(visual), prompts).with_answers(self.answers)

    def checkpoints(self) -> dict[str, Checkpoint]:
        """The whole of BLIP."""
        return {
            "weights": Checkpoint(
                assemble_checkpoint(self.config.form, self.vision.model, self.text), self.tokenizer
            )
        }

    def _rank(self, visual: Tensor, prompts: Sequence[str]) -> Candidates:
        """Score the likelier answers. A prompt and its image are encoded once; candidates continue their cache."""
        memory = self.memory_of(visual, prompts)
        embeds, mask = self.embed_prefix(prompts)
        self.set_visual_context(visual)
        out = self.decode(embeds, mask, memory, new_cache())
        first = self.decoder.cls(out.last_hidden_state[:, -1])

        def score(tokens: Tensor) -> Tensor:
            """Tokens (questions, keep, length) to log-likelihoods (questions, keep)."""
            keep = tokens.shape[1]
            parts = []
            for questions in torch.split(
                torch.arange(len(tokens), device=tokens.device), max(1, RANKED_TOGETHER // keep)
            ):
                rows, labels = questions.repeat_interleave(keep), tokens[questions].flatten(0, 1)
                self.set_visual_context(visual[rows])
                seen = torch.cat([mask[rows], (labels[:, :-1] != IGNORED).long()], 1)
                cache = select_cache_rows(out.cache, rows, questions)
                states = self.decode(
                    self.embed_words(labels[:, :-1]), seen, memory.rows(questions), cache
                )
                logits = torch.cat(
                    [first[rows][:, None], self.decoder.cls(states.last_hidden_state)], 1
                )
                parts.append(log_likelihood(logits, labels, self.protocol).view(-1, keep))
            return torch.cat(parts)

        return rank(
            first, self._targets(self.answers).to(self.device), self.protocol.rank_candidates, score
        )

    def set_visual_context(self, visual: Tensor) -> None:
        """Set what routing functions mix in, for the batch of the forward to come."""
        self.visual_context.value = visual[:, 1:] if self.context_tokens else visual[:, :1]

    def memory_of(self, visual: Tensor, prompts: Sequence[str]) -> Memory:
        """The image, or (`form: vqa`) the question as the text encoder sees it beside the image."""
        if self.config.form == "decoder":
            return Memory(visual[:, 1:], None)
        self.set_visual_context(visual)
        first = self.start if self.tokenizer.cls_token_id is None else self.tokenizer.cls_token_id
        texts = self._tokenize(prompts, self.protocol.max_input_tokens - 2)
        embeds, mask = self._embed(
            self.token_embeddings, [[first, SOFT, *ids, self.end] for ids in texts]
        )
        self.encoder_mask.value = mask
        states = call_model(
            self.reader,
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=_positions(mask),
            encoder_hidden_states=visual[:, 1:],
        )
        return Memory(states.last_hidden_state, mask)

    def embed_prefix(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What stands before the answer: embeddings (batch, tokens, width) and mask (batch, tokens)."""
        words = self.decoder.bert.embeddings.word_embeddings
        if self.config.form == "vqa":
            return self._embed(words, [[self.start]] * len(prompts))
        texts = self._tokenize(prompts, self.protocol.max_input_tokens)
        return self._embed(words, [[self.start, SOFT, *ids] for ids in texts])

    def _embed(self, words: nn.Module, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings and mask of rows filled up on the left, so that all end at one place; SOFT becomes the soft prompt."""
        soft = None if self.prompt is None else self.prompt()
        copies = 0 if soft is None else soft.shape[0]
        spread = [
            [token for found in row for token in ([SOFT] * copies if found == SOFT else [found])]
            for row in rows
        ]
        longest = max(map(len, spread))
        ids = torch.tensor(
            [[IGNORED] * (longest - len(row)) + row for row in spread], device=self.device
        )
        embeds: Tensor = words(ids.masked_fill(ids < 0, self.pad))
        if soft is not None:
            embeds = embeds.masked_scatter(
                (ids == SOFT)[..., None], soft.to(embeds.dtype).expand(len(rows), -1, -1)
            )
        return embeds, (ids != IGNORED).long()

    def _targets(self, texts: Sequence[str]) -> Tensor:
        """Token ids of texts and their [SEP], at most `max_output_tokens`, (texts, longest), IGNORED behind the end."""
        rows = self._tokenize(texts, self.protocol.max_output_tokens - 1)
        return pad_rows([[*row, self.end] for row in rows], IGNORED)

    def _tokenize(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Token ids without any frame."""
        rows = tokenize(self.tokenizer, list(texts), None, special=False)
        return [row[:limit] for row in rows]

    def embed_words(self, ids: Tensor) -> Tensor:
        """The decoder's embeddings of ids, (batch, tokens, width); IGNORED reads as padding."""
        found: Tensor = self.decoder.bert.embeddings.word_embeddings(
            ids.masked_fill(ids == IGNORED, self.pad)
        )
        return found

    def _states(self, embeds: Tensor, mask: Tensor, labels: Tensor, memory: Memory) -> Tensor:
        """States that predict each label behind a prefix, (sequences, labels, width)."""
        seen = torch.cat([mask, (labels[:, :-1] != IGNORED).long()], 1)
        whole = torch.cat([embeds, self.embed_words(labels[:, :-1])], 1)
        states: Tensor = self.decode(whole, seen, memory).last_hidden_state
        return states[:, embeds.shape[1] - 1 :]

    def decode(self, embeds: Tensor, mask: Tensor, memory: Memory, cache: Any = None) -> Any:
        """One forward of the decoder; the mask covers what is cached, too, and padding takes no position."""
        return call_model(
            self.decoder.bert,
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=_positions(mask)[:, -embeds.shape[1] :],
            encoder_hidden_states=memory.states,
            encoder_attention_mask=memory.mask,
            cache=cache,
            use_cache=cache is not None,
            is_decoder=True,
        )

    def _check_length(self, soft: int) -> None:
        """Refuse texts that have no position in their tower."""
        read = self.protocol.max_input_tokens + soft
        written = 1 + max(self.protocol.max_output_tokens, self.protocol.max_generated_tokens or 0)
        needed = 1 + read + written if self.config.form == "decoder" else max(read, written)
        positions = int(self.decoder.config.max_position_embeddings)
        if needed > positions:
            raise UserError(
                f"max_input_tokens, max_output_tokens, max_generated_tokens and soft prompts may need {needed} positions, "
                f"{self.config.weights} has {positions}; lower them"
            )


def _positions(mask: Tensor) -> Tensor:
    """Places of the tokens, (batch, tokens); padding takes none."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def _sites(
    index: int, layer: Any, side: Literal["encoder", "decoder"], fixed: bool
) -> tuple[Site, Site, Site]:
    """`fixed`: cross-attention looks at an image, whose tokens are always as many. In a decoder all that methods add must be causal."""
    name = f"layer.{index}" if side == "decoder" else f"encoder.layer.{index}"
    up, down, width = layer.intermediate, layer.output, layer.output.dense.out_features

    def attention(kind: Literal["self", "cross"], block: Any) -> Site:
        linears = {
            role: Projection(Slot(block.self, role), (0, width))
            for role in ("query", "key", "value")
        }
        linears["output"] = Projection(Slot(block.output, "dense"), (0, width))
        reader = Attention(
            block.self, None, causal=side == "decoder", fixed_keys=fixed and kind == "cross"
        )
        return Site(
            f"{name}.{kind}",
            kind,
            side,
            index,
            width,
            linears,
            Slot(block.output, "dropout"),
            block.output.LayerNorm,
            reader,
        )

    wide = (0, up.dense.out_features)
    ffn = {
        "up": Projection(Slot(up, "dense"), wide),
        "down": Projection(Slot(down, "dense"), (0, width)),
    }
    return (
        attention("self", layer.attention),
        attention("cross", layer.crossattention),
        Site(f"{name}.ffn", "ffn", side, index, width, ffn, Slot(down, "dropout"), down.LayerNorm),
    )
