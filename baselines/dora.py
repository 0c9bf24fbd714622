"""DoRA: LoRA on the direction of each weight row, and a learned magnitude for each row.

Liu et al., ICML 2024 (arXiv 2402.09353):

    W' = m * (W + s B A) / |W + s B A|        row by row; |.| is the norm over the inputs
    y  = W' x + b

m starts as the row norms of W and B as zero, so y starts as W x + b. The bias is not scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.baselines.lora import LoRA, LoRALinear, Span
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.linear import add_to_weight, weight_rows
from vlpeft.benchmark.contract.method import LowRank
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register

NormGradient = Literal["detached", "full"]


@register("dora", paper="Liu et al. 2024", needs=("linears",))
@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA that learns the direction and the magnitude of each row of a weight apart.

    `norm_gradient: detached` treats the norm as a constant in the backward, as section 4.3 of the
    paper recommends and as peft does. `full` is the default of the authors' VL-BART code, which
    also has s = 1 (`alpha` equal to `rank`).
    """

    norm_gradient: NormGradient = "detached"

    def wrap(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> LoRALinear:
        """Return the module with its update and its magnitudes."""
        detached = self.norm_gradient == "detached"
        return DoRALinear(module, spans, self.rank, self.alpha, self.dropout, detached)

    def trainable(self, backbone: Backbone) -> int:
        """Count LoRA's parameters and a magnitude for each output of a target."""
        rows = sum(stop - start for _, spans in self._targets(backbone) for start, stop in spans)
        if self.per_task:
            rows *= backbone.active_task.count
        return super().trainable(backbone) + rows


class DoRALinear(LoRALinear):
    """A frozen linear map whose spans have a direction W + s B A and a magnitude.

    With dropout, both parts of the change read the dropped input, as in peft:
    y = W x + b + (m / n - 1) W drop(x) + (m / n) s B A drop(x), with n = |W + s B A|.
    """

    def __init__(
        self,
        base: nn.Module,
        spans: Sequence[Span],
        rank: int,
        alpha: float,
        dropout: float,
        detached: bool,
    ) -> None:
        super().__init__(base, spans, rank, alpha, dropout)
        self.detached = detached
        norms = [weight.norm(dim=1) for weight in self._weights()]
        self.magnitude = nn.Parameter(torch.cat(norms).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        y: Tensor = self.base(x)
        dropped = self.dropout(x)
        pieces = list(y.split_with_sizes([size for size, _ in self.cuts], -1))
        changes = self._changes(dropped)
        for i, (_, adapted) in enumerate(self.cuts):
            if adapted:
                pieces[i] = pieces[i] + next(changes)
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces, -1)

    def _changes(self, x: Tensor) -> Iterator[Tensor]:
        """Yield W' x - W x of each span, (..., outputs of the span)."""
        for weight, a, b, ratio in self._parts():
            low = functional.linear(functional.linear(x, a), b)
            yield (ratio - 1) * functional.linear(x, weight) + ratio * self.scale * low

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield W, A, B and m / |W + s B A| of each span.

        Shapes: (outputs, inputs), (rank, inputs), (outputs, rank) and (outputs,).
        """
        lengths = [stop - start for start, stop in self.spans]
        parts = zip(
            self._weights(),
            self.lora_a.chunk(len(self.spans)),
            self.lora_b.split_with_sizes(lengths),
            self.magnitude.split_with_sizes(lengths),
            strict=True,
        )
        for weight, a, b, magnitude in parts:
            yield weight, a, b, magnitude / self._norm(weight, a, b)

    def _norm(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return |W + s B A| of each row, (outputs of the span,)."""
        norm: Tensor = torch.linalg.vector_norm(weight + self.scale * b @ a, dim=1)
        if self.detached:
            return norm.detach()
        return norm

    def _weights(self) -> list[Tensor]:
        """Return the frozen weight of each span, (outputs of the span, inputs)."""
        weight = weight_rows(self.base)
        return [weight[start:stop] for start, stop in self.spans]

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """Return W' - W as one matrix, (outputs, inputs)."""
        delta = self.lora_a.new_zeros(self.outputs, self.lora_a.shape[1])
        for (start, stop), (weight, a, b, ratio) in zip(self.spans, self._parts(), strict=True):
            rows = ratio.unsqueeze(1)
            delta[start:stop] = (rows - 1) * weight + rows * self.scale * b @ a
        return delta

    def low_rank(self) -> LowRank:
        """Raise UserError: W' - W scales whole rows, so it has full rank."""
        raise UserError("dora changes the norm of each row, so no pair of small matrices holds it")

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Return the base map with the weight W'."""
        return add_to_weight(self.base, self.delta_weight())
