"""A compiled model is the same model: losses, gradients and names.

Code that does not train runs uncompiled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch
from open_clip import create_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch

import vlpeft.benchmark.core.libraries.torch
from tests.conftest import ANSWERS, Case, visual
from tests.end_to_end.conftest import write_one
from vlpeft.benchmark.cli.arguments import parser
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan import forecast
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.measure import cached_pixels
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run import compile as compiling
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.compile import compile_errors, compile_layers, layers
from vlpeft.benchmark.run.distributed import ALONE
from vlpeft.benchmark.run.evaluation import predict_split
from vlpeft.benchmark.run.flops import first_step
from vlpeft.benchmark.run.loop import start
from vlpeft.benchmark.run.runner import Stopped, run_cell
from vlpeft.benchmark.run.runtime import Runtime

# torch reads the gradients of all inputs. It hides the warning of that, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed:UserWarning"
)
BACKEND = (
    # inductor's graphs, run by torch's own kernels: no compiler is needed
    "aot_eager"
)
CASES = (
    Case("routing_lora", "vit_roberta", {"function": "mul_expand"}),
    Case("hyperformer", "vit_gpt2"),
    Case("prefix_tuning", "blip"),
    Case("full_finetuning", "blip"),
    Case("adapter", "clip_bart"),
)
Passed = tuple[list[float], dict[str, Tensor]]  # losses, and the gradients of their sum
KINDS = {
    "vit_roberta": 1,
    "vit_gpt2": 1,
    "blip": 1,
    "clip_bart": 2,
}  # of layers that a text tower repeats


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    limit, autocast = torch._dynamo.config.recompile_limit, functorch.backward_pass_autocast
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit, functorch.backward_pass_autocast = limit, autocast


def undropped(case: Case) -> Backbone:
    """Switch dropout off, because compiled code draws other masks."""
    made = case.build().train()
    for module in made.modules():
        for name in ("p", "dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return made


def passes(case: Case, made: Backbone, parts: list[slice], bf16: bool = False) -> Passed:
    losses = []
    for part in parts:
        items = case.items()[part]
        with torch.set_grad_enabled(any(p.requires_grad for p in made.vision.parameters())):
            features = visual(made)([item.images for item in items])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = made.loss(
                features, [item.prompt for item in items], [item.targets for item in items]
            )
        torch.autograd.backward(loss)
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_gradients_are_the_same_and_one_graph_serves_all_lengths(case: Case) -> None:
    """Batches of four, three and eight with other lengths all use the graphs of the first batch.

    A kind of layer has at most two graphs: the input of the lowest layer needs no gradient if
    nothing below it trains. Two more graphs would be needed if some batches had padding and others
    did not. All batches here are padded.
    """
    plain, compiled = undropped(case), undropped(case)
    compile_layers(compiled, BACKEND)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    parts = [slice(4), slice(3, 6), slice(8)]
    for made in (plain, compiled):
        passes(case, made, parts[:1])
    first = graphs() - 1  # torch.neg tests whether compiling works
    assert 2 <= first <= 2 * KINDS[case.backbone] + 1, "the vision tower has one kind"
    wanted, found = (passes(case, made, parts[1:]) for made in (plain, compiled))
    assert graphs() - 1 == first
    compare(found, wanted)
    assert not counters["graph_break"]


def compare(found: Passed, wanted: Passed) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert set(found[1]) == set(wanted[1])
    largest = max(
        float(gradient.abs().max()) for gradient in wanted[1].values()
    )  # some are pure rounding noise: the bias of a key has no gradient
    for name, gradient in wanted[1].items():
        assert (found[1][name] - gradient).abs().max() <= 1e-5 * max(
            float(gradient.abs().max()), 0.01 * largest
        ), name


def test_float32_parts_stay_float32_in_the_backward_pass() -> None:
    """By default torch would compile the backward pass of float32 parts under autocast.

    The parts are those of the p-adapter.
    """
    case = Case("p_adapter", "vit_gpt2")
    plain, compiled = undropped(case), undropped(case)
    compile_layers(compiled, BACKEND)
    found, wanted = (passes(case, made, [slice(4)], bf16=True) for made in (compiled, plain))
    compare(found, wanted)


@pytest.mark.parametrize("case", [Case("lora", "vit_gpt2"), Case("lora", "blip")], ids=str)
def test_evaluation_and_counting_run_as_written(case: Case) -> None:
    """The trained tensors also load into an uncompiled model, with the same predictions."""
    plain, compiled = case.build(), case.build()
    calls = Counter[str]()

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        def run(*inputs: object) -> object:
            calls["compiled"] += 1
            return graph(*inputs)

        return run

    for layer in (*layers(compiled.text), *layers(compiled.vision)):
        layer.compile(backend=backend, dynamic=True)
    items = case.items()[:2]
    with torch.no_grad():
        case.loss(compiled, items)
    assert calls.pop("compiled") > 0, (
        "the backend is not in use, so that its silence would mean nothing"
    )
    cached_pixels(compiled, 2)
    features = visual(plain)([item.images for item in items]).detach()
    feed = Feed(items, visual(compiled), case.protocol, ANSWERS)
    inputs = SimpleNamespace(
        answers=ANSWERS, prompts=lambda part: [items[int(example.id)].prompt for example in part]
    )
    examples = case.examples()[:2]
    found = predict_split(compiled, compiled.predict, inputs, feed, examples, 2)  # type: ignore[arg-type]
    assert first_step(start(compiled, case.protocol, 1), [feed], 0, None, ALONE).flops > 0
    assert not calls
    load_trained(plain, trained_tensors(compiled))
    with torch.inference_mode():
        assert plain.eval().predict(features, [item.prompt for item in items]) == found


def test_layers_are_what_towers_repeat() -> None:
    def kinds(tower: nn.Module) -> Counter[str]:
        return Counter(type(layer).__name__ for layer in layers(tower))

    made = Case("compacter", "clip_bart").build()  # a module that puts lists of its own into layers
    assert kinds(made.text) == {"BartEncoderLayer": 2, "BartDecoderLayer": 2}
    assert kinds(made.vision) == {"ViTLayer": 4}
    assert kinds(timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=3)) == {
        "Block": 3
    }
    assert kinds(create_model("ViT-B-32", precision="fp32", device="meta").visual) == {
        "ResidualAttentionBlock": 12
    }


def fails(_graph: object, _inputs: object) -> object:
    raise RuntimeError("no compiler\n\ninner workings")


def test_a_compile_error_is_reported_and_stops_the_cell() -> None:
    made = Case("lora", "vit_roberta").build()
    with pytest.raises(UserError, match=r"^--compile: .*no compiler; leave out --compile$"):
        compile_layers(made, fails)  # type: ignore[arg-type] # torch takes a function, too


def again(module: ModuleType) -> ModuleType:
    """Import a module a second time."""
    spec = spec_from_file_location("again", module.__file__)
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_an_old_torch_is_reported_and_works_uncompiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 2.7 the limit and its error had other names."""
    monkeypatch.delattr("torch._dynamo.exc.FailOnRecompileLimitHit")
    library, older = again(vlpeft.benchmark.core.libraries.torch), again(compiling)
    monkeypatch.setattr(library, "functorch", object())
    for name in ("CompilerError", "LimitHit", "set_up_compiler"):
        monkeypatch.setattr(older, name, getattr(library, name))
    with pytest.raises(
        UserError, match=r"is too old for it; leave out --compile, or upgrade torch$"
    ):
        older.compile_layers(Case("lora", "vit_roberta").build())
    with pytest.raises(ValueError, match="as it was"), older.compile_errors():
        raise ValueError("as it was")


