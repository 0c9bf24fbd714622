"""p-Adapter against slow literal transcriptions.

One transcribes the release with its n x n x d tensor, the other the paper's equations with loops.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from tests.conftest import Case
from vlpeft.baselines.adapter import Bottleneck
from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.contract.sites import Site, count
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.verify.transcriptions import LiteralAttention, LiteralBlock
from vlpeft.benchmark.plan.verify.transcriptions import p_adapter as release
from vlpeft.benchmark.run.checkpoint import trained_tensors
from vlpeft.methods import p_adapter_paper, p_adapter_release
from vlpeft.methods.p_adapter import PAdapter
from vlpeft.methods.p_adapter_graph import Laplacian, linear
from vlpeft.methods.p_adapter_paper import PaperAdapter
from vlpeft.methods.p_laplacian import gram_distance, paper_step, release_step

RANDOM = settings(max_examples=25, deadline=None)
EXPONENTS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
seeds, small = st.integers(0, 2**31), st.integers(1, 5)


def block(
    kind: str,
    heads: int,
    head_width: int,
    *,
    causal: bool = False,
    transposed: bool = False,
    **chosen: Any,
) -> LiteralBlock:
    """Make a block of random float64 weights.

    They are far from their small initial values, so that the nonlinearities matter.
    """
    width = heads * head_width
    projection = Conv1D(width, width) if transposed else nn.Linear(width, width)
    made = LiteralBlock(
        kind,
        projection,
        LiteralAttention(heads, causal=causal, fixed_keys=kind == "cross"),
        PAdapter(**chosen),
    ).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.endswith(".p"):
                parameter.copy_(
                    torch.randn_like(parameter)
                    / (parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 2)
                )
    return made


def random_inputs(
    batch: int, heads: int, queries: int, keys: int, width: int, *, causal: bool
) -> Seen:
    """Return random queries, values and probabilities; the last query sees the last key."""
    scores = torch.randn(batch, heads, queries, keys, dtype=torch.float64)
    if causal:
        scores = scores.masked_fill(
            torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries), -torch.inf
        )
    query, value = (torch.randn(batch, n, width, dtype=torch.float64) for n in (queries, keys))
    return Seen(query, value, scores.softmax(-1))


def context(shown: Seen) -> Tensor:
    """Return what the attention passes to its output projection."""
    value = shown.value.unflatten(-1, (shown.probabilities.shape[1], -1)).transpose(1, 2)
    return (shown.probabilities @ value).transpose(1, 2).flatten(2)


# The release, with every node, edge and matrix that it makes.


@given(
    st.sampled_from(("self", "cross", "cached")),
    small,
    st.sampled_from((1, 2, 3)),
    small,
    st.sampled_from(EXPONENTS),
    st.booleans(),
    seeds,
)
@RANDOM
def test_the_release_equals_its_transcription(
    kind: str, batch: int, heads: int, n: int, p: float, pooled: bool, seed: int
) -> None:
    """The squared differences are summed in another order.

    This costs eps |F| /

    F_j - F_i

    , so 1e-8 is enough for nodes that are 1e-7 apart.
    """
    torch.manual_seed(seed)
    keys = n + (3 if kind != "self" else 0)
    tokens = int(torch.randint(1, keys + 1, ())) if pooled and kind == "cross" else None
    chosen = {
        "image_tokens": tokens,
        "release_cached_graph": kind == "cached",
        "size": 3 * heads if heads > 1 else 2,
        "p": p,
    }
    made = block(
        "cross" if kind == "cross" else "self",
        heads,
        4,
        causal=kind != "cross",
        transposed=seed % 2 == 0,
        **chosen,
    )
    shown = random_inputs(batch, heads, n, keys, 4 * heads, causal=kind != "cross")
    o = made.projection(context(shown))
    expected = release(
        made.adapter, made.projection, o, shown, bipartite=kind != "self", tokens=tokens
    )
    torch.testing.assert_close(made(context(shown), shown), expected, rtol=1e-8, atol=1e-8)


# The paper, node by node and edge by edge.


def paper(
    adapter: PaperAdapter, projection: nn.Module, shown: Seen, real: Tensor, degrees: str
) -> Tensor:
    """Compute equations (14) to (16) for each head as a separate graph.

    `real` (batch, keys) is true for tokens that are not padding.
    """
    batch, heads, q, k = shown.probabilities.shape
    weight, bias = linear(projection, torch.float64)
    head_width = shown.value.shape[-1] // heads
    p, ratio = adapter.laplacian.p[0], 2 * adapter.laplacian.c / adapter.laplacian.p[0]
    result = []
    for b in range(batch):
        total = bias.expand(q, -1)
        for h in range(heads):
            part = slice(h * head_width, (h + 1) * head_width)
            nodes = torch.cat([shown.query[b, :, part], shown.value[b, :, part]]) @ weight.T[part]
            m = torch.zeros(q + k, q + k, dtype=torch.float64)
            m[:q, q:], m[q:, :q] = shown.probabilities[b, h], shown.probabilities[b, h].T
            d = torch.ones(q + k, dtype=torch.float64)
            if degrees == "graph":  # rows of padding are not nodes of the graph
                d = torch.cat([m[:q].sum(1), m[q:, :q] @ real[b].double()])
            total = total + torch.stack([_message(i, nodes, m, d, p, ratio) for i in range(q)])
        result.append(total)
    u = torch.stack(result)
    return (
        functional.relu(u @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T
        + adapter.up.bias
        + u
    )


def _message(i: int, nodes: Tensor, m: Tensor, d: Tensor, p: Tensor, ratio: Tensor) -> Tensor:
    """Compute row i of (15)."""
    renormalised, aggregated = torch.zeros((), dtype=torch.float64), torch.zeros_like(nodes[i])
    for j in range(len(nodes)):
        if m[i, j] > 0:
            gradient = (m[i, j] / d[i]).sqrt() * nodes[i] - (m[i, j] / d[j]).sqrt() * nodes[j]
            if gradient.norm() > 0:
                edge = m[i, j] * gradient.norm() ** (p - 2)
                renormalised = renormalised + edge / d[i]
                aggregated = aggregated + edge / (d[i] * d[j]).sqrt() * nodes[j]
    alpha = 1 / (renormalised + ratio)
    return alpha * aggregated + ratio * alpha * nodes[i]


@given(
    st.sampled_from(("self", "cross", "cached")),
    st.integers(1, 2),
    st.integers(1, 2),
    small,
    st.sampled_from(EXPONENTS),
    seeds,
)
@RANDOM
def test_the_paper_variant_equals_its_equations(
    kind: str, batch: int, heads: int, n: int, p: float, seed: int
) -> None:
    """The Gram form has a rounding error of eps (|X| /

    X_i - X_j

    )^2 in a weight.

    Gradients have it once more. The tolerances suit nodes that are 1e-4 apart.
    """
    torch.manual_seed(seed)
    keys, causal = n + (2 if kind != "self" else 0), kind != "cross"
    made = block(
        "cross" if kind == "cross" else "self",
        heads,
        3,
        causal=causal,
        transposed=seed % 2 == 0,
        variant="paper",
        size=3,
        p=p,
    )
    shown = random_inputs(batch, heads, n, keys, 3 * heads, causal=causal)
    compare(made, shown, torch.ones(batch, keys, dtype=torch.bool), "row")


@given(st.integers(1, 2), st.integers(2, 5), st.integers(0, 1), st.sampled_from(EXPONENTS), seeds)
@RANDOM
def test_degrees_of_the_whole_graph(heads: int, n: int, padding: int, p: float, seed: int) -> None:
    """The last tokens may be padding: their columns are masked, and their rows do not count."""
    torch.manual_seed(seed)
    made = block("self", heads, 3, variant="paper", size=3, p=p, degrees="graph")
    query, value, probabilities = random_inputs(2, heads, n, n, 3 * heads, causal=False)
    real = torch.arange(n).expand(2, n) < n - padding
    probabilities = probabilities * real[:, None, None]
    shown = Seen(query, value, probabilities / probabilities.sum(-1, keepdim=True))
    compare(made, shown, real, "graph")


def compare(made: LiteralBlock, shown: Seen, real: Tensor, degrees: str) -> None:
    """Compare outputs of real tokens, and gradients.

    Gradients of the probabilities are compared at the scores, because rows always sum to one.
    """
    leaves = [
        x.detach().requires_grad_() for x in (shown.query, shown.value, shown.probabilities.log())
    ]
    parameters = [*leaves, *made.adapter.parameters()]
    rows = (
        real[:, : shown.query.shape[1]]
        if degrees == "graph"
        else torch.ones(shown.query.shape[:2], dtype=torch.bool)
    )
    given_ = Seen(leaves[0], leaves[1], leaves[2].softmax(-1))
    found = made(context(shown), given_)[rows]
    expected = paper(made.adapter, made.projection, given_, real, degrees)[rows]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    weights = torch.randn_like(found)
    gradients = (
        torch.autograd.grad((x * weights).sum(), parameters, retain_graph=True)
        for x in (found, expected)
    )
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-5 * (1 + b.abs().max())


@pytest.mark.parametrize(("gnn", "more"), [("appnp", {}), ("gcnii", {"identity": 0.2})])
def test_other_graph_networks(gnn: str, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = block("self", 2, 3, causal=True, variant="paper", size=4, gnn=gnn, teleport=0.3, **more)
    shown = random_inputs(2, 2, 4, 4, 6, causal=True)
    u = 0.7 * made.projection(context(shown)) + 0.3 * made.projection(shown.query)
    low = functional.relu(made.adapter.down(u))
    expected = u + made.adapter.up(low) if gnn == "appnp" else 0.2 * u + 0.8 * made.adapter.up(low)
    torch.testing.assert_close(made(context(shown), shown), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2"])
def test_gcn_is_the_plain_adapter(backbone: str) -> None:
    """Table 2 of the paper, bit for bit: names, initial values and weights after three steps."""
    ours, plain = (
        Case("p_adapter", backbone, {"variant": "paper", "gnn": "gcn"}),
        Case("adapter", backbone, {"activation": "relu"}),
    )
    made, other = ours.build(), plain.build()
    ours.train(made)
    plain.train(other)
    assert trained_tensors(made).keys() == trained_tensors(other).keys()
    assert all(
        torch.equal(tensor, trained_tensors(other)[name])
        for name, tensor in trained_tensors(made).items()
    )


def test_substitutes_for_the_queries() -> None:
    """Table 3: zeros ignore the query, noise is new each time, and both have their own results."""
    torch.manual_seed(0)
    shown = random_inputs(1, 2, 3, 5, 8, causal=False)
    other = shown._replace(query=torch.randn_like(shown.query))
    for variant in ("release", "paper"):
        made = {
            concat: block("cross", 2, 4, variant=variant, size=4, concat=concat)
            for concat in ("query", "zero", "noise")
        }
        for each in made.values():
            each.load_state_dict(made["query"].state_dict())
        found = {
            concat: [each(context(shown), s) for s in (shown, shown, other)]
            for concat, each in made.items()
        }
        assert [torch.equal(found[c][0], found[c][1]) for c in found] == [True, True, False]
        assert [torch.equal(found[c][0], found[c][2]) for c in found] == [False, True, False]
        zeroed = made["query"](context(shown), shown._replace(query=torch.zeros_like(shown.query)))
        assert torch.equal(zeroed, found["zero"][0])


# Decoding.

DECODED = [
    {},
    {"p": 1.25},
    {"variant": "paper"},
    {"variant": "paper", "gnn": "appnp"},
    {"release_cached_graph": True},
]


@pytest.mark.parametrize("chosen", DECODED, ids=str)
def test_cached_decoding_equals_training(chosen: dict[str, Any]) -> None:
    """Cached and uncached decoding agree, except for the release's other graph.

    There only the first token agrees, which has no cache. Later tokens never change earlier ones.
    """
    case = Case("p_adapter", "vit_gpt2", chosen)
    backbone = case.build().double()
    text = backbone.text
    with torch.no_grad(), backbone.generating():
        for name, parameter in text.named_parameters():
            if parameter.requires_grad and not name.endswith(".p"):
                parameter.add_(0.1 * torch.randn_like(parameter))
        ids = torch.tensor([[5, 9, 9, 30, 7, 5]])
        whole, cache, steps = text(ids).logits, None, []
        for i in range(ids.shape[1]):
            step = text(ids[:, i : i + 1], cache=cache, use_cache=True)
            cache = step.cache
            steps.append(step.logits)
        changed = text(torch.cat([ids[:, :4], ids[:, :2]], 1)).logits
    same = [bool((one[:, 0] - whole[:, i]).abs().max() < 1e-9) for i, one in enumerate(steps)]
    assert same == [True] + [not chosen.get("release_cached_graph")] * 5
    torch.testing.assert_close(changed[:, :4], whole[:, :4], rtol=0, atol=1e-12)
    assert (changed[:, 4:] - whole[:, 4:]).abs().amax(-1).gt(1e-3).all()


# Arithmetic.


@pytest.mark.parametrize("variant", ["release", "paper"])
@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("p", [1.25, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equal_tokens_and_masked_rows_stay_finite(
    variant: str, kind: str, p: float, dtype: torch.dtype
) -> None:
    """Equal nodes, queries equal to values, a row that sees no key and one that sees all.

    Float32 runs under autocast.
    """
    torch.manual_seed(0)
    made = block(kind, 2, 4, causal=kind == "self", variant=variant, size=4, p=p).to(dtype)
    token = torch.randn(1, 1, 8).expand(2, 4, 8).clone()
    token[1, 2:] = torch.randn(2, 8)
    probabilities = torch.ones(2, 2, 4, 4).tril()
    probabilities[:, :, 1], probabilities[:, :, 2] = 0, 1
    probabilities = probabilities / probabilities.sum(-1, keepdim=True).clamp_min(1)
    leaves = [x.to(dtype).requires_grad_() for x in (token, token, probabilities)]
    with torch.autocast("cpu", enabled=dtype == torch.float32):
        output = made(leaves[0], Seen(*leaves))
    output.float().square().mean().backward()
    assert output.isfinite().all()
    for tensor in [*leaves, *(x for x in made.parameters() if x.requires_grad)]:
        assert tensor.grad is None or tensor.grad.isfinite().all()


def test_edges_between_equal_nodes() -> None:
    """An edge that would be infinite weighs 0 in the paper (p < 2) and M at p = 2.

    Rounding must not make equal nodes differ.
    """
    torch.manual_seed(0)
    nodes, w = torch.randn(64, 16), torch.randn(16, 48)
    squared = gram_distance(nodes, nodes, w @ w.T)
    assert torch.equal(squared == 0, torch.eye(64, dtype=torch.bool))
    m, ratio, gram = torch.rand(64, 64), torch.tensor([0.5]), w @ w.T
    alone = paper_step(torch.eye(64), nodes, nodes, gram, torch.tensor([1.5]), ratio)
    torch.testing.assert_close(
        alone, nodes
    )  # edges to equal nodes only: alpha r X_i with alpha = 1 / r
    one, r = m.sum(-1, keepdim=True), 0.5
    torch.testing.assert_close(
        paper_step(m, nodes, nodes, gram, torch.tensor([2.0]), ratio),
        (m @ nodes + r * nodes) / (one + r),
    )


def test_a_norm_that_vanishes_stays_finite() -> None:
    """In one dimension sqrt(A + e) (F_j - F_i) = -e.

    The norm of the release is then 0 between nodes that differ.
    """
    rows, ratio = (
        torch.zeros(1, 1, dtype=torch.float64, requires_grad=True),
        torch.tensor([0.5], dtype=torch.float64),
    )
    a = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    exact = -(1e-8 / (a + 1e-8).sqrt().detach())
    candidates = [exact.nextafter(exact * side) for side in (0.5, 2.0)] + [exact]
    assert any(((a + 1e-8).sqrt() * c + 1e-8).item() == 0 for c in candidates)
    for nodes in candidates:
        stepped = release_step(
            a, rows, nodes, torch.tensor([1.5], dtype=torch.float64), ratio, loops=True
        )
        assert all(
            x.isfinite().all() for x in (stepped, *torch.autograd.grad(stepped.sum(), (a, rows)))
        )


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_autocast_does_not_reach_the_graph(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same bf16 queries and values, the inputs of the weights are bit-equal in float32."""
    module = {"release": p_adapter_release, "paper": p_adapter_paper}[variant]
    original, given_ = getattr(module, f"{variant}_step"), []

    def spy(*tensors: Tensor, **loops: bool) -> Tensor:
        given_.append(tensors)
        return original(*tensors, **loops)

    monkeypatch.setattr(module, f"{variant}_step", spy)
    made, shown = (
        block("cross", 2, 4, variant=variant, size=4).float(),
        random_inputs(1, 2, 3, 5, 8, causal=False),
    )
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = made(context(shown).float(), Seen(*(x.bfloat16() for x in shown)))
        assert output.dtype == (torch.bfloat16 if enabled else torch.float32)
    for one, other in zip(*given_, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "chosen", [{}, {"variant": "paper"}, {"variant": "paper", "degrees": "graph"}], ids=str
)
def test_no_tensor_is_larger_than_the_attention(chosen: dict[str, Any]) -> None:
    """Run forward and backward; (batch, heads, queries, keys) is the largest shape.

    Only times a width would be larger.
    """
    torch.manual_seed(0)
    made = block("self", 2, 4, size=8, **chosen)
    shown = Seen(*(x.requires_grad_() for x in random_inputs(2, 2, 24, 24, 8, causal=False)))
    with Largest() as seen_largest:
        made(context(shown), shown).square().sum().backward()
    assert seen_largest.elements == 2 * 2 * 24 * 24


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.elements = max(
            [self.elements, *(x.numel() for x in tree_leaves(result) if isinstance(x, Tensor))]
        )
        return result


