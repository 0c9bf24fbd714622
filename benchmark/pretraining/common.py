"""What all tiny towers share: their size, how long each is trained, the training loop and how weights are stored."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

WIDTH, HEADS = 128, 4
INIT = 0.05  # HF's 0.02 is for wide models; a narrow one learns sooner with more
HELD_OUT = 10**9  # index of the first scene that training never reaches
LOG_EVERY = 100
Scalars = dict[str, float]


@dataclass(frozen=True)
class TrainingSchedule:
    """How long to pretrain: the default takes about half an hour on one core."""

    vit_steps: int = 2400
    roberta_steps: int = 1000
    gpt2_steps: int = 600
    blip_steps: int = 1000
    bart_steps: int = 1000
    batch: int = 64
    vit_lr: float = 1e-3
    roberta_lr: float = 2e-3
    gpt2_lr: float = 2e-3
    blip_lr: float = 1e-3
    bart_lr: float = 1e-3
    tokenizer_texts: int = 5000
    held_out: int = 1000


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, for equal sums everywhere; denormals off, for speed; torch's random state put back at the end."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)


def train(
    name: str, model: nn.Module, loss: Callable[[int], Tensor], steps: int, lr: float
) -> None:
    """AdamW with warm-up and cosine; `loss(step)` draws the batch itself."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = max(1, min(100, steps // 10))
    for step in _progress(name, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(
                (step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps)
            )
        value = loss(step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not sys.stdout.isatty() and (step + 1) % LOG_EVERY == 0:
            print(f"{name}: step {step + 1} of {steps}, loss {value.item():.3f}", flush=True)
    model.eval()


def _progress(name: str, steps: int) -> Iterable[int]:
    """A bar on a terminal; elsewhere `train` writes lines."""
    return track(range(steps), description=name) if sys.stdout.isatty() else range(steps)


def save(model: Any, folder: Path) -> None:
    """Store half-precision weights, halving what is committed, but have them load as float32: that is what CPUs compute in."""
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float32"})


def store_tower(cls: Any, folder: Path) -> Any:
    """The tower as others will load it: what is measured is what is shipped."""
    return cls.from_pretrained(folder, dtype=torch.float32).eval()


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
