"""Invariants of every method on every tiny backbone.

Each registered method and backbone is included automatically (see tests/conftest.py).
"""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.conftest import (
    CASES,
    Case,
    accepted,
    backbone_variations,
    method_variations,
    visual,
)
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.run.checkpoint import load_trained, save_trained, trained_tensors
from vlpeft.benchmark.run.cost import parameters

ROUTED = [case for case in CASES if METHODS.entries[case.method].module == "vlpeft.methods.routing"]
RAW = accepted(
    Case(
        c.method,
        c.backbone,
        {},
        {"prefix": "raw"} if "prefix" in {f.name for f in fields(c.config)} else {},
    )
    for c in CASES
)
FUNCTIONS = ("add", "mul", "mul_expand", "project")


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in after if not torch.equal(before[name], after[name])}


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


# Counts.


def test_the_formula_equals_the_count_on_the_cpu_and_on_the_meta_device(any_case: Case) -> None:
    declared, built = declared_and_built(any_case)
    assert built["trainable"] == declared
    with torch.device("meta"):
        assert declared_and_built(any_case) == (declared, built)


def declared_and_built(case: Case) -> tuple[int, dict[str, int]]:
    """Return what the formula says of a fresh backbone, and what the method then makes of it."""
    backbone = case.fresh()
    declared = case.adaptation.trainable(backbone) + count(backbone.head_parameters())
    apply(case.adaptation, backbone)
    return declared, parameters(backbone)


# Training.


def test_only_what_should_train_trains(any_case: Case) -> None:
    """The frozen base is bit-equal after three steps, and every trainable tensor has moved.

    The rule has one exception. A *pretrained* tensor may keep its value if the loss does not depend
    on it, which the test shows by disturbing it: a softmax ignores the bias of the key, and no
    input may have some token type. A tensor that a method or a backbone adds must move, unless the
    backbone declares that no input reaches it.
    """
    torch.manual_seed(0)
    backbone = any_case.fresh()
    before = {id(p): p.detach().clone() for p in (*backbone.parameters(), *backbone.buffers())}
    head = {id(p) for p in backbone.head_parameters()}
    apply(any_case.adaptation, backbone)
    before |= {
        id(buffer): buffer.clone() for buffer in backbone.buffers() if id(buffer) not in before
    }  # those that the method added
    start = copies(trained_tensors(backbone))
    any_case.train(backbone)
    still = trained_tensors(backbone).keys() - moved(start, trained_tensors(backbone))
    for name, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in before or torch.equal(parameter, before[id(parameter)]), (
                f"{name} is frozen and moved"
            )
        elif name in still:
            assert id(parameter) in before, f"{name}, which the method added, has not moved"
            assert id(parameter) not in head or name in backbone.inert, (
                f"{name}, of the head, has not moved"
            )
            assert not matters(any_case, backbone, parameter), (
                f"{name} trains and the loss depends on it, but it has not moved"
            )
    for name, buffer in backbone.named_buffers():
        assert torch.equal(buffer, before[id(buffer)]), f"the buffer {name} moved"


def matters(case: Case, backbone: Backbone, parameter: nn.Parameter) -> bool:
    """Return whether disturbing a tensor changes the loss by more than rounding."""
    torch.manual_seed(0)  # some methods draw noise even in evaluation
    expected = case.losses(backbone)
    with torch.no_grad():
        kept = parameter.clone()
        parameter.add_(torch.randn_like(parameter))
        torch.manual_seed(0)
        found = case.losses(backbone)
        parameter.copy_(kept)
    return not torch.allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("case", RAW, ids=str)
def test_the_image_reaches_the_loss(case: Case) -> None:
    """With a raw visual prefix every method sees the image."""
    backbone = case.build()
    items = case.items()
    features = visual(backbone)([item.images for item in items]).detach().requires_grad_()
    loss, _ = backbone.loss(
        features, [item.prompt for item in items], [item.targets for item in items]
    )
    loss.backward()
    assert features.grad is not None
    assert (features.grad.abs().amax((1, 2)) > 0).all(), (
        "an image without influence on its own loss"
    )


def test_gradients_do_not_depend_on_the_micro_batch(case: Case) -> None:
    """They are the gradients of the mean over all terms of the loss, for any micro-batch."""
    whole, parts = without_dropout(case.build()), without_dropout(case.build())
    state, again = case.train(whole, 1), case.train(parts, 1, micro_batch=3)
    assert again.curve[0][1] == pytest.approx(state.curve[0][1], rel=1e-6)
    grads = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    others = {name: p.grad for name, p in parts.named_parameters() if p.grad is not None}
    assert grads.keys() == others.keys()
    direct = without_dropout(case.build())
    items = case.items()
    summed, terms = direct.loss(
        visual(direct)([i.images for i in items]),
        [i.prompt for i in items],
        [i.targets for i in items],
    )
    (summed / terms).backward()
    means = {name: p.grad for name, p in direct.named_parameters() if p.grad is not None}
    scale = torch.stack([grad.norm() for grad in grads.values()]).norm()
    for name, grad in grads.items():
        for other in (others[name], means[name]):
            assert (grad - other).norm() <= 2e-6 * grad.norm() + 1e-6 * scale, name


