"""A training step of our LoRA, compared with Hugging Face peft's, on one RoBERTa tower."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlpeft.benchmark.bench._models import adapt_backbone, protocol
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.bench._sides import TimedStep, kept_bytes, time_row, turns
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.errors import UserError

BENCH = "lora"
RANK, ALPHA = 8, 16.0
LAYER = r".*encoder\.layer\.\d+\."
TARGETS: Mapping[tuple[str, ...], str] = {  # our roles -> the modules as peft names them
    ("query", "value"): LAYER + r"attention\.self\.(query|value)",
    ("query", "key", "value", "output", "up", "down"): LAYER
    + r"(attention\.self\.(query|key|value)|attention\.output\.dense"
    + r"|intermediate\.dense|output\.dense)",
}


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Compare time and kept bytes for each choice of targets."""
    for roles in TARGETS:
        ours, theirs = (
            partial(step, roles, setting.quick, False),
            partial(step, roles, setting.quick, True),
        )
        towers = [tower(roles, setting.quick, peft) for peft in (False, True)]
        if len({count(_trained(each)) for each in towers}) != 1:
            raise RuntimeError("the two sides train different numbers of parameters")
        name = ", ".join(roles)
        kept = [kept_bytes(partial(_loss, each, _inputs(each)), each) for each in towers]
        del towers
        yield time_row(
            BENCH,
            f"{name}, step vs peft",
            turns(ours, theirs, setting),
            setting,
            "at most",
            1.0,
        )
        yield row(
            BENCH, f"{name}, kept for the backward", "bytes", [(kept[0], kept[1])], "at most", 1.0
        )


def tower(roles: tuple[str, ...], quick: bool, peft: bool) -> Any:
    """Return a RoBERTa with low-rank updates, ours or peft's."""
    settings = {"rank": RANK, "alpha": ALPHA, "targets": list(roles)}
    made = adapt_backbone(
        "vit_roberta", None if peft else "lora", settings, protocol(1), quick=quick
    ).text
    if peft:
        _inject_peft(made, TARGETS[roles])
    return made.train()


def step(roles: tuple[str, ...], quick: bool, peft: bool, device: torch.device) -> TimedStep:
    """Return one step: forward, backward, AdamW."""
    made = tower(roles, quick, peft).to(device)
    embeds, optimizer = _inputs(made), torch.optim.AdamW(_trained(made), lr=1e-4)

    def whole() -> None:
        torch.autograd.backward(_loss(made, embeds))
        optimizer.step()
        optimizer.zero_grad()

    return whole


def _inject_peft(tower: nn.Module, pattern: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            "bench lora compares with Hugging Face peft; install it: `pip install peft`"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # peft reads a property that transformers has renamed
        inject_adapter_in_model(
            LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=pattern, lora_dropout=0.0),
            tower,
        )


def _inputs(tower: Any) -> Tensor:
    return torch.randn(8, 32, tower.config.hidden_size, device=next(tower.parameters()).device)


def _loss(tower: Any, embeds: Tensor) -> Tensor:
    loss: Tensor = tower(inputs_embeds=embeds).last_hidden_state.square().mean()
    return loss


def _trained(tower: nn.Module) -> list[nn.Parameter]:
    return [p for p in tower.parameters() if p.requires_grad]
