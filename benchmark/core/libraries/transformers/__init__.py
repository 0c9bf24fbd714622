"""transformers: attention functions, BLIP's text model, BART's encoder, caches, generation, files.

The models of transformers take `**kwargs` and ignore what they do not know. `call_model` compares
each keyword with the model's signature, so a renamed argument is an error.
"""

from vlpeft.benchmark.core.libraries.transformers.attention import (
    NO_EFFECT,
    fused_attention,
    refuse_attention_arguments,
    register_attention,
)
from vlpeft.benchmark.core.libraries.transformers.bart import embed_bart_tokens, run_bart_encoder
from vlpeft.benchmark.core.libraries.transformers.blip import (
    BlipAttention,
    BlipDecoder,
    override_blip_text,
)
from vlpeft.benchmark.core.libraries.transformers.caches import (
    new_cache,
    reorder_own_cache,
    repeat_cache,
    select_cache_rows,
)
from vlpeft.benchmark.core.libraries.transformers.calls import LIBRARY, call_model
from vlpeft.benchmark.core.libraries.transformers.files import (
    CHECKPOINTS,
    PICKLED,
    SAFE,
    find_file,
    find_shards,
)
from vlpeft.benchmark.core.libraries.transformers.generation import generate, generation_settings
from vlpeft.benchmark.core.libraries.transformers.loading import (
    build_shapes,
    load_config,
    load_model,
    load_shapes,
    load_tokenizer,
    make_config,
    quiet,
)
from vlpeft.benchmark.core.libraries.transformers.parts import make_activation, make_roberta_pooler
from vlpeft.benchmark.core.libraries.transformers.text import (
    decode_tokens,
    tokenize,
    tokenize_padded,
)

TRIED = ("5.24.0",)

__all__ = [
    "CHECKPOINTS",
    "LIBRARY",
    "NO_EFFECT",
    "PICKLED",
    "SAFE",
    "TRIED",
    "BlipAttention",
    "BlipDecoder",
    "build_shapes",
    "call_model",
    "decode_tokens",
    "embed_bart_tokens",
    "find_file",
    "find_shards",
    "fused_attention",
    "generate",
    "generation_settings",
    "load_config",
    "load_model",
    "load_shapes",
    "load_tokenizer",
    "make_activation",
    "make_config",
    "make_roberta_pooler",
    "new_cache",
    "override_blip_text",
    "quiet",
    "refuse_attention_arguments",
    "register_attention",
    "reorder_own_cache",
    "repeat_cache",
    "run_bart_encoder",
    "select_cache_rows",
    "tokenize",
    "tokenize_padded",
]
