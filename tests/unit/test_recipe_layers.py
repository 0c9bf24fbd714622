"""Recipes: rules, the order of layers, and the origin of each value."""

import re
from pathlib import Path

import pytest

from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan import recipes
from vlpeft.benchmark.plan.grid import cross_layers
from vlpeft.benchmark.plan.recipes import DEFAULT, Layer, origins, resolve, sweep_layers
from vlpeft.benchmark.plan.sweep import SweepHandle

RULES = """
defaults: {lr: 1e-3, steps: 100, batch_size: 8}
rules:
  - when: {task: vqa}
    set: {steps: 200, batch_size: 16}
  - when: {task: vqa, method: lora}
    set: {batch_size: 32}
  - when: {backbone: vit_gpt2}
    set: {lr: 1e-4}
"""
FACTS = {"backbone": "vit_roberta", "task": "vqa", "dataset": "shapes", "method": "lora"}


@pytest.fixture
def rules(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "ours.yaml"
    path.write_text(RULES)
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    return path


def layers(chosen="ours", *overrides, **facts) -> list[Layer]:
    above = [Layer(f"entry {i}", values) for i, values in enumerate(overrides)]
    return [*sweep_layers(chosen, {**FACTS, **facts}, "here"), *above]


def recipe(chosen="ours", *overrides, **facts) -> Protocol:
    return resolve(layers(chosen, *overrides, **facts), "here")


def resolved(chosen="ours", *overrides, **facts) -> tuple[float, int | None, int]:
    protocol = recipe(chosen, *overrides, **facts)
    return protocol.lr, protocol.steps, protocol.batch_size


def test_rules_apply_in_order_where_all_conditions_hold(rules) -> None:
    assert resolved() == (1e-3, 200, 32)
    assert resolved(method="bitfit") == (1e-3, 200, 16)
    assert resolved(task="captioning") == (1e-3, 100, 8)
    assert resolved(backbone="vit_gpt2") == (1e-4, 200, 32)
    assert recipe().name == "ours"


def test_later_layers_win(rules) -> None:
    own = {"base": "ours", "steps": 7}
    assert resolved(own) == (1e-3, 7, 32)  # the sweep's own keys override the rules of the base
    assert resolved(own, {"steps": 8}, {"lr": 1.0}) == (1.0, 8, 32)
    assert resolved(own, {"steps": 8}, {"steps": 9}) == (
        1e-3,
        9,
        32,
    )  # the method's entry overrides that of the backbone
    assert resolved(own, {"steps": None}, {"steps": 4}) == (1e-3, 4, 32)
    assert recipe(own, {"steps": None, "epochs": 3}).epochs == 3
    assert resolved({"lr": 1.0, "steps": 1}) == (1.0, 1, 64)  # no base


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task: vqa}", "tsak: vqa}", "unknown condition 'tsak'; did you mean 'task'?"),
        ("defaults", "default", "unknown key 'default'; did you mean 'defaults'?"),
        ("set: {lr", "sett: {lr", "rules[2].set"),
        ("steps: 200", "setps: 200", "here: unknown key 'setps'; did you mean 'steps'?"),
    ],
)
def test_typos_in_a_protocol_file(rules, old, new, message) -> None:
    rules.write_text(RULES.replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(message)):
        resolved()


def test_unknown_protocols(rules) -> None:
    for chosen in ("orus", {"base": "orus"}):
        with pytest.raises(
            UserError,
            match=r"^here: unknown protocol 'orus'; did you mean 'ours'\?; or give the path of a Y",
        ):
            resolved(chosen)


def written(path: Path, text: str) -> None:
    path.with_name("derived.yaml").write_text(text)


def test_a_base_comes_before_the_protocol_that_names_it(rules) -> None:
    written(
        rules,
        "base: ours\ndefaults: {steps: 50}\nrules: [{when: {method: bitfit}, set: {lr: 0.5}}]\n",
    )
    assert resolved("derived") == (1e-3, 50, 32)
    assert resolved("derived", method="bitfit") == (0.5, 50, 16)
    assert recipe("derived").name == "derived"


def test_bases_in_a_circle(rules) -> None:
    written(rules, "base: derived\ndefaults: {}\n")
    with pytest.raises(UserError, match=r"derived\.yaml: base: derived -> derived is circular"):
        recipe("derived")


