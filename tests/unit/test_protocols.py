"""The shipped protocols cover what they name, use existing names, and hold the papers' values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tiny
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import dataset_names
from vlpeft.benchmark.plan.compatibility import check_names, check_recipe, reason_to_skip
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.recipes import (
    load_protocol,
    origins,
    protocol_layers,
    protocol_names,
    resolve,
)
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.tasks import TASKS, tasks_for
from vlpeft.benchmark.tasks.text import clean_caption, clean_question

COVERED = [
    (name, *each) for name in protocol_names() for each in load_protocol(name).covers.items()
]


def test_every_protocol_declares_what_it_covers() -> None:
    assert {name for name, _, _ in COVERED} == set(protocol_names())


@pytest.mark.parametrize(("name", "backbone", "tasks"), COVERED)
def test_a_protocol_resolves_for_all_it_covers(
    name: str, backbone: str, tasks: tuple[str, ...], tmp_path: Path
) -> None:
    """Every method of the backbone is planned, without a key that the backbone or task ignores."""
    entry = ", ".join(f"{key}: {str(value).lower()}" for key, value in tiny(backbone).items())
    (tmp_path / "a.yaml").write_text(
        f"protocol: {name}\nbackbones: [{{name: {backbone}, {entry}}}]\n"
        f"tasks: [{', '.join(f'{task}/shapes' for task in tasks)}]\n"
        f"methods: [{', '.join(METHODS.entries)}]\n"
    )
    cells = [
        planned.cell
        for planned in expand(SweepHandle(str(tmp_path / "a.yaml")))
        if not reason_to_skip(planned.cell)
    ]
    assert {cell.task for cell in cells} == set(tasks)
    assert len(cells) >= 5 * len(tasks)
    for cell in cells:
        check_recipe(cell)
        for part in cell.parts:
            check_names(part)


@pytest.mark.parametrize("name", protocol_names())
def test_conditions_use_existing_names(name: str) -> None:
    known = {
        "backbone": set(BACKBONES.entries),
        "task": set(TASKS.entries),
        "method": set(METHODS.entries),
        "dataset": set(dataset_names()),
    }
    for rule in load_protocol(name).rules:
        for key, value in rule.when.items():
            if key in known:
                asked = set(value) if isinstance(value, list) else {value}
                assert asked <= known[key], rule.words
    for backbone, tasks in load_protocol(name).covers.items():
        abilities = BACKBONES.entry(backbone).options["abilities"]
        assert set(tasks) <= set(tasks_for(abilities))


def recipe(
    name: str,
    backbone: str,
    task: str,
    dataset: str = "some",
    method: str = "p_adapter",
    **settings: Any,
) -> Protocol:
    facts = {"backbone": backbone, "task": task, "dataset": dataset, "method": method}
    default = {
        "method.per_task": {
            "adapter": "nothing",
            "lora": False,
            "prompt_tuning": False,
            "compacter": "nothing",
        }.get(method)
    }
    return resolve(
        list(
            protocol_layers(
                name, facts | default | {f"method.{key}": value for key, value in settings.items()}
            )
        ),
        "here",
    )


VALUES: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    ("p_adapter", "blip", "vqa", {},
     {"lr": 5e-4, "epochs": 5, "batch_size": 64, "select": "best", "augment": "blip"}),
    ("p_adapter", "blip", "vqa", {"dataset": "vizwiz_vqa"},
     {"select": "last", "rank_candidates": 32, "answer_weights": "frequency"}),
    ("p_adapter", "blip", "entailment", {"dataset": "snli_ve"},
     {"select_split": "dev", "loss_mean": "tokens", "rank_candidates": 3}),
    ("p_adapter", "blip", "captioning", {},
     {"lr": 3e-4, "epochs": 2, "batch_size": 128, "beams": 5, "beam_length": "whole",
      "select_metric": ("CIDEr", "BLEU-4")}),
    ("p_adapter", "blip", "captioning", {"method": "full_finetuning"}, {"lr": 2e-5, "epochs": 2}),
    ("p_adapter_paper", "blip", "vqa", {},
     {"answering": "generate", "lr": 5e-4, "epochs": 5, "weight_decay": 0.05,
      "schedule": "linear"}),
    ("p_adapter_paper", "blip", "captioning", {}, {"lr": 5e-4, "epochs": 2}),
    ("p_adapter_paper", "blip", "captioning", {"method": "full_finetuning"}, {"lr": 2e-5}),
    ("routing", "vit_roberta", "vqa", {},
     {"lr": 3e-4, "batch_size": 512, "warmup_fraction": 0.05, "warmup_steps": 0, "select": "last"}),
    ("routing", "vit_gpt2", "captioning", {},
     {"lr": 3e-5, "batch_size": 40, "warmup_fraction": 0.0, "warmup_steps": 5000, "beams": 5}),
    ("routing_repaired", "vit_roberta", "vqa", {}, {"lr": 3e-4, "select": "best"}),
    ("routing_repaired", "vit_gpt2", "captioning", {},
     {"lr": 3e-5, "select": "best", "max_generated_tokens": None}),
    ("vl_adapter", "clip_bart", "vqa", {},
     {"lr": 1e-3, "batch_size": 500, "prompt": "vqa: {text}", "max_output_tokens": 10}),
    ("vl_adapter", "clip_bart", "vqa", {"dataset": "gqa"},
     {"batch_size": 833, "prompt": "gpa: {text}", "train_split": "train+val"}),
    ("vl_adapter", "clip_bart", "vqa", {"dataset": "gqa_clip_bart"},
     {"batch_size": 833, "prompt": "gpa: {text}", "train_split": "train"}),
    ("vl_adapter", "clip_bart", "nlvr2", {},
     {"batch_size": 166, "prompt": "nlvr: {text}", "answering": "rank", "loss_mean": "sequences"}),
    ("vl_adapter", "clip_bart", "captioning", {},
     {"batch_size": 416, "prompt": "caption: ", "loss_mean": "tokens", "beams": 5}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "full_finetuning", "dataset": "gqa"},
     {"lr": 1e-4, "prompt": "{text}"}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "hyperformer"}, {"lr": 1e-3, "prompt": "{text}"}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "adapter"},
     {"lr": 1e-3, "prompt": "vqa: {text}"}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "adapter", "per_task": "all"},
     {"lr": 3e-4, "prompt": "{text}"}),
    ("vl_adapter", "clip_bart", "nlvr2", {"method": "adapter", "per_task": "down"},
     {"lr": 3e-4, "prompt": "{text}"}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "lora", "per_task": True},
     {"lr": 1e-3, "prompt": "{text}"}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "prompt_tuning"},
     {"lr": 1e-3, "prompt": "vqa: {text}"}),
    ("vl_adapter", "clip_bart", "vqa", {"method": "compacter", "per_task": "all"},
     {"lr": 1e-3, "prompt": "{text}"}),
    ("vl_pet", "clip_bart", "vqa", {"method": "vl_pet"},
     {"lr": 1e-3, "prompt": "vqa: {text}", "epochs": 20, "name": "vl_pet"}),
    ("vl_pet", "clip_bart", "captioning", {"method": "full_finetuning"},
     {"lr": 1e-4, "prompt": "{text}", "batch_size": 416}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "backbone", "task", "facts", "expected"), VALUES)
def test_values_of_the_papers(
    name: str, backbone: str, task: str, facts: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = recipe(name, backbone, task, **facts)
    assert {key: getattr(made, key) for key in expected} == expected


def test_all_tasks_of_a_joint_cell_share_one_optimizer() -> None:
    for method in ("full_finetuning", "lora", "bitfit"):
        rates = {
            recipe("vl_adapter", "clip_bart", task, method=method).lr
            for task in ("vqa", "nlvr2", "captioning")
        }
        assert len(rates) == 1


def test_a_value_of_a_base_names_its_origin() -> None:
    facts = {"backbone": "blip", "task": "vqa", "dataset": "some", "method": "lora"}
    layers = list(protocol_layers("p_adapter_paper", facts))
    found = origins(layers, dump(resolve(layers, "here")), "default")
    assert found["batch_size"] == "protocol p_adapter"
    assert found["answering"] == "protocol p_adapter_paper, rule 1 (task: vqa|entailment)"


def test_sentences_keep_all_but_case_and_the_last_full_stop() -> None:
    text = " Two dogs (big ones) run. They: play! At 5.30 p.m.. "
    assert clean_question(text, "sentence") == "two dogs (big ones) run. they: play! at 5.30 p.m."
    assert (
        clean_question("A man.", "sentence")
        == clean_question("a man", "sentence")
        == clean_caption("A man.", "sentence")
        == "a man"
    )
