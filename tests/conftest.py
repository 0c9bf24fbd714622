"""Shared fixtures: cases over everything registered, on tiny backbones.

A new method or backbone is therefore tested without a new test.
"""

from __future__ import annotations

import os

# before transformers is imported, because the tests must not need a network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import hypothesis
import pytest
import torch
from torch import Tensor

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Choice
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.core.config import dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.plan.compatibility import reason_to_skip
from vlpeft.benchmark.plan.sweep import load_sweep
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.loop import TrainingState, start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.tasks import TASKS, tasks_for
from vlpeft.benchmark.tasks.base import Item

hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")  # a slow machine is not a failure

Settings = Mapping[str, Any]
SHIPPED: Mapping[str, Settings] = {
    e.name: e.settings for e in load_sweep("quickstart").entries("backbones", "quickstart")
}
ANSWERS = ("no", "yes", "circle", "rectangle", "triangle", "blue")
QUESTIONS = (  # of different lengths, so that a batch is padded
    ("is there a small triangle?", "no"),
    ("what is the blue shape?", "rectangle"),
    ("is the small red circle left of the large green rectangle?", "yes"),
    ("how many circles?", "blue"),
)
CAPTIONS = (
    "a circle",
    "two shapes with a large blue rectangle and a small brown circle",
    "there is a large teal triangle",
    "a red circle is left of a large red triangle and there is a small green rectangle",
)


@pytest.fixture(autouse=True)
def _torch_as_in_a_run() -> Iterator[None]:
    """Use one thread and deterministic kernels; undo every setting that a test changes."""
    state = torch.random.get_rng_state()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    torch.random.set_rng_state(state)


def tiny(backbone: str) -> Settings:
    """Return settings that build a backbone from the tiny towers.

    They are those of the quickstart if it has the backbone.
    """
    if backbone in SHIPPED:
        return SHIPPED[backbone]
    names = {f.name for f in fields(BACKBONES.load(backbone))}
    return {name: "tiny" for name in ("text", "vision") if name in names}


@dataclass(frozen=True)
class Case:
    """A method on a tiny backbone; `settings` and `model` hold what differs from the defaults."""

    method: str
    backbone: str
    settings: Settings = field(default_factory=dict)
    model: Settings = field(default_factory=dict)

    def __str__(self) -> str:
        changed = [f"{key}={value}" for key, value in {**self.settings, **self.model}.items()]
        return "-".join([self.method, self.backbone, *changed]).replace(" ", "")

    @property
    def config(self) -> BackboneConfig:
        """Parse the settings of the backbone."""
        return parse(
            BACKBONES.load(self.backbone), {**tiny(self.backbone), **self.model}, self.backbone
        )

    @property
    def adaptation(self) -> Method:
        """Parse the settings of the method."""
        return parse(METHODS.load(self.method), self.settings, self.method)

    @property
    def task(self) -> str:
        """Return the first task that the backbone supports."""
        return tasks_for(self.config.abilities)[0]

    @property
    def protocol(self) -> Protocol:
        """Return a recipe of three plain AdamW steps on batches of all items."""
        return Protocol(
            lr=1e-3,
            steps=3,
            batch_size=8,
            schedule="constant",
            max_input_tokens=24,
            max_output_tokens=24,
        )

    def cell(self, seed: int = 0) -> Cell:
        """Return the cell that a sweep would plan."""
        method, model = (
            Choice(self.method, dump(self.adaptation)),
            Choice(self.backbone, dump(self.config)),
        )
        return Cell(
            method, model, self.task, DatasetSpec("none", "shapes", {}, ""), self.protocol, seed
        )

    def fresh(self) -> Backbone:
        """Build the backbone before the method is applied."""
        return self.config.build(ANSWERS, self.protocol)

    def build(self, seed: int = 0) -> Backbone:
        """Build the adapted backbone as a run builds it."""
        torch.manual_seed(seed)
        return build(self.cell(seed), ANSWERS).eval()

    def refusal(self) -> str:
        """Return why planning refuses these settings, or "" if it accepts them."""
        try:
            with torch.device("meta"):
                self.build()
        except UserError as error:
            return str(error)
        return ""

    def items(self) -> list[Item]:
        """Return eight training items; item i has image `i`."""
        return TASKS.load(self.task)().items(self.examples(), ANSWERS, self.protocol)

    def examples(self) -> list[Example]:
        """Return eight examples of the task."""
        if self.task == "captioning":
            return [Example(str(i), (str(i),), "", (CAPTIONS[i % 4],)) for i in range(8)]
        return [Example(str(i), (str(i),), *_question(i)) for i in range(8)]

    def train(
        self, backbone: Backbone, steps: int = 3, micro_batch: int | None = None, seed: int = 0
    ) -> TrainingState:
        """Train with the benchmark's own loop on fixed random images."""
        feed = Feed(self.items(), visual(backbone), self.protocol, ANSWERS)
        state = start(backbone, self.protocol, feed.batches)
        state.total = steps
        train(state, [feed], seed, micro_batch, lambda _: None)
        backbone.eval()
        return state

    def losses(self, backbone: Backbone) -> Tensor:
        """Return the loss of each of four items alone: an output that every backbone has."""
        with torch.no_grad():
            return torch.stack([self.loss(backbone, [item]) for item in self.items()[:4]])

    def loss(self, backbone: Backbone, items: list[Item]) -> Tensor:
        """Return the summed loss of some items as one batch."""
        features = visual(backbone)([item.images for item in items])
        return backbone.loss(
            features, [item.prompt for item in items], [item.targets for item in items]
        )[0]