# The method.


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_a_slot_that_is_the_projection_itself(variant: str) -> None:
    """Projecting the nodes must not run the adapter again.

    The projection must occur once in the module tree.
    """
    torch.manual_seed(0)
    method, shown = PAdapter(variant=variant, size=4), random_inputs(1, 2, 3, 3, 8, causal=True)
    blocks = [
        LiteralBlock(
            "self", nn.Linear(8, 8), LiteralAttention(2, causal=True), method, in_place=in_place
        ).double()
        for in_place in (False, True)
    ]
    tensors = {
        name.split(".", 1)[1].removeprefix("0."): tensor
        for name, tensor in blocks[0].state_dict().items()
    }
    named = {name: name.split(".", 1)[1].removeprefix("0.") for name in blocks[1].state_dict()}
    assert len(named) == len(blocks[0].state_dict())
    blocks[1].load_state_dict({name: tensors[short] for name, short in named.items()})
    one, other = (made(context(shown), shown) for made in blocks)
    assert torch.equal(one, other)


def blip() -> Any:
    """The sites of the text decoder of BLIP-B, as far as counting needs them."""
    sites = [
        Site(
            f"layer.{i}.{kind}",
            kind,
            "decoder",
            i,
            768,
            {},
            None,  # type: ignore[arg-type]
            nn.Identity(),
            None,
        )
        for i in range(12)
        for kind in ("self", "cross", "ffn")
    ]
    return SimpleNamespace(name="blip", sites=sites)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, 24 * 222_146 + 12 * 148_320),
        ({"learnable_p": False}, 24 * 222_145 + 12 * 148_320),
        ({"variant": "paper"}, 36 * 148_320 + 24),
        ({"variant": "paper", "learnable_p": False}, 36 * 148_320),
        ({"variant": "paper", "gnn": "gcnii"}, 36 * 148_320),
        ({"places": ("ffn",)}, 12 * 148_320),
    ],
)
def test_published_counts(chosen: dict[str, Any], expected: int) -> None:
    assert PAdapter(size=96, **chosen).trainable(blip()) == expected
    with torch.device("meta"):
        made = [
            LiteralBlock(
                kind, nn.Linear(768, 768), LiteralAttention(12), PAdapter(size=96, **chosen)
            )
            for kind in _attentions(chosen)
        ]
    assert (
        12 * sum(count(p for p in each.adapter.parameters() if p.requires_grad) for each in made)
        + 12 * 148_320
        == expected
    )


