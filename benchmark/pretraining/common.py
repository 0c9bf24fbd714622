"""The parts that all tiny towers share: sizes, schedule, training loop and storage."""

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
INIT = 0.05  # transformers uses 0.02 for wide models; a narrow one learns faster with more
HELD_OUT = 10**9  # index of the first held-out scene; training never gets that far
LOG_EVERY = 100  # steps
Scalars = dict[str, float]


@dataclass(frozen=True)
class TrainingSchedule:
    """The length and learning rate of pretraining; the default takes half an hour on one core."""

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
    """Run the `with` block in one thread and restore torch's settings after it.

    One thread gives the same order of sums everywhere. Denormal numbers are off, for speed. The
    random state is restored, too.
    """
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
    """Train a model with AdamW, a linear warm-up and a cosine schedule.

    Args:
        name: The name of the tower, for the progress.
        model: The model; it is in evaluation mode at the end.
        loss: Returns the loss of a step; it draws the batch itself.
        steps: The number of steps.
        lr: The highest learning rate.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = max(1, min(100, steps // 10))
    for step in _progress(name, steps):
        factor = min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        value = loss(step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not sys.stdout.isatty() and (step + 1) % LOG_EVERY == 0:
            print(f"{name}: step {step + 1} of {steps}, loss {value.item():.3f}", flush=True)
    model.eval()


def _progress(name: str, steps: int) -> Iterable[int]:
    """Return the steps, with a progress bar on a terminal; elsewhere `train` prints lines."""
    if sys.stdout.isatty():
        return track(range(steps), description=name)
    return range(steps)


def save(model: Any, folder: Path) -> None:
    """Store the weights in half precision, and set the config so that they load as float32.

    Half precision halves the files in the repository; CPUs compute in float32.
    """
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float32"})


def load_tower(cls: Any, folder: Path) -> Any:
    """Load a stored tower as others will load it, so that the shipped weights are measured."""
    return cls.from_pretrained(folder, dtype=torch.float32).eval()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file with sorted keys, so that equal values give equal bytes."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
