"""All checks pass here, each can fail, and commands refuse to run cells if one fails."""

import json
from functools import cache

import pytest
import torch

from vlpeft.benchmark.cells.verified import BACKBONES
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.plan.verify import expected, models
from vlpeft.benchmark.plan.verify.check import _largest, difference
from vlpeft.benchmark.plan.verify.parts import PARTS
from vlpeft.benchmark.plan.verify.runner import SOURCES, as_in_a_run, run_check

from .conftest import RUN, records, write_one

CPU = torch.device("cpu")


@cache
def found(part):
    """Return the finding and the value of every check of a part, by name."""
    values = {}
    with as_in_a_run(CPU):
        for check in SOURCES[part](CPU):
            finding = run_check(part, check)
            value = check.measure() if check.writes and finding.state == "ok" else None
            values[check.name] = (check, finding, value)
    return values


@pytest.mark.parametrize("part", PARTS)
def test_all_checks_pass_here(part):
    assert [finding for _, finding, _ in found(part).values() if finding.state == "FAILED"] == []


@pytest.mark.parametrize("part", PARTS)
def test_each_check_fails_if_any_value_differs(part):
    for name, (check, finding, value) in found(part).items():
        if finding.state == "ok" and check.writes:
            committed = expected.committed(part)[name]
            for other in perturbed(committed, 1e-4 * _largest(committed)):
                assert difference(other, value, check.tolerance) is not None, (name, other)


def perturbed(value, least):
    """Yield the value with one leaf changed, each in turn.

    A number changes by 1 % of the largest number of its list.
    """
    if isinstance(value, dict):
        for key, each in value.items():
            yield from ({**value, key: other} for other in perturbed(each, least))
    elif isinstance(value, list) and value and all(isinstance(each, int | float) for each in value):
        largest = max(map(abs, value)) or 1.0
        if largest > least:  # smaller ones are left over where larger ones cancel
            yield from (
                [*value[:i], each + 0.03 * largest, *value[i + 1 :]] for i, each in enumerate(value)
            )
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from ([*value[:i], other, *value[i + 1 :]] for other in perturbed(each, least))
    elif isinstance(value, str):
        yield f"{value} x"
    elif value is None:
        yield 0
    else:
        yield value + 0.03 * (abs(value) or 1)


@pytest.mark.parametrize(
    "form",
    [form for name in BACKBONES for form in models.FORMS[name]],
    ids=lambda f: f.backbone + f.label,
)
def test_a_changed_weight_is_detected(form):
    """Change a weight of each tower by 3 %."""
    with as_in_a_run(CPU):
        model = models.built(form, "lora", "cpu")
        towers = {"vision": model.backbone.vision, "text": model.backbone.text}
        for tower in towers.values():
            matrix = max(
                (p for p in tower.parameters() if p.ndim == 2 and p.shape[0] < 1000),
                key=torch.Tensor.numel,
            )
            matrix.data *= 1.03
        for check in SOURCES[form.backbone](CPU):
            if check.name in (
                f"{form.label}lora: losses",
                f"{form.label}lora: gradients",
                f"{form.label}lora: logits",
            ):
                assert run_check(form.backbone, check).state == "FAILED", check.name


def test_the_command_prints_a_line_a_check_and_the_versions(main):
    done = main("verify", "--backbone", "vit_roberta", "--device", "cpu")
    assert done.code == 0
    assert "ok      tokenizers: roberta: ids\n" in done.out
    assert "ok      vit_roberta: lora: gradients\n" in done.out
    assert "vit_gpt2" not in done.out
    assert "transformers" in done.out.splitlines()[-2]


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Make an environment with one wrong committed value."""
    folder = tmp_path / "expected"
    folder.mkdir()
    for part in PARTS:
        values = dict(expected.committed(part))
        if part == "tokenizers":
            values["roberta: ids"] = [[0]]
        (folder / f"{part}.json").write_bytes(to_json(values))
    monkeypatch.setattr(expected, "FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected.committed.cache_clear()
    yield folder
    expected.committed.cache_clear()


def test_the_command_shows_what_fails_and_writes_only_when_asked(main, broken):
    before = {path: path.read_bytes() for path in broken.iterdir()}
    done = main("verify", "--backbone", "vit_roberta", "--device", "cpu", "--json")
    assert done.code == 1
    failed = [check for check in json.loads(done.out)["checks"] if check["state"] == "FAILED"]
    assert [(each["part"], each["name"]) for each in failed] == [("tokenizers", "roberta: ids")]
    assert failed[0]["expected"].startswith("1 values [[0]]")
    assert {path: path.read_bytes() for path in broken.iterdir()} == before
    done = main("verify", "--backbone", "vit_roberta", "--write")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith(
        "tokenizers: roberta: ids: value: 1 values [[0]] -> 4 values"
    )
    assert done.out.splitlines()[-1] == "1 values changed"


def test_cells_are_refused_if_a_check_fails(main, tmp_path, broken):
    sweep, root = write_one(tmp_path), tmp_path / "root"
    done = main("sweep", sweep, "--root", root, "--on", "inline", *RUN)
    assert done.code == 2
    assert done.lines[0].startswith("vlpeft: verifying this environment (once, about ")
    assert "tokenizers: roberta: ids: expected 1 values [[0]], found 4 values" in done.lines[-1]
    assert "transformers" in done.lines[-1]
    assert "--unverified" in done.lines[-1]
    assert records(root) == {}
    done = main("sweep", sweep, "--root", root, "--on", "inline", "--unverified", *RUN)
    assert done.code == 0
    assert [record["provenance"]["verified"] for record in records(root).values()] == [False]


def test_records_say_that_their_environment_was_verified(main, tmp_path):
    sweep, root = write_one(tmp_path), tmp_path / "root"
    done = main("sweep", sweep, "--root", root, "--on", "inline", *RUN)
    assert done.code == 0
    assert "verifying" not in done.err
    assert [record["provenance"]["verified"] for record in records(root).values()] == [True]
