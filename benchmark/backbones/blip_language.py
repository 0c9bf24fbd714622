"""The text side of BLIP: reading prompts, and running the decoder on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from vlpeft.benchmark.backbones.language import IGNORED, pad_rows
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.texts import Length, Room
from vlpeft.benchmark.contract.visual import VisualFeatures
from vlpeft.benchmark.core.libraries.transformers import call_model, tokenize

# The soft prompt's place among token ids.
SOFT = -1


class Memory(NamedTuple):
    """The states that the decoder's cross-attention looks at, (batch, tokens, width).

    `mask` is (batch, tokens), 0 for padding; None means that nothing is padding.
    """

    states: Tensor
    mask: Tensor | None

    def rows(self, index: Tensor) -> Memory:
        """Return these rows of the batch."""
        mask = self.mask
        if mask is not None:
            mask = mask[index]
        return Memory(self.states[index], mask)


class BLIPLanguage(Backbone):
    """The part of BLIP that reads and embeds text; `BLIPModel` trains and predicts with it.

    Args:
        form: The form of the backbone; see `BLIP`.
        weights: The source of the weights, for messages.
    """

    start: int
    end: int
    pad: int

    def __init__(self, form: Literal["decoder", "vqa"], weights: str) -> None:
        super().__init__()
        self.form = form
        self.source = weights

    def lengths(self) -> tuple[Length, ...]:
        """Return the positions of prompt, soft prompt and answer in the tower that has the most."""
        read = self.protocol.max_input_tokens
        if self.prompt is not None:
            read += len(self.prompt())
        written = 1 + max(self.protocol.max_output_tokens, self.protocol.max_generated_tokens or 0)
        needed = max(read, written)
        if self.form == "decoder":
            # [DEC], prompt and answer are one sequence here.
            needed = 1 + read + written
        keys = "max_input_tokens, max_output_tokens, max_generated_tokens and soft prompts"
        return (Length(keys, needed, int(self.decoder.config.max_position_embeddings)),)

    def input_room(self, images: int) -> Room:
        """Return the room for a prompt without special tokens."""
        if self.form == "vqa":
            return Room(self.protocol.max_input_tokens - 2, special=False)
        return Room(self.protocol.max_input_tokens, special=False)

    def target_room(self) -> Room:
        """Return the room for an answer; [SEP] takes one of its places."""
        return Room(self.protocol.max_output_tokens - 1, special=False)

    @property
    def decoder(self) -> Any:
        """The tower that generates, with its language-model head."""
        if self.form == "decoder":
            return self.text
        return self.text["decoder"]

    @property
    def encoder(self) -> nn.Module:
        """The text encoder of `form: vqa`."""
        if self.form == "vqa":
            return cast("nn.Module", self.reader)
        return super().encoder

    @property
    def reader(self) -> Any:
        """The tower that reads the prompt."""
        if self.form == "decoder":
            return self.text.bert
        return self.text["encoder"]

    def set_visual_context(self, visual: VisualFeatures) -> None:
        """Set the tokens that routing functions mix in, for the batch of the next forward."""
        if self.context_tokens:
            self.visual_context.value = visual.tokens
        else:
            self.visual_context.value = visual.pooled

    def memory_of(self, visual: VisualFeatures, prompts: Sequence[str]) -> Memory:
        """Return the image's states, or the text encoder's states of the question (`form: vqa`)."""
        # The p-Adapter drops BLIP's text encoder: the decoder looks at the image itself.
        # Cross-attention sees all states of the ViT, that of CLS included. None is padding.
        if self.form == "decoder":
            return Memory(visual.tokens, None)
        self.set_visual_context(visual)
        first = self.tokenizer.cls_token_id
        if first is None:
            first = self.start
        # [CLS] and [SEP] count as input tokens.
        texts = self._tokenize(prompts, self.protocol.max_input_tokens - 2)
        rows = [[first, SOFT, *ids, self.end] for ids in texts]
        embeds, mask = self._embed(self.token_embeddings, rows)
        self.encoder_mask.value = mask
        states = call_model(
            self.reader,
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=_positions(mask),
            encoder_hidden_states=visual.tokens,
        )
        return Memory(states.last_hidden_state, mask)

    def embed_prefix(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embed the text before the answer.

        Returns embeddings (batch, tokens, width) and mask (batch, tokens).
        """
        words = self.decoder.bert.embeddings.word_embeddings
        if self.form == "vqa":
            return self._embed(words, [[self.start]] * len(prompts))
        # Ids are joined, not texts. The release tokenises question + answer as one text: without a
        # "?" between them their word-pieces can fuse, and the mask of the question then is wrong.
        texts = self._tokenize(prompts, self.protocol.max_input_tokens)
        return self._embed(words, [[self.start, SOFT, *ids] for ids in texts])

    def embed_words(self, ids: Tensor) -> Tensor:
        """Return the decoder's embeddings of ids, (batch, tokens, width); IGNORED is padding."""
        words = self.decoder.bert.embeddings.word_embeddings
        embeds: Tensor = words(ids.masked_fill(ids == IGNORED, self.pad))
        return embeds

    def decode(self, embeds: Tensor, mask: Tensor, memory: Memory, cache: Any = None) -> Any:
        """Run the decoder once.

        The mask covers cached tokens too. Padding takes no position.
        """
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

    def _embed(self, words: nn.Module, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return embeddings and mask of rows of ids; SOFT becomes the soft prompt.

        Rows are padded on the left, so that the answer of every row starts at the same place.
        """
        soft = None
        copies = 0
        if self.prompt is not None:
            soft = self.prompt()
            copies = soft.shape[0]
        expanded = [_expand_soft(row, copies) for row in rows]
        longest = max(map(len, expanded))
        padded = [[IGNORED] * (longest - len(row)) + row for row in expanded]
        ids = torch.tensor(padded, device=self.device)
        # SOFT and IGNORED are negative. Any row of the table will do in their place.
        embeds: Tensor = words(ids.masked_fill(ids < 0, self.pad))
        if soft is not None:
            values = soft.to(embeds.dtype).expand(len(rows), -1, -1)
            embeds = embeds.masked_scatter((ids == SOFT)[..., None], values)
        return embeds, (ids != IGNORED).long()

    def _targets(self, texts: Sequence[str]) -> Tensor:
        """Return token ids of texts and their [SEP], (texts, longest), IGNORED behind the end.

        A text has at most `max_output_tokens` ids, including [SEP].
        """
        rows = self._tokenize(texts, self.protocol.max_output_tokens - 1)
        return pad_rows([[*row, self.end] for row in rows], IGNORED)

    def _tokenize(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Return the token ids of each text without special tokens, at most `limit`."""
        rows = tokenize(self.tokenizer, list(texts), None, special=False)
        return [row[:limit] for row in rows]

    def _states(self, embeds: Tensor, mask: Tensor, labels: Tensor, memory: Memory) -> Tensor:
        """Return the states that predict each label behind a prefix, (sequences, labels, width)."""
        seen = torch.cat([mask, (labels[:, :-1] != IGNORED).long()], 1)
        whole = torch.cat([embeds, self.embed_words(labels[:, :-1])], 1)
        states: Tensor = self.decode(whole, seen, memory).last_hidden_state
        # The last state of the prefix predicts the first label.
        return states[:, embeds.shape[1] - 1 :]


def _expand_soft(row: Sequence[int], copies: int) -> list[int]:
    """Repeat SOFT once per token of the soft prompt."""
    expanded: list[int] = []
    for token in row:
        if token == SOFT:
            expanded += [SOFT] * copies
        else:
            expanded.append(token)
    return expanded


def _positions(mask: Tensor) -> Tensor:
    """Return the positions of the tokens, (batch, tokens); padding takes none."""
    # By default, transformers numbers the columns, and padding on the left would shift the text.
    return (mask.cumsum(1) - 1).clamp_min(0)
