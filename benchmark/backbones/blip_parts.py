"""Parts of BLIP: its weights from a hub-style folder or from BLIP's own .pth, and its text towers with fused attention."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    PreTrainedModel,
)

from vlpeft.benchmark.backbones.vision import Triple, normalisation
from vlpeft.benchmark.backbones.weights import WeightSource, reads_weights
from vlpeft.benchmark.contract.attention import attend, reads_probabilities
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.libraries.transformers import BlipAttention, make_config, override_blip_text

CLASSES = {"decoder": BlipForConditionalGeneration, "vqa": BlipForQuestionAnswering}
CLIP: tuple[Triple, Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
BERT = "bert-base-uncased"  # the tokenizer of BLIP's own checkpoints, which hold none
# The file that BLIP's papers start from, by the hub's models of its geometry: so it can be planned where it does not lie.
KNOWN_FILES = {
    "model_base_capfilt_large.pth": {
        "decoder": "Salesforce/blip-image-captioning-base",
        "vqa": "Salesforce/blip-vqa-base",
    }
}
SEP, PAD = 102, 0  # of that tokenizer; [DEC] and [ENC] are the last two of the vocabulary

# From BLIP's own names to those of transformers; the names inside its text towers are the same.
RENAMED = (
    (
        r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.",
        r"vision_model.encoder.layers.\1.self_attn.qkv.",
    ),
    (
        r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision_model.encoder.layers.\1.self_attn.projection.",
    ),
    (
        r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.",
        r"vision_model.encoder.layers.\1.layer_norm\2.",
    ),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
)
HEAD = "text_decoder.cls.predictions."


class Weights(NamedTuple):
    """A loaded BLIP, and what goes with it."""

    model: Any
    tokenizer: Any  # None on the meta device
    mean: Triple
    std: Triple


def load(weights: str, tokenizer: str | None, form: str, image_size: int) -> Weights:
    """Towers of a form, at an image size. Raises UserError where the checkpoint does not hold them."""
    source = WeightSource.parse(weights, tiny="blip")
    known = KNOWN_FILES.get(Path(weights).name)
    if known and not reads_weights() and not Path(weights).exists():
        model, (mean, std) = WeightSource.parse(known[form], tiny="blip").model(CLASSES[form]), CLIP
    elif weights.endswith(".pth"):
        model, (mean, std) = load_original(Path(weights), form), CLIP
    else:
        check_form(source, form)
        model, (mean, std) = source.model(CLASSES[form]), normalisation(source, CLIP)
    resize(model, image_size)
    words = WeightSource.parse(tokenizer_source(weights, tokenizer), tiny="blip")
    return Weights(model, words.tokenizer(), mean, std)


def tokenizer_source(weights: str, tokenizer: str | None) -> str:
    """Where the tokenizer comes from."""
    return tokenizer or (BERT if weights.endswith(".pth") else weights)


def check_form(source: WeightSource, form: str) -> None:
    """Refuse the form with a text encoder where a checkpoint says that it has none."""
    if form == "vqa" and list(source.config().architectures or ()) == [
        "BlipForConditionalGeneration"
    ]:
        raise UserError(
            f"form: vqa needs a text encoder, which {source.location} does not hold; choose `form: decoder`, or weights such as "
            "Salesforce/blip-vqa-base"
        )


def resize(model: Any, size: int) -> None:
    """Give the image tower another image size: its position embeddings are interpolated (bicubic), the CLS state's is kept."""
    embeddings, patch = model.vision_model.embeddings, model.vision_model.config.patch_size
    if size % patch:
        raise UserError(
            f"image_size: {size} is no multiple of the patch size {patch}; choose {size // patch * patch or patch}"
        )
    grid, old = size // patch, embeddings.position_embedding.data
    side = int((old.shape[1] - 1) ** 0.5)
    if grid != side:
        square = old[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(
            square, size=(grid, grid), mode="bicubic", align_corners=False, antialias=False
        )
        embeddings.position_embedding = nn.Parameter(
            torch.cat([old[:, :1], square.flatten(2).transpose(1, 2)], 1)
        )
    model.vision_model.config.image_size = embeddings.image_size = size


def text_towers(model: Any, form: str, dropout: float | None) -> nn.Module:
    """The decoder, or the text encoder and the decoder, with attention that methods can look into."""
    towers: nn.Module = model.text_decoder
    if form == "vqa":
        towers = nn.ModuleDict({"encoder": model.text_encoder, "decoder": model.text_decoder})
    override_blip_text(towers, TextAttention)
    for module in towers.modules():
        if isinstance(module, nn.Dropout) and dropout is not None:
            module.p = dropout
    return towers


def assemble_checkpoint(form: str, vision: Any, text: Any) -> PreTrainedModel:
    """The towers of a form as the one model of transformers that a checkpoint holds."""
    decoder = text if form == "decoder" else text["decoder"]
    with torch.device("meta"):
        model = CLASSES[form](
            BlipConfig(text_config=decoder.config.to_dict(), vision_config=vision.config.to_dict())
        )
    model.vision_model, model.text_decoder = vision, decoder
    if form == "vqa":
        model.text_encoder = text["encoder"]
    return model


class TextAttention(BlipAttention):
    """BLIP's text attention, fused unless a method looks into it.

    Unlike the original of transformers it respects the mask of padded states in cross-attention.
    """

    def compute_attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of (batch, heads, tokens, head width); the result has heads behind tokens."""
        if mask is not None:
            # Half the smallest number: a kernel that multiplies the mask must not overflow to minus infinity.
            mask = mask.clamp_min(torch.finfo(query.dtype).min / 2).to(query.dtype)
        copies = len(query) // len(key)
        if copies > 1 and reads_probabilities(
            self
        ):  # methods see one row of probabilities for each row of states
            key, value = (x.repeat_interleave(copies, 0) for x in (key, value))
            mask = None if mask is None else mask.repeat_interleave(copies, 0)
        elif (
            copies > 1
        ):  # rows that look at the same keys are queries of one attention, and no key is copied
            query = query.view(len(key), copies, *query.shape[1:]).transpose(1, 2).flatten(2, 3)
            mask = None if mask is None else mask[:, :, :1]  # of padding: the same for all queries
        dropout = self.dropout.p if self.training else 0.0
        return attend(self, query, key, value, mask, dropout=dropout, is_causal=False)[0]


def load_original(path: Path, form: str) -> PreTrainedModel:
    """A checkpoint of BLIP's own code, such as model_base_capfilt_large.pth; its geometry is read from the shapes."""
    state = translate(_read(path))
    prefixes = ("vision_model.", "text_decoder.", "text_encoder.")[: 2 + (form == "vqa")]
    state = {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}
    try:
        model = CLASSES[form](geometry(state))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no checkpoint of BLIP's own layout ({error}); it needs visual_encoder.* and text_decoder.*"
        ) from error
    if torch.get_default_device().type != "meta":
        _fill(model, state, path)
    return model.eval()


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        state: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except OSError as error:
        raise UserError(
            f"cannot read the checkpoint {path}: {error.strerror}; download it, or check the path"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} is no file of plain tensors; save its `model` entry alone ({str(error).splitlines()[0][:120]})"
        ) from error
    found: Mapping[str, Tensor] = state.get("model", state)
    return found


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BLIP's own names to those of transformers; what has no place there (queues, momentum towers, buffers) keeps its name.

    The head's weight is the embeddings'. A bias kept twice is taken from the output layer: pretraining enlarged only that
    one when it added [DEC] and [ENC].
    """
    made = {}
    for key, tensor in state.items():
        name = key
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if not name.endswith("position_ids"):
            made[name] = tensor
    bias = made.pop(f"{HEAD}decoder.bias", made.get(f"{HEAD}bias"))
    made.pop(f"{HEAD}decoder.weight", None)
    return made | ({} if bias is None else {f"{HEAD}bias": bias})


def geometry(state: Mapping[str, Tensor]) -> BlipConfig:
    """The architecture behind these shapes; heads are 64 wide, and rates and epsilons are those of BLIP's code."""
    positions = state["vision_model.embeddings.position_embedding"]
    patch = state["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    vocabulary, width = state["text_decoder.bert.embeddings.word_embeddings.weight"].shape
    vision = {
        "hidden_size": positions.shape[-1],
        "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layers(state, "vision_model.encoder.layers."),
        "num_attention_heads": positions.shape[-1] // 64,
        "image_size": patch * int((positions.shape[1] - 1) ** 0.5),
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state[
            "text_decoder.bert.encoder.layer.0.intermediate.dense.weight"
        ].shape[0],
        "num_hidden_layers": _layers(state, "text_decoder.bert.encoder.layer."),
        "num_attention_heads": width // 64,
        "max_position_embeddings": state[
            "text_decoder.bert.embeddings.position_embeddings.weight"
        ].shape[0],
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": vocabulary - 2,
        "sep_token_id": SEP,
        "pad_token_id": PAD,
    }
    return make_config("blip", {"vision_config": vision, "text_config": text})


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _fill(model: Any, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy the weights; tied ones come once."""
    wanted = dict(model.named_parameters())
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise UserError(
            f"{path} lacks pretrained weights for {missing[0]} ({len(missing)} missing); choose a complete checkpoint"
        )
    for name, parameter in wanted.items():
        if parameter.shape != state[name].shape:
            raise UserError(
                f"{path}: {name} is of shape {tuple(state[name].shape)}, not {tuple(parameter.shape)}; choose another checkpoint"
            )
        parameter.data.copy_(state[name])
