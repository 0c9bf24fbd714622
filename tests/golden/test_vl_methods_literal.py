"""Compacter, HyperFormer and VL-PET against literal transcriptions of their equations.

Everything is float64, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.conftest import Case
from vlpeft.baselines.adapter import Bottleneck
from vlpeft.baselines.compacter import KroneckerLinear
from vlpeft.baselines.hyperformer import Generated
from vlpeft.baselines.vl_pet import Gate, Gated, ParallelBottleneck
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.contract.sites import Site, count
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.compatibility import reason_to_skip

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def loud(case: Case, tasks: int = 1) -> Backbone:
    """Return the adapted backbone in float64, with random trainable tensors.

    They are large enough that the nonlinearities matter.
    """
    torch.manual_seed(0)
    backbone = case.fresh()
    backbone.active_task.count = tasks
    apply(case.adaptation, backbone)
    backbone = backbone.double().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    torch.randn_like(parameter)
                    / (parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 2)
                )
    return backbone


def compare(found: Tensor, expected: Tensor, parameters: Iterable[Tensor]) -> None:
    """Compare values, and the gradients of a random projection."""
    torch.testing.assert_close(found, expected, **EXACT)
    wanted, weights = list(parameters), torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), wanted, retain_graph=True)
        for y in (found, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, **EXACT)


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def site(backbone: Backbone, name: str) -> Site:
    return next(site for site in backbone.sites if site.name == name)


def inputs(backbone: Backbone, tokens: int = 5) -> Tensor:
    return torch.randn(2, tokens, backbone.sites[0].width, dtype=torch.float64, requires_grad=True)


# Compacter.


def kronecker(module: KroneckerLinear, x: Tensor) -> Tensor:
    """Compute x sum_i kron(A_i, W_i) + b."""
    w = (
        module.w[0]
        if len(module.w) == 1
        else torch.stack([left @ right for left, right in zip(*module.w, strict=True)])
    )
    return x @ sum(torch.kron(a, each) for a, each in zip(module.a, w, strict=True)) + module.b


@pytest.mark.parametrize("rank", [None, 1, 2])
@pytest.mark.parametrize(("ends", "n"), [((8, 12), 2), ((12, 8), 4), ((6, 9), 3), ((5, 4), 1)])
def test_a_map_is_a_sum_of_kronecker_products(
    ends: tuple[int, int], n: int, rank: int | None
) -> None:
    torch.manual_seed(0)
    module = KroneckerLinear(*ends, n, rank).double()
    nn.init.normal_(module.a)
    nn.init.normal_(module.b)
    x = torch.randn(2, 3, ends[0], dtype=torch.float64, requires_grad=True)
    compare(module(x), kronecker(module, x), [x, *module.parameters()])
    torch.testing.assert_close(functional.linear(x, module.weight(), module.b), module(x), **EXACT)


@pytest.mark.parametrize("settings", [{}, {"n": 4, "rank": 1, "share_a": True}], ids=str)
def test_compacter_behind_a_sublayer(settings: dict[str, Any]) -> None:
    """h + U act(D h + b) + c, with Kronecker sums for D and U."""
    backbone = loud(Case("compacter", "clip_bart", {"activation": "gelu_new", **settings}))
    base, added = site(backbone, "decoder.layer.1.cross").output.module.children()
    x = inputs(backbone)
    h = base(x)
    compare(
        added(h),
        h + kronecker(added.up, gelu_new(kronecker(added.down, h))),
        [x, *added.parameters()],
    )


def test_the_published_compacter_shares_its_rule() -> None:
    """The shared rule also trains; the invariants vary only settings of few values."""
    case = Case("compacter", "clip_bart", {"n": 4, "rank": 1, "share_a": True})
    backbone, fresh = case.build(), case.fresh()
    maps = [m for m in backbone.modules() if isinstance(m, KroneckerLinear)]
    assert len({id(m.a) for m in maps}) == 1
    assert len(maps) == 2 * len(fresh.sites)
    declared = case.adaptation.trainable(fresh)
    assert count(p for p in backbone.parameters() if p.requires_grad) == declared + count(
        fresh.head_parameters()
    )
    before = [p.detach().clone() for m in maps for p in m.parameters()]
    case.train(backbone, 2)
    assert not any(
        torch.equal(p, old)
        for p, old in zip((p for m in maps for p in m.parameters()), before, strict=True)
    )


@torch.no_grad()
def test_initial_values_of_compacter() -> None:
    torch.manual_seed(0)
    module = KroneckerLinear(768, 96, 2, None)
    bound = 2**0.5 * (6 / (384 + 48)) ** 0.5  # Glorot's initialisation for W_i
    assert module.w[0].abs().max() == pytest.approx(bound, rel=1e-3)
    assert torch.stack(
        [KroneckerLinear(4, 4, 2, None).a for _ in range(300)]
    ).std() == pytest.approx(0.01, rel=0.05)
    assert not module.b.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 5}, "n: 5 does not divide"),
        ({"n": 4, "rank": 9}, "rank: 9 is more than W_i"),
        ({"size": 18, "n": 4}, "n: 4 does not divide 18"),
    ],
)
def test_impossible_maps_are_refused(settings: dict[str, Any], message: str) -> None:
    assert message in Case("compacter", "clip_bart", settings).refusal()


# HyperFormer.


def hyperformer(adapter: Generated, task: int, h: Tensor) -> Tensor:
    """Compute h + U gelu_new(D h + b) + c, with D, b, U and c linear in the embedding e."""
    source = adapter.source
    first, _, second, norm = source.network
    z = torch.cat([source.tasks[task], source.layers[adapter.layer]])
    z = second.weight @ (first.weight @ z + first.bias).clamp_min(0) + second.bias
    e = (z - z.mean()) / (z.var(correction=0) + 1e-6).sqrt() * norm.weight + norm.bias
    flat = (
        sum(number * column for number, column in zip(e, adapter.generator.weight.T, strict=True))
        + adapter.generator.bias
    )
    width, size = adapter.width, adapter.size
    down, rest = flat[: width * size].reshape(size, width), flat[width * size :]
    low, up, high = (
        rest[:size],
        rest[size : size + width * size].reshape(width, size),
        rest[size + width * size :],
    )
    return h + gelu_new(h @ down.T + low) @ up.T + high


@pytest.mark.parametrize("task", [0, 2])
def test_hyperformer_equals_its_equations(task: int) -> None:
    backbone = loud(Case("hyperformer", "clip_bart"), tasks=3)
    base, adapter = site(backbone, "encoder.layer.1.ffn").output.module.children()
    backbone.active_task.index = task
    x = torch.randn(2, 3, base.in_features, dtype=torch.float64, requires_grad=True)
    compare(adapter(base(x)), hyperformer(adapter, task, base(x)), [x, *adapter.parameters()])
    (gradient,) = torch.autograd.grad(adapter(base(x)).sum(), [adapter.source.tasks])
    assert [bool(row.any()) for row in gradient] == [i == task for i in range(3)]


def test_shared_parts_of_hyperformer() -> None:
    """All tasks share an embedding table, a side shares the network, and kinds share generators."""
    case = Case("hyperformer", "clip_bart", {"embedding": 32, "hidden": 16})
    backbone = case.build()
    adapters = {s.name: s.output.module[1] for s in backbone.sites}
    sides = {s.side for s in backbone.sites}
    assert len({id(a.source.tasks) for a in adapters.values()}) == 1
    assert len({id(a.source) for a in adapters.values()}) == len(sides) == 2
    assert len({id(a.generator) for a in adapters.values()}) == 5
    weights = [a.weights()[0] for a in adapters.values()]
    assert not any(
        torch.equal(one, other) for i, one in enumerate(weights) for other in weights[:i]
    )


def test_the_task_of_a_batch_selects_the_adapters() -> None:
    """A task trains its own embedding and the shared parts, never the embedding of another task."""
    case = Case("hyperformer", "clip_bart")
    torch.manual_seed(0)
    backbone = case.fresh()
    backbone.active_task.count = 2
    apply(case.adaptation, backbone)
    source = next(m for m in backbone.modules() if isinstance(m, Generated)).source
    before = source.tasks.detach().clone()
    case.train(backbone)  # the first task
    assert [torch.equal(new, old) for new, old in zip(source.tasks, before, strict=True)] == [
        False,
        True,
    ]
    first = case.losses(backbone)
    backbone.follow(backbone.protocol, backbone.answers, 1)
    assert not torch.allclose(case.losses(backbone), first)


@torch.no_grad()
def test_initial_values_of_hyperformer() -> None:
    source = next(
        m for m in Case("hyperformer", "clip_bart").build().modules() if isinstance(m, Generated)
    ).source
    assert source.tasks.std() == pytest.approx(1, rel=0.1)
    assert source.layers.std() == pytest.approx(0.02, rel=0.1)
    assert source.network[0].weight.std() == pytest.approx(0.02, rel=0.05)
    assert source.network[3].eps == 1e-6


# VL-PET.

HEADS = 4


def multi_head(module: Bottleneck, h: Tensor) -> Tensor:
    """Compute U gelu_new(concat_k (D_k H + b_k)) + c."""
    heads = zip(module.down.weight.chunk(HEADS), module.down.bias.chunk(HEADS), strict=True)
    return (
        gelu_new(torch.cat([h @ d.T + b for d, b in heads], -1)) @ module.up.weight.T
        + module.up.bias
    )


def compacter(module: Bottleneck, h: Tensor) -> Tensor:
    return kronecker(module.up, gelu_new(kronecker(module.down, h)))


def gate(module: Gate, x: Tensor, h: Tensor, h1: Tensor, real: Tensor, variant: str) -> Tensor:
    """Compute G of B8, one example and token at a time.

    `real` (batch, tokens) selects what the small gate averages over.
    """
    seen = h if variant == "paper" else h1
    if module.kind == "middleY":
        return (1 + module.z if variant == "release" else module.z.sigmoid() + 1).expand_as(h)
    g = torch.zeros_like(h)
    for i in range(h.shape[0]):
        scores = []
        for t in range(h.shape[1]):
            if module.kind == "large":
                low = gelu_new(module.score.down.weight @ x[i, t] + module.score.down.bias)
                g[i, t] = torch.sigmoid(module.score.up.weight @ low + module.score.up.bias)
            else:
                both = (
                    x[i, t] + seen[i, t]
                    if module.kind == "middleX"
                    else torch.cat([x[i, t], seen[i, t]])
                )
                g[i, t] = torch.sigmoid(module.score.weight[0] @ both + module.score.bias)
            scores.append(g[i, t])
        if module.kind == "small":
            kept = [score for score, counts in zip(scores, real[i], strict=True) if counts]
            g[i] = sum(kept) / len(kept)
    return g


def attention(module: Any, value: Tensor, x: Tensor) -> Tensor:
    """Compute softmax attention before its output projection.

    Every query of x sees every row of `value`, which has one row for each row of x.
    """
    parts = []
    for q, k, v in zip(
        *(t.chunk(module.num_heads, -1) for t in (module.q_proj(x), module.k_proj(x), value)),
        strict=True,
    ):
        parts.append(torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v)
    return torch.cat(parts, -1)


def encoder_layer(
    layer: Any,
    x: Tensor,
    real: Tensor,
    variant: str,
    f: Callable[[Bottleneck, Tensor], Tensor],
    scale: float,
) -> Tensor:
    """Compute LN(X + s G H1), first for attention, then for the feed-forward sub-layer."""
    for wrapped, norm in (
        (layer.self_attn.out_proj, layer.self_attn_layer_norm),
        (layer.fc2, layer.final_layer_norm),
    ):
        first = wrapped is layer.self_attn.out_proj
        inner = (
            attention(layer.self_attn, layer.self_attn.v_proj(x), x)
            if first
            else functional.gelu(layer.fc1(x))
        )
        h = wrapped.base(inner)
        h1 = h + f(wrapped.bottleneck, h)
        x = norm(x + h1 * gate(wrapped.gate, x, h, h1, real, variant) * scale)
    return x


VARIANTS = [
    *(
        {"gate": g, "variant": v}
        for g in ("small", "middleX", "middleY")
        for v in ("release", "paper")
    ),
    {"gate": "large"},
    {"gate": "large", "scale": 0.3},
    {"gate": "small", "release_padding": True},
    {"gate": "middleX", "modules": "compacter"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_vl_pet_in_the_encoder(settings: dict[str, Any]) -> None:
    backbone = loud(Case("vl_pet", "clip_bart", settings))
    layer, x = backbone.text.model.encoder.layers[0], inputs(backbone)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    backbone.encoder_mask.value = real
    f = compacter if settings.get("modules") == "compacter" else multi_head
    averaged = torch.ones_like(real) if settings.get("release_padding") else real
    expected = encoder_layer(
        layer, x, averaged, settings.get("variant", "release"), f, settings.get("scale", 1.0)
    )
    found = layer(x, None)
    compare(found, expected, [x, *(p for p in layer.parameters() if p.requires_grad)])


def test_vl_pet_in_the_decoder() -> None:
    """V = W_v E + U gelu_new(D E) in cross-attention, and no other change."""
    backbone = loud(Case("vl_pet", "clip_bart"))
    layer, e = backbone.text.model.decoder.layers[0], inputs(backbone)
    value = layer.encoder_attn.v_proj
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == [
        f"encoder_attn.v_proj.bottleneck.{part}"
        for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    ]
    expected = functional.linear(e, value.base.weight, value.base.bias) + multi_head(
        value.bottleneck, e
    )
    compare(value(e), expected, [e, *value.bottleneck.parameters()])
    found, _ = layer.encoder_attn(e, key_value_states=e)
    compare(
        found,
        layer.encoder_attn.out_proj(attention(layer.encoder_attn, expected, e)),
        [e, *value.bottleneck.parameters()],
    )


@pytest.mark.parametrize(("modules", "f"), [("adapter", multi_head), ("compacter", compacter)])
def test_other_modules_in_the_decoder(
    modules: str, f: Callable[[Bottleneck, Tensor], Tensor]
) -> None:
    """Table 9: the module of the original method after cross-attention, and no other module."""
    backbone = loud(Case("vl_pet", "clip_bart", {"modules": modules}))
    layer, h = backbone.text.model.decoder.layers[0], inputs(backbone)
    assert all(
        name.startswith("encoder_attn.out_proj.1.")
        for name, p in layer.named_parameters()
        if p.requires_grad
    )
    base, added = layer.encoder_attn.out_proj.children()
    compare(layer.encoder_attn.out_proj(h), base(h) + f(added, base(h)), [h, *added.parameters()])
    assert not any(isinstance(m, ParallelBottleneck) for m in backbone.modules())


@pytest.mark.parametrize(
    ("backbone", "model"), [("clip_bart", {}), ("vit_roberta", {}), ("blip", {"form": "vqa"})]
)
@pytest.mark.parametrize(
    "settings", [{}, {"gate": "small"}, {"gate": "small", "release_padding": True}], ids=str
)
def test_only_the_release_padding_sees_the_batch(
    backbone: str, model: dict[str, Any], settings: dict[str, Any]
) -> None:
    """The release's small gate averages over padding, so a loss depends on its neighbours."""
    case = Case("vl_pet", backbone, settings, model)
    made, items = case.build(), case.items()
    case.train(made, 1)
    alone = case.losses(made)
    together = case.loss(made, [items[1], items[2]]).detach()
    assert torch.isclose(together, alone[1] + alone[2], rtol=1e-5, atol=1e-5) == (
        "release_padding" not in settings
    )


