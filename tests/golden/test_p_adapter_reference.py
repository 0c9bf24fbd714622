"""p-Adapter against outputs and gradients of the authors' attention output block (reference/)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.plan.verify.transcriptions import LiteralAttention, LiteralBlock
from vlpeft.methods.p_adapter import PAdapter

REFERENCE = Path(__file__).parent / "reference"
CASES = [f"{kind}_p{p}" for kind in ("self", "cross") for p in ("1.25", "1.5", "1.75", "2.0")]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_authors(name: str) -> None:
    """p and raw mu are float32 in the source; everything else is float64.

    Both sides round float32 alike, so outputs agree to 1e-14 and gradients to 1e-12 of their
    largest entry. The gradients of p and raw mu are float32 themselves. The gradient of raw mu is a
    small difference of large terms in self-attention: at p = 1.25 it is 3e-9 and differs by 3e-4 of
    that.
    """
    with np.load(REFERENCE / f"p_adapter_{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    block = released(name, arrays)
    leaves = {
        key: arrays[key].clone().requires_grad_()
        for key in ("context", "query", "value", "attention_probs")
        if key in arrays
    }
    query = leaves.get(
        "query", torch.full_like(arrays["context"], torch.nan)
    )  # self-attention must not read it
    norm = {key: arrays[f"param.norm.{key}"].clone().requires_grad_() for key in ("weight", "bias")}
    hidden = (
        block(leaves["context"], Seen(query, leaves["value"], leaves["attention_probs"]))
        + arrays["residual"]
    )
    output = functional.layer_norm(
        hidden, hidden.shape[-1:], norm["weight"], norm["bias"], eps=1e-12
    )
    (output * arrays["loss_weight"]).sum().backward()
    torch.testing.assert_close(output, arrays["output"], rtol=0, atol=1e-13)
    found = {key: leaf.grad for key, leaf in leaves.items()}
    found |= {f"norm.{key}": leaf.grad for key, leaf in norm.items()}
    found |= {
        key.replace("projection.", "out_proj."): p.grad
        for key, p in block.projection.named_parameters(prefix="projection")
    }
    found |= {key.removeprefix("laplacian."): p.grad for key, p in block.adapter.named_parameters()}
    expected = {
        key.removeprefix("grad.").removeprefix("grad_"): value
        for key, value in arrays.items()
        if key.startswith("grad")
    }
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        tolerance = {"p": 1e-6, "raw_mu": 1e-3}.get(key, 1e-11)
        assert (found[key] - gradient).abs().max() <= tolerance * gradient.abs().max(), key


def released(name: str, arrays: dict[str, Tensor]) -> LiteralBlock:
    width, heads = arrays["value"].shape[-1], int(arrays["meta.heads"])
    cross = name.startswith("cross")
    method = PAdapter(
        size=width // int(arrays["meta.reduction"]),
        p=float(arrays["meta.p_init"]),
        mu=float(arrays["meta.mu_config"]),
        image_tokens=int(arrays["meta.image_sample_len"]) if cross else None,
    )
    projection = nn.Linear(width, width)
    block = LiteralBlock(
        "cross" if cross else "self",
        projection,
        LiteralAttention(heads, causal=not cross, fixed_keys=cross),
        method,
    )
    for module in (projection, block.adapter.down, block.adapter.gate, block.adapter.up):
        module.double()
    with torch.no_grad():
        for key, parameter in (
            *block.adapter.named_parameters(),
            *projection.named_parameters(prefix="out_proj"),
        ):
            parameter.copy_(arrays[f"param.{key.removeprefix('laplacian.')}"])
    return block
