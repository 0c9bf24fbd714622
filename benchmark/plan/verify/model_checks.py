"""Checks of the backbones on their tiny towers: features, losses, gradients, texts, rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.plan.verify import literal
from vlpeft.benchmark.plan.verify.check import BFLOAT16, CUDA_FLOAT32, FLOAT32, Check, JSONValue
from vlpeft.benchmark.plan.verify.images import SCENES, digest, scene
from vlpeft.benchmark.plan.verify.models import (
    FORMS,
    METHODS,
    PROTOCOL,
    QUESTIONS,
    Built,
    Form,
    built,
    fingerprint_by_kind,
    make,
    pixels,
    set_dropout,
    stir,
    targets,
    without_dropout,
)
from vlpeft.benchmark.plan.verify.waves import fingerprint
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.loop import autocast, start, train
from vlpeft.benchmark.tasks.base import Item

BEAMS = 3
# Gradients pass through every layer twice, and bfloat16 rounds each time.
BFLOAT16_GRADIENTS = 2 * BFLOAT16
ModelMaker = Callable[[], Built]  # builds the model when a check first measures it


def checks(name: str, device: torch.device) -> Iterator[Check]:
    """Yield the checks of a backbone.

    They come in the order in which a fault shows first: pixels, features, losses, texts.
    """
    single = _float32_tolerance(device)
    for form in FORMS[name]:
        yield Check(f"{form.label}pixels", partial(pixel_digests, form, device))
        yield Check(f"{form.label}image features", partial(features, form, device), single)
        for method in METHODS:
            yield from _method_checks(form, method, device)
        # A method that uses fused attention, and one that looks into the attention.
        for method in ("lora", "p_adapter"):
            acts = partial(dropout_acts, form, method, device)
            title = f"{form.label}{method}: dropout of attention acts in training"
            yield Check(title, acts, expected=lambda: True)
        title = f"{form.label}lora: losses of {PROTOCOL.steps} training steps"
        yield Check(title, partial(training, form, device), single)


def _method_checks(form: Form, method: str, device: torch.device) -> Iterator[Check]:
    name = f"{form.label}{method}"
    model: ModelMaker = partial(built, form, method, device.type)
    yield Check(f"{name}: initial weights", lambda: model().initial, FLOAT32)
    yield from _loss_checks(name, model, device)
    yield Check(f"{name}: logits", lambda: logits(model()), _float32_tolerance(device))
    if form.ranks:
        yield from _ranking_checks(name, model, device)
    if form.writes:
        yield from _text_checks(name, model)


def _loss_checks(name: str, model: ModelMaker, device: torch.device) -> Iterator[Check]:
    single = _float32_tolerance(device)
    yield Check(f"{name}: losses", lambda: losses(model(), "fp32"), single)
    yield Check(
        f"{name}: losses, bfloat16",
        lambda: losses(model(), "bf16"),
        BFLOAT16,
        against=f"{name}: losses",
    )
    yield Check(f"{name}: gradients", lambda: gradients(model(), "fp32"), single)
    yield Check(
        f"{name}: gradients, bfloat16",
        lambda: gradients(model(), "bf16"),
        BFLOAT16_GRADIENTS,
        against=f"{name}: gradients",
    )


def _ranking_checks(name: str, model: ModelMaker, device: torch.device) -> Iterator[Check]:
    single = _float32_tolerance(device)
    yield Check(f"{name}: ranking", lambda: ranking(model()), single)
    yield Check(
        f"{name}: ranking = answers one by one",
        lambda: ranking(model()),
        single,
        lambda: ranking_alone(model()),
    )


def _text_checks(name: str, model: ModelMaker) -> Iterator[Check]:
    yield Check(f"{name}: greedy", lambda: texts(model(), 1))
    yield Check(
        f"{name}: greedy = without a cache",
        lambda: texts(model(), 1),
        expected=lambda: texts_alone(model()),
    )
    yield Check(f"{name}: beams", lambda: texts(model(), BEAMS))


def _float32_tolerance(device: torch.device) -> float:
    if device.type == "cuda":
        return CUDA_FLOAT32
    return FLOAT32


def pixel_digests(form: Form, device: torch.device) -> JSONValue:
    """Return digests of the tower's input: a whole scene, and a part of it, which is resized."""
    tower = built(form, "lora", device.type).backbone.vision
    return [digest(transform(each, tower)) for each in (scene(0), scene(0)[:40, :56])]


def features(form: Form, device: torch.device) -> JSONValue:
    """Return fingerprints of the visual features of each scene."""
    found = built(form, "lora", device.type).visual
    return [fingerprint(name, each) for name, each in zip(SCENES, found, strict=True)]


