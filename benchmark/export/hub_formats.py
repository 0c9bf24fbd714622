"""Two formats that are read without vlpeft: peft's folder for LoRA, and merged weights."""

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
from transformers import Conv1D

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.weights import quiet
from vlpeft.benchmark.cells.cell import Choice
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig
from vlpeft.benchmark.contract.linear import Mergeable, add_to_weight
from vlpeft.benchmark.contract.method import LowRank, LowRankUpdate, PerTask
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.export.base_code import base_lines
from vlpeft.benchmark.export.folder import IN_FOLDER, TENSORS, AdapterFolder
from vlpeft.benchmark.run.checkpoint import trained_tensors

# The method of a merged model: it adds nothing, because only the head is outside the towers.
PLAIN = Choice("head_only", {})
HEAD = "head.safetensors"
PEFT = "base_model.model."  # the prefix of module names in peft's files


def low_rank_updates(backbone: Backbone) -> dict[str, LowRank]:
    """Return the low-rank updates in a backbone, by the names of their modules.

    Raises:
        UserError: An update cannot be written as one pair of matrices.
    """
    if any(isinstance(module, PerTask) for module in backbone.modules()):
        raise UserError(
            "per_task: every task has its own weights here,"
            " which a single model without vlpeft cannot hold"
        )
    return {
        name: module.low_rank()
        for name, module in backbone.named_modules()
        if isinstance(module, LowRankUpdate)
    }


class Loading(NamedTuple):
    """The part of the card about loading a folder in peft's format."""

    python: tuple[str, ...] = ()  # lines of code that make `base`
    notes: tuple[str, ...] = ()


NOTHING = Loading()


def write_peft(folder: Path, backbone: Backbone, adapter: AdapterFolder) -> Loading:
    """Write adapter_config.json and adapter_model.safetensors, for `PeftModel.from_pretrained`.

    The updates of a fused projection (query, key and value in one matrix) become one update. Its
    rank is the sum of theirs, and B is zero outside their blocks: the function is the same. Trained
    LayerNorms become `modules_to_save`. No Hugging Face model has the head, so it is written to
    head.safetensors.

    Returns:
        The part of the card about loading.

    Raises:
        UserError: The method trains something that peft's LoRA cannot hold.
    """
    found = low_rank_updates(backbone)
    if not found:
        raise UserError(
            f"peft's format is for LoRA, and {adapter.method} adds no low-rank update;"
            " leave `--format peft` out"
        )
    setting, checkpoint = next(iter(backbone.checkpoints().items()))
    names = {
        id(module): name for name, module in checkpoint.model.named_modules(remove_duplicate=False)
    }
    low_rank = {names[id(backbone.get_submodule(place))]: update for place, update in found.items()}
    saved: dict[str, nn.Module] = {}  # modules of the Hugging Face model that trained as a whole
    head: dict[str, Tensor] = {}
    for name, tensor in _trained_without_updates(backbone, found).items():
        owner = backbone.get_submodule(name.rpartition(".")[0])
        if id(owner) in names:
            saved[names[id(owner)]] = owner
        else:
            head[name] = tensor
    save_file(_contiguous(_peft_tensors(low_rank, saved)), folder / "adapter_model.safetensors")
    config = _peft_config(adapter.weights.get(setting, ""), low_rank, sorted(saved))
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    python = base_lines(checkpoint.model, adapter.base.get(setting, ""))
    if not head:
        return Loading(python)
    save_file(_contiguous(head), folder / HEAD)
    return Loading(python, (_head_note(head),))


def _head_note(head: Mapping[str, Tensor]) -> str:
    modules = sorted({f"`{'.'.join(name.split('.')[:2])}`" for name in head})
    return (
        f"`{HEAD}` holds trained modules that are not part of that model,"
        f" so peft cannot load them: {', '.join(modules)}."
    )


