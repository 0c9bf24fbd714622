"""Verification of an environment: comparing values, stamps, and the parts that a cell uses.

The checks themselves are tested end to end.
"""

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.conftest import Case
from vlpeft.benchmark.cells import provenance
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.cells.verified import BACKBONES, is_covered
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import REPOSITORY
from vlpeft.benchmark.launch import worker
from vlpeft.benchmark.plan.verify import expected, gate, stamp
from vlpeft.benchmark.plan.verify.check import EXACT, FLOAT32, SMALL, Check, NotRun, difference
from vlpeft.benchmark.plan.verify.gate import EnvironmentFailed, EnvironmentGate, require
from vlpeft.benchmark.plan.verify.parts import PARTS, parts_of_backbone, parts_of_cells
from vlpeft.benchmark.plan.verify.runner import SOURCES, run, run_check
from vlpeft.benchmark.plan.verify.stamp import Environment, cache_folder, missing, passed, remember

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


# Comparing.


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (1.0, 1.0 + 1e-5),
        ([1.0, 1e-6], [1.0, 5e-5]),  # measured by the largest of the list
        (
            {"a": [1.0], "b": [1e-9]},
            {"a": [1.0], "b": [0.9 * SMALL * FLOAT32]},
        ),  # rounding that remains after cancellation
        ([["a", "b"], 3], [["a", "b"], 3]),
        (True, True),
    ],
)
def test_equal_within_the_tolerance(expected, found):
    assert difference(expected, found, FLOAT32) is None


@pytest.mark.parametrize(
    ("expected", "found", "place"),
    [
        (1.0, 1.001, ""),
        (1.0, math.nan, ""),
        ([1.0, 2.0], [1.0, 2.1], "[1]"),
        ({"a": [1.0], "b": [0.5]}, {"a": [1.0], "b": [0.4]}, "/b"),
        (["a", "b"], ["b", "a"], "[0]"),
        ([1, 2], [1, 2, 3], ""),
        ({"a": 1}, {"b": 1}, ""),
        ([1, 2], (1, 2), ""),
        ([[1, 2]], [torch.tensor([1, 2])], "[0]"),
        (True, False, ""),
        ("text", None, ""),
    ],
)
def test_different_with_its_place(expected, found, place):
    other = difference(expected, found, FLOAT32)
    assert other is not None
    assert other.place == place
    assert other.expected != other.found


def test_exact_numbers_are_compared_to_the_last_bit():
    assert difference(0.1 + 0.2, 0.3, EXACT) is not None
    assert difference([0.3], [0.3], EXACT) is None


def test_an_error_is_a_failure_and_a_reason_is_none():
    def no_java():
        raise NotRun("no java")

    def broken():
        raise TypeError("unexpected keyword 'cache'")

    finding = run_check("images", Check("name", broken, expected=lambda: 1))
    assert (finding.state, finding.found) == ("FAILED", "TypeError: \"unexpected keyword 'cache'\"")
    finding = run_check("images", Check("name", no_java, expected=lambda: 1))
    assert (finding.state, finding.reason) == ("not run", "no java")
    finding = run_check("images", Check("a new check", lambda: 1))
    assert finding.state == "FAILED"
    assert "vlpeft verify --write" in finding.found


# Committed values.


@pytest.mark.parametrize("part", PARTS)
def test_every_check_has_a_committed_value_and_every_value_a_check(part):
    checks = list(SOURCES[part](CPU))
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {check.committed for check in checks if check.expected is None} == expected.committed(
        part
    ).keys()
    assert {check.name for check in checks if check.writes} == expected.committed(part).keys()


def test_the_committed_values_are_small_and_readable():
    files = list(expected.FOLDER.glob("*.json"))
    assert {path.stem for path in files} == set(PARTS)
    assert sum(path.stat().st_size for path in files) < 200_000


def test_rounding_keeps_what_is_compared():
    assert expected.rounded({"a": [math.pi, 3, "x"]}, FLOAT32) == {"a": [3.141593, 3, "x"]}
    assert expected.rounded(math.pi, EXACT) == math.pi


# Which parts.


def test_parts_of_cells():
    roberta, gpt2 = (Case("lora", name).cell() for name in ("vit_roberta", "vit_gpt2"))
    assert parts_of_cells([roberta]) == (
        "images",
        "tokenizers",
        "formulas",
        "answers",
        "vit_roberta",
    )
    assert "captions" in parts_of_cells([gpt2])
    assert set(parts_of_cells([roberta, gpt2])) == {
        *parts_of_cells([roberta]),
        *parts_of_cells([gpt2]),
    }
    assert set(parts_of_backbone("blip")) == set(PARTS) - set(BACKBONES) | {"blip"}
    assert is_covered(roberta)


# Stamps.


def test_a_passed_check_is_remembered(cache):
    here = Environment.here("cpu")
    assert missing(here, ["images", "blip"]) == ("images", "blip")
    assert remember(here, ["images"]) == ""
    assert remember(here, ["tokenizers"]) == ""
    assert passed(here) == {"images", "tokenizers"}
    assert missing(here, ["images", "blip"]) == ("blip",)
    kept = json.loads((cache / f"{here.key}.json").read_text())
    assert kept["environment"]["packages"] == here.packages


