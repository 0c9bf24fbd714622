"""The models that are verified: each backbone on its tiny towers, with a few methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.cells.cell import Cell, Choice
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan.verify.check import JSONValue
from vlpeft.benchmark.plan.verify.images import SCENES, scene
from vlpeft.benchmark.plan.verify.waves import fingerprint, wave
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.tasks import tasks_for

BackboneSettings = Mapping[str, Any]
ANSWERS = ("no", "yes", "circle", "rectangle", "triangle", "blue", "large circle", "red shape")
# Of different lengths, so that batches are padded.
QUESTIONS = (
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
METHODS: Mapping[str, BackboneSettings] = {
    "lora": {},
    "p_adapter": {},
    "routing_lora": {"function": "mul_expand"},
}
# Scale of what is added to trained tensors. A new method is often the identity, and then half of
# its gradients are zero.
STIR = 0.05
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
TINY: BackboneSettings = {"text": "tiny", "vision": "tiny"}


@dataclass(frozen=True)
class Form:
    """A backbone with settings; `label` is the start of the names of its checks."""

    label: str
    backbone: str
    settings: BackboneSettings = field(hash=False)

    @property
    def answers(self) -> tuple[str, ...]:
        """The closed answer list; empty for a backbone that only writes captions."""
        if self.backbone == "vit_gpt2":
            return ()
        return ANSWERS

    @property
    def ranks(self) -> bool:
        """Whether it ranks the answers of a list."""
        return bool(self.answers)

    @property
    def writes(self) -> bool:
        """Whether it generates text."""
        return self.backbone != "vit_roberta"


ROBERTA = {**TINY, "embed_text_twice": False, "pooler": "checkpoint"}
GPT2 = {**TINY, "loss": "repaired", "prefix": "projected"}
BLIP = {"weights": "tiny", "image_size": 64}
FORMS: Mapping[str, tuple[Form, ...]] = {
    "vit_roberta": (Form("", "vit_roberta", ROBERTA),),
    "vit_gpt2": (Form("", "vit_gpt2", GPT2),),
    "clip_bart": (Form("", "clip_bart", {**TINY, "grid": 4}),),
    "blip": (
        Form("decoder, ", "blip", {**BLIP, "form": "decoder"}),
        Form("vqa, ", "blip", {**BLIP, "form": "vqa"}),
    ),
}


class Built(NamedTuple):
    """An adapted model in evaluation mode."""

    backbone: Any
    initial: JSONValue  # fingerprints of the tensors that train, before they were moved
    visual: Tensor  # features of the scenes: (scenes, 1, tokens, width)


def make(form: Form, method: str, device: str) -> Any:
    """Build the adapted model in the same way as a run does."""
    config = BACKBONES.load(form.backbone)
    torch.manual_seed(0)
    cell = Cell(
        Choice(method, dict(METHODS[method])),
        Choice(form.backbone, dict(form.settings)),
        tasks_for(config.abilities)[0],
        DatasetSpec("none", "shapes", {}, ""),
        PROTOCOL,
        0,
    )
    return build(cell, form.answers).eval().to(device)


@cache
def built(form: Form, method: str, device: str) -> Built:
    """Build a model and move its trained tensors from their initial values by fixed numbers."""
    backbone = make(form, method, device)
    trained = {name: p.detach() for name, p in backbone.named_parameters() if p.requires_grad}
    initial = fingerprint_by_kind(trained)
    stir(backbone)
    with torch.no_grad():
        visual = backbone.vision(pixels(backbone).to(device))[:, None]
    return Built(backbone, initial, visual)


def forget() -> None:
    """Drop the models, so that they are built again next time."""
    built.cache_clear()


@torch.no_grad()
def stir(backbone: nn.Module) -> None:
    """Add waves to the tensors that train."""
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            parameter.add_(wave(name, parameter.shape, STIR).to(parameter))


def fingerprint_by_kind(tensors: Mapping[str, Tensor]) -> JSONValue:
    """Return one fingerprint for each kind: the tensors of all layers that share a name."""
    kinds: dict[str, list[Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        kind = ".".join(word for word in name.split(".") if not word.isdigit())
        kinds.setdefault(kind, []).append(tensor.flatten())
    return {kind: fingerprint(kind, torch.cat(each)) for kind, each in kinds.items()}


def pixels(backbone: Any) -> Tensor:
    """Return the scenes as input of the vision tower: (scenes, 3, size, size)."""
    return torch.stack([transform(scene(i), backbone.vision) for i in range(len(SCENES))])


def targets(backbone: str) -> tuple[Sequence[str], Sequence[Mapping[str, float]]]:
    """Return prompts and targets of the scenes."""
    if backbone == "vit_gpt2":
        return [""] * len(CAPTIONS), [{text: 1.0} for text in CAPTIONS]
    return QUESTIONS, SCORES


def without_dropout(backbone: nn.Module) -> None:
    """Set every dropout rate to 0."""
    for module in backbone.modules():
        for name in ("p", "dropout", "attention_dropout", "activation_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def set_dropout(attention: Any, rate: float) -> None:
    """Set the rate of an attention's probabilities. Each model keeps it in another place."""
    if isinstance(getattr(attention, "attn_dropout", None), nn.Dropout):
        # GPT-2. Its other rates belong to the output of the attention.
        attention.attn_dropout.p = rate
    elif isinstance(attention.dropout, nn.Dropout):  # RoBERTa, BLIP
        attention.dropout.p = rate
    else:  # BART
        attention.dropout = rate
