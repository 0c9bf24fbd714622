"""Sweeps become cells: what the id of a cell depends on, labels, and the layers of a protocol.

`tests/golden/cell_ids.json` pins ids. If an id changes, every record made under the old id is lost.
For an intended change (a new default, another protocol), rewrite the file and mention it in
CHANGELOG.md. The command is

VLPEFT_WRITE_GOLDEN=1 pytest tests/unit/test_grid.py -k golden
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpeft.benchmark.cells.cell import Cell, Choice, Plan
from vlpeft.benchmark.core.config import dump, dump_defaults, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan import crossing, grid, resolved
from vlpeft.benchmark.plan import sweep_files as sweeps
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "cell_ids.json"
LINES = {
    "protocol": "{lr: 1e-3, steps: 2}",
    "tasks": "[vqa/shapes]",
    "backbones": "[{name: vit_roberta, text: tiny, vision: tiny}]",
    "methods": "[lora]",
}
CELL = Cell(
    Choice("lora", {"rank": 8}),
    Choice("vit_roberta", {"text": "tiny"}),
    "vqa",
    DatasetSpec("shapes", "shapes", {"seed": 0}, "/data"),
    Protocol(lr=1e-3, steps=10),
    seed=0,
)


def write(path: Path, **replaced: str) -> str:
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**LINES, **replaced}.items()))
    return str(path)


@pytest.fixture
def ids(tmp_path):
    """Return the ids of a sweep with some lines replaced."""

    def call(**replaced: str) -> list[str]:
        return [
            planned.id for planned in expand(SweepHandle(write(tmp_path / "a.yaml", **replaced)))
        ]

    return call


@pytest.fixture
def refusal(tmp_path):
    def call(**replaced: str) -> str:
        with pytest.raises(UserError) as error:
            expand(SweepHandle(write(tmp_path / "a.yaml", **replaced)))
        return str(error.value)

    return call


def golden_cells() -> dict[str, str]:
    """Return one cell of each row and backbone of the quickstart.

    Each has another task or seed than the one before.
    """
    kept = [
        p
        for p in expand(SweepHandle("quickstart"))
        if (p.backbone, p.task) in (("vit_roberta", "vqa"), ("vit_gpt2", "captioning"))
    ]
    return {
        f"{p.row} | {p.backbone} | {p.task}/{p.dataset} | seed {p.seed}": p.id for p in kept[::7]
    }


def test_golden_ids() -> None:
    found = golden_cells()
    if os.environ.get("VLPEFT_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert len(found) >= 10
    assert found == json.loads(GOLDEN.read_text())


def test_a_golden_id_that_depends_on_no_file() -> None:
    """A cell written out here pins the hash itself, independent of the quickstart."""
    assert CELL.id == "6dd3dc94b62b"


def test_ids_are_the_same_in_every_process() -> None:
    code = (
        "from vlpeft.benchmark.plan.grid import expand\n"
        "from vlpeft.benchmark.plan.sweep import SweepHandle\n"
        "print(*[p.id for p in expand(SweepHandle('quickstart'))])"
    )
    other = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, env=other
    )
    assert done.stdout.split() == [p.id for p in expand(SweepHandle("quickstart"))]


def test_quickstart_has_no_equal_cells_and_no_equal_places() -> None:
    cells = expand(SweepHandle("quickstart"))
    assert len({p.id for p in cells}) == len(cells)
    assert len({(p.row, p.backbone, p.task, p.dataset, p.seed) for p in cells}) == len(cells)
    assert all(re.fullmatch(r"[0-9a-f]{12}", p.id) for p in cells)


SAME = {
    "defaults of a method": {
        "methods": "[{name: lora, rank: 8, alpha: 16.0, targets: [query, value], dropout: 0.0}]"
    },
    "an integer for a float": {"methods": "[{name: lora, alpha: 16}]"},
    "keys in another order": {"backbones": "[{vision: tiny, text: tiny, name: vit_roberta}]"},
    "defaults of a backbone": {
        "backbones": "[{name: vit_roberta, text: tiny, vision: tiny, read: prefix, head_layers: 2}]"
    },
    "defaults of a protocol": {
        "protocol": "{steps: 2, batch_size: 64, beams: 1, clip_norm: null, "
        "betas: [0.9, 0.999], lr: 0.001}"
    },
    "the protocol's name": {"protocol": "{lr: 1e-3, steps: 2, name: ours}"},
    "a setting that moved to the method": {
        "protocol": "{lr: 1e-3}",
        "methods": "[{name: lora, protocol: {steps: 2}}]",
    },
    "a setting that moved to the backbone": {
        "protocol": "{lr: 1e-3}",
        "backbones": "[{name: vit_roberta, text: tiny, vision: tiny, protocol: {steps: 2}}]",
    },
    "labels": {
        "methods": "[{name: lora, label: ours}]",
        "backbones": "[{name: vit_roberta, text: tiny, vision: tiny, label: small}]",
    },
    "title and notes": {"title": "another", "notes": "another", "summary": "another"},
    "the long form of a task": {"tasks": "[{task: vqa, dataset: shapes}]"},
    "seeds spelled out": {"seeds": "[0]"},
}


@pytest.mark.parametrize("name", SAME)
def test_changes_that_keep_the_id(name, ids) -> None:
    assert ids(**SAME[name]) == ids()


OTHER = {
    "seed": {"seeds": "[1]"},
    "rank": {"methods": "[{name: lora, rank: 4}]"},
    "method": {"methods": "[routing_lora]"},
    "function": {"methods": "[{name: routing_lora, function: mul}]"},
    "learning rate": {"protocol": "{lr: 2e-3, steps: 2}"},
    "steps": {"protocol": "{lr: 1e-3, steps: 3}"},
    "epochs": {"protocol": "{lr: 1e-3, epochs: 2}"},
    "blind": {"protocol": "{lr: 1e-3, steps: 2, images: zeroed}"},
    "limit": {"protocol": "{lr: 1e-3, steps: 2, train_limit: 100}"},
    "metrics": {"protocol": "{lr: 1e-3, steps: 2, metrics: [vqa_accuracy]}"},
    "weights": {"backbones": "[{name: vit_roberta, text: tiny}]"},
    "backbone setting": {
        "backbones": "[{name: vit_roberta, text: tiny, vision: tiny, read: text}]"
    },
    "dataset": {"tasks": "[vqa/easy_vqa]"},
    "task": {"tasks": "[captioning/shapes]"},
}


def test_changes_that_change_the_id(ids) -> None:
    found = {"as it is": ids()[0]} | {name: ids(**replaced)[0] for name, replaced in OTHER.items()}
    assert len(set(found.values())) == len(found)


def test_data_settings_change_the_id_and_moving_data_does_not(tmp_path, ids) -> None:
    data = tmp_path / "mine.yaml"
    lines = {"format": "shapes", "train_scenes": "20"}

    def made(**more: str) -> str:
        data.write_text("".join(f"{key}: {value}\n" for key, value in {**lines, **more}.items()))
        return ids(tasks="[vqa/mine.yaml]")[0]

    assert (
        made()
        == made(root="elsewhere")
        == made(root='""')
        == made(seed="0")
        == made(summary="another", licence="another")
    )
    assert len({made(), made(seed="1"), made(train_scenes="21")}) == 3
    (tmp_path / "yours.yaml").write_text(
        data.read_text()
    )  # another name may mean other data in files of the same names
    assert ids(tasks="[vqa/yours.yaml]")[0] != made()


def test_shipped_data_may_move(ids, monkeypatch, tmp_path) -> None:
    before = ids(tasks="[vqa/vqav2]")
    monkeypatch.setenv("VLPEFT_DATA", str(tmp_path))
    assert ids(tasks="[vqa/vqav2]") == before


@given(st.randoms(use_true_random=False))
def test_order_of_keys(random) -> None:
    def shuffled(value):
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(v)) for key, v in value.items()]
        random.shuffle(items)
        return dict(items)

    assert parse(Cell, shuffled(dump(CELL)), "a cell").id == CELL.id


PROTOCOL_VALUES = {
    "lr": st.floats(1e-6, 1.0),
    "batch_size": st.integers(1, 512),
    "weight_decay": st.floats(0, 1),
    "beams": st.integers(1, 5),
    "schedule": st.sampled_from(["linear", "cosine", "constant"]),
    "images": st.sampled_from(["real", "zeroed"]),
    "train_limit": st.none() | st.integers(1, 99),
    "metrics": st.none() | st.lists(st.sampled_from(["cider", "bleu"]), min_size=1, unique=True),
}


@given(
    st.fixed_dictionaries({}, optional=PROTOCOL_VALUES),
    st.fixed_dictionaries({}, optional=PROTOCOL_VALUES),
    st.text(max_size=5),
)
def test_two_protocols_share_an_id_exactly_if_they_are_equal(one, other, name) -> None:
    first, second = (
        replace(CELL, protocol=parse(Protocol, {"lr": 1e-3, "steps": 10, **values}, ""))
        for values in (one, other)
    )
    assert (first.id == second.id) == (first.protocol == second.protocol)
    assert replace(first, protocol=replace(first.protocol, name=name)).id == first.id


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_seeds_and_ids(one, other) -> None:
    assert (replace(CELL, seed=one).id == replace(CELL, seed=other).id) == (one == other)


def test_every_field_of_a_protocol_but_its_name_is_identity() -> None:
    later = set(dump_defaults(CELL.protocol))
    assert set(CELL.identity()["protocol"]) == {f.name for f in fields(Protocol)} - {"name"} - later


def test_a_field_added_later_is_identity_only_where_it_is_used() -> None:
    assert "label_words" in dump_defaults(CELL.protocol)
    spelt = replace(CELL, protocol=replace(CELL.protocol, label_words=None))
    used = replace(CELL, protocol=replace(CELL.protocol, label_words={"neutral": "maybe"}))
    assert spelt.id == CELL.id != used.id
    assert used.identity()["protocol"]["label_words"] == {"neutral": "maybe"}


def test_cells_survive_json() -> None:
    for planned in expand(SweepHandle("quickstart"))[::17]:
        again = parse(Cell, json.loads(to_json(dump(planned.cell))), "cell.json")
        assert again == planned.cell
        assert again.id == planned.id


def test_order_and_count(ids, tmp_path) -> None:
    cells = expand(
        SweepHandle(
            write(
                tmp_path / "a.yaml",
                seeds="[3, 1]",
                methods="[lora, bitfit]",
                tasks="[vqa/shapes, vqa/easy_vqa]",
            )
        )
    )
    assert [(p.dataset, p.row, p.seed) for p in cells] == [
        (dataset, method, seed)
        for dataset in ("shapes", "easy_vqa")
        for method in ("lora", "bitfit")
        for seed in (3, 1)
    ]


def test_labels(tmp_path) -> None:
    methods = (
        "[lora, bitfit, {name: lora, rank: 4}, {name: lora, protocol: {lr: 1.0}}, "
        "{name: lora, label: ours}]"
    )
    rows = [p.row for p in expand(SweepHandle(write(tmp_path / "a.yaml", methods=methods)))]
    assert rows == ["lora", "bitfit", "lora (rank=4)", "lora (lr=1.0)", "ours"]


REFUSED = {
    "two equal labels": (
        {"methods": "[{name: lora, label: a}, {name: bitfit, label: a}]"},
        "'a' appears 2 times",
    ),
    "two equal backbones": (
        {"backbones": "[vit_gpt2, vit_gpt2]"},
        "backbones: 'vit_gpt2' appears 2 times",
    ),
    "no methods": ({"methods": "[]"}, "methods: "),
    "no backbones": ({"backbones": "[]"}, "backbones: "),
    "no tasks": ({"tasks": "[]"}, "tasks: "),
    "no seeds": ({"seeds": "[]"}, "seeds: "),
    "a bare method": ({"methods": "lora"}, 'methods: write a list, such as ["lora"], got "lora"'),
    "a number for a method": (
        {"methods": "[3]"},
        "methods[0]: write a name, or a mapping with `name:` and settings, got 3",
    ),
    "a number for a label": (
        {"methods": "[{name: lora, label: 3}]"},
        "methods[0]: label: input should be a valid string, got 3",
    ),
    "a list for a protocol": (
        {"methods": "[{name: lora, protocol: [3]}]"},
        "methods[0]: protocol: ",
    ),
    "a number for seeds": ({"seeds": "3"}, "seeds: write a list, such as [0, 1, 2], got 3"),
    "a projection that is none": (
        {"methods": "[{name: lora, targets: [qeury]}]"},
        "method 'lora': targets[0]: ",
    ),
    "the recipe at the top": (
        {"title": "a\nlr: 1e-3"},
        "unknown key 'lr' here; it belongs to the protocol: write it under `protocol:`",
    ),
    "the recipe in a task": (
        {"tasks": "[{task: vqa, dataset: shapes, steps: 3}]"},
        (
            "tasks[0]: unknown key 'steps' here; it belongs to the "
            "protocol: write it under the sweep's `protocol:`"
        ),
    ),
    "the recipe in a method": (
        {"methods": "[{name: lora, lr: 1e-3}]"},
        (
            "method 'lora': unknown key 'lr' here; it belongs to the "
            "protocol: write it as `protocol: {lr: ...}` in this entry"
        ),
    ),
    "the recipe in a backbone": (
        {"backbones": "[{name: vit_gpt2, beams: 3}]"},
        "write it as `protocol: {beams: ...}` in this entry",
    ),
    "a task of three parts": ({"tasks": "[a/b/c]"}, "tasks[0]: write task/dataset"),
    "a misspelt part of a task": (
        {"tasks": "[{task: vqa, datasset: shapes}]"},
        "tasks[0]: unknown key 'datasset'; did you mean 'dataset'?",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name, refusal) -> None:
    replaced, message = REFUSED[name]
    found = refusal(**replaced)
    assert message in found
    assert "a.yaml: " in found
    assert "\n" not in found


def test_plans_come_back_until_the_sweep_changes(tmp_path) -> None:
    path = Path(write(tmp_path / "a.yaml", methods="[lora, bitfit]"))
    plan = Plan(
        "a",
        "A title",
        "",
        SweepHandle(str(path)).fingerprint(),
        tuple(expand(SweepHandle(str(path)))),
    )
    file = plan_file(tmp_path, "a")
    file.parent.mkdir()
    file.write_bytes(to_json(dump(plan)))
    assert SweepHandle(str(path), root=tmp_path).load_plan() == plan
    path.write_text(path.read_text() + "# a remark\n")
    with pytest.raises(UserError, match="has changed since the launch"):
        SweepHandle(str(path), root=tmp_path).load_plan()


def test_seeds_cost_almost_nothing(tmp_path, monkeypatch) -> None:
    """For any number of seeds, files are read and settings are checked once."""
    calls = Counter()
    places = {"resolve": crossing, "data_layers": grid, "resolve_entry": resolved}
    for name, module in places.items():
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, name=name, real=real: calls.update([name]) or real(*given)
        )
    counted = []
    for seeds in (1, 50):
        calls.clear()
        path = write(tmp_path / f"{seeds}.yaml", seeds=str(list(range(seeds))))
        assert len(expand(SweepHandle(path))) % seeds == 0
        counted.append(dict(calls))
    assert counted[0] == counted[1]
    assert counted[0].keys() == places.keys()


def test_finding_a_cell(tmp_path) -> None:
    cells = expand(SweepHandle(write(tmp_path / "a.yaml", seeds=str(list(range(20))))))
    plan = Plan("a", "", "", "", (*cells[:-1], replace(cells[-1], skipped="for a reason")))
    assert plan.find(cells[3].id) == cells[3]
    assert plan.find(cells[3].id[:11]) == cells[3]
    with pytest.raises(UserError, match=rf"cell {cells[3].id[:1]}: \d+ cells of 'a'"):
        plan.find(cells[3].id[:1])
    with pytest.raises(UserError, match="cell: give the beginning of a cell's id"):
        plan.find("")
    with pytest.raises(UserError, match="skipped: for a reason"):
        plan.find(cells[-1].id)
    assert len(plan.runnable()) == 19
    again = replace(cells[3], row="of a larger tower", skipped="at this scale it is another's cell")
    assert replace(plan, cells=(*plan.cells, again)).find(cells[3].id) == cells[3]


@settings(max_examples=20)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_only_shipped_names_are_sweeps(word) -> None:
    if word in sweeps.sweep_names():
        assert sweeps.sweep_path(word).exists()
    else:
        with pytest.raises(UserError, match="unknown sweep"):
            sweeps.sweep_path(word)


def test_a_changed_dataset_changes_the_sources_of_a_plan(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("format: shapes\nroot: ''\nseed: 1\n")
    path = Path(write(tmp_path / "a.yaml", tasks="[{task: vqa, dataset: mine.yaml}]"))
    before = SweepHandle(str(path)).fingerprint()
    assert before == SweepHandle(str(path)).fingerprint()
    assert before != SweepHandle(str(path), "tiny").fingerprint(), "a scale is part of it"
    (tmp_path / "mine.yaml").write_text("format: shapes\nroot: ''\nseed: 2\n")
    assert SweepHandle(str(path)).fingerprint() != before