def test_rules_ask_for_one_of_several_names_and_for_settings(rules) -> None:
    written(
        rules,
        """
base: ours
defaults: {}
rules:
  - when: {dataset: [gqa, gqa_clip_bart]}
    set: {steps: 1}
  - when: {method: adapter, method.per_task: [down, all]}
    set: {steps: 2}
  - when: {backbone.grid: 6}
    set: {steps: 3}
""",
    )
    facts = {"method": "adapter", "method.per_task": "nothing"}
    assert recipe("derived", **facts).steps == 200
    assert recipe("derived", dataset="gqa", **facts).steps == 1
    assert recipe("derived", **{**facts, "method.per_task": "all"}).steps == 2
    assert recipe("derived", **facts, **{"backbone.grid": 6}).steps == 3
    assert recipe("derived", method="bitfit").steps == 200, (
        "which has no such setting, and need not"
    )


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (
            "{method: lora, method.rnak: 8}",
            "rules[0]: unknown condition 'method.rnak'; did you mean 'method.rank'?",
        ),
        ("{task.kind: 8}", "rules[0]: unknown condition 'task.kind'"),
    ],
)
def test_typos_in_conditions_on_settings(rules, when, message) -> None:
    written(rules, f"base: ours\ndefaults: {{}}\nrules: [{{when: {when}, set: {{}}}}]\n")
    with pytest.raises(UserError, match=re.escape(message)):
        recipe("derived", **{"method.rank": 8})


def test_origins(rules) -> None:
    made = layers({"base": "ours", "beams": 2}, {"steps": 7})
    found = origins(made, dump(resolve(made, "here")), DEFAULT)
    assert found["lr"] == found["name"] == "protocol ours"
    assert found["batch_size"] == "protocol ours, rule 2 (task: vqa, method: lora)"
    assert found["steps"] == "entry 0", "whoever speaks last"
    assert found["beams"] == "sweep"
    assert found["eps"] == "default of Protocol"


def test_origins_in_a_sweep(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "{format: shapes, root: '', protocol: {eval_split: val, batch_size: 3, beams: 4, lr: 0.5}}"
    )
    (tmp_path / "a.yaml").write_text("""
protocol: {base: quickstart, eps: 1e-7, clip_norm: null, precision: bf16}
tasks: [vqa/mine.yaml]
backbones:
  - name: blip
    label: small
    weights: tiny
    image_size: 64
    protocol: {clip_norm: 2.0, precision: fp32}
methods: [{name: lora, label: ours, protocol: {precision: bf16}}]
""")
    (cell,) = cross_layers(SweepHandle(str(tmp_path / "a.yaml")))
    found = origins(cell.protocols[0], dump(cell.planned.cell.protocol), DEFAULT)
    assert {
        key: found[key]
        for key in (
            "eval_split",
            "beams",
            "lr",
            "batch_size",
            "eps",
            "clip_norm",
            "precision",
            "betas",
        )
    } == {
        "eval_split": "dataset mine",
        "beams": "dataset mine",
        "lr": "protocol quickstart",
        "batch_size": "protocol quickstart, rule 4 (backbone: blip)",
        "eps": "sweep",
        "clip_norm": "backbone 'small'",
        "precision": "method 'ours'",
        "betas": "default of Protocol",
    }
    assert (cell.planned.cell.protocol.eval_split, cell.planned.cell.protocol.lr) == ("val", 2e-3)


def test_the_protocol_of_a_dataset_is_not_part_of_its_identity(tmp_path) -> None:
    data, sweep = tmp_path / "mine.yaml", tmp_path / "a.yaml"
    sweep.write_text("""
protocol: {lr: 0.5, steps: 1}
tasks: [vqa/mine.yaml]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [lora]
""")

    def made(protocol: str) -> str:
        data.write_text(f"{{format: shapes, root: '', protocol: {protocol}}}")
        return cross_layers(SweepHandle(str(sweep)))[0].planned.id

    assert made("{}") == made("{lr: 1.0}") == made("{steps: 9, beams: 1}"), (
        "the sweep says otherwise, or it is the default"
    )
    assert made("{}") != made("{eval_split: val}")
    with pytest.raises(
        UserError,
        match=r"mine\.yaml: protocol: unknown key 'eval_splti'; did you mean 'eval_split'\?",
    ):
        made("{eval_splti: val}")