def without_dropout(backbone: Backbone) -> Backbone:
    """Switch dropout off, because its draws depend on the shapes of the parts of a batch."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return backbone


# Outputs.


def test_predicting_twice_gives_the_same_texts(case: Case) -> None:
    backbone = case.build()
    case.train(backbone, 1)
    examples = case.examples()
    features = visual(backbone)([e.images for e in examples]).detach()
    first, second = (backbone.predict(features, [e.question for e in examples]) for _ in range(2))
    assert first == second
    assert [
        backbone.predict(features[i : i + 1], [e.question])[0] for i, e in enumerate(examples)
    ] == first


@pytest.mark.parametrize("case", [*CASES, *backbone_variations()], ids=str)
def test_a_sample_does_not_see_its_neighbours(case: Case) -> None:
    """The loss of a padded batch is the sum of the losses of its samples.

    The scores of the answers equal those of a sample alone.
    """
    backbone = case.build()
    case.train(backbone, 1)
    alone = case.losses(backbone)
    items = case.items()
    with torch.no_grad():
        for i, j in ((0, 2), (3, 0), (1, 3)):
            torch.testing.assert_close(
                case.loss(backbone, [items[i], items[j]]), alone[i] + alone[j], rtol=1e-5, atol=1e-5
            )
        if hasattr(backbone, "logits"):
            features, prompts = (
                visual(backbone)([item.images for item in items]),
                [item.prompt for item in items],
            )
            together = backbone.logits(features, prompts)
            for i in range(4):
                torch.testing.assert_close(
                    backbone.logits(features[i : i + 1], prompts[i : i + 1])[0],
                    together[i],
                    rtol=1e-5,
                    atol=1e-5,
                )


def test_the_trained_tensors_restore_the_model(case: Case, tmp_path: Path) -> None:
    """Loaded into a model built from another seed, the saved tensors give the same bits.

    No random part of the model is missing from what is saved.
    """
    backbone = case.build(seed=0)
    case.train(backbone, 2)
    size = save_trained(tmp_path / "trained.safetensors", backbone)
    assert (tmp_path / "trained.safetensors").stat().st_size == size
    restored = case.build(seed=1)
    load_trained(restored, load_file(tmp_path / "trained.safetensors"))
    assert torch.equal(case.losses(restored), case.losses(backbone))


def test_other_tensors_are_refused(case: Case) -> None:
    backbone = case.build()
    with pytest.raises(KeyError, match="different tensors"):
        load_trained(backbone, {**trained_tensors(backbone), "other": torch.zeros(1)})


# Differences between methods.


def fingerprint(case: Case) -> tuple[dict[str, torch.Size], Tensor]:
    backbone = case.build()
    names = {name: tensor.shape for name, tensor in trained_tensors(backbone).items()}
    case.train(backbone, 1)
    return names, case.losses(backbone)


@pytest.mark.parametrize("backbone", BACKBONES.entries)
def test_any_two_methods_differ(backbone: str) -> None:
    """They differ in trainable names or in outputs after one step from the same seed."""
    made = {case.method: fingerprint(case) for case in CASES if case.backbone == backbone}
    for one, other in combinations(made, 2):
        same = made[one][0] == made[other][0] and torch.equal(made[one][1], made[other][1])
        assert not same, f"{one} and {other} are the same method on {backbone}"


@pytest.mark.parametrize("case", ROUTED, ids=str)
def test_any_two_routing_functions_differ(case: Case) -> None:
    plain = Case(base_of(case), case.backbone)
    made = {"none": fingerprint(plain)} | {
        f: fingerprint(Case(case.method, case.backbone, {"function": f})) for f in FUNCTIONS
    }
    for one, other in combinations(made, 2):
        assert made[one][0] == made[other][0], "a routing function adds or renames parameters"
        assert not torch.allclose(made[one][1], made[other][1], rtol=1e-6), (
            f"{one} and {other} compute the same"
        )


@pytest.mark.parametrize(
    "case",
    ROUTED
    + [
        c
        for c in method_variations()
        if METHODS.entries[c.method].module == "vlpeft.methods.routing"
    ],
    ids=str,
)
def test_routing_adds_no_parameter(case: Case) -> None:
    """For one seed, a routed method and its plain one start from the same bits."""
    plain = Case(
        base_of(case),
        case.backbone,
        {k: v for k, v in case.settings.items() if k not in ("function", "variant")},
    )
    ours, theirs = trained_tensors(case.build()), trained_tensors(plain.build())
    assert ours.keys() == theirs.keys()
    assert not moved(theirs, ours)


def base_of(case: Case) -> str:
    """Return the registered method from which a routed one derives."""
    return next(cls.name for cls in METHODS.load(case.method).__mro__[1:] if "name" in vars(cls))
