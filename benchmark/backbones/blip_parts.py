"""Parts of BLIP: its weights, its text towers with fused attention, and its sites.

Weights come from a folder in the layout of the hub, or from a .pth of BLIP's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipConfig, PreTrainedModel

from vlpeft.benchmark.backbones.blip_original import CLASSES, load_original
from vlpeft.benchmark.backbones.files import local_path
from vlpeft.benchmark.backbones.geometries import build_config, find_geometry
from vlpeft.benchmark.backbones.normalisation import Triple, normalisation
from vlpeft.benchmark.backbones.weights import WeightSource, reads_weights
from vlpeft.benchmark.contract.attention import Attention, attend, reads_probabilities
from vlpeft.benchmark.contract.sites import Projection, Site, Slot, TowerSide
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.libraries.transformers import BlipAttention, override_blip_text

# Mean and standard deviation of the pixels in CLIP, which BLIP uses too.
CLIP: tuple[Triple, Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
# The tokenizer of BLIP's own checkpoints, which contain none.
BERT = "bert-base-uncased"


class Weights(NamedTuple):
    """A loaded BLIP, its tokenizer and its normalisation of pixels."""

    model: Any
    # None on the meta device.
    tokenizer: Any
    # The source of the tokenizer, for messages.
    words: str
    mean: Triple
    std: Triple


def load(weights: str, tokenizer: str | None, form: str, image_size: int) -> Weights:
    """Load the towers of a form, at an image size in pixels.

    Raises UserError if the checkpoint does not contain them.
    """
    model, (mean, std) = _load_model(weights, form)
    resize(model, image_size)
    words = tokenizer_source(weights, tokenizer)
    source = WeightSource.parse(words, tiny="blip")
    return Weights(model, source.tokenizer(), words, mean, std)


def start_id(tokenizer: Any, start: object, rows: int, weights: str) -> int:
    """Return the id of [DEC], with which the decoder starts.

    Raises WeightsError if it has no row in the token table, or is an ordinary word.
    """
    if not isinstance(start, int) or not 0 <= start < rows:
        raise WeightsError(
            f"{weights}: bos_token_id: {start} of its text_config is not one of the {rows} tokens; "
            "set it to the id of [DEC]"
        )
    words = {}
    if tokenizer is not None:
        words = {each: word for word, each in tokenizer.get_vocab().items()}
    if start in words and start not in tokenizer.all_special_ids:
        raise WeightsError(
            f"{weights}: its decoder starts with token {start}, which is the word "
            f"'{words[start]}' of the tokenizer and not [DEC]; use the tokenizer of the checkpoint"
        )
    return start


def _load_model(weights: str, form: str) -> tuple[Any, tuple[Triple, Triple]]:
    source = WeightSource.parse(weights, tiny="blip")
    path = Path(weights)
    # The file that BLIP's papers start from can be planned on a machine that does not have it.
    known = find_geometry("blip", path.name)
    if known is not None and not reads_weights() and local_path(weights) is None:
        return CLASSES[form](build_config(known)).eval(), CLIP
    if weights.endswith(".pth"):
        return load_original(path, form), CLIP
    check_form(source, form)
    return source.model(CLASSES[form]), normalisation(source, CLIP)


def tokenizer_source(weights: str, tokenizer: str | None) -> str:
    """Return the source of the tokenizer: the setting, or the one that belongs to the weights."""
    if tokenizer:
        return tokenizer
    if weights.endswith(".pth"):
        return BERT
    return weights


def check_form(source: WeightSource, form: str) -> None:
    """Refuse `form: vqa` if a checkpoint says that it has no text encoder."""
    if form != "vqa":
        return
    if list(source.config().architectures or ()) == ["BlipForConditionalGeneration"]:
        raise UserError(
            f"form: vqa needs a text encoder, which {source.location} does not contain; "
            "choose `form: decoder`, or weights such as Salesforce/blip-vqa-base"
        )


def resize(model: Any, size: int) -> None:
    """Give the image tower another image size, in pixels.

    The position embeddings of the grid are interpolated (bicubic), as in BLIP's own code. That of
    the CLS state is kept. Raises UserError if the size is not a multiple of the patch size.
    """
    embeddings = model.vision_model.embeddings
    patch = model.vision_model.config.patch_size
    if size % patch:
        raise UserError(
            f"image_size: {size} is not a multiple of the patch size {patch}; "
            f"choose {size // patch * patch or patch}"
        )
    grid = size // patch
    old = embeddings.position_embedding.data
    side = int((old.shape[1] - 1) ** 0.5)
    if grid != side:
        square = old[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(
            square, size=(grid, grid), mode="bicubic", align_corners=False, antialias=False
        )
        embeddings.position_embedding = nn.Parameter(
            torch.cat([old[:, :1], square.flatten(2).transpose(1, 2)], 1)
        )
    embeddings.image_size = size
    model.vision_model.config.image_size = size


def text_towers(model: Any, form: str, dropout: float | None) -> nn.Module:
    """Return the text towers of a form, with attention that methods can read.

    That is the decoder, or the text encoder and the decoder. `dropout` replaces the checkpoint's
    rate, unless it is None.
    """
    towers: nn.Module = model.text_decoder
    if form == "vqa":
        towers = nn.ModuleDict({"encoder": model.text_encoder, "decoder": model.text_decoder})
    override_blip_text(towers, TextAttention)
    if dropout is not None:
        for module in towers.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    return towers


def assemble_checkpoint(form: str, vision: Any, text: Any) -> PreTrainedModel:
    """Return the towers of a form as the one model of transformers that a checkpoint holds."""
    decoder = text
    if form == "vqa":
        decoder = text["decoder"]
    # On the meta device, because all weights are replaced right after.
    with torch.device("meta"):
        model = CLASSES[form](
            BlipConfig(text_config=decoder.config.to_dict(), vision_config=vision.config.to_dict())
        )
    model.vision_model = vision
    model.text_decoder = decoder
    if form == "vqa":
        model.text_encoder = text["encoder"]
    return model


class TextAttention(BlipAttention):
    """BLIP's text attention, fused unless a method reads it.

    The original of transformers ignores the mask of padded states in cross-attention. This one
    respects it.
    """

    def compute_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Compute attention of (batch, heads, tokens, head width); the result has heads last.

        In ranking, several answers look at one image or question. Their rows then follow each
        other, and keys and values have one row for all of them.
        """
        if mask is not None:
            # Half the smallest number: a kernel that scales the mask must not reach minus infinity.
            mask = mask.clamp_min(torch.finfo(query.dtype).min / 2).to(query.dtype)
        copies = len(query) // len(key)
        if copies > 1 and reads_probabilities(self):
            # A method expects one row of probabilities per row of states.
            key = key.repeat_interleave(copies, 0)
            value = value.repeat_interleave(copies, 0)
            if mask is not None:
                mask = mask.repeat_interleave(copies, 0)
        elif copies > 1:
            # Rows with the same keys become queries of one attention, so that no key is copied.
            query = query.view(len(key), copies, *query.shape[1:]).transpose(1, 2).flatten(2, 3)
            if mask is not None:
                # A mask of padding is the same for all queries.
                mask = mask[:, :, :1]
        dropout = 0.0
        if self.training:
            dropout = self.dropout.p
        return attend(self, query, key, value, mask, dropout=dropout, is_causal=False)[0]


