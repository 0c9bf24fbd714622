"""The training loop against the same steps written out, and the orders of items and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from tests.conftest import ANSWERS, Case, visual
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.run.batches import Feed, batches
from vlpeft.benchmark.run.checkpoint import trained_tensors
from vlpeft.benchmark.run.loop import start, train
from vlpeft.benchmark.run.optimizer import build_optimizer
from vlpeft.benchmark.tasks.base import Item

LORA = Case("lora", "vit_roberta", {"also_train": ["norms"]})
PROTOCOL = Protocol(
    lr=0.02,
    steps=5,
    batch_size=3,
    schedule="linear",
    warmup_steps=2,
    weight_decay=0.3,
    clip_norm=0.05,
    betas=(0.8, 0.9),
    eps=1e-3,
    max_input_tokens=24,
)


def feed(items: Sequence[Item], protocol: Protocol = PROTOCOL, seen: object = None) -> Feed:
    return Feed(items, seen, protocol, ANSWERS)  # type: ignore[arg-type]


def literal_adamw(
    parameters: dict[str, Tensor], grads: dict[str, Tensor], state: dict[str, list[Tensor]], t: int
) -> None:
    """Make step t, from 1, of Loshchilov and Hutter 2019, Algorithm 2, in place."""
    (one, two), rate = PROTOCOL.betas, PROTOCOL.lr * (0.0, 0.5, 1.0, 2 / 3, 1 / 3)[t - 1]
    for name, p in parameters.items():
        g = grads[name]
        m, v = state.setdefault(name, [torch.zeros_like(p), torch.zeros_like(p)])
        m.copy_(one * m + (1 - one) * g)
        v.copy_(two * v + (1 - two) * g * g)
        decay = PROTOCOL.weight_decay if p.ndim > 1 else 0.0
        step = (m / (1 - one**t)) / ((v / (1 - two**t)).sqrt() + PROTOCOL.eps)
        p.copy_(p - rate * decay * p - rate * step)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_loop_equals_its_steps_written_out(micro_batch: int | None) -> None:
    items = LORA.items()
    backbone = LORA.build()
    state = start(backbone, PROTOCOL, 3)
    train(state, [feed(items, seen=visual(backbone))], 7, micro_batch, lambda _: None)

    other = LORA.build()
    parameters = {name: p for name, p in other.named_parameters() if p.requires_grad}
    moments: dict[str, list[Tensor]] = {}
    losses = []
    clipped = 0
    for t, (_, batch) in enumerate(batches([feed(items)], 7, 0, 5), start=1):
        mean = LORA.loss(other, batch) / (len(batch) * len(ANSWERS))
        losses.append(mean.item())
        grads = dict(
            zip(parameters, torch.autograd.grad(mean, list(parameters.values())), strict=True)
        )
        norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
        clipped += int(norm > PROTOCOL.clip_norm)
        scale = min(1.0, PROTOCOL.clip_norm / norm.item())
        with torch.no_grad():
            literal_adamw(parameters, {k: g * scale for k, g in grads.items()}, moments, t)
    assert clipped
    assert [loss for _, loss in state.curve] == pytest.approx(losses, rel=1e-4)
    expected = trained_tensors(other)
    for name, tensor in trained_tensors(backbone).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("decays", "exempt"),
    [
        ("matrices", lambda name, p: p.ndim == 1),
        ("all", lambda name, p: False),
        ("not_biases", lambda name, p: name.endswith("bias")),
    ],
)
def test_what_decays(decays: str, exempt) -> None:
    backbone = Case("full_finetuning", "vit_roberta").build()
    named = {id(p): name for name, p in backbone.named_parameters() if p.requires_grad}
    groups = build_optimizer(backbone, replace(PROTOCOL, decays=decays)).param_groups
    found = {named[id(p)]: (p, g["weight_decay"]) for g in groups for p in g["params"]}
    assert sorted(found) == sorted(named.values())
    for name, (p, decay) in found.items():
        assert decay == (0.0 if exempt(name, p) else 0.3), name


def test_the_order_of_items() -> None:
    """One permutation an epoch, drawn from seed x 1,000,003 + epoch."""
    made = [batch for _, batch in batches([feed(range(8))], 5, 0, 6)]  # type: ignore[arg-type]
    expected = []
    for epoch in (0, 1):
        generator = torch.Generator().manual_seed(5 * 1_000_003 + epoch)
        order = torch.randperm(8, generator=generator).tolist()
        expected += [order[0:3], order[3:6], order[6:8]]
    assert made == expected


def test_the_order_of_tasks_is_that_of_the_release() -> None:
    """VL-Adapter: each task as often as it has batches, shuffled by the epoch, popped at the end.

    The batches of a task follow each other in the order of its own loader.
    """
    feeds = [feed([(task, i) for i in range(n)]) for task, n in enumerate((9, 5, 2))]  # type: ignore[list-item]
    per_epoch = 3 + 2 + 1
    made = [batch for _, batch in batches(feeds, 5, 0, 3 * per_epoch)]
    for epoch in range(3):
        tasks = [0, 0, 0, 1, 1, 2]
        Random(epoch).shuffle(tasks)
        orders = [
            [b for _, b in batches([f], 5, epoch * f.batches, (epoch + 1) * f.batches)]
            for f in feeds
        ]
        for batch in made[epoch * per_epoch : (epoch + 1) * per_epoch]:
            assert batch == orders[tasks.pop()].pop(0)


def test_the_order_of_items_sorted_by_length() -> None:
    """Windows of two batches, each sorted by length, its whole batches shuffled."""
    items = [Item((str(i),), "x" * (i * 5 % 11), {"ab": 1.0, "a" * (i % 7): 0.5}) for i in range(8)]
    recipe = replace(PROTOCOL, length_window=2)
    made = [batch for _, batch in batches([feed(items, recipe)], 3, 0, 3)]
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    order = torch.randperm(8, generator=generator).tolist()

    def length(i: int) -> int:
        return i * 5 % 11 + max(2, i % 7)

    expected = []
    for part in (order[:6], order[6:]):
        window = sorted(part, key=length)
        whole = [window[at : at + 3] for at in range(0, len(window) - 2, 3)]
        expected += [whole[i] for i in torch.randperm(len(whole), generator=generator).tolist()]
        if len(window) % 3:
            expected.append(window[len(whole) * 3 :])
    assert [[int(item.images[0]) for item in batch] for batch in made] == expected
