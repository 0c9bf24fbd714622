"""transformers: attention functions, BLIP's text model, BART's encoder, caches, generation, files.

transformers' models take `**kwargs` and ignore what they do not know.
`call_model` compares each keyword with the model's signature, so a renamed argument is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoTokenizer,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextSelfAttention
from transformers.models.roberta.modeling_roberta import RobertaPooler
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)
from transformers.utils.hub import cached_files, get_checkpoint_shard_files

from vlpeft.benchmark.libraries.changes import refuse_unknown, refuse_unsupported, require_arguments

LIBRARY = "transformers"
TRIED = ("5.24.0",)

PICKLED, SAFE = WEIGHTS_NAME, SAFE_WEIGHTS_NAME
CHECKPOINTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Names of weight files, in the order in which transformers looks for them."""

NO_EFFECT = frozenset({"position_ids", "use_cache", "encoder_hidden_states"})
"""Arguments that models pass through to every attention function, and that none of them reads."""

_SDPA = AttentionInterface()["sdpa"]
_ADDITIVE_MASK = AttentionMaskInterface()["eager"]  # never skipped, also where it is causal


# Attention.


def register_attention(name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Offer an attention function to all models under `name`; it gets additive masks."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, _ADDITIVE_MASK)


def refuse_attention_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise UserError for an argument of an attention function that may change its result."""
    unknown = [name for name in arguments if name not in NO_EFFECT]
    if unknown:
        refuse_unknown(LIBRARY, "vlpeft.benchmark.contract.attention.attend", unknown)


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    dropout: float,
    is_causal: bool | None,
) -> Tensor:
    """transformers' own fused attention.

    Inputs are (batch, heads, tokens, head width), the result is (batch, queries, heads, head width).
    """
    found: Tensor = _SDPA(
        module,
        query,
        key,
        value,
        mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=None,
    )[0]
    return found


# Calls of models.


def call_model(model: nn.Module, **arguments: Any) -> Any:
    """Call a model of transformers. Raises UserError if its `forward` lacks one of the arguments."""
    _check_call(type(model).forward, tuple(arguments))
    return model(**arguments)


def _call(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Call a function that would ignore arguments it does not know."""
    _check_call(getattr(function, "__func__", function), tuple(named))
    return function(*given, **named)


@cache
def _check_call(function: Callable[..., Any], names: tuple[str, ...]) -> None:
    require_arguments(LIBRARY, function, names)


def make_activation(name: str) -> nn.Module:
    """The activation that configurations of models call `name`."""
    made: nn.Module = ACT2FN[name]
    return made


def make_roberta_pooler(config: PretrainedConfig) -> Any:
    """RoBERTa's tanh pooler with new weights."""
    return RobertaPooler(config)


# BART.


def embed_bart_tokens(encoder: Any, ids: Tensor) -> Tensor:
    """Token and position embeddings of a BART encoder, (batch, tokens, width)."""
    embedded: Tensor = encoder.embed_tokens(ids) + encoder.embed_positions(ids, cache_length=0)
    return embedded


def run_bart_encoder(encoder: Any, states: Tensor, mask: Tensor) -> Tensor:
    """The layers of a BART encoder on embedded states.

    states (batch, tokens, width); mask (batch, tokens): 0 for padding.
    """
    allowed = _call(
        create_bidirectional_mask,
        config=encoder.config,
        inputs_embeds=states,
        attention_mask=mask,
    )
    for layer in encoder.layers:
        _check_call(type(layer).forward, ("attention_mask",))
        states = layer(states, attention_mask=allowed)
    return states


# BLIP.


class BlipAttention(BlipTextSelfAttention):  # type: ignore[misc]
    """BLIP's text attention, with its cache; a subclass says how to attend.

    transformers 5.24 computes it by matrix products, outside its own registry of attention functions.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        **unknown: Any,
    ) -> tuple[Tensor, None]:
        """States (batch, queries, width) to (batch, queries, width).

        In cross-attention `encoder_hidden_states` are looked at, and `attention_mask` is their mask.
        """
        if unknown:
            refuse_unknown(LIBRARY, "BlipAttention.forward", unknown)
        query = self._heads(self.query(hidden_states))
        if encoder_hidden_states is None:
            key, value = self._own_keys(hidden_states, cache)
        else:
            key, value = self._encoder_keys(encoder_hidden_states, cache)
        found = self.attended(query, key, value, attention_mask)
        return found.reshape(*hidden_states.shape[:2], -1), None

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of (batch, heads, tokens, head width) under an additive mask.

        Keys and values may be fewer rows: consecutive rows of queries then look at one of them.
        """
        raise NotImplementedError

    def _own_keys(self, states: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of self-attention, behind those of the cache."""
        if cache is None:
            return self._projected(states)
        return self._added(states, cache.self_attention_cache)

    def _encoder_keys(
        self, states: Tensor, cache: EncoderDecoderCache | None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of cross-attention, which are computed once."""
        if cache is None:
            return self._projected(states)
        if cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        cache.is_updated[self.layer_idx] = True
        return self._added(states, cache.cross_attention_cache)

    def _added(self, states: Tensor, cache: DynamicCache) -> tuple[Tensor, Tensor]:
        key, value = self._projected(states)
        added: tuple[Tensor, Tensor] = cache.update(key, value, self.layer_idx)
        return added

    def _projected(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.key(states)), self._heads(self.value(states))

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_attention_heads, -1).transpose(1, 2)


class BlipDecoder(BlipTextLMHeadModel):  # type: ignore[misc]
    """BLIP's text decoder, which also generates behind embeddings."""

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
        """The arguments of a forward; `generate` reads this signature to see what it may pass."""
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
    """Give BLIP's text towers this attention, and their decoder the ability to write behind embeddings.

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


# Caches.


def new_cache() -> DynamicCache:
    """An empty cache of keys and values."""
    return DynamicCache()


def select_cache_rows(
    cache: EncoderDecoderCache, rows: Tensor, encoder_rows: Tensor
) -> EncoderDecoderCache:
    """A new cache of these rows of the batch; `encoder_rows` are those of cross-attention."""
    own = _selected(cache.self_attention_cache, rows)
    return EncoderDecoderCache(own, _selected(cache.cross_attention_cache, encoder_rows))


def _selected(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    made = DynamicCache()
    for i, layer in enumerate(cache.layers):
        made.update(layer.keys[rows], layer.values[rows], i)
    return made


def repeat_cache(cache: EncoderDecoderCache, times: int) -> None:
    """Repeat every row of a cache in place; the copies are consecutive."""
    cache.batch_repeat_interleave(times)


# Generation.


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
    """Greedy or beam search; every setting that changes what is written has a value here."""
    settings = {
        "max_new_tokens": tokens,
        "min_new_tokens": least_tokens,
        "min_length": None if least_tokens else 0,  # transformers warns of both
        "num_beams": beams,
        "do_sample": False,
        "early_stopping": early_stopping,
        "length_penalty": length_penalty,
        "no_repeat_ngram_size": no_repeat_ngram,
        "encoder_no_repeat_ngram_size": 0,
        "repetition_penalty": 1.0,
        "encoder_repetition_penalty": 1.0,
        "renormalize_logits": False,
        "remove_invalid_values": False,
        "num_return_sequences": 1,
        "return_dict_in_generate": False,
        "use_cache": True,
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": pad,
        "forced_eos_token_id": forced_end,
    }
    # A setting that transformers has renamed would be kept as an attribute that nothing reads.
    refuse_unsupported(
        LIBRARY, "GenerationConfig", settings.keys() - vars(GenerationConfig()).keys()
    )
    return GenerationConfig(**settings)


def generate(model: Any, settings: GenerationConfig, **inputs: Tensor | Any) -> Tensor:
    """Token ids (sequences, tokens) that a model writes by these settings alone.

    transformers fills settings that are None from the model's own, which come from its checkpoint,
    so the model's own are replaced meanwhile. It checks itself that all inputs are used.
    """
    own, model.generation_config = model.generation_config, settings
    try:
        tokens: Tensor = model.generate(generation_config=settings, **inputs)
    finally:
        model.generation_config = own
    return tokens


def decode_tokens(tokenizer: Any, tokens: Tensor) -> list[str]:
    """The texts of token ids, without special tokens."""
    texts: list[str] = _call(tokenizer.batch_decode, tokens, skip_special_tokens=True)
    return texts


# Tokens.


def tokenize(
    tokenizer: Any, texts: list[str], limit: int | None, *, special: bool
) -> list[list[int]]:
    """Token ids of each text, cut at `limit`, special tokens included."""
    rows: list[list[int]] = _call(
        tokenizer.__call__,
        texts,
        add_special_tokens=special,
        padding=False,
        truncation="do_not_truncate" if limit is None else "longest_first",
        max_length=limit,
    ).input_ids
    return rows


def tokenize_padded(tokenizer: Any, texts: list[str], limit: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (texts, tokens), with special tokens, padded on the right."""
    batch = _call(
        tokenizer.__call__,
        texts,
        add_special_tokens=True,
        padding="longest",
        padding_side="right",
        truncation="longest_first",
        max_length=limit,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask


# Files.


def find_file(
    location: str | Path,
    name: str,
    *,
    revision: str | None = None,
    local_only: bool = False,
    required: bool = True,
) -> str | None:
    """Path of a file in a folder, or of a hub repository; None if it is missing and not required.

    Raises OSError for a required file that is missing, and for an unknown repository.
    """
    options = {
        "revision": revision,
        "local_files_only": local_only,
        "_raise_exceptions_for_missing_entries": required,
    }
    _check_call(cached_files, tuple(options))
    found: list[str] | None = cached_files(location, [name], **options)
    return found[0] if found else None


def find_shards(location: str, index: str, *, revision: str | None, local_only: bool) -> None:
    """Find all files that an index of sharded weights names. Raises OSError for a missing one."""
    _call(
        get_checkpoint_shard_files,
        location,
        index,
        revision=revision,
        local_files_only=local_only,
    )


def make_config(model_type: str, settings: Mapping[str, Any]) -> PretrainedConfig:
    """A configuration of these settings. Raises UserError for one that its class does not declare.

    transformers itself keeps an unknown setting as an attribute that no model reads.
    """
    known = AutoConfig.for_model(model_type)
    unknown = _undeclared(settings, known.to_dict(), known.attribute_map)
    refuse_unsupported(LIBRARY, f"the configuration of {model_type}", unknown)
    return AutoConfig.for_model(model_type, **settings)


def _undeclared(
    settings: Mapping[str, Any], known: Mapping[str, Any], aliases: Iterable[str] = ()
) -> list[str]:
    """Names of settings that are not known; those of parts have the part's name in front."""
    found = []
    for name, value in settings.items():
        if name not in known and name not in aliases:
            found.append(name)
        elif isinstance(value, dict):
            found += [f"{name}.{each}" for each in _undeclared(value, known[name])]
    return found


def load_config(location: str, revision: str | None) -> PretrainedConfig:
    """A checkpoint's configuration; code that comes with it is never run."""
    return AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)


def load_tokenizer(
    location: str | Path, revision: str | None = None, *, local_only: bool = False
) -> Any:
    """A checkpoint's tokenizer; code that comes with it is never run."""
    return AutoTokenizer.from_pretrained(
        location, revision=revision, local_files_only=local_only, trust_remote_code=False
    )


def load_model(
    cls: type[PreTrainedModel], location: str, revision: str | None, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """A model in float32, and the names of weights that the checkpoint lacks."""
    model, info = cls.from_pretrained(
        location,
        revision=revision,
        dtype=torch.float32,
        ignore_mismatched_sizes=False,
        weights_only=True,
        output_loading_info=True,
        **options,
    )
    return model, list(info["missing_keys"])


# Messages.


@contextmanager
def quiet(*, bars: bool) -> Iterator[None]:
    """Only errors are logged, and progress bars are shown if `bars`."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(before)
