"""The backbones on their tiny towers: what they see, lose, learn, write and rank, each with a few methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.cells.cell import Cell, Choice
from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.run.features import Visual
from vlpeft.benchmark.run.loop import Feed, autocast, start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.tasks.base import Item
from vlpeft.benchmark.verify import literal
from vlpeft.benchmark.verify.check import BFLOAT16, CUDA_FLOAT32, FLOAT32, Check, Value
from vlpeft.benchmark.verify.images import SCENES, digest, scene
from vlpeft.benchmark.verify.waves import fingerprint, wave

Settings = Mapping[str, Any]
ANSWERS = ("no", "yes", "circle", "rectangle", "triangle", "blue", "large circle", "red shape")
QUESTIONS = (  # of different lengths, so that batches are padded
    "is there a small triangle?",
    "what is the blue shape?",
    "is the small red circle left of the large green rectangle?",
    "how many circles?",
)
SCORES: tuple[Mapping[str, float], ...] = (
    {"no": 1.0},
    {"rectangle": 1.0, "circle": 0.3},
    {"yes": 0.6},
    {"blue": 1.0},
)
CAPTIONS = (
    "a circle",
    "two shapes with a large blue rectangle and a small brown circle",
    "there is a large teal triangle",
    "a red circle is left of a large red triangle",
)
METHODS: Mapping[str, Settings] = {
    "lora": {},
    "p_adapter": {},
    "routing_lora": {"function": "mul_expand"},
}
STIR = 0.05  # added to what a method trains: a fresh method is often the identity, whose gradients are half zero
PROTOCOL = Protocol(
    lr=1e-3,
    steps=3,
    batch_size=2,
    schedule="linear",
    weight_decay=0.01,
    clip_norm=1.0,
    max_input_tokens=24,
    max_output_tokens=12,
    rank_candidates=5,
    label_smoothing=0.1,
)
BEAMS = 3
# Gradients pass through every layer twice, and bfloat16 rounds each time.
BFLOAT16_GRADIENTS = 2 * BFLOAT16
TINY: Settings = {"text": "tiny", "vision": "tiny"}


@dataclass(frozen=True)
class Form:
    """A backbone with settings; `label` names its checks."""

    label: str
    backbone: str
    settings: Settings = field(hash=False)

    @property
    def answers(self) -> tuple[str, ...]:
        """The closed list; none where captions alone are written."""
        return () if self.backbone == "vit_gpt2" else ANSWERS

    @property
    def ranks(self) -> bool:
        """Whether listed answers are compared."""
        return bool(self.answers)

    @property
    def writes(self) -> bool:
        """Whether text is generated."""
        return self.backbone != "vit_roberta"


FORMS: Mapping[str, tuple[Form, ...]] = {
    "vit_roberta": (
        Form("", "vit_roberta", {**TINY, "embed_text_twice": False, "pooler": "checkpoint"}),
    ),
    "vit_gpt2": (Form("", "vit_gpt2", {**TINY, "loss": "repaired", "prefix": "projected"}),),
    "clip_bart": (Form("", "clip_bart", {**TINY, "grid": 4}),),
    "blip": tuple(
        Form(f"{form}, ", "blip", {"weights": "tiny", "image_size": 64, "form": form})
        for form in ("decoder", "vqa")
    ),
}


class Built(NamedTuple):
    """An adapted model in evaluation mode, what a method began with, and the features of the scenes."""

    backbone: Any
    initial: Value
    visual: Tensor  # (scenes, 1, tokens, width)


def checks(name: str, device: torch.device) -> Iterator[Check]:
    """The checks of a backbone, in the order in which a fault shows first: pixels, features, losses, texts."""
    for form in FORMS[name]:
        yield Check(f"{form.label}pixels", partial(pixel_digests, form, device))
        yield Check(f"{form.label}image features", partial(features, form, device), _single(device))
        for method in METHODS:
            yield from _method_checks(form, method, device)
        for method in ("lora", "p_adapter"):  # fused attention, and one that a method looks into
            yield _dropout_check(form, method, device)
        yield Check(
            f"{form.label}lora: losses of {PROTOCOL.steps} training steps",
            partial(training, form, device),
            _single(device),
        )


def _dropout_check(form: Form, method: str, device: torch.device) -> Check:
    name = f"{form.label}{method}: dropout of attention acts in training"
    return Check(name, partial(dropout_acts, form, method, device), expected=lambda: True)


def _method_checks(form: Form, method: str, device: torch.device) -> Iterator[Check]:
    name, single = f"{form.label}{method}", _single(device)
    model = partial(built, form, method, device.type)
    yield Check(f"{name}: initial weights", lambda: model().initial, FLOAT32)
    for precision, tolerance in (("fp32", single), ("bf16", BFLOAT16)):
        against = "" if precision == "fp32" else f"{name}: losses"
        suffix = "" if precision == "fp32" else ", bfloat16"
        yield Check(
            f"{name}: losses{suffix}",
            partial(losses_of, model, precision),
            tolerance,
            against=against,
        )
    yield Check(f"{name}: gradients", lambda: gradients(model(), "fp32"), single)
    yield Check(
        f"{name}: gradients, bfloat16",
        lambda: gradients(model(), "bf16"),
        BFLOAT16_GRADIENTS,
        against=f"{name}: gradients",
    )
    yield Check(f"{name}: logits", lambda: logits(model()), single)
    if form.ranks:
        yield Check(f"{name}: ranking", lambda: ranking(model()), single)
        yield Check(
            f"{name}: ranking = answers one by one",
            lambda: ranking(model()),
            single,
            lambda: ranking_alone(model()),
        )
    if form.writes:
        yield Check(f"{name}: greedy", lambda: written(model(), 1))
        yield Check(
            f"{name}: greedy = without a cache",
            lambda: written(model(), 1),
            expected=lambda: written_alone(model()),
        )
        yield Check(f"{name}: beams", lambda: written(model(), BEAMS))


def _single(device: torch.device) -> float:
    return CUDA_FLOAT32 if device.type == "cuda" else FLOAT32


def make(form: Form, method: str, device: str) -> Any:
    """The adapted model as a run builds it."""
    config = BACKBONES.load(form.backbone)
    task = config.tasks[0]
    torch.manual_seed(0)
    spec = DatasetSpec("none", "shapes", {}, "")
    cell = Cell(
        Choice(method, dict(METHODS[method])),
        Choice(form.backbone, dict(form.settings)),
        task,
        spec,
        PROTOCOL,
        0,
    )
    return build(cell, form.answers).eval().to(device)


@cache
def built(form: Form, method: str, device: str) -> Built:
    """A model whose trained tensors are moved from where they begin by fixed numbers."""
    backbone = make(form, method, device)
    initial = by_kind(
        {name: p.detach() for name, p in backbone.named_parameters() if p.requires_grad}
    )
    stir(backbone)
    with torch.no_grad():
        visual = backbone.vision(pixels(backbone).to(device))[:, None]
    return Built(backbone, initial, visual)


@torch.no_grad()
def stir(backbone: nn.Module) -> None:
    """Add waves to what trains."""
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            parameter.add_(wave(name, parameter.shape, STIR).to(parameter))


def pixels(backbone: Any) -> Tensor:
    """The scenes as the vision tower's input."""
    return torch.stack([transform(scene(i), backbone.vision) for i in range(len(SCENES))])