def _trained_without_updates(backbone: Backbone, found: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """Return the trained tensors that are not part of the low-rank updates.

    Raises:
        UserError: A map with an update is itself trained, too; peft's LoRA cannot hold that.
    """
    rest = trained_tensors(backbone)
    for place in found:
        own = [name for name in rest if name.startswith(f"{place}.")]
        inside = [name for name in own if name.startswith(f"{place}.base.")]
        if inside:
            raise UserError(
                f"peft's LoRA cannot hold {inside[0]}, which `also_train` trained too;"
                " leave `--format peft` out"
            )
        rest = {name: tensor for name, tensor in rest.items() if name not in own}
    return rest


def _peft_tensors(
    low_rank: Mapping[str, LowRank], saved: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Return the updates, and the modules that are saved as a whole, under peft's names."""
    tensors = {}
    for name, update in low_rank.items():
        tensors[f"{PEFT}{name}.lora_A.weight"] = update.a
        tensors[f"{PEFT}{name}.lora_B.weight"] = update.b
    for name, module in saved.items():
        for key, value in module.state_dict().items():
            tensors[f"{PEFT}{name}.{key}"] = value
    return tensors


def _peft_config(base: str, low_rank: Mapping[str, LowRank], saved: list[str]) -> dict[str, Any]:
    """Return peft's LoraConfig as JSON.

    It has one rank and one alpha, and patterns for the modules that differ. The scale of an update
    is alpha / rank.
    """
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


def write_merged(folder: Path, backbone: Backbone, adapter: AdapterFolder) -> AdapterFolder:
    """Fold the trained weights into the towers and write these as Hugging Face folders.

    The head is written to the adapter's tensors.

    Returns:
        The description of the merged model.

    Raises:
        UserError: The method adds something that no weight of the towers can hold.
    """
    mergeable = {
        name: module for name, module in backbone.named_modules() if isinstance(module, Mergeable)
    }
    for name, module in mergeable.items():
        _put(backbone, name, module.merge())
    for name, update in low_rank_updates(backbone).items():
        _put(backbone, name, fold(update))
    _refuse_added_weights(backbone, adapter)
    head = {
        name: tensor
        for name, tensor in trained_tensors(backbone).items()
        if name.startswith("head.")
    }
    settings = backbone.checkpoint_settings()
    folders = _write_towers(folder, backbone)
    save_file(_contiguous(head), folder / TENSORS)
    model = replace(adapter.cell.backbone, settings={**adapter.cell.backbone.settings, **settings})
    return replace(
        adapter,
        cell=replace(adapter.cell, method=PLAIN, backbone=model),
        weights={**adapter.weights, **folders},
    )


def _put(backbone: Backbone, name: str, module: nn.Module) -> None:
    """Replace the submodule of this name."""
    owner, _, attribute = name.rpartition(".")
    setattr(backbone.get_submodule(owner), attribute, module)


def _write_towers(folder: Path, backbone: Backbone) -> dict[str, str]:
    """Write the towers; leave out a frozen vision tower.

    Returns:
        Setting of the backbone -> folder of its tower, relative to the adapter's folder.
    """
    tower = backbone.vision  # before `checkpoints`, which may change the model
    vision_trained = any(parameter.requires_grad for parameter in tower.parameters())
    folders: dict[str, str] = {}
    for setting, (model, tokenizer) in backbone.checkpoints().items():
        if setting == "vision" and not vision_trained:
            continue
        folders[setting] = f"{IN_FOLDER}{setting}"
        with quiet():
            model.save_pretrained(folder / setting)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / setting)
        if setting != "text":
            _write_preprocessor(folder / setting, tower)
    if vision_trained and not folders.keys() & {"vision", "weights"}:
        raise UserError(
            "the vision tower trained, and it is not a Hugging Face model:"
            " there is no folder to write it to"
        )
    return folders


@torch.no_grad()
def fold(update: LowRank) -> nn.Module:
    """Return the base map with the update added to its weight: W + scale * B A."""
    return add_to_weight(update.base, update.scale * update.b @ update.a)


def _refuse_added_weights(backbone: Backbone, adapter: AdapterFolder) -> None:
    """Raise UserError if the model holds more than its towers and head."""
    config: BackboneConfig = parse(
        BACKBONES.load(backbone.name), adapter.cell.backbone.settings, backbone.name
    )
    with torch.device("meta"):
        own = config.build(adapter.answers[0], adapter.cell.protocol).state_dict().keys()
    added = sorted(backbone.state_dict().keys() - own)
    if added:
        raise UserError(
            f"{adapter.method} cannot be merged: no weight of the model can hold what it adds"
            f" ({added[0]}, ...)"
        )


def _write_preprocessor(folder: Path, tower: VisionTower) -> None:
    processor = "ViTImageProcessor"
    if folder.name == "weights":
        processor = "BlipImageProcessor"
    values = {
        "do_resize": True,
        "size": {"height": tower.size, "width": tower.size},
        "resample": int(tower.resample),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(tower.mean),
        "image_std": list(tower.std),
        "image_processor_type": processor,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(values, indent=2) + "\n", encoding="utf-8"
    )


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that safetensors can write: on the CPU, contiguous, without shared memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
