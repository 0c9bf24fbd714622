"""Baselines against formulas written by hand, Hugging Face peft and published parameter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from tests.conftest import ANSWERS, Case, visual
from tests.golden.test_parameter_counts import adapted, model, trains
from tests.uncached import write_without_cache
from vlpeft.baselines.adapter import Parallel
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.attention import attend
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.contract.sites import Site, count
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol

# peft reads a property that the installed transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def site(backbone: Backbone, name: str) -> Site:
    return next(site for site in backbone.sites if site.name == name)


def loud(backbone: Backbone) -> Backbone:
    """Redraw what the method added, so that it changes the output; keep the head of the task."""
    torch.manual_seed(1)
    head = {id(p) for p in backbone.head_parameters()}
    for parameter in backbone.parameters():
        if id(parameter) not in head and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return backbone


# Adapters.


@torch.no_grad()
def test_a_parallel_adapter_on_the_feed_forward_equals_its_formula() -> None:
    """LayerNorm(dropout(FFN(x)) + x + E relu(D x + b) + c), as in the release for BERT."""
    backbone = loud(
        Case(
            "adapter", "vit_roberta", {"places": ["ffn"], "form": "parallel", "activation": "relu"}
        ).build()
    )
    layer: Any = backbone.text.encoder.layer[1]
    x = seeded(2, 5, 128)
    added = layer.output.dropout.bottleneck
    inside = functional.gelu(
        functional.linear(x, layer.intermediate.dense.weight, layer.intermediate.dense.bias)
    )
    out = functional.linear(inside, layer.output.dense.weight, layer.output.dense.bias)
    parallel = (
        torch.relu(x @ added.down.weight.T + added.down.bias) @ added.up.weight.T + added.up.bias
    )
    norm = layer.output.LayerNorm
    expected = functional.layer_norm(out + x + parallel, (128,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(layer.feed_forward_chunk(x), expected, **CLOSE)
    assert not isinstance(layer.attention.output.dropout, Parallel)


@torch.no_grad()
@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_adapters_on_the_attention_of_gpt2_equal_their_formula(form: str) -> None:
    """The block applies the norm first, so a parallel adapter reads the normed query states."""
    plain = Case("full_finetuning", "vit_gpt2").build().text.transformer.h[0].attn
    block: Any = loud(
        Case("adapter", "vit_gpt2", {"places": ["self"], "form": form}).build()
    ).text.transformer.h[0]
    x = seeded(2, 5, 128)
    normed = block.ln_1(x)
    own = plain(normed)[0]
    added = (
        block.attn.resid_dropout.bottleneck if form == "parallel" else block.attn.resid_dropout[1]
    )
    read = normed if form == "parallel" else own
    expected = (
        own
        + functional.gelu(read @ added.down.weight.T + added.down.bias) @ added.up.weight.T
        + added.up.bias
    )
    torch.testing.assert_close(block.attn(normed)[0], expected, **CLOSE)


def test_a_parallel_adapter_must_have_read_something() -> None:
    backbone = Case("adapter", "vit_roberta", {"form": "parallel"}).build()
    with pytest.raises(RuntimeError, match="has read nothing"):
        site(backbone, "layer.0.ffn").output.module(torch.zeros(1, 1, 128))


def test_one_parallel_adapter_a_block_reads_two_inputs() -> None:
    """The weights are shared, but each place reads the input of its own sub-layer."""
    case = Case("adapter", "vit_gpt2", {"form": "parallel", "share_in_block": True})
    backbone = loud(case.build())
    block: Any = backbone.text.transformer.h[0]
    assert block.attn.resid_dropout.bottleneck is block.mlp.dropout.bottleneck
    expected = case.losses(backbone)
    hidden: Any = loud(Case("adapter", "vit_gpt2", {"form": "parallel"}).build())
    for one, other in zip(hidden.sites, backbone.sites, strict=True):
        one.output.module.bottleneck.load_state_dict(other.output.module.bottleneck.state_dict())
    torch.testing.assert_close(case.losses(hidden), expected, **CLOSE)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "adapter",
            {"places": ["cross"]},
            "vit_gpt2 has no encoder/decoder cross; it has: decoder self, decoder ffn",
        ),
        ("adapter", {"sides": ["encoder"]}, "has no encoder self/cross/ffn"),
        ("adapter", {"form": "parallel", "residual": False}, "leave it true"),
        (
            "lora",
            {"places": ["ffn"]},
            "no chosen site of vit_gpt2 has a projection 'query'; known: down, up",
        ),
        ("lora", {"sides": ["encoder"]}, "has no encoder"),
        ("prefix_tuning", {"places": ["cross"]}, "has no encoder/decoder cross"),
    ],
)
def test_settings_without_effect_are_refused(
    method: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Case(method, "vit_gpt2", settings).build()


# Prefixes.


def with_prefix(length: int, mlp: int | None = None) -> Backbone:
    return loud(
        Case(
            "prefix_tuning", "vit_gpt2", {"length": length, **({"mlp": mlp} if mlp else {})}
        ).build()
    )


def peft_twin(backbone: Backbone, length: int, mlp: int | None) -> Any:
    """Build GPT-2 with peft's prefix encoder and the same numbers."""
    text = Case("full_finetuning", "vit_gpt2").build().text
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=length,
        prefix_projection=mlp is not None,
        encoder_hidden_size=mlp,
    )
    made = get_peft_model(text, config).eval()
    encoder = made.prompt_encoder["default"]
    prefixes = [
        site.attention.module.prefix for site in backbone.sites if site.attention is not None
    ]
    with torch.no_grad():
        if mlp is None:
            flat = [
                tensor.transpose(0, 1).flatten(1)
                for prefix in prefixes
                for tensor in (prefix.keys, prefix.values)
            ]
            encoder.embedding.weight.copy_(torch.cat(flat, 1))
        else:
            encoder.embedding.weight.copy_(prefixes[0].shared.table)
            encoder.transform[0].load_state_dict(prefixes[0].shared.first.state_dict())
            encoder.transform[2].weight.copy_(
                torch.cat([prefix.last.weight for prefix in prefixes])
            )
            encoder.transform[2].bias.copy_(torch.cat([prefix.last.bias for prefix in prefixes]))
    assert sum(p.numel() for p in encoder.parameters()) == trains(backbone)
    return made


