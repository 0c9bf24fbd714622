"""Routing functions between text and vision in low-rank bottlenecks (Qu et al., ECCV 2024).

Text states x_H and visual states x_R go through the *same* down-projection D: x_t = D x_H and
x_v = D x_R. A routing function R(x_t, x_v) replaces x_t before the up-projection:

    add         x_t + x_v      x_v is repeated for every text position
    mul         x_t * x_v      element-wise
    mul_expand  x_t x''_v      x''_v repeats x_v as k rows, so this is sum(x_t) x_v
    project     x_t x_v^T x_v

They add no parameters. They depend on the image, so they cannot be merged into the weights.
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

# In the paper's figure, mul is (1), add (2), project (3) and mul_expand (4).
Function = Literal["add", "mul", "mul_expand", "project"]
Variant = Literal["paper", "release"]
# With merged weights the release skips routing without an error. Here merging is refused.
NO_MATRIX = "a routed update depends on the image, so no one matrix can be merged into the weights"
# text (batch, length, k) and vision (batch, tokens, k) to (batch, length, k)
Route = Callable[[Tensor, Tensor], Tensor]


def add(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t + x'_v, (batch, length, k); vision is (batch, 1, k)."""
    # Without a bias this is D (x_H + x_R): the image shifts every text state by the same vector.
    return text + _check_pooled(vision, "add")


