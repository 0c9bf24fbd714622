"""Two forms that need no vlpeft to be read: peft's folder for LoRA, and Hugging Face folders of merged weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Conv1D, PreTrainedModel

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.weights import quiet
from vlpeft.benchmark.cells.cell import Choice
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig, VisionTower
from vlpeft.benchmark.contract.method import LowRank, LowRankUpdate, PerTask
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.export.folder import BESIDE, TENSORS, AdapterFolder
from vlpeft.benchmark.run.checkpoint import trained_tensors

PLAIN = Choice(
    "head_only", {}
)  # how a merged model is built: nothing is added, and only the head is not in its folders
HEAD = "head.safetensors"
PEFT = "base_model.model."  # in front of a module's name in peft's files


def updates(backbone: Backbone) -> dict[str, LowRank]:
    """The low-rank updates in a backbone by the names of their modules. Raises UserError where one has no matrix."""
    if any(isinstance(module, PerTask) for module in backbone.modules()):
        raise UserError(
            "per_task: every task has weights of its own here, which no one model without vlpeft can hold"
        )
    return {
        name: module.low_rank()
        for name, module in backbone.named_modules()
        if isinstance(module, LowRankUpdate)
    }


class Loading(NamedTuple):
    """What the card must say of a folder in peft's format: lines of Python that make `base`, and notes."""

    python: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


NOTHING = Loading()


def write_peft(folder: Path, backbone: Backbone, adapter: AdapterFolder) -> Loading:
    """adapter_config.json and adapter_model.safetensors for `peft.PeftModel.from_pretrained`; returns what the card must say.

    A fused projection's updates become one of as many ranks, B zero outside their blocks: the same function. LayerNorms that
    train go along as `modules_to_save`. The head, which no Hugging Face model has, lies beside in head.safetensors.
    """
    found = updates(backbone)
    if not found:
        raise UserError(
            f"peft's format is for LoRA, and {adapter.method} adds no low-rank update; leave `--format peft` out"
        )
    setting, checkpoint = next(iter(backbone.checkpoints().items()))
    names = {
        id(module): name for name, module in checkpoint.model.named_modules(remove_duplicate=False)
    }
    low_rank = {names[id(backbone.get_submodule(place))]: update for place, update in found.items()}
    rest = _beside_updates(backbone, found)
    saved = {
        names[id(owner)]: owner
        for owner in (_owner(backbone, name) for name in rest)
        if id(owner) in names
    }
    head = {
        name: tensor for name, tensor in rest.items() if id(_owner(backbone, name)) not in names
    }
    save_file(_plain(_peft_tensors(low_rank, saved)), folder / "adapter_model.safetensors")
    config = _peft_config(adapter.weights.get(setting, ""), low_rank, sorted(saved))
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    python = base_lines(checkpoint.model, adapter.base.get(setting, ""))
    if not head:
        return Loading(python)
    save_file(_plain(head), folder / HEAD)
    modules = ", ".join(sorted({f"`{'.'.join(name.split('.')[:2])}`" for name in head}))
    return Loading(
        python,
        (f"`{HEAD}` holds what trained outside that model and peft has no place for: {modules}.",),
    )


def base_lines(model: PreTrainedModel, source: str) -> tuple[str, ...]:
    """Lines of Python that load the weights `source` (as `base_weights` names them) into the model's class, as `base`."""
    name = type(model).__name__
    location, _, revision = source.partition("@")
    if source.startswith("random:"):
        return (
            f"# The base had random weights ({source}), which vlpeft draws and no checkpoint holds: `base` is its {name}.",
        )
    if source.endswith(".pth"):
        where = json.dumps(Path(source).name)
        form = "vqa" if name == "BlipForQuestionAnswering" else "decoder"
        imports = (
            "from pathlib import Path",
            "from vlpeft.benchmark.backbones.blip_parts import load_original  # vlpeft reads BLIP's own files",
        )
        return (
            *imports,
            "",
            f'base = load_original(Path({where}), "{form}")  # where that file lies',
        )
    if source == "tiny":
        imports = f"from transformers import {name}", "from importlib.resources import files"
        place = f'files("vlpeft.benchmark") / "backbones" / "tiny" / {json.dumps(model.config.model_type)}'
        return (
            *imports,
            "",
            f"tiny = {place}  # shipped with vlpeft",
            f'base = {name}.from_pretrained(tiny, dtype="float32")',
        )
    where = (
        json.dumps(Path(location).name) if Path(location).is_absolute() else json.dumps(location)
    )
    pin = f", revision={json.dumps(revision)}" if revision else ""
    comment = "  # where that folder lies" if Path(location).is_absolute() else ""
    return (
        f"from transformers import {name}",
        "",
        f'base = {name}.from_pretrained({where}{pin}, dtype="float32"){comment}',
    )


