"""Checkpoints of BLIP's own code (.pth), such as model_base_capfilt_large.pth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    PreTrainedModel,
)

from vlpeft.benchmark.backbones.files import AGAIN, flatten, library_errors, read_pickle
from vlpeft.benchmark.core.errors import WeightsError
from vlpeft.benchmark.core.libraries.transformers import make_config

# The model of transformers for each form.
CLASSES = {"decoder": BlipForConditionalGeneration, "vqa": BlipForQuestionAnswering}
# The ids of bert-base-uncased. [DEC] and [ENC] are the last two words of the vocabulary.
SEP, PAD = 102, 0

# Patterns from BLIP's own names to those of transformers.
# The names inside the text towers are the same in both.
_LAYER = r"vision_model.encoder.layers.\1."
RENAMED = (
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", _LAYER + "self_attn.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", _LAYER + "self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.", _LAYER + r"layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", _LAYER + "mlp."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
)
HEAD = "text_decoder.cls.predictions."


def load_original(path: Path, form: str) -> PreTrainedModel:
    """Return the model of a .pth file in evaluation mode; its geometry is read from the shapes.

    Raises UserError if the file cannot be read, is not BLIP's, or lacks weights.
    """
    state = translate(_read(path))
    prefixes: tuple[str, ...] = ("vision_model.", "text_decoder.")
    if form == "vqa":
        prefixes = (*prefixes, "text_encoder.")
    state = {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}
    with library_errors(lambda cause: _layout_error(path, cause)):
        config = geometry(state)
        with torch.device("meta"):
            planned = CLASSES[form](config)
    # Checked before the model takes memory, whose size the file chooses.
    _check_weights(planned, state, path)
    if torch.get_default_device().type == "meta":
        return planned.eval()
    model = CLASSES[form](config)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(state[name])
    return model.eval()


def _layout_error(path: Path, cause: str) -> WeightsError:
    return WeightsError(
        f"{path} is not a checkpoint of BLIP's own layout ({cause}); "
        "it needs visual_encoder.* and text_decoder.*"
    )


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename BLIP's own tensors as transformers names them.

    A tensor without a place there keeps its name: queues, momentum towers and buffers.

    The head shares its weight with the embeddings. The head's bias may be stored twice. The one of
    the output layer is taken: pretraining enlarged only that one when it added [DEC] and [ENC].
    """
    renamed = {_rename(key): tensor for key, tensor in state.items()}
    renamed = {key: tensor for key, tensor in renamed.items() if not key.endswith("position_ids")}
    bias = renamed.pop(f"{HEAD}decoder.bias", renamed.get(f"{HEAD}bias"))
    renamed.pop(f"{HEAD}decoder.weight", None)
    if bias is not None:
        renamed[f"{HEAD}bias"] = bias
    return renamed


def geometry(state: Mapping[str, Tensor]) -> BlipConfig:
    """Return the architecture that has these shapes.

    Heads are 64 wide. Rates and epsilons are those of BLIP's code. Raises KeyError for a missing
    tensor.
    """
    return make_config(
        "blip", {"vision_config": _vision_geometry(state), "text_config": _text_geometry(state)}
    )


def _vision_geometry(state: Mapping[str, Tensor]) -> dict[str, Any]:
    positions = state["vision_model.embeddings.position_embedding"]
    patch = state["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    # One position is that of the class token; the others form a square grid.
    side = int((positions.shape[1] - 1) ** 0.5)
    return {
        "hidden_size": positions.shape[-1],
        "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count_layers(state, "vision_model.encoder.layers."),
        "num_attention_heads": positions.shape[-1] // 64,
        "image_size": patch * side,
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }


def _text_geometry(state: Mapping[str, Tensor]) -> dict[str, Any]:
    bert = "text_decoder.bert."
    vocabulary, width = state[f"{bert}embeddings.word_embeddings.weight"].shape
    positions = state[f"{bert}embeddings.position_embeddings.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state[f"{bert}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _count_layers(state, f"{bert}encoder.layer."),
        "num_attention_heads": width // 64,
        "max_position_embeddings": positions.shape[0],
        # The hub's copies of these checkpoints say 0: see `BLIP.dropout`.
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        # [DEC]: BERT's 30,522 words, then [DEC] and [ENC].
        "bos_token_id": vocabulary - 2,
        "sep_token_id": SEP,
        "pad_token_id": PAD,
    }


def _count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _rename(key: str) -> str:
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a .pth file."""
    state = read_pickle(path, "cpu")
    # BLIP's code stores the weights under `model`, next to the optimizer's state.
    if isinstance(state, Mapping) and "model" in state:
        state = state["model"]
    return flatten(state, path)


def _check_weights(model: PreTrainedModel, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise WeightsError unless each parameter of the model has floats of its shape."""
    wanted = dict(model.named_parameters())
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise WeightsError(
            f"{path} lacks pretrained weights for {missing[0]} ({len(missing)} missing); "
            "choose a complete checkpoint"
        )
    for name, parameter in wanted.items():
        tensor = state[name]
        if parameter.shape != tensor.shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, "
                f"not {tuple(parameter.shape)}; choose another checkpoint"
            )
        if not tensor.is_floating_point():
            raise WeightsError(f"{path}: {name} has the type {tensor.dtype}, not floats; {AGAIN}")
