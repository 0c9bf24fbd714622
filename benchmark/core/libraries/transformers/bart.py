"""BART's encoder in two steps, so that visual tokens can be put behind the embedded text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from vlpeft.benchmark.core.libraries.transformers.calls import call_function, check_call


def embed_bart_tokens(encoder: Any, ids: Tensor) -> Tensor:
    """Return the token and position embeddings of a BART encoder, (batch, tokens, width)."""
    embedded: Tensor = encoder.embed_tokens(ids) + encoder.embed_positions(ids, cache_length=0)
    return embedded


def run_bart_encoder(encoder: Any, states: Tensor, mask: Tensor) -> Tensor:
    """Run the layers of a BART encoder on embedded states.

    states is (batch, tokens, width); mask is (batch, tokens), 0 for padding. The result has the
    shape of states.
    """
    allowed = call_function(
        create_bidirectional_mask,
        config=encoder.config,
        inputs_embeds=states,
        attention_mask=mask,
    )
    for layer in encoder.layers:
        check_call(type(layer).forward, ("attention_mask",))
        states = layer(states, attention_mask=allowed)
    return states