def pixel_digests(form: Form, device: torch.device) -> Value:
    """The tower's input: a scene as it is, and a part of it, which is resized."""
    tower = built(form, "lora", device.type).backbone.vision
    return [digest(transform(each, tower)) for each in (scene(0), scene(0)[:40, :56])]


def features(form: Form, device: torch.device) -> Value:
    """What the vision tower makes of each scene."""
    found = built(form, "lora", device.type).visual
    return [fingerprint(name, each) for name, each in zip(SCENES, found, strict=True)]


def targets(backbone: str) -> tuple[Sequence[str], Sequence[Mapping[str, float]]]:
    """Prompts and targets of the scenes."""
    if backbone == "vit_gpt2":
        return [""] * len(CAPTIONS), [{text: 1.0} for text in CAPTIONS]
    return QUESTIONS, SCORES


def losses(model: Built, precision: str) -> Value:
    """The mean loss of the scenes together, and of each alone."""
    backbone = model.backbone
    prompts, wanted = targets(backbone.name)
    found = []
    with torch.no_grad(), autocast(backbone.device, precision):
        for rows in (slice(None), *(slice(i, i + 1) for i in range(len(prompts)))):
            total, terms = backbone.loss(model.visual[rows], prompts[rows], wanted[rows])
            found.append(float(total) / terms)
    return found


def losses_of(model: Callable[[], Built], precision: str) -> Value:
    """Those of a model that is built when they are measured."""
    return losses(model(), precision)


def gradients(model: Built, precision: str) -> Value:
    """Fingerprints of the loss's gradients."""
    backbone = model.backbone
    backbone.zero_grad()
    prompts, wanted = targets(backbone.name)
    with autocast(backbone.device, precision):
        total, terms = backbone.loss(model.visual, prompts, wanted)
    (total / terms).backward()
    found = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad()
    return by_kind(found)