@torch.no_grad()
@pytest.mark.parametrize("mlp", [None, 24])
@pytest.mark.parametrize("padded", [False, True])
def test_a_prefix_equals_the_prefix_of_peft(padded: bool, mlp: int | None) -> None:
    """Positions must be equal: peft's prefix takes positions 0 to length - 1, ours takes none."""
    length = 5
    backbone = with_prefix(length, mlp)
    twin = peft_twin(backbone, length, mlp)
    embeds, mask = seeded(2, 7, 128), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0 if padded else 1
    seen = torch.cat([torch.ones(2, length, dtype=torch.long), mask], 1)
    reference = twin.get_base_model().transformer
    expected = reference(
        inputs_embeds=embeds,
        attention_mask=seen,
        cache=twin.get_prompt(2),
        position_ids=torch.arange(7)[None],
    ).last_hidden_state
    found = backbone.text.transformer(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **CLOSE)
    bare = reference(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    assert not torch.allclose(found[mask.bool()], bare[mask.bool()], rtol=1e-2), (
        "the prefix does nothing"
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_behind_a_prefix_do_not_depend_on_the_cache(beams: int) -> None:
    case = Case("prefix_tuning", "vit_gpt2", {"length": 3})
    torch.manual_seed(0)
    recipe = Protocol(lr=1e-3, steps=1, beams=beams, max_output_tokens=12, length_penalty=0.0)
    backbone = case.config.build(ANSWERS, recipe)
    apply(case.adaptation, backbone)
    case.train(loud(backbone), 1)
    features = visual(backbone)(["0", "1", "2"]).detach()
    cached = backbone.predict(features, [""] * 3)
    assert write_without_cache(backbone, features) == cached
    assert [backbone.predict(features[i : i + 1], [""])[0] for i in range(3)] == cached


@torch.no_grad()
def test_a_prefix_of_an_encoder_equals_attention_written_out() -> None:
    backbone = loud(Case("prefix_tuning", "vit_roberta", {"length": 3}).build())
    attention: Any = backbone.text.encoder.layer[0].attention.self
    heads, x = attention.num_attention_heads, seeded(2, 5, 128)
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, ..., 3:] = torch.finfo(torch.float32).min
    found = attention(x, attention_mask=mask)[0]
    for row, keys_seen in ((0, 5), (1, 3)):
        q, k, v = (
            map_(x[row]).view(5, heads, -1)
            for map_ in (attention.query, attention.key, attention.value)
        )
        for head in range(heads):
            key = torch.cat([attention.prefix.keys[head], k[:keys_seen, head]])
            value = torch.cat([attention.prefix.values[head], v[:keys_seen, head]])
            expected = torch.softmax(q[:, head] @ key.T / (128 / heads) ** 0.5, -1) @ value
            torch.testing.assert_close(found[row].view(5, heads, -1)[:, head], expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("recording", [False, True])
def test_a_mask_of_truths_equals_the_additive_one(recording: bool) -> None:
    backbone = loud(Case("prefix_tuning", "vit_roberta", {"length": 2}).build())
    reader = site(backbone, "layer.0.self").attention
    assert reader is not None
    if recording:
        reader.record()
    q, k, v = seeded(3, 2, reader.heads, 4, 128 // reader.heads)
    truths = torch.tensor([[True, True, True, False], [True, False, True, True]])[:, None, None]
    additive = torch.zeros(truths.shape).masked_fill(~truths, torch.finfo(torch.float32).min)
    one, other = (attend(reader.module, q, k, v, mask)[0] for mask in (truths, additive))
    assert torch.equal(one, other)
    assert not torch.allclose(one, attend(reader.module, q, k, v, None)[0])


# Prompts.


def test_a_mapped_prompt_equals_its_formula() -> None:
    prompt: Any = loud(
        Case("prompt_tuning", "vit_roberta", {"length": 6, "mlp": 20}).build()
    ).prompt
    first, last = prompt.map[0], prompt.map[2]
    expected = (
        torch.tanh(prompt.embeddings @ first.weight.T + first.bias) @ last.weight.T + last.bias
    )
    assert expected.shape == (6, 128)
    torch.testing.assert_close(prompt(), expected, **CLOSE)


@pytest.mark.parametrize("settings", [{"length": 40, "mlp": 64}])
def test_a_mapped_prompt_starts_from_small_normal_numbers(settings: dict[str, Any]) -> None:
    prompt: Any = Case("prompt_tuning", "vit_roberta", settings).build().prompt
    for weight in (prompt.embeddings, prompt.map[0].weight, prompt.map[2].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(weight.mean().item()) < 0.002
    assert not prompt.map[0].bias.any()
    assert not prompt.map[2].bias.any()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("prompt_tuning", {"mlp": 16}),
        ("prefix_tuning", {"mlp": 16}),
        ("adapter", {"form": "parallel", "also_train": ["all_norms", "biases"]}),
    ],
)
@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2"])
def test_everything_added_trains(method: str, settings: dict[str, Any], backbone: str) -> None:
    """Settings that the invariants do not vary."""
    case = Case(method, backbone, settings)
    made = case.build()
    fresh = case.fresh()
    assert count(p for p in made.parameters() if p.requires_grad) == case.adaptation.trainable(
        fresh
    ) + count(fresh.head_parameters())
    theirs = {name for name, _ in fresh.named_parameters()}
    before = {name: p.detach().clone() for name, p in made.named_parameters() if name not in theirs}
    case.train(made, 2)
    after = dict(made.named_parameters())
    assert before
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("method", ["hyperformer", "compacter", "vl_pet"])
def test_counts_of_both_sides(method: str) -> None:
    """The encoder and the decoder of CLIP-BART have parts of their own."""
    case = Case(method, "clip_bart")
    fresh = case.fresh()
    expected = case.adaptation.trainable(fresh) + count(fresh.head_parameters())
    assert count(p for p in case.build().parameters() if p.requires_grad) == expected


@pytest.mark.parametrize(
    ("method", "setting"),
    [("adapter", "size"), ("hyperformer", "size"), ("lora", "rank"), ("vl_pet", "size")],
)
def test_a_bottleneck_wider_than_its_input_is_refused(method: str, setting: str) -> None:
    with pytest.raises(UserError, match=f"{setting}: 129 is larger than the width 128"):
        Case(method, "vit_roberta", {setting: 129}).build()


# Counts at full size.


@pytest.mark.parametrize(
    ("text", "method", "settings", "expected"),
    [
        (
            "roberta-base",
            "prefix_tuning",
            {"length": 16},
            12 * 2 * 16 * 768,
        ),  # half of BLIP's 24 attentions: 589,824
        (
            "gpt2",
            "prefix_tuning",
            {"length": 32},
            589_824,
        ),  # the alternative in the p-Adapter paper: 32 in 12 self-attentions
        (
            "gpt2",
            "prefix_tuning",
            {"length": 16, "mlp": 512},
            16 * 768 + 769 * 512 + 12 * 513 * 2 * 768,
        ),
        # the count of VL-Adapter
        ("roberta-base", "prompt_tuning", {"length": 40, "mlp": 800}, 1_261_088),
        (
            "roberta-base",
            "adapter",
            {"size": 96, "places": ["ffn"], "form": "parallel"},
            1_779_840,
        ),  # the FFN adapters of p-Adapter
        ("roberta-base", "adapter", {"size": 96}, 24 * 148_320),  # VL-Adapter: 148,320 each
        (
            "roberta-base",
            "adapter",
            {"size": 96, "places": ["self"], "also_train": ["all_norms"]},
            12 * 148_320 + 25 * 1_536,
        ),
        (
            "roberta-base",
            "lora",
            {"rank": 8, "targets": ["query", "key"], "places": ["self", "cross"]},
            294_912,
        ),
        (
            "gpt2",
            "lora",
            {"rank": 8, "targets": ["up", "down"], "places": ["ffn"]},
            12 * 2 * 8 * (768 + 3072),
        ),
        ("roberta-base", "layernorm_tuning", {}, 24 * 1_536),
        ("roberta-base", "layernorm_tuning", {"which": "all"}, 25 * 1_536),
        ("gpt2", "layernorm_tuning", {"which": "all", "biases": False}, 25 * 768),
        ("roberta-base", "full_finetuning", {}, 124_645_632),  # as the hub counts it
        ("roberta-base", "bitfit", {}, 2 * 768 + 12 * (4 * 768 + 3_072 + 3 * 768)),
        ("roberta-base", "head_only", {}, 0),
        ("roberta-base", "compacter", {"size": 96}, 24 * 74_608),  # VL-Adapter: 74,608 each
        (
            "roberta-base",
            "compacter",
            {"size": 96, "n": 4, "rank": 1, "share_a": True},
            24 * (2 * (768 + 96) + 768 + 96) + 64,
        ),
        # Two generators, one network, the embeddings of 12 layers and of one task.
        (
            "roberta-base",
            "hyperformer",
            {"size": 96},
            2 * 9 * 148_320 + (1_025 * 128 + 129 * 8 + 16) + 13 * 512,
        ),
        # 24 bottlenecks, each with a gate.
        ("roberta-base", "vl_pet", {"size": 96, "norms": False}, 2 * 24 * 148_320),
        *(
            (
                "roberta-base",
                "vl_pet",
                {"size": 96, "norms": False, "gate": gate},
                24 * (148_320 + size),
            )
            for gate, size in {"small": 1_537, "middleX": 769, "middleY": 768}.items()
        ),
    ],
)
def test_counts(text: str, method: str, settings: dict[str, Any], expected: int) -> None:
    assert parse(METHODS.load(method), settings, method).trainable(model(text)) == expected
    backbone = adapted(text, method, settings)
    prompt = count(backbone.prompt.parameters()) if backbone.prompt is not None else 0
    assert trains(backbone) + prompt == expected