class Numbered(nn.Module):
    """A module with another graph for each number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x * self.number


def numbered(numbers: range) -> list[nn.Module]:
    return [Numbered(number) for number in numbers]


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow at most four graphs."""
    monkeypatch.setattr(compiling, "LIMIT", 4)
    torch._dynamo.config.recompile_limit = 1


def compiled(made: list[nn.Module]) -> list[nn.Module]:
    """Compile these modules as the layers of a text tower."""
    backbone = Case("lora", "vit_roberta").build()
    backbone.text.encoder.layer = nn.ModuleList(made)
    compile_layers(backbone, BACKEND)
    return made


@compile_errors()
def run_all(made: list[nn.Module]) -> None:
    for layer in made:
        layer(torch.ones(3))


@pytest.mark.parametrize(
    ("made", "said"),
    [([Breaks()], "graph_break"), (numbered(range(2, 9)), "recompile limit exceeded")],
)
def test_no_layer_runs_uncompiled_without_an_error(
    made: list[nn.Module], said: str, few: None
) -> None:
    compiled(made)
    with pytest.raises(UserError, match=rf"^--compile: .*{said}.*; leave out --compile$"):
        run_all(made)


def test_earlier_cells_do_not_count(few: None) -> None:
    """A worker runs many cells, and each method has graphs of its own."""
    for begin in (2, 5, 8):
        run_all(compiled(numbered(range(begin, begin + 3))))
    assert not counters["graph_break"]


