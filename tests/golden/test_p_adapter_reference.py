"""p-Adapter against outputs and gradients of the authors' attention output block (reference/)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.attention import Attention, Seen
from benchmark.method import Projection, Site, Slot
from methods.p_adapter import PAdapter

REFERENCE = Path(__file__).parent / "reference"
CASES = [f"{kind}_p{p}" for kind in ("self", "cross") for p in ("1.25", "1.5", "1.75", "2.0")]


class Shown(Attention):
    """An attention that shows what it is given."""

    def __init__(self, heads: int, *, causal: bool, fixed_keys: bool) -> None:
        module = nn.Module()
        module.num_heads = heads
        super().__init__(module, None, causal=causal, fixed_keys=fixed_keys)
        self.shown: Seen | None = None

    def take(self) -> Seen:
        assert self.shown is not None
        return self.shown


class Block(nn.Module):
    """The end of an attention: output projection, then whatever a method puts behind it."""

    def __init__(self, kind: Any, projection: nn.Module, attention: Attention, method: PAdapter) -> None:
        super().__init__()
        self.projection, self.behind = projection.requires_grad_(False), nn.Identity()
        width = projection.get_parameter("bias").numel()
        projections = {"output": Projection(Slot(self, "projection"), (0, width))}
        self.site = Site(f"{kind}.0", kind, "decoder", 0, width, projections, Slot(self, "behind"), nn.LayerNorm(width), attention)
        method.inject(SimpleNamespace(name="block", sites=[self.site]))  # type: ignore[arg-type]

    @property
    def adapter(self) -> nn.Module:
        return self.behind[1]

    def forward(self, context: Tensor, seen: Seen) -> Tensor:
        """(batch, queries, width) to the same."""
        self.site.attention.shown = seen
        return self.behind(self.projection(context))


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_authors(name: str) -> None:
    """p and raw mu are float32 in the source, everything else float64."""
    with np.load(REFERENCE / f"p_adapter_{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    block = released(name, arrays)
    leaves = {key: arrays[key].clone().requires_grad_() for key in ("context", "query", "value", "attention_probs") if key in arrays}
    query = leaves.get("query", torch.full_like(arrays["context"], torch.nan))  # self-attention must not read it
    norm = {key: arrays[f"param.norm.{key}"].clone().requires_grad_() for key in ("weight", "bias")}
    hidden = block(leaves["context"], Seen(query, leaves["value"], leaves["attention_probs"])) + arrays["residual"]
    output = functional.layer_norm(hidden, hidden.shape[-1:], norm["weight"], norm["bias"], eps=1e-12)
    (output * arrays["loss_weight"]).sum().backward()
    torch.testing.assert_close(output, arrays["output"], rtol=0, atol=1e-8)
    print("OUT", name, (output-arrays["output"]).abs().max().item())
    found = {key: leaf.grad for key, leaf in leaves.items()}
    found |= {f"norm.{key}": leaf.grad for key, leaf in norm.items()}
    found |= {key.replace("projection.", "out_proj."): p.grad for key, p in block.projection.named_parameters(prefix="projection")}
    found |= {key.removeprefix("laplacian."): p.grad for key, p in block.adapter.named_parameters()}
    expected = {key.removeprefix("grad.").removeprefix("grad_"): value for key, value in arrays.items() if key.startswith("grad")}
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        print(key, ((found[key]-gradient).abs().max()/gradient.abs().max()).item() if gradient.abs().max()>0 else 'zero '+str(found[key].abs().max()))
    for key, gradient in expected.items():
        assert (found[key] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), key


def released(name: str, arrays: dict[str, Tensor]) -> Block:
    width, heads = arrays["value"].shape[-1], int(arrays["meta.heads"])
    cross = name.startswith("cross")
    method = PAdapter(
        size=width // int(arrays["meta.reduction"]),
        p=float(arrays["meta.p_init"]),
        mu=float(arrays["meta.mu_config"]),
        image_tokens=int(arrays["meta.image_sample_len"]) if cross else None,
    )
    projection = nn.Linear(width, width)
    block = Block("cross" if cross else "self", projection, Shown(heads, causal=not cross, fixed_keys=cross), method)
    for module in (projection, block.adapter.down, block.adapter.gate, block.adapter.up):
        module.double()
    with torch.no_grad():
        for key, parameter in (*block.adapter.named_parameters(), *projection.named_parameters(prefix="out_proj")):
            parameter.copy_(arrays[f"param.{key.removeprefix('laplacian.')}"])
    projection.requires_grad_(True)
    return block