def losses(model: Built, precision: str) -> JSONValue:
    """Return the mean loss of all scenes together, and that of each alone."""
    backbone = model.backbone
    prompts, wanted = targets(backbone.name)
    batches = [slice(None), *(slice(i, i + 1) for i in range(len(prompts)))]
    found = []
    with torch.no_grad(), autocast(backbone.device, precision):
        for rows in batches:
            total, terms = backbone.loss(model.visual[rows], prompts[rows], wanted[rows])
            found.append(float(total) / terms)
    return found


def gradients(model: Built, precision: str) -> JSONValue:
    """Return fingerprints of the gradients of the loss."""
    backbone = model.backbone
    backbone.zero_grad()
    prompts, wanted = targets(backbone.name)
    with autocast(backbone.device, precision):
        total, terms = backbone.loss(model.visual, prompts, wanted)
    (total / terms).backward()
    found = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad()
    return fingerprint_by_kind(found)


@torch.inference_mode()
def logits(model: Built) -> JSONValue:
    """Return the scores of all answers, or fingerprints of those of the first token."""
    backbone = model.backbone
    prompts, _ = targets(backbone.name)
    if backbone.name == "vit_roberta":
        return backbone.logits(model.visual, prompts).double().tolist()
    found = []
    for name, visual, prompt in zip(SCENES, model.visual, prompts, strict=True):
        row = literal.writer(backbone, visual[None], prompt)([])[0]
        found.append(fingerprint(name, row))
    return found


def texts(model: Built, beams: int) -> JSONValue:
    """Return captions of the scenes, or answers to questions if the backbone reads any."""
    backbone = model.backbone
    prompts, _ = targets(backbone.name)
    backbone.follow(replace(PROTOCOL, beams=beams, answering="generate"), backbone.answers)
    try:
        return backbone.predict(model.visual, prompts)
    finally:
        backbone.follow(PROTOCOL, backbone.answers)


def texts_alone(model: Built) -> JSONValue:
    """Return the same texts by greedy search without a cache, each scene alone."""
    prompts, _ = targets(model.backbone.name)
    pairs = zip(model.visual, prompts, strict=True)
    return [literal.greedy(model.backbone, visual[None], prompt) for visual, prompt in pairs]


def ranking(model: Built) -> JSONValue:
    """Return the listed answers and their scores, the best first."""
    return _split_pairs(model.backbone.ranked(model.visual, QUESTIONS))


def ranking_alone(model: Built) -> JSONValue:
    """Return the same for each question alone, where every answer is read as a whole."""
    backbone = model.backbone
    rows = []
    for visual, question in zip(model.visual, QUESTIONS, strict=True):
        if backbone.name == "vit_roberta":
            rows.append(backbone.ranked(visual[None], [question])[0])
        else:
            rows.append(literal.ranking(backbone, visual[None], question))
    return _split_pairs(rows)


def _split_pairs(rows: Sequence[Sequence[tuple[str, float]]]) -> JSONValue:
    return {
        "answers": [[name for name, _ in row] for row in rows],
        "scores": [[score for _, score in row] for row in rows],
    }


def training(form: Form, device: torch.device) -> JSONValue:
    """Return the losses of a few steps of the training loop.

    Dropout is off, because its masks differ between machines.
    """
    backbone = make(form, "lora", device.type)
    stir(backbone)
    without_dropout(backbone)
    prompts, wanted = targets(form.backbone)
    items = [Item((str(i),), *pair) for i, pair in enumerate(zip(prompts, wanted, strict=True))]
    inputs = pixels(backbone)
    visual = VisualSteps(
        lambda ids, _: inputs[[int(i) for i in ids]],
        lambda found: backbone.vision(found.to(backbone.device)),
    )
    feed = Feed(items, visual, PROTOCOL, form.answers)
    state = start(backbone, PROTOCOL, feed.batches)
    train(state, [feed], 0, None, lambda _: None)
    return [loss for _, loss in state.curve]


def dropout_acts(form: Form, method: str, device: torch.device) -> JSONValue:
    """Return whether the rate of the attentions alone changes a training loss.

    Some versions of libraries forget it on their fused paths.
    """
    backbone: Any = make(form, method, device.type)
    without_dropout(backbone)
    for site in backbone.sites:
        if site.attention is not None:
            set_dropout(site.attention.module, 0.5)
    prompts, wanted = targets(form.backbone)
    found = []
    with torch.no_grad():
        visual = backbone.vision(pixels(backbone).to(device))[:, None]
        for mode in (False, True):
            loss, _ = backbone.train(mode).loss(visual, prompts, wanted)
            found.append(float(loss))
    evaluated, trained = found
    return abs(trained / evaluated - 1) > 1e-3
