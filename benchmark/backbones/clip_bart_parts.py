"""Parts of CLIP-BART: the visual embedding, appended token rows, the sites of BART."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.backbones.language import token_id
from vlpeft.benchmark.backbones.vision import FEATURES, FeatureTower, vision_tower
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.parameters import init_normal
from vlpeft.benchmark.contract.sites import Projection, Site, Slot, TowerSide
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.libraries.transformers import tokenize

# The standard deviation of every new embedding row and linear map: BART's `init_std`, with which
# transformers initialises the modules that VL-Adapter adds, too.
STD = 0.02
ROLES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


class SpecialIds(NamedTuple):
    """The ids of `<s>`, `</s>`, the padding, and the token that the decoder starts with."""

    begin: int
    end: int
    pad: int
    start: int


def special_ids(tokenizer: Any, config: Any, source: str) -> SpecialIds:
    """Return the ids of the special tokens, which come from the tokenizer.

    Raises:
        WeightsError: A token is missing, the tokenizer does not put `<s>` and `</s>` around a text,
            or the decoder starts with an ordinary token.
    """
    begin = token_id(tokenizer, ("bos_token", "cls_token"), config.bos_token_id, source)
    end = token_id(tokenizer, ("eos_token", "sep_token"), config.eos_token_id, source)
    pad = token_id(tokenizer, ("pad_token",), config.pad_token_id, source)
    start = config.decoder_start_token_id
    if start not in (begin, end):
        raise WeightsError(
            f"{source}: decoder_start_token_id: {start} is neither the begin token {begin} nor the "
            f"end token {end} of its tokenizer; set it to {end} in config.json"
        )
    if tokenizer is not None:
        (ids,) = tokenize(tokenizer, ["a"], None, special=True)
        if (ids[0], ids[-1]) != (begin, end):
            raise WeightsError(
                f"{source}: its tokenizer does not put begin token {begin} and end token {end} "
                "around a text; use the tokenizer of the checkpoint"
            )
    return SpecialIds(begin, end, pad, int(start))


class Start(NamedTuple):
    """Questions whose encoder and decoder start have run; candidates continue from here.

    Shapes: states (questions, length, width), mask (questions, length), first
    (questions, vocabulary).
    """

    states: Tensor
    mask: Tensor
    cache: Any
    # The logits of the token that follows `<s>`.
    first: Tensor


class VisualEmbedding(nn.Module):
    """LN(W_f x + b_f) + LN(W_p box + b_p) + image order + token order, randomly initialized.

    It is VL-Adapter's, which follows VL-T5. All boxes and areas are zero in this benchmark, so the
    second term is one vector for all tokens. The image order distinguishes the two images of NLVR2.
    The token order starts again with the second image.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.feature = _linear_and_norm(inputs, width)
        # A box has four corners and an area.
        self.position = _linear_and_norm(5, width)
        self.image_order = nn.Embedding(2, width)
        nn.init.normal_(self.image_order.weight, std=STD)

    def forward(self, grid: Tensor, order: Tensor) -> Tensor:
        """Embed features.

        grid (batch, images, tokens, inputs) and order (tokens, width) give a result of shape
        (batch, images, tokens, width).
        """
        # The boxes of VL-T5 are gone, but their linear map is part of the published counts: the
        # embedding has 1,582,848 parameters at width 768, with 5 x 768 for boxes that are zero.
        image = self.image_order.weight[: grid.shape[1], None]
        embedded: Tensor = self.feature(grid) + self.position(grid.new_zeros(5)) + image + order
        return embedded