def by_kind(tensors: Mapping[str, Tensor]) -> Value:
    """A fingerprint for each kind of tensor: those of all layers that have the same name there."""
    kinds: dict[str, list[Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        kind = ".".join(word for word in name.split(".") if not word.isdigit())
        kinds.setdefault(kind, []).append(tensor.flatten())
    return {kind: fingerprint(kind, torch.cat(each)) for kind, each in kinds.items()}


@torch.inference_mode()
def logits(model: Built) -> Value:
    """Scores of all answers, or of the first token that is written."""
    backbone = model.backbone
    prompts, _ = targets(backbone.name)
    if backbone.name == "vit_roberta":
        return backbone.logits(model.visual, prompts).double().tolist()
    rows = [
        literal.writer(backbone, visual[None], prompt)([])[0]
        for visual, prompt in zip(model.visual, prompts, strict=True)
    ]
    return [fingerprint(name, row) for name, row in zip(SCENES, rows, strict=True)]


def written(model: Built, beams: int) -> Value:
    """Captions of the scenes, or answers to the questions where the backbone reads any."""
    backbone = model.backbone
    prompts, _ = targets(backbone.name)
    backbone.follow(replace(PROTOCOL, beams=beams, answering="generate"), backbone.answers)
    try:
        return backbone.predict(model.visual, prompts)
    finally:
        backbone.follow(PROTOCOL, backbone.answers)


def written_alone(model: Built) -> Value:
    """The same by greedy search without a cache, each alone."""
    prompts, _ = targets(model.backbone.name)
    return [
        literal.greedy(model.backbone, visual[None], prompt)
        for visual, prompt in zip(model.visual, prompts, strict=True)
    ]


def ranking(model: Built) -> Value:
    """Listed answers and their scores, the best first."""
    return _named(model.backbone.ranked(model.visual, QUESTIONS))


def ranking_alone(model: Built) -> Value:
    """The same of each question alone, where every answer is read as a whole."""
    pairs = zip(model.visual, QUESTIONS, strict=True)
    if model.backbone.name == "vit_roberta":
        return _named(
            [model.backbone.ranked(visual[None], [question])[0] for visual, question in pairs]
        )
    return _named(
        [literal.ranking(model.backbone, visual[None], question) for visual, question in pairs]
    )


def _named(rows: Sequence[Sequence[tuple[str, float]]]) -> Value:
    return {
        "answers": [[name for name, _ in row] for row in rows],
        "scores": [[score for _, score in row] for row in rows],
    }


def training(form: Form, device: torch.device) -> Value:
    """The losses of a few steps of the training loop, without dropout, whose masks differ between machines."""
    backbone = make(form, "lora", device.type)
    stir(backbone)
    without_dropout(backbone)
    prompts, wanted = targets(form.backbone)
    items = [Item((str(i),), *pair) for i, pair in enumerate(zip(prompts, wanted, strict=True))]
    inputs = pixels(backbone)
    visual = Visual(
        lambda ids, _: inputs[[int(i) for i in ids]],
        lambda found: backbone.vision(found.to(backbone.device)),
    )
    feed = Feed(items, visual, PROTOCOL, form.answers)
    state = start(backbone, PROTOCOL, feed.batches)
    train(state, [feed], 0, None, lambda _: None)
    return [loss for _, loss in state.curve]


def dropout_acts(form: Form, method: str, device: torch.device) -> Value:
    """Whether the rate of the attentions alone changes a training loss."""
    backbone = make(form, method, device.type)
    without_dropout(backbone)
    attentions = [site.attention.module for site in backbone.sites if site.attention is not None]
    for attention in attentions:
        set_dropout(attention, 0.5)
    prompts, wanted = targets(form.backbone)
    with torch.no_grad():
        visual = backbone.vision(pixels(backbone).to(device))[:, None]
        evaluated, trained = (
            float(backbone.train(mode).loss(visual, prompts, wanted)[0]) for mode in (False, True)
        )
    return abs(trained / evaluated - 1) > 1e-3


def set_dropout(attention: Any, rate: float) -> None:
    """Give an attention's probabilities a rate; where it is kept differs from model to model."""
    if isinstance(
        getattr(attention, "attn_dropout", None), nn.Dropout
    ):  # GPT-2, whose other rates are of its output
        attention.attn_dropout.p = rate
    elif isinstance(attention.dropout, nn.Dropout):  # RoBERTa, BLIP
        attention.dropout.p = rate
    else:  # BART
        attention.dropout = rate


def without_dropout(backbone: nn.Module) -> None:
    """Set every rate to 0."""
    for module in backbone.modules():
        for name in ("p", "dropout", "attention_dropout", "activation_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def forget() -> None:
    """Build the models anew next time."""
    built.cache_clear()
