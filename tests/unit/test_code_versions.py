"""The code of a cell: what its hash depends on, and tables of seeds that differ in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.conftest import write_one, write_vqav2
from tests.synthetic import make_plan, planned, record
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core import declared, source_hash
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.source_hash import hash_code
from vlpeft.benchmark.plan.changes import refuse_other_code
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.sources import cell_code
from vlpeft.results.code_versions import code_remarks
from vlpeft.results.difference import diff, diff_table
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.report.page import write_report

METHOD = '''
"""A method."""

from vlpeft.benchmark.contract.helper import factor


class Mine:
    """Multiply by two."""

    rank: int = 2  # of the update

    def scale(self, x):
        """Scale."""
        from vlpeft.benchmark.core.errors import UserError

        return x * factor * 2
'''
SAME = {
    "comments": METHOD.replace("# of the update", "# a better comment"),
    "docstrings": METHOD.replace("Multiply by two.", "Double.").replace('"""Scale."""', "pass"),
    "line breaks": METHOD.replace(
        "x * factor * 2", "(\n            x * factor\n            * 2)\n"
    ),
}
OTHER = {
    "a number": METHOD.replace("* 2", "* 3"),
    "a default": METHOD.replace("rank: int = 2", "rank: int = 4"),
    "a text": METHOD.replace("factor * 2", 'factor * 2 + len("a")'),
}


def forget() -> None:
    """Forget all files, as a new process does."""
    for cached in (hash_code, source_hash._homes, source_hash._hash_file, declared.parse_source):
        cached.cache_clear()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small project in the place of this one."""
    write(tmp_path, "vlpeft/methods/mine.py", METHOD)
    write(tmp_path, "vlpeft/benchmark/contract/helper.py", "factor = 1\n")
    write(tmp_path, "vlpeft/benchmark/core/errors.py", "class UserError(Exception): pass\n")
    monkeypatch.setattr(source_hash, "ROOT", tmp_path)
    yield tmp_path
    forget()


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def hash_again(module: str = "vlpeft.methods.mine", version: str = "") -> str:
    forget()
    return hash_code((module,), version=version)


@pytest.mark.parametrize("change", SAME)
def test_wording_and_layout_change_no_hash(change: str, project: Path) -> None:
    before = hash_again()
    write(project, "vlpeft/methods/mine.py", SAME[change])
    assert hash_again() == before


@pytest.mark.parametrize("change", OTHER)
def test_code_changes_the_hash(change: str, project: Path) -> None:
    before = hash_again()
    write(project, "vlpeft/methods/mine.py", OTHER[change])
    assert hash_again() != before


def test_imported_modules_count_but_not_the_core(project: Path) -> None:
    before = hash_again()
    write(project, "vlpeft/benchmark/core/errors.py", "class UserError(Exception): x = 1\n")
    write(project, "vlpeft/benchmark/contract/other.py", "x = 1\n")
    assert hash_again() == before
    write(project, "vlpeft/benchmark/contract/helper.py", "factor = 2\n")
    assert hash_again() != before