def _attentions(chosen: dict[str, Any]) -> list[str]:
    return [kind for kind in ("self", "cross") if kind in chosen.get("places", ("self", "cross"))]


def test_the_published_totals() -> None:
    assert (
        PAdapter(size=96).trainable(blip()),
        PAdapter(size=96, variant="paper").trainable(blip()),
    ) == (7_111_344, 5_339_544)


@pytest.mark.parametrize(("variant", "mu"), [("release", 0.2), ("paper", 0.1)])
def test_p_and_mu_of_each_layer_are_followed(variant: str, mu: float) -> None:
    case = Case("p_adapter", "vit_gpt2", {"variant": variant})
    backbone = case.build()
    first = {
        name: value
        for m in backbone.modules()
        if isinstance(m, Laplacian)
        for name, value in m.scalars().items()
    }
    assert first == pytest.approx(
        {
            f"layer.{i}.self.{key}": value
            for i in range(3)
            for key, value in (("p", 1.5), ("mu", mu))
        }
    )
    found = case.train(backbone, 2).scalars
    assert found.keys() == first.keys()
    assert [step for step, _ in found["layer.0.self.p"]] == [1, 2]
    assert (found["layer.0.self.mu"][-1][1] == pytest.approx(mu, abs=1e-7)) == (variant == "paper")