@pytest.mark.parametrize("modules", ["vl_pet", "compacter"])
def test_vl_pet_on_blips_text_encoder(modules: str) -> None:
    """Everything that the method adds trains, and the count equals the formula."""
    case = Case("vl_pet", "blip", {"modules": modules}, {"form": "vqa"})
    backbone, fresh = case.build(), case.fresh()
    assert count(p for p in backbone.parameters() if p.requires_grad) == case.adaptation.trainable(
        fresh
    )
    assert sum(isinstance(m, Gated) for m in backbone.modules()) == sum(
        s.side == "encoder" for s in fresh.sites
    )
    theirs = {name for name, _ in fresh.named_parameters()}
    before = {
        name: p.detach().clone()
        for name, p in backbone.named_parameters()
        if p.requires_grad and name not in theirs
    }
    case.train(backbone, 2)
    after = dict(backbone.named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@torch.no_grad()
def test_initial_values_of_vl_pet() -> None:
    """The large gate starts near one half, that of middleY near one."""
    for kind, expected in (("large", 0.5), ("middleX", 0.5), ("small", 0.5), ("middleY", 1.0)):
        backbone = Case("vl_pet", "clip_bart", {"gate": kind}).build()
        made = next(m for m in backbone.modules() if isinstance(m, Gate))
        x = torch.randn(2, 3, backbone.sites[0].width)
        backbone.encoder_mask.value = torch.ones(2, 3)
        g = made(x, x)
        assert g.mean() == pytest.approx(expected, abs=0.05)
        assert not torch.equal(g, torch.full_like(g, expected))


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("clip_bart", {"variant": "paper"}, "the same large gate"),
        ("clip_bart", {"release_padding": True}, "only the small gate"),
        ("vit_roberta", {"modules": "adapter"}, "differs from vl_pet only in a decoder"),
        ("clip_bart", {"size": 1000}, "size: 1000 is larger"),
        ("clip_bart", {"places": ["cross"]}, "has no encoder cross"),
    ],
)
def test_meaningless_settings_of_vl_pet_are_refused(
    backbone: str, settings: dict[str, Any], message: str
) -> None:
    assert message in Case("vl_pet", backbone, settings).refusal()


@pytest.mark.parametrize("backbone", ["vit_gpt2", "blip"])
def test_backbones_without_an_encoder_are_skipped_with_the_reason(backbone: str) -> None:
    assert (
        reason_to_skip(Case("vl_pet", backbone).cell())
        == f"vl_pet needs encoder, which {backbone} does not have here"
    )
    with pytest.raises(RuntimeError, match="has no encoder"):
        _ = Case("lora", backbone).fresh().encoder


@pytest.mark.parametrize("name", ["compacter", "hyperformer", "vl_pet"])
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="widht"):
        _ = Case(name, "clip_bart", {"widht": 1}).adaptation
    assert METHODS.load(name).paper