def mul(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t o x'_v, the element-wise product, (batch, length, k); vision is (batch, 1, k)."""
    # Linear in x_t, but D is shared with the image, so the update is quadratic in D.
    return text * _check_pooled(vision, "mul")


def mul_expand(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t x''_v, (batch, length, k), where all k rows of x''_v are x_v, (batch, 1, k).

    The product has rank 1, so it equals sum(x_t) x_v. That costs k products per token in place of
    k * k.
    """
    return text.sum(-1, keepdim=True) * _check_pooled(vision, "mul_expand")


def project(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t x_v^T x_v, (batch, length, k), for any number of visual tokens."""
    # For one visual token the result is <x_t, x_v> x_v: it always points along x_v, and it is cubic
    # in the shared D. There is no scaling, softmax or mask, in the paper's figure or in its code.
    return text @ vision.transpose(-1, -2) @ vision


def project_release(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t reshape(x_v) x_v, (batch, length, k).

    The release reshapes where the equation transposes. The two are equal for one visual token only.
    """
    batch, tokens, k = vision.shape
    # With several tokens the reshape mixes tokens and features, and no error shows it.
    return text @ vision.reshape(batch, k, tokens) @ vision


def routing_function(function: Function, variant: Variant) -> Route:
    """Return the function of a name.

    The variants differ for `project` over several visual tokens.
    """
    if function == "project" and variant == "release":
        return project_release
    return {"add": add, "mul": mul, "mul_expand": mul_expand, "project": project}[function]


@register("routing_lora", paper="Qu et al. 2024", needs=("linears", "visual_context"))
@dataclass(frozen=True)
class RoutingLoRA(LoRA):
    """LoRA whose bottleneck mixes in the image; it has the same parameters as LoRA.

    GPT-2 computes query, key and value in one fused projection. There `variant: release` routes
    the bottlenecks of all targets as one vector. So `mul_expand` and `project` share one scalar
    between query and value. `variant: paper` routes each bottleneck on its own.
    """

    # In the release, `project` runs when no flag is set; the flag in its README does not exist.
    function: Function = "add"
    variant: Variant = "paper"

    def wrap(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> LoRALinear:
        """Return the module with its routed update."""
        _check_width(shape(module)[0], backbone)
        check_context(self.function, backbone)
        # With two targets the release routes one vector of 2 x rank numbers.
        groups = len(spans)
        if self.variant == "release":
            groups = 1
        return RoutedLoRALinear(
            module,
            spans,
            self.rank,
            self.alpha,
            self.dropout,
            routing_function(self.function, self.variant),
            groups,
            backbone.visual_context,
        )


class RoutedLoRALinear(LoRALinear):
    """A LoRALinear with R(A x_H, A x_R) in place of A x_H.

    The bottleneck is cut into `groups` parts, and each part is routed on its own.
    """

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
        # B starts at zero, so a routed update starts at zero, as in plain LoRA.
        super().__init__(base, spans, rank, alpha, dropout)
        self.route = route
        self.groups = groups
        self.context = context

    def bottleneck(self, low: Tensor) -> Tensor:
        """Route A x_H, (batch, length, spans * rank); the shape stays the same."""
        # The shared down-projection A. Dropout is drawn again for x_R, as in the release.
        vision = self.down(self.context.value)
        # One group is GPT-2 in the release. <x_t, x_v> and sum(x_t) then run over query and value
        # together.
        if self.groups == 1:
            return self.route(low, vision)
        # On RoBERTa the release computes query and value apart, as here.
        pairs = zip(low.chunk(self.groups, -1), vision.chunk(self.groups, -1), strict=True)
        return torch.cat([self.route(text, image) for text, image in pairs], -1)

    def delta_weight(self) -> Tensor:
        """Raise NotImplementedError, because there is no such matrix."""
        raise NotImplementedError(NO_MATRIX)

    def low_rank(self) -> LowRank:
        """Raise UserError, because there is no such matrix."""
        raise UserError(NO_MATRIX)


@register("routing_adapter", paper="Qu et al. 2024", needs=("sublayers", "visual_context"))
@dataclass(frozen=True)
class RoutingAdapter(Adapter):
    """Adapter whose bottleneck mixes in the image; it has the same parameters as Adapter.

    Routing comes after the down-projection and before the nonlinearity.
    """

    function: Function = "add"
    variant: Variant = "paper"

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:
        """Return the module to add."""
        _check_width(width, backbone)
        check_context(self.function, backbone)
        route = routing_function(self.function, self.variant)
        return RoutedBottleneck(
            width, self.size, self.activation, self.inner_residual, route, backbone.visual_context
        )


class RoutedBottleneck(Bottleneck):
    """A bottleneck with R(D h + b, D x_R + b) behind the down-projection."""

    def __init__(
        self,
        width: int,
        size: int,
        activation: str,
        residual: bool,
        route: Route,
        context: VisualContext,
    ) -> None:
        # The up-projection does not start at zero, so routing changes the output from the first
        # step.
        super().__init__(width, size, activation, residual)
        self.route = route
        self.context = context

    def bottleneck(self, low: Tensor) -> Tensor:
        """Route D h + b, (batch, length, size); the shape stays the same."""
        # Text and vision share the bias b too, so `add` carries it twice.
        return self.route(low, self.down(self.context.value))


def check_context(function: Function, backbone: Backbone) -> None:
    """Refuse several visual tokens for a function of one pooled visual vector.

    Raises UserError before anything runs.
    """
    if backbone.context_tokens and function != "project":
        raise UserError(
            f"function: {function} mixes in one pooled visual vector; "
            "set the backbone's `context: pooled`"
        )


def _check_pooled(vision: Tensor, function: str) -> Tensor:
    """Return the visual vector, (batch, 1, k), or raise UserError if there are several tokens."""
    if vision.shape[-2] != 1:
        raise UserError(
            f"function: {function} mixes in one pooled visual vector, "
            f"got {vision.shape[-2]} tokens; set the backbone's `context: pooled`"
        )
    return vision


def _check_width(inputs: int, backbone: Backbone) -> None:
    """Refuse a width of text states for which the shared down-projection cannot read the image."""
    # The release has no map between the widths either: 768 goes with 768, and 1024 with 1024.
    if inputs != backbone.context_width:
        raise UserError(
            f"routing: a target with {inputs} inputs cannot take visual vectors of width "
            f"{backbone.context_width}; leave `down` out of `targets`, "
            "and choose towers of one width"
        )