def test_the_feed_forward_adapter_of_each_variant() -> None:
    """The release reads the input of the feed-forward block in parallel.

    The paper comes after it.
    """
    outputs = {}
    for variant in ("release", "paper"):
        backbone = Case("p_adapter", "vit_roberta", {"variant": variant, "places": ["ffn"]}).build()
        layer = backbone.text.encoder.layer[0]
        adapter = next(m for m in layer.modules() if isinstance(m, Bottleneck))
        x = torch.randn(2, 3, layer.output.dense.out_features)
        bare = layer.output.dense(layer.intermediate(x))
        read = x if variant == "release" else bare
        expected = layer.output.LayerNorm(
            bare + adapter.up(functional.relu(adapter.down(read))) + x
        )
        outputs[variant] = (layer.output(layer.intermediate(x), x), expected)
    for found, expected in outputs.values():
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("backbone", "chosen", "message"),
    [
        ("vit_roberta", {"size": 6}, "multiple of 4"),
        ("vit_roberta", {"size": 1000}, "at most 128"),
        ("vit_roberta", {"places": ["cross"]}, "it has: encoder self, encoder ffn"),
        ("vit_gpt2", {"sides": ["encoder"]}, "it has: decoder self, decoder ffn"),
        ("vit_roberta", {"gnn": "appnp"}, "variant: paper"),
        ("vit_roberta", {"degrees": "graph"}, "variant: paper"),
        ("vit_roberta", {"variant": "paper", "gnn": "appnp", "degrees": "graph"}, "gnn: pgnn"),
        ("vit_roberta", {"variant": "paper", "gnn": "gcn", "concat": "zero"}, "no query nodes"),
        ("vit_roberta", {"concat": "noise"}, "no query nodes"),
        ("vit_gpt2", {"variant": "paper", "degrees": "graph"}, "later queries"),
        ("vit_gpt2", {"variant": "paper", "release_cached_graph": True}, "variant: release"),
        ("vit_roberta", {"release_cached_graph": True}, "nothing is cached"),
        ("vit_roberta", {"image_tokens": 4}, "no cross-attention"),
        ("vit_roberta", {"variant": "paper", "gnn": "gcn", "p": 1.25}, "p: changes nothing"),
        ("vit_roberta", {"teleport": 0.5}, "teleport: changes nothing"),
        ("vit_roberta", {"places": ["ffn"], "mu": 1.0}, "mu: changes nothing"),
        ("blip", {"places": ["cross"], "release_cached_graph": True}, "nothing is cached"),
    ],
)
def test_settings_without_meaning_are_refused(
    backbone: str, chosen: dict[str, Any], message: str
) -> None:
    assert message in Case("p_adapter", backbone, chosen).refusal()


def test_pooling_is_refused_over_padded_or_too_few_keys() -> None:
    projection = nn.Linear(8, 8)
    with pytest.raises(UserError, match="padded keys"):
        LiteralBlock("cross", projection, LiteralAttention(2), PAdapter(size=4, image_tokens=3))
    with pytest.raises(UserError, match="later queries"):
        LiteralBlock(
            "cross",
            projection,
            LiteralAttention(2),
            PAdapter(size=4, variant="paper", degrees="graph"),
        )
    made, shown = (
        block("cross", 2, 4, size=4, image_tokens=3),
        random_inputs(1, 2, 1, 2, 8, causal=False),
    )
    with pytest.raises(UserError, match="choose at most 2"):
        made(context(shown), shown)


def test_a_p_that_is_no_longer_positive_stops_the_run() -> None:
    case = Case("p_adapter", "vit_roberta")
    backbone = case.build()
    with torch.no_grad():
        next(p for name, p in backbone.named_parameters() if name.endswith("laplacian.p")).fill_(
            -0.1
        )
    with pytest.raises(UserError, match=r"p of layer\.0\.self became -0\.1"):
        case.train(backbone, 1)
