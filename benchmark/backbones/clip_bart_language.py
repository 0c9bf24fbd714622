"""The text side of CLIP-BART: reading prompts, writing behind them, and ranking answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlpeft.benchmark.backbones.clip_bart_parts import Start
from vlpeft.benchmark.backbones.language import (
    IGNORED,
    Candidates,
    log_likelihood,
    pad_rows,
    rank,
)
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.libraries.transformers import (
    call_model,
    embed_bart_tokens,
    repeat_cache,
    run_bart_encoder,
    tokenize,
    tokenize_padded,
)

# The number of answers scored in one forward: each has its own copy of keys and values.
RANKED_TOGETHER = 64


class BartLanguage(Backbone):
    """The part of CLIP-BART that reads and writes text.

    `CLIPBartModel` trains and predicts with it.

    Attributes:
        start: The id of the decoder's start token.
        begin: The id of `<s>`.
        pad: The id of the padding.
    """

    start: int
    begin: int
    pad: int

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
        ids = ids.masked_fill(ids == IGNORED, self.pad).to(self.device)
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
        # `<s>` is not scored: all answers start with it.
        begin = torch.tensor([[self.start, self.begin]])
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
        first = start.first.repeat_interleave(keep, 0)[:, None]
        likelihood = log_likelihood(first, labels[:, :1], self.protocol)
        if labels.shape[1] == 1:  # blank answers: the start predicts their only token
            return likelihood.view(-1, keep)
        repeat_cache(start.cache, keep)
        self.visual_context.repeat_rows(keep)
        states = start.states.repeat_interleave(keep, 0)
        mask = start.mask.repeat_interleave(keep, 0)
        out = self.decode(labels[:, :-1], states, mask, cache=start.cache, use_cache=True)
        # The head runs only where an answer has a token.
        counted = labels[:, 1:] != IGNORED
        logits = self.token_logits(out.last_hidden_state[counted])[:, None]
        per_token = log_likelihood(logits, labels[:, 1:][counted][:, None], self.protocol)
        return likelihood.index_add(0, counted.nonzero()[:, 0], per_token).view(-1, keep)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of `<s> text </s>`, at most `max_output_tokens` with both."""
        return tokenize(self.tokenizer, list(texts), self.protocol.max_output_tokens, special=True)