def test_a_cell_that_cannot_be_compiled_leaves_the_reason(tmp_path, monkeypatch) -> None:
    made = plan(SweepHandle(str(write_one(tmp_path))), need_data=True)
    save_plan(made, tmp_path / "root")
    monkeypatch.setattr(
        "vlpeft.benchmark.run.runner.compile_layers",
        lambda backbone: compile_layers(backbone, fails),
    )  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave out --compile"):
        run_cell(
            made.cells[0].id, tmp_path / "root", Runtime(device="cpu", threads=1, compile=True)
        )
    assert (
        "no compiler"
        in (tmp_path / "root" / "cells" / made.cells[0].id / "failure.json").read_text()
    )


def test_a_compiler_killed_by_the_stop_signal_is_not_a_failure(tmp_path, monkeypatch) -> None:
    """Such signals reach all processes of a group.

    The cell then counts as stopped between two steps.
    """
    made, told_to_stop = plan(SweepHandle(str(write_one(tmp_path))), need_data=True), list[bool]()
    save_plan(made, tmp_path / "root")

    def die(*_: object) -> None:
        told_to_stop.append(True)
        raise UserError("--compile: CppCompileError: C++ compile error; leave out --compile")

    monkeypatch.setattr("vlpeft.benchmark.run.runner.compile_layers", lambda _: None)
    monkeypatch.setattr("vlpeft.benchmark.run.fitting.train", die)
    run = partial(
        run_cell,
        made.cells[0].id,
        tmp_path / "root",
        Runtime(device="cpu", threads=1, compile=True),
    )
    with pytest.raises(Stopped):
        run(asked=lambda: bool(told_to_stop))
    assert not (tmp_path / "root" / "cells" / made.cells[0].id / "failure.json").exists()
    with pytest.raises(UserError, match="CppCompileError"):
        run()


def test_costs_can_be_measured_compiled(monkeypatch) -> None:
    asked: list[Backbone] = []
    monkeypatch.setattr(forecast, "compile_layers", asked.append)
    for compiled in (False, True):
        forecast.step_seconds(
            Case("lora", "vit_roberta").cell(),
            2,
            Runtime(device="cpu", threads=1, compile=compiled),
        )
    assert len(asked) == 1


@pytest.mark.parametrize("command", ["run S --cell a", "sweep S", "retry S --failed", "plan S"])
def test_commands_that_take_the_flag(command: str) -> None:
    assert parser().parse_args([*command.split(), "--compile"]).compile is True
    assert parser().parse_args(command.split()).compile is False
