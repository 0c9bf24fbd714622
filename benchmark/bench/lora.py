"""A training step of our LoRA beside Hugging Face peft's, on one RoBERTa tower: forward, backward, AdamW."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.backbones import BACKBONES
from benchmark.backbones.base import TINY, Backbone
from benchmark.backbones.weights import Source
from benchmark.bench import Row, Step, alternate
from benchmark.config import Protocol, parse
from benchmark.errors import UserError
from benchmark.grid import METHODS
from benchmark.method import apply, count

RANK, ALPHA = 8, 16.0
LAYER = r".*encoder\.layer\.\d+\."
TARGETS: Mapping[tuple[str, ...], str] = {  # our roles -> the modules as peft names them
    ("query", "value"): LAYER + r"attention\.self\.(query|value)",
    ("query", "key", "value", "output", "up", "down"): LAYER
    + r"(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)",
}


def run(tiny: bool, device: str, repeats: int) -> list[Row]:
    """One row for each choice of targets."""
    return [_row(roles, pattern, tiny, torch.device(device), repeats) for roles, pattern in TARGETS.items()]


def _row(roles: tuple[str, ...], pattern: str, tiny: bool, device: torch.device, repeats: int) -> Row:
    ours = _backbone(tiny)
    theirs = copy.deepcopy(ours.text)
    apply(parse(METHODS.load("lora"), {"rank": RANK, "alpha": ALPHA, "targets": list(roles)}, "lora"), ours)
    _inject_peft(theirs, pattern)
    towers = [tower.to(device).train() for tower in (ours.text, theirs)]
    if len({count(_trained(tower)) for tower in towers}) != 1:
        raise RuntimeError("the two sides train different numbers of parameters")
    embeds = torch.randn(8, 32, towers[0].config.hidden_size, device=device)
    mine, other, ratio = alternate(_step(towers[0], embeds), _step(towers[1], embeds), repeats)
    kept = [_kept(tower, embeds) for tower in towers]
    shape = "tiny" if tiny else "roberta-base"
    return Row(f"lora {','.join(roles)} ({shape}, {device.type})", mine, other, ratio, kept[0] / kept[1])


def _backbone(tiny: bool) -> Backbone:
    """The shipped tower, or one of RoBERTa-base's shape with random weights and the shipped tokenizer: speed needs no others."""
    with TemporaryDirectory() as folder:
        shutil.copytree(TINY / "roberta", folder, dirs_exist_ok=True)
        Source.parse("roberta-base", tiny="roberta").config().save_pretrained(folder)
        settings = {"text": "tiny" if tiny else f"random:{folder}", "vision": "tiny", "prefix": "none"}
        backbone: Backbone = parse(BACKBONES.load("vit_roberta"), settings, "vit_roberta").build(("no", "yes"), Protocol(lr=1e-3, steps=1))
        return backbone


def _inject_peft(tower: nn.Module, pattern: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("bench lora compares with Hugging Face peft; install it: `pip install peft`") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a property that transformers has renamed
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=pattern, lora_dropout=0.0), tower)


def _step(tower: Any, embeds: Tensor) -> Step:
    optimizer = torch.optim.AdamW(_trained(tower), lr=1e-4)

    def step() -> None:
        torch.autograd.backward(_loss(tower, embeds))
        optimizer.step()
        optimizer.zero_grad()
        if embeds.is_cuda:
            torch.cuda.synchronize(embeds.device)

    return step


def _loss(tower: Any, embeds: Tensor) -> Tensor:
    loss: Tensor = tower(inputs_embeds=embeds).last_hidden_state.square().mean()
    return loss


def _trained(tower: nn.Module) -> list[nn.Parameter]:
    return [p for p in tower.parameters() if p.requires_grad]


def _kept(tower: nn.Module, embeds: Tensor) -> int:
    """Bytes that the forward keeps for the backward, weights aside; a storage kept twice counts once."""
    weights = {p.untyped_storage().data_ptr() for p in tower.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(tower, embeds)
    return sum(size for place, size in kept.items() if place not in weights)