def visual(backbone: Backbone) -> VisualSteps:
    """Return the visual features of random images, with a gradient to the tower.

    The pixels of an image are a function of its id.
    """
    tower = backbone.vision

    def fetch(ids: Sequence[str], _seeds: Sequence[str]) -> Tensor:
        return torch.stack(
            [
                torch.randn(
                    3, tower.size, tower.size, generator=torch.Generator().manual_seed(int(i))
                )
                for i in ids
            ]
        )

    seen: dict[tuple[float, ...], Tensor] = {}

    def feature(image: Tensor) -> Tensor:
        if any(parameter.requires_grad for parameter in tower.parameters()):
            return tower(image[None])
        key = tuple(image[0, 0, :4].tolist())
        if key not in seen:
            seen[key] = tower(image[None])
        return seen[key]

    # A batch of another size may round differently. One image at a time keeps the features
    # independent; those of a frozen tower are computed once.
    return VisualSteps(fetch, lambda pixels: torch.cat([feature(image) for image in pixels]))


def variations(cls: type[Any], base: Settings) -> Iterator[Settings]:
    """Yield settings that differ from `base` in one field.

    The field is a Literal, a bool or a tuple of Literals.
    """
    default = parse(cls, base, cls.__name__)
    for name, hint in get_type_hints(cls, include_extras=True).items():
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        for value in _values(inner):
            if name in dump(default) and value != dump(default)[name]:
                yield {name: value}


def _values(hint: Any) -> list[Any]:
    if hint is bool:
        return [False, True]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:
        options = list(get_args(get_args(hint)[0]))
        return [[option] for option in options] + ([options] if len(options) > 1 else [])
    return []


def _question(index: int) -> tuple[str, tuple[str, ...]]:
    question, answer = QUESTIONS[index % 4]
    return question, (answer,)


def capable(cases: Iterable[Case]) -> list[Case]:
    """Remove the combinations that the grid rules out, by the grid's own rule."""
    return [case for case in cases if not reason_to_skip(case.cell())]


def accepted(cases: Iterable[Case]) -> list[Case]:
    """Remove the settings that planning refuses: some cannot be combined."""
    return [case for case in capable(cases) if not case.refusal()]


CASES = capable(
    Case(method, backbone) for backbone in BACKBONES.entries for method in METHODS.entries
)


@cache
def method_variations() -> list[Case]:
    """Return each setting of a method with few values, one step from its default.

    This builds hundreds of models, so only the tests that need it pay for it.
    """
    return accepted(
        Case(case.method, case.backbone, settings)
        for case in CASES
        for settings in variations(METHODS.load(case.method), {})
    )


@cache
def backbone_variations() -> list[Case]:
    """Return each setting of a backbone with few values, one step from its default."""
    return accepted(
        Case("full_finetuning", backbone, {}, changed)
        for backbone in BACKBONES.entries
        for changed in variations(BACKBONES.load(backbone), tiny(backbone))
    )


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Run a test for every method with its defaults on every tiny backbone that supports it."""
    return request.param


@pytest.fixture
def any_case(request: pytest.FixtureRequest) -> Case:
    """Run a test for the same cases, plus each setting of few values one step from its default."""
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """List the cases of `any_case` only if a test asks for it."""
    if "any_case" in metafunc.fixturenames:
        every = [*CASES, *method_variations(), *backbone_variations()]
        metafunc.parametrize("any_case", every, ids=str, indirect=True)