def _linear_and_norm(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(init_normal(nn.Linear(inputs, width), STD), nn.LayerNorm(width, eps=1e-5))


def make_vision(source: str) -> VisionTower:
    """Return the vision tower, or a substitute if the dataset holds features."""
    if source.startswith(FEATURES):
        return FeatureTower(source)
    return vision_tower(source, "mean", tokens=True)


def pool_grid(tokens: Tensor, side: int | None) -> Tensor:
    """Max-pool a square grid of tokens to `side` x `side`; None keeps it.

    (batch, n * n, width) becomes (batch, side * side, width). Windows may overlap. Raises UserError
    if the tokens are not a square, or the square is too small.
    """
    # VL-Adapter pools its features from 7 x 7 to 6 x 6 (36 = `n_boxes`), each image by itself.
    own = isqrt(tokens.shape[1])
    if own * own != tokens.shape[1] or (side or 1) > own:
        wanted = side or own
        raise UserError(
            f"grid: cannot make a square of {wanted} x {wanted} from {tokens.shape[1]} "
            "visual tokens; choose another"
        )
    if side is None:
        return tokens
    square = tokens.transpose(1, 2).view(len(tokens), -1, own, own)
    return functional.adaptive_max_pool2d(square, side).flatten(2).transpose(1, 2)


@torch.no_grad()
def append_rows(text: Any, extra: int) -> None:
    """Append rows from N(0, 0.02^2) to the token table of a BART.

    Most methods freeze these rows, so no checkpoint of a method holds them. They are therefore
    drawn from a fixed seed, and are the same in every run.
    """
    if not extra:
        return
    # `mean_resizing` would draw the rows around the mean of the table, which the papers' version
    # of transformers did not do.
    text.resize_token_embeddings(text.config.vocab_size + extra, mean_resizing=False)
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(extra, text.config.d_model, generator=generator, device="cpu")
    text.model.shared.weight[-extra:].copy_(STD * drawn)


def number_tokens(table: Tensor, count: int, extra: int) -> Tensor:
    """Return the embeddings that number the visual tokens, (count, width).

    They are the rows of the token table (rows, width) from its end, as in VL-T5. Raises UserError
    if the `extra` rows that were appended are too few.
    """
    if count > extra:
        raise UserError(
            f"extra_tokens: {count} visual tokens need as many extra tokens, got {extra}"
        )
    # <vis_extra_id_99> to <vis_extra_id_0> are the last rows, so token 0 is numbered by the last.
    return table[-count:].flip(0)


def list_sites(side: TowerSide, text: Any) -> Iterator[Site]:
    """Yield self-attention, cross-attention (decoder) and feed-forward block of every layer.

    BART's dropout is a function and not a module. So a sub-layer's output is its last linear map:
    adapters come right behind it and before dropout, as in VL-Adapter.
    """
    for index, layer in enumerate(getattr(text.model, side).layers):
        name = f"{side}.layer.{index}"
        yield _attention_site(f"{name}.self", "self", side, index, layer, text)
        if side == "decoder":
            yield _attention_site(f"{name}.cross", "cross", side, index, layer, text)
        yield _feed_forward_site(f"{name}.ffn", side, index, layer, text)


def _attention_site(
    name: str, kind: Literal["self", "cross"], side: TowerSide, index: int, layer: Any, text: Any
) -> Site:
    attribute = {"self": "self_attn", "cross": "encoder_attn"}[kind]
    module = getattr(layer, attribute)
    norm = getattr(layer, f"{attribute}_layer_norm")
    width = text.config.d_model
    projections = {
        role: Projection(Slot(module, submodule), (0, width)) for role, submodule in ROLES.items()
    }
    # In a decoder everything that a method adds must be causal, cross-attention included.
    attention = Attention(module, text, causal=side == "decoder")
    output = Slot(module, "out_proj")
    return Site(name, kind, side, index, width, projections, output, norm, attention)


def _feed_forward_site(name: str, side: TowerSide, index: int, layer: Any, text: Any) -> Site:
    width = text.config.d_model
    projections = {
        "up": Projection(Slot(layer, "fc1"), (0, layer.fc1.out_features)),
        "down": Projection(Slot(layer, "fc2"), (0, width)),
    }
    output = Slot(layer, "fc2")
    return Site(name, "ffn", side, index, width, projections, output, layer.final_layer_norm)
