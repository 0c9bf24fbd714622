"""Routing functions: parameter-free operations between text and vision inside low-rank bottlenecks (Qu et al., ECCV 2024).

With x_t = D x_H (text) and x_v = D x_R (vision) through the *same* down-projection D, a routing function R(x_t, x_v)
takes the place of x_t before the up-projection:

    add         x_t + x_v             (x_v repeated for every text position)
    mul         x_t * x_v             (element-wise)
    mul_expand  x_t x''_v             (x''_v: x_v repeated into a square matrix, so this is sum(x_t) x_v)
    project     x_t x_v^T x_v

They add no parameter, depend on the image, and therefore cannot be merged into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vlpeft.baselines.adapter import Adapter, Bottleneck
from vlpeft.baselines.lora import LoRA, LoRALinear, Span
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import LowRank, shape
from vlpeft.benchmark.contract.sites import VisualContext
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register

Function = Literal["add", "mul", "mul_expand", "project"]
Variant = Literal["paper", "release"]
NO_MATRIX = "a routed update depends on the image, so no one matrix can be merged into the weights"
Route = Callable[
    [Tensor, Tensor], Tensor
]  # text (batch, length, k), vision (batch, tokens, k) -> (batch, length, k)


def add(text: Tensor, vision: Tensor) -> Tensor:
    """x_t + x'_v."""
    return text + _pooled(vision, "add")


def mul(text: Tensor, vision: Tensor) -> Tensor:
    """x_t o x'_v."""
    return text * _pooled(vision, "mul")


def mul_expand(text: Tensor, vision: Tensor) -> Tensor:
    """x_t x''_v, where all k rows of x''_v are x_v: the rank-1 form costs k products a token instead of k * k."""
    return text.sum(-1, keepdim=True) * _pooled(vision, "mul_expand")


def project(text: Tensor, vision: Tensor) -> Tensor:
    """x_t x_v^T x_v, for any number of visual tokens."""
    return text @ vision.transpose(-1, -2) @ vision


def project_release(text: Tensor, vision: Tensor) -> Tensor:
    """x_t reshape(x_v) x_v: the release reshapes where it means to transpose; equal to `project` for one visual token only."""
    batch, tokens, k = vision.shape
    return text @ vision.reshape(batch, k, tokens) @ vision


def routing_function(function: Function, variant: Variant) -> Route:
    """The function of a name. The variants differ for `project` over several visual tokens."""
    if function == "project" and variant == "release":
        return project_release
    return {"add": add, "mul": mul, "mul_expand": mul_expand, "project": project}[function]


@register("routing_lora", paper="Qu et al. 2024", needs=("linears", "visual_context"))
@dataclass(frozen=True)
class RoutingLoRA(LoRA):
    """LoRA whose bottleneck mixes in the image; the same parameters as LoRA.

    On fused projections (GPT-2) `variant: release` routes the bottlenecks of all targets as one vector, so that
    mul_expand and project share one scalar between query and value; `variant: paper` routes each on its own.
    """

    function: Function = "add"
    variant: Variant = "paper"

    def wrap(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> LoRALinear:
        """The module with its routed update."""
        _check_width(shape(module)[0], backbone)
        check_context(self.function, backbone)
        route = routing_function(self.function, self.variant)
        groups = 1 if self.variant == "release" else len(spans)
        return RoutedLoRALinear(
            module,
            spans,
            self.rank,
            self.alpha,
            self.dropout,
            route,
            groups,
            backbone.visual_context,
        )


class RoutedLoRALinear(LoRALinear):
    """LoRALinear with R(A x_H, A x_R) in place of A x_H; `groups` bottlenecks are routed each on its own."""

    def __init__(
        self,
        base: nn.Module,
        spans: Sequence[Span],
        rank: int,
        alpha: float,
        dropout: float,
        route: Route,
        groups: int,
        context: VisualContext,
    ) -> None:
        super().__init__(base, spans, rank, alpha, dropout)
        self.route, self.groups, self.context = route, groups, context

    def bottleneck(self, low: Tensor) -> Tensor:
        """Route (batch, length, spans * rank)."""
        vision = self.down(self.context.value)
        if self.groups == 1:
            return self.route(low, vision)
        pairs = zip(low.chunk(self.groups, -1), vision.chunk(self.groups, -1), strict=True)
        return torch.cat([self.route(text, image) for text, image in pairs], -1)

    def delta_weight(self) -> Tensor:
        """Refused: there is no such matrix."""
        raise NotImplementedError(NO_MATRIX)

    def low_rank(self) -> LowRank:
        """Refused for the same reason."""
        raise UserError(NO_MATRIX)


@register("routing_adapter", paper="Qu et al. 2024", needs=("sublayers", "visual_context"))
@dataclass(frozen=True)
class RoutingAdapter(Adapter):
    """Adapter whose bottleneck mixes in the image before the nonlinearity; the same parameters as Adapter."""

    function: Function = "add"
    variant: Variant = "paper"

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:
        """The module to add."""
        _check_width(width, backbone)
        check_context(self.function, backbone)
        route = routing_function(self.function, self.variant)
        return RoutedBottleneck(
            width, self.size, self.activation, self.inner_residual, route, backbone.visual_context
        )


class RoutedBottleneck(Bottleneck):
    """Bottleneck with R(D h + b, D x_R + b) behind the down-projection."""

    def __init__(
        self,
        width: int,
        size: int,
        activation: str,
        residual: bool,
        route: Route,
        context: VisualContext,
    ) -> None:
        super().__init__(width, size, activation, residual)
        self.route, self.context = route, context

    def bottleneck(self, low: Tensor) -> Tensor:
        """Route (batch, length, size)."""
        return self.route(low, self.down(self.context.value))


def check_context(function: Function, backbone: Backbone) -> None:
    """Refuse, before anything runs, what only one pooled visual vector can do."""
    if backbone.context_tokens and function != "project":
        raise UserError(
            f"function: {function} mixes in one pooled visual vector; set the backbone's `context: pooled`"
        )


def _pooled(vision: Tensor, function: str) -> Tensor:
    if vision.shape[-2] != 1:
        raise UserError(
            f"function: {function} mixes in one pooled visual vector, got {vision.shape[-2]} tokens; set the backbone's `context: pooled`"
        )
    return vision


def _check_width(inputs: int, backbone: Backbone) -> None:
    """Text and vision go through one down-projection, so they must be of one width."""
    if inputs != backbone.context_width:
        raise UserError(
            f"routing: a target with {inputs} inputs cannot take visual vectors of width {backbone.context_width}; "
            "leave `down` out of `targets`, and choose towers of one width"
        )
