"""Generation: greedy and beam search, by our settings alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from vlpeft.benchmark.core.libraries.changes import refuse_unsupported
from vlpeft.benchmark.core.libraries.transformers.calls import LIBRARY

# Settings that change what is generated, and have one value in every protocol.
_FIXED = {
    "do_sample": False,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "use_cache": True,
}


def generation_settings(
    *,
    tokens: int,
    least_tokens: int | None,
    beams: int,
    early_stopping: bool,
    length_penalty: float,
    no_repeat_ngram: int,
    start: int | None,
    end: int,
    pad: int,
    forced_end: int | None = None,
) -> GenerationConfig:
    """Return settings of greedy or beam search.

    Every setting that changes what is generated has a value here. `tokens` and `least_tokens` count
    new tokens. Raises UserError if transformers has renamed a setting.
    """
    settings = {
        "max_new_tokens": tokens,
        "min_new_tokens": least_tokens,
        "num_beams": beams,
        "early_stopping": early_stopping,
        "length_penalty": length_penalty,
        "no_repeat_ngram_size": no_repeat_ngram,
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": pad,
        "forced_eos_token_id": forced_end,
        # transformers warns if both lower bounds are set.
        "min_length": None if least_tokens else 0,
        **_FIXED,
    }
    # A setting that transformers has renamed would be kept as an attribute that nothing reads.
    refuse_unsupported(
        LIBRARY, "GenerationConfig", settings.keys() - vars(GenerationConfig()).keys()
    )
    return GenerationConfig(**settings)


def generate(model: Any, settings: GenerationConfig, **inputs: Tensor | Any) -> Tensor:
    """Return the token ids (sequences, tokens) that a model generates by these settings alone.

    transformers fills settings that are None from the model's own, which come from its checkpoint.
    So the model's own are replaced during the call. transformers itself checks that every input is
    used.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        tokens: Tensor = model.generate(generation_config=settings, **inputs)
    finally:
        model.generation_config = own
    return tokens
