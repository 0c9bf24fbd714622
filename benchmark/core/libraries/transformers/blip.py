"""BLIP's text model: its attention, and a decoder that generates behind embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextSelfAttention

from vlpeft.benchmark.core.libraries.changes import refuse_unknown
from vlpeft.benchmark.core.libraries.transformers.calls import LIBRARY


class BlipAttention(BlipTextSelfAttention):  # type: ignore[misc]
    """BLIP's text attention with its cache; a subclass computes the attention itself.

    transformers 5.24 computes it by matrix products, outside its registry of attention functions.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        **unknown: Any,
    ) -> tuple[Tensor, None]:
        """Map states (batch, queries, width) to (batch, queries, width).

        In cross-attention, keys and values come from `encoder_hidden_states`, and `attention_mask`
        is the mask of these. Raises UserError for an unknown argument.
        """
        if unknown:
            refuse_unknown(LIBRARY, "BlipAttention.forward", unknown)
        query = self._split_heads(self.query(hidden_states))
        if encoder_hidden_states is None:
            key, value = self._own_keys(hidden_states, cache)
        else:
            key, value = self._encoder_keys(encoder_hidden_states, cache)
        result = self.compute_attention(query, key, value, attention_mask)
        return result.reshape(*hidden_states.shape[:2], -1), None

    def compute_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Compute attention of (batch, heads, tokens, head width) under an additive mask.

        The result is (batch, queries, heads, head width). Keys and values may have fewer rows than
        queries: consecutive rows of queries then look at the same row.
        """
        raise NotImplementedError

    def _own_keys(self, states: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """Return keys and values of self-attention, behind those of the cache."""
        if cache is None:
            return self._project(states)
        return self._extend(states, cache.self_attention_cache)

    def _encoder_keys(
        self, states: Tensor, cache: EncoderDecoderCache | None
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of cross-attention; a cache keeps them for all later tokens."""
        if cache is None:
            return self._project(states)
        if cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        cache.is_updated[self.layer_idx] = True
        return self._extend(states, cache.cross_attention_cache)

    def _extend(self, states: Tensor, cache: DynamicCache) -> tuple[Tensor, Tensor]:
        """Append keys and values to a cache, and return all that it holds."""
        key, value = self._project(states)
        extended: tuple[Tensor, Tensor] = cache.update(key, value, self.layer_idx)
        return extended

    def _project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self._split_heads(self.key(states)), self._split_heads(self.value(states))

    def _split_heads(self, states: Tensor) -> Tensor:
        """Split (batch, tokens, width) into (batch, heads, tokens, head width)."""
        return states.view(*states.shape[:2], self.num_attention_heads, -1).transpose(1, 2)


class BlipDecoder(BlipTextLMHeadModel):  # type: ignore[misc]
    """BLIP's text decoder, which can also generate behind embeddings."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        cache: EncoderDecoderCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        next_sequence_length: int | None = None,
        is_first_iteration: bool = False,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **unknown: Any,
    ) -> dict[str, Any]:
        """Return the arguments of a forward.

        `generate` reads this signature to see what it may pass. BLIP's own lacks `inputs_embeds`.
        Raises UserError for an unknown argument.
        """
        refuse_unknown(LIBRARY, "BlipDecoder.prepare_inputs_for_generation", unknown)
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            cache=cache,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            next_sequence_length=next_sequence_length,
            is_first_iteration=is_first_iteration,
            position_ids=position_ids,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )
        return prepared


def override_blip_text(towers: nn.Module, attention: type[BlipAttention]) -> None:
    """Give BLIP's text towers this attention, and their decoder generation behind embeddings.

    The modules keep their weights and names. Raises RuntimeError if no attention was found.
    """
    found = 0
    for module in towers.modules():
        if isinstance(module, BlipTextSelfAttention):
            module.__class__ = attention
            found += 1
        elif isinstance(module, BlipTextLMHeadModel):
            module.__class__ = BlipDecoder
    if not found:
        raise RuntimeError("no BLIP text attention to replace; has transformers renamed its class?")