@pytest.mark.parametrize(
    "changed", ["my_pack/__init__.py", "my_pack/deep/part.py", "my_neighbour.py", "my_pack/mine.py"]
)
def test_a_package_of_its_own(
    changed: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files that the module imports count, its version, and what it uses of the project."""
    files = {
        "my_pack/__init__.py": "",
        "my_pack/mine.py": "from . import deep\nfrom .deep.part import y\nimport my_neighbour\n"
        "import json, numpy.linalg\nfrom vlpeft.benchmark.contract.helper import factor\n",
        "my_pack/deep/__init__.py": "",
        "my_pack/deep/part.py": "y = 1\n",
        "my_neighbour.py": "",
        "my_pack/unused.py": "",
    }
    for name, text in files.items():
        write(tmp_path / "own", name, text)
    monkeypatch.syspath_prepend(tmp_path / "own")
    before = hash_again("my_pack.mine")
    assert hash_again("my_pack.mine", "my-pack 2") != before
    write(tmp_path / "own", "my_pack/unused.py", "x = 1\n")
    assert hash_again("my_pack.mine") == before
    write(tmp_path / "own", changed, f"{files[changed]}x = 2\n")
    after = hash_again("my_pack.mine")
    assert after != before
    write(project, "vlpeft/benchmark/contract/helper.py", "factor = 2\n")
    assert hash_again("my_pack.mine") != after
    sys.modules.pop("my_pack", None)


def test_every_kind_of_code_of_a_cell() -> None:
    one = cell_code(shapes().cell)
    assert set(one) == {"method", "backbone", "task", "metrics", "format", "training"}
    assert len({*one.values()}) == len(one)
    other = cell_code(shapes("bitfit").cell)
    assert {kind for kind in one if one[kind] != other[kind]} == {"method"}


CODE = {"method": "aaa", "backbone": "bbb"}
EDITED = {**CODE, "method": "ccc"}


def shapes(row: str = "lora", seed: int = 0) -> Planned:
    """Return a planned cell on a data format that exists."""
    one = planned(row, seed=seed)
    cell = replace(one.cell, dataset=replace(one.cell.dataset, format="shapes"))
    return replace(one, cell=cell, id=cell.id)


SEEDS = [shapes(seed=seed) for seed in range(3)]
WORDS = (
    r"lora on blip, vqa/shapes: code of the method aaa in seed 0 \(\w+\), seed 1 \(\w+\) and ccc "
    r"in seed 2 \(\w+\): the seeds were computed by different code .* delete record\.json .*"
    "--mixed-environments"
)


def written(root: Path, *codes: object) -> Store:
    """Write the records of SEEDS, each with its code; None leaves it out."""
    store = Store(root)
    for cell, code in zip(SEEDS, codes, strict=False):
        one = record(cell)
        more = {} if code is None else {"code": code}
        store.publish(replace(one, provenance={**one.provenance, **more}))
    return store


def test_seeds_of_different_code_share_no_row(tmp_path: Path) -> None:
    plan, store = make_plan(*SEEDS), written(tmp_path, CODE, CODE, EDITED)
    with pytest.raises(UserError, match=WORDS):
        leaderboard(plan, store)
    with pytest.raises(UserError, match=WORDS):
        write_report([(plan, store)], tmp_path / "a.html")
    remarks = leaderboard(plan, store, mixed=True).remarks
    assert remarks[0].startswith("Seeds of different code: lora on blip, vqa/shapes: code of the")


@pytest.mark.parametrize("codes", [(None, None, None), (CODE, None, CODE), (CODE, CODE, CODE)])
def test_equal_or_unrecorded_code_is_not_a_difference(codes: tuple, tmp_path: Path) -> None:
    assert leaderboard(make_plan(*SEEDS), written(tmp_path, *codes)).remarks == ()


def test_rows_that_differ_in_shared_code_are_noted() -> None:
    cells = [planned(), planned("bitfit")]
    codes = [CODE, {"method": "ddd", "backbone": "eee"}]
    made = []
    for cell, code in zip(cells, codes, strict=True):
        made.append((cell, replace(record(cell), provenance={"code": code})))
    assert list(code_remarks(made)) == [
        "More than one version of the code of: backbone blip (bbb, eee)."
    ]


def test_a_launch_that_would_mix_code_is_refused(tmp_path: Path) -> None:
    plan, now = make_plan(*SEEDS), cell_code(SEEDS[0].cell)
    refuse_other_code(plan, written(tmp_path / "same", now, now))
    refuse_other_code(plan, written(tmp_path / "older", None))
    refuse_other_code(plan, written(tmp_path / "complete", EDITED, EDITED, EDITED))
    changed = {**now, "method": "aaa"}
    with pytest.raises(
        UserError, match=r"the code of its method has changed since seed 0 \(cell .*--root, or pass"
    ):
        refuse_other_code(plan, written(tmp_path / "edited", changed))


def test_diff_names_code_that_differs(tmp_path: Path) -> None:
    a, b, old = tmp_path / "a", tmp_path / "b", tmp_path / "old"
    written(a, CODE)
    written(b, EDITED)
    written(old, None)
    assert "Code differs: method." in diff_table(a, b, diff(a, b)).caption
    assert diff(a, b).equal, "the same numbers"
    assert not any("Code" in line for line in diff_table(a, old, diff(a, old)).caption)


def test_captions_say_what_was_scored(tmp_path: Path) -> None:
    """They do so where it is less than the split; records of earlier versions do not know."""
    about = {"split": "test", "examples": 40, "images": 9, "of": 2000}
    seeds = [{"vqa/shapes": about}, {"vqa/shapes": about}, {"vqa/shapes": {**about, "of": 40}}]
    plan, store = make_plan(*SEEDS), Store(tmp_path)
    for cell, scored in zip(SEEDS, seeds, strict=True):
        one = record(cell)
        store.publish(replace(one, provenance={**one.provenance, "scored": scored}))
    assert leaderboard(plan, store).remarks == (
        "Scored on part of a split: vqa/shapes, the first 40 of 2,000 examples of 'test' "
        "(9 images).",
    )
    assert leaderboard(plan, written(tmp_path / "old", None, None, None)).remarks == ()


@pytest.mark.parametrize("name", ["loop", "inputs", "augmentation", "features", "evaluation"])
def test_what_trains_and_evaluates_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file gives another hash of the training; the tree is not touched."""
    forget()
    cell = planned().cell
    cell = replace(cell, dataset=replace(cell.dataset, format="shapes"))
    before = cell_code(cell)
    read = source_hash._hash_file
    monkeypatch.setattr(
        source_hash,
        "_hash_file",
        lambda path: "changed" if path.stem == name and path.parent.name == "run" else read(path),
    )
    hash_code.cache_clear()
    after = cell_code(cell)
    hash_code.cache_clear()
    assert {key for key in before if before[key] != after[key]} == {"training"}


def test_a_pipe_in_place_of_a_source_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.py")
    with pytest.raises(UserError, match=r"mine\.py: not a regular file"):
        declared.parse_source(tmp_path / "mine.py")


def test_changed_images_are_refused_before_a_launch(tmp_path: Path) -> None:
    """Seed 0 is done, an image is replaced, and seed 1 is to run."""
    data = write_vqav2(tmp_path)
    sweep = write_one(
        tmp_path,
        dataset=data.name,
        seeds="[0, 1]",
        protocol="{lr: 1e-3, steps: 2, eval_split: val}",
    )
    made = plan(SweepHandle(str(sweep)), need_data=True)
    save_plan(made, tmp_path / "root")
    store, first = Store(tmp_path / "root"), made.cells[0]
    images = Inputs.open(first.cell.parts[0]).image_fingerprint()
    one = record(first, {"vqa_accuracy": 1.0}, data=first.data)
    one = replace(one, provenance={"data": first.data, "science": 1, "images": images})
    store.publish(one)
    save_plan(made, tmp_path / "root")  # nothing has changed
    Image.new("RGB", (9, 9)).save(tmp_path / "val2014" / "COCO_val2014_000000000003.jpg")
    with pytest.raises(UserError, match=f"have changed or were copied since cell {first.id}"):
        save_plan(made, tmp_path / "root")
    save_plan(made, tmp_path / "root", mixed=True)
    store.publish(replace(one, id=made.cells[1].id))
    save_plan(made, tmp_path / "root")  # nothing is to run