def _beside_updates(backbone: Backbone, found: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """What trained beside the updates. Raises UserError for parts of the very maps they belong to."""
    rest = trained_tensors(backbone)
    for place in found:
        own = [name for name in rest if name.startswith(f"{place}.")]
        if inside := [name for name in own if name.startswith(f"{place}.base.")]:
            raise UserError(
                f"peft's LoRA cannot hold {inside[0]}, which `also_train` trained too; leave `--format peft` out"
            )
        rest = {name: tensor for name, tensor in rest.items() if name not in own}
    return rest


def _peft_tensors(
    low_rank: Mapping[str, LowRank], saved: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Tensors by peft's names: the updates, and modules that are saved whole."""
    tensors = {}
    for name, update in low_rank.items():
        tensors[f"{PEFT}{name}.lora_A.weight"] = update.a
        tensors[f"{PEFT}{name}.lora_B.weight"] = update.b
    for name, module in saved.items():
        tensors |= {f"{PEFT}{name}.{key}": value for key, value in module.state_dict().items()}
    return tensors


def _peft_config(base: str, low_rank: Mapping[str, LowRank], saved: list[str]) -> dict[str, Any]:
    """peft's LoraConfig as JSON: one rank and alpha, and patterns for modules that differ; the scale is alpha / rank."""
    ranks = {name: len(update.a) for name, update in low_rank.items()}
    alphas = {name: update.scale * len(update.a) for name, update in low_rank.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    location, _, revision = base.partition("@")
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": location or None,
        "revision": revision or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": all(isinstance(update.base, Conv1D) for update in low_rank.values()),
        "target_modules": sorted(ranks),
        "rank_pattern": {f"^{re.escape(name)}$": r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(name)}$": a for name, a in alphas.items() if a != alpha},
        "modules_to_save": saved or None,
    }


def _owner(backbone: Backbone, parameter: str) -> nn.Module:
    return backbone.get_submodule(parameter.rpartition(".")[0])


def write_merged(folder: Path, backbone: Backbone, adapter: AdapterFolder) -> AdapterFolder:
    """Fold what was trained into the towers and write those as Hugging Face folders; the head lies beside.

    Returns how to build the merged model. Raises UserError where the method adds what no weight of the towers can hold.
    """
    for name, update in updates(backbone).items():
        owner, _, attribute = name.rpartition(".")
        setattr(backbone.get_submodule(owner), attribute, fold(update))
    _check_plain(backbone, adapter)
    vision = any(parameter.requires_grad for parameter in backbone.vision.parameters())
    head = {
        name: tensor
        for name, tensor in trained_tensors(backbone).items()
        if name.startswith("head.")
    }
    settings, tower = backbone.checkpoint_settings(), backbone.vision
    folders = {}
    for setting, (model, tokenizer) in backbone.checkpoints().items():
        if setting == "vision" and not vision:
            continue
        folders[setting] = f"{BESIDE}{setting}"
        with quiet():
            model.save_pretrained(folder / setting)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / setting)
        if setting != "text":
            _write_preprocessor(folder / setting, tower)
    if vision and not folders.keys() & {"vision", "weights"}:
        raise UserError(
            "the vision tower trained, and it is no Hugging Face model: there is no folder to write it to"
        )
    save_file(_plain(head), folder / TENSORS)
    model = replace(adapter.cell.backbone, settings={**adapter.cell.backbone.settings, **settings})
    return replace(
        adapter,
        cell=replace(adapter.cell, method=PLAIN, backbone=model),
        weights={**adapter.weights, **folders},
    )


@torch.no_grad()
def fold(update: LowRank) -> nn.Module:
    """The base map with the update added to its weight."""
    delta, weight = update.scale * update.b @ update.a, update.base.get_parameter("weight")
    weight.add_(delta.T if isinstance(update.base, Conv1D) else delta)
    return update.base


def _check_plain(backbone: Backbone, adapter: AdapterFolder) -> None:
    """Refuse a model that holds more than its towers and head."""
    config: BackboneConfig = parse(
        BACKBONES.load(backbone.name), adapter.cell.backbone.settings, backbone.name
    )
    with torch.device("meta"):
        own = config.build(adapter.answers[0], adapter.cell.protocol).state_dict().keys()
    if added := sorted(backbone.state_dict().keys() - own):
        raise UserError(
            f"{adapter.method} cannot be merged: no weight of the model can hold what it adds ({added[0]}, ...)"
        )


def _write_preprocessor(folder: Path, tower: VisionTower) -> None:
    values = {
        "do_resize": True,
        "size": {"height": tower.size, "width": tower.size},
        "resample": int(tower.resample),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(tower.mean),
        "image_std": list(tower.std),
        "image_processor_type": "BlipImageProcessor"
        if folder.name == "weights"
        else "ViTImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(values, indent=2) + "\n", encoding="utf-8"
    )


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