@pytest.mark.parametrize("changed", ["library", "python", "code", "device", "instructions", "java"])
def test_another_environment_is_verified_again(changed, cache, monkeypatch):
    before = Environment.here("cpu")
    remember(before, PARTS)
    assert missing(Environment.here("cpu"), PARTS) == ()
    real = stamp.version
    patches = {
        "library": (
            stamp,
            "version",
            lambda name: "99.0" if name == "transformers" else real(name),
        ),
        "python": (stamp.platform, "python_version", lambda: "3.99.0"),
        "code": (stamp, "code_hash", lambda: "another"),
        "device": (provenance, "processor", lambda: "another processor"),
        "instructions": (torch.backends.cpu, "get_cpu_capability", lambda: "AVX9"),
        "java": (stamp.shutil, "which", lambda name: None if before.has_java else name),
    }
    monkeypatch.setattr(*patches[changed])
    assert missing(Environment.here("cpu"), PARTS) == PARTS


def test_the_code_is_hashed_by_its_content(tmp_path):
    for package in stamp.COMPUTING:
        (tmp_path / "vlpeft" / package).mkdir(parents=True)
    file = tmp_path / "vlpeft" / "benchmark" / "a.py"
    file.write_text("a = 1\n")
    hashes = {stamp.code_hash.__wrapped__(tmp_path)}
    (tmp_path / "vlpeft" / "benchmark" / "notes.txt").write_text("not code")
    hashes.add(stamp.code_hash.__wrapped__(tmp_path))
    assert len(hashes) == 1
    file.write_text("a = 2\n")
    hashes.add(stamp.code_hash.__wrapped__(tmp_path))
    file.rename(file.with_name("b.py"))
    hashes.add(stamp.code_hash.__wrapped__(tmp_path))
    assert len(hashes) == 3


def test_all_that_computes_is_hashed():
    hashed = dict(stamp._files(REPOSITORY))
    for name in ("benchmark/run/loop.py", "baselines/lora.py", "methods/routing.py"):
        assert f"vlpeft/{name}" in hashed
    assert "vlpeft/benchmark/backbones/tiny/vit/model.safetensors" in hashed


def test_an_incomplete_stamp_is_ignored(cache):
    here = Environment.here("cpu")
    remember(here, PARTS)
    (cache / f"{here.key}.json").write_text("{")
    assert passed(here) == frozenset()
    assert remember(here, ["images"]) == ""
    assert passed(here) == {"images"}


# The gate.


@pytest.fixture
def images_only(cache, monkeypatch):
    monkeypatch.setattr(gate, "parts_of_cells", lambda _: ("images",))
    return [Case("lora", "vit_roberta").cell()]


def test_an_environment_is_verified_once(images_only):
    said = []
    require(images_only, "cpu", said.append)
    require(images_only, "cpu", said.append)
    assert said == ["verifying this environment (once, about 0 s): images"]


def test_a_failing_environment_is_refused_each_time(images_only, monkeypatch):
    values = {**expected.committed("images"), "augmented views": []}
    monkeypatch.setattr(expected, "committed", lambda _: values)
    for _ in range(2):
        with pytest.raises(
            EnvironmentFailed, match=r"images: augmented views: expected 0 values .*--unverified"
        ):
            require(images_only, "cpu", lambda _: None)


def test_a_process_of_many_cells_verifies_once(images_only, monkeypatch):
    values = {**expected.committed("images"), "augmented views": []}
    monkeypatch.setattr(expected, "committed", lambda _: values)
    said, many = [], EnvironmentGate(lambda: "cpu", None)
    many.say = said.append
    assert "augmented views" in many.problem(images_only[0])
    assert "augmented views" in many.problem(images_only[0])
    assert len(said) == 1


def test_a_cache_that_cannot_be_written_stops_nothing(images_only, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = []
    for _ in range(2):
        require(images_only, "cpu", said.append)
    assert len(said) == 4
    assert "cannot remember that this environment passed" in said[1]
    assert "verifies it again" in said[3]


def test_a_cell_of_a_job_fails_with_what_was_found(images_only, tmp_path, monkeypatch):
    values = {**expected.committed("images"), "augmented views": []}
    store, (cell,) = Store(tmp_path / "root"), images_only
    store.write_cell(cell.id, dump(cell))

    def begins() -> bool:
        return worker.JobPolicy(
            store, "job.log", EnvironmentGate(lambda: "cpu", lambda _: None)
        ).begins(cell.id)

    with monkeypatch.context() as patch:
        patch.setattr(expected, "committed", lambda _: values)
        assert not begins()
    failure = json.loads((store.folder(cell.id) / "failure.json").read_text())
    assert (failure["cause"], failure["user"]) == ("environment", True)
    assert "augmented views: expected 0 values" in failure["message"]
    (store.folder(cell.id) / "failure.json").unlink()
    assert begins()


def test_a_missing_device_is_left_to_the_cell(images_only):
    def no_gpu():
        raise UserError("no CUDA GPU is visible here")

    assert EnvironmentGate(no_gpu).problem(images_only[0]) == ""


def test_verifying_changes_neither_random_numbers_nor_settings():
    torch.manual_seed(5)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    assert all(finding.state == "ok" for finding in run(["images", "formulas"], CPU))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_protocol_selects_the_metrics():
    cell = replace(
        Case("lora", "blip").cell(), protocol=Protocol(lr=1e-3, steps=1, metrics=("cider",))
    )
    assert "captions" in parts_of_cells([cell])
    assert "answers" not in parts_of_cells([cell])