def list_sites(layers: Any, side: TowerSide, *, fixed: bool) -> Iterator[Site]:
    """Yield the self-attention, cross-attention and feed-forward site of each layer.

    `fixed` says that cross-attention looks at an image, whose number of tokens never changes.
    """
    for index, layer in enumerate(layers):
        name = f"layer.{index}"
        if side == "encoder":
            name = f"encoder.layer.{index}"
        # In a decoder everything that a method adds must be causal, cross-attention included.
        causal = side == "decoder"
        own = Attention(layer.attention.self, None, causal=causal)
        cross = Attention(layer.crossattention.self, None, causal=causal, fixed_keys=fixed)
        yield _attention_site(f"{name}.self", "self", side, index, layer.attention, own)
        yield _attention_site(f"{name}.cross", "cross", side, index, layer.crossattention, cross)
        yield _feed_forward_site(f"{name}.ffn", side, index, layer)


def _attention_site(
    name: str,
    kind: Literal["self", "cross"],
    side: TowerSide,
    index: int,
    block: Any,
    attention: Attention,
) -> Site:
    width = block.output.dense.out_features
    projections = {
        role: Projection(Slot(block.self, role), (0, width)) for role in ("query", "key", "value")
    }
    projections["output"] = Projection(Slot(block.output, "dense"), (0, width))
    # Behind the dropout, before the residual and the LayerNorm.
    output = Slot(block.output, "dropout")
    return Site(
        name, kind, side, index, width, projections, output, block.output.LayerNorm, attention
    )


def _feed_forward_site(name: str, side: TowerSide, index: int, layer: Any) -> Site:
    up, down = layer.intermediate, layer.output
    width = down.dense.out_features
    projections = {
        "up": Projection(Slot(up, "dense"), (0, up.dense.out_features)),
        "down": Projection(Slot(down, "dense"), (0, width)),
    }
    return Site(name, "ffn", side, index, width, projections, Slot(down, "dropout"), down.LayerNorm)
