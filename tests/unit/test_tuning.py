"""`tune:` in a sweep: what is compared, which setting wins, and what tables say about it."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from tests.synthetic import record
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.datasets import load_spec
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.cut import Cut
from vlpeft.benchmark.datasets.shapes import Shapes
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.stages import first_stage, is_lost, next_stage, waits
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.tables.render import render
from vlpeft.results.tables.table import cost_table, score_table
from vlpeft.results.tuned import ORACLE, tuning_sentences, widened

SWEEP = """
protocol: {steps: 2, lr: 1e-3}
tune: {weight_decay: [0.0, 0.1, 0.2], on: val}
tasks: [vqa/shapes]
seeds: [3, 4]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [{name: lora, rank: 4}, {name: head_only, tune: null}]
"""
BY_HAND = """
protocol: {steps: 2, lr: 1e-3}
tasks: [vqa/shapes]
seeds: [3, 4]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [{name: lora, rank: 4, protocol: {weight_decay: 0.1}}, head_only]
"""


@pytest.fixture
def handle(tmp_path):
    """Return a function that writes a sweep and returns its handle."""

    def call(text: str = SWEEP, name: str = "a.yaml") -> SweepHandle:
        (tmp_path / name).write_text(text)
        return SweepHandle(str(tmp_path / name))

    return call


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "root")


def finish(store: Store, sweep: SweepHandle, *scores: float | None) -> None:
    """Write the records of the cells that compare settings, in order; None: it has diverged."""
    cells = [cell for cell in expand(sweep) if cell.stage]
    for cell, score in zip(cells, scores, strict=True):
        if score is None:
            folder = store.folder(cell.id)
            folder.mkdir(parents=True)
            about = {"cause": "diverged", "message": "the loss became nan", "user": True}
            (folder / "failure.json").write_bytes(to_json(about))
        else:
            store.publish(record(cell, {"vqa_accuracy": score}))


def final(cells) -> list:
    return [cell for cell in cells if not cell.stage]


def test_settings_are_compared_on_the_other_split_first(handle):
    cells = expand(handle())
    compared = [cell for cell in cells if cell.stage]
    assert [cell.row for cell in compared] == [
        f"lora (weight_decay={value})" for value in (0.0, 0.1, 0.2)
    ]
    assert {cell.cell.protocol.eval_split for cell in compared} == {"val"}
    assert {cell.seed for cell in compared} == {0}
    assert not any(cell.skipped for cell in compared)
    lora, head = final(cells)[:2], final(cells)[2:]
    assert {cell.skipped for cell in lora} == {"waiting for the tuning: 0 of 3 cells are done"}
    assert [(cell.row, cell.skipped) for cell in head] == [("head_only", "")] * 2


def test_the_best_has_the_ids_of_a_sweep_written_by_hand(handle, store):
    sweep = handle()
    finish(store, sweep, 10.0, 30.0, 20.0)
    by_hand = expand(handle(BY_HAND, "b.yaml"))
    chosen = final(expand(sweep, store))
    assert [cell.id for cell in chosen] == [cell.id for cell in by_hand]
    assert [cell.cell for cell in chosen] == [cell.cell for cell in by_hand]
    tuned = chosen[0].tuned
    assert (tuned.settings, tuned.tried, tuned.seeds) == ({"weight_decay": 0.1}, 3, 1)
    assert (tuned.edges, tuned.diverged) == ((), 0)
    assert chosen[0].row == "lora"
    assert chosen[-1].tuned is None


@pytest.mark.parametrize(
    ("scores", "best", "edges"),
    [
        ((30.0, 30.0, 20.0), 0.0, ("weight_decay: 0.0",)),  # the lowest wins a tie
        ((10.0, 20.0, 30.0), 0.2, ("weight_decay: 0.2",)),
        ((10.0, 20.0, None), 0.1, ()),  # a setting that diverges loses
        ((0.0, None, None), 0.0, ("weight_decay: 0.0",)),
    ],
)
def test_who_wins(handle, store, scores, best, edges):
    sweep = handle()
    finish(store, sweep, *scores)
    tuned = final(expand(sweep, store))[0].tuned
    assert tuned.settings == {"weight_decay": best}
    assert tuned.edges == edges
    assert tuned.diverged == scores.count(None)


def test_the_lowest_wins_a_tie_however_the_list_is_written(handle, store):
    sweep = handle(SWEEP.replace("[0.0, 0.1, 0.2]", "[0.2, 0.0, 0.1]"))
    finish(store, sweep, 5.0, 5.0, 5.0)
    assert final(expand(sweep, store))[0].tuned.settings == {"weight_decay": 0.0}


def test_seeds_are_averaged(handle, store):
    sweep = handle(SWEEP.replace("on: val", "seeds: [0, 1]"))
    finish(store, sweep, 10.0, 30.0, 19.0, 19.0, 40.0, None)
    tuned = final(expand(sweep, store))[0].tuned
    assert (tuned.settings, tuned.seeds, tuned.diverged) == ({"weight_decay": 0.0}, 2, 1)


def test_where_all_have_diverged_the_rest_goes_on(handle, store):
    sweep = handle()
    assert not is_lost(first_stage(sweep, store).plan)
    finish(store, sweep, None, None, None)
    lora, head = final(expand(sweep, store))[1:3]
    assert lora.skipped == "every setting of `tune:` has diverged: try lower learning rates"
    assert head.skipped == ""
    assert is_lost(first_stage(sweep, store).plan)


def test_an_absent_metric_is_an_error(handle, store):
    sweep = handle()
    finish(store, sweep, 1.0, 2.0, 3.0)
    cell = next(cell for cell in expand(sweep) if cell.stage)
    (store.folder(cell.id) / "record.json").unlink()
    store.publish(record(cell, {"vqa_accuracy": {"absent": "no Java"}}))
    with pytest.raises(UserError, match=f"cell {cell.id} has no value 'vqa_accuracy': no Java"):
        expand(sweep, store)


def test_methods_and_several_settings(handle, store):
    text = SWEEP.replace("tune: {weight_decay: [0.0, 0.1, 0.2], on: val}\n", "")
    text = text.replace("rank: 4", "tune: {rank: [2, 4], lr: [1e-3, 1e-2]}")
    sweep = handle(text.replace("lr: 1e-3}", "lr: 1e-4}").replace(", tune: null", ""))
    finish(store, sweep, 1.0, 2.0, 4.0, 3.0)
    chosen = final(expand(sweep, store))
    assert chosen[0].tuned.settings == {"rank": 4, "lr": 1e-3}
    assert chosen[0].cell.method.settings["rank"] == 4
    assert chosen[0].cell.protocol.lr == 1e-3
    assert chosen[-1].tuned is None


def test_the_stages_of_a_sweep(handle, store):
    sweep = handle()
    first = first_stage(sweep, store)
    assert waits(first.plan)
    assert len(first.cells) == 3 + 2
    assert next_stage(sweep, store, first) is None  # nothing new can run
    finish(store, sweep, 1.0, None, 0.0)
    second = next_stage(sweep, store, first)
    assert not waits(second.plan)
    assert [cell.row for cell in second.cells] == ["lora", "lora"]
    # A cell that has diverged has its result, and is not run again.
    assert not any(cell.stage for cell in first_stage(sweep, store).cells)


def test_the_plan_is_whole_again_where_only_a_comparison_was_lost(handle, store):
    """The cells of stage 2 are on record, so nothing is left to run."""
    sweep = handle()
    finish(store, sweep, 1.0, 2.0, 3.0)
    for cell in final(plan(sweep, need_data=True, results=store).runnable()):
        store.publish(record(cell, {"vqa_accuracy": 5.0}))
    lost = next(cell for cell in expand(sweep) if cell.stage)
    shutil.rmtree(store.folder(lost.id))
    first = first_stage(sweep, store)
    assert [cell.id for cell in first.cells] == [lost.id]
    store.publish(record(lost, {"vqa_accuracy": 1.0}))
    second = next_stage(sweep, store, first)
    assert second is not None
    assert second.cells == []
    assert not waits(second.plan)
    assert next_stage(sweep, store, second) is None


def test_a_metric_of_a_task_that_a_backbone_cannot_do_is_not_looked_for(handle):
    text = SWEEP.replace("[vqa/shapes]", "[vqa/shapes, captioning/shapes]").replace(
        "vision: tiny}", "vision: tiny, protocol: {metrics: [vqa_accuracy]}}"
    )
    made = plan(handle(text), need_data=True)
    skipped = [cell for cell in made.cells if cell.task == "captioning"]
    assert {cell.skipped for cell in skipped} == {
        "vit_roberta does vqa, entailment, nlvr2, not captioning"
    }
    assert waits(made)


def test_planning_opens_no_tested_split_while_settings_are_compared(handle, store, monkeypatch):
    opened: Counter[str] = Counter()
    read = Shapes.examples

    def watch(self: Shapes, task: str, split: str) -> object:
        opened[split] += 1
        return read(self, task, split)

    monkeypatch.setattr(Shapes, "examples", watch)
    monkeypatch.setattr("vlpeft.benchmark.run.inputs._READ", {})
    sweep = handle(SWEEP.replace(", {name: head_only, tune: null}", ""))
    plan(sweep, need_data=True, results=store)
    assert set(opened) == {"train", "val"}


REFUSED = [
    ("{weight_decay: [], on: val}", "weight_decay"),
    ("{on: val}", "it tries nothing"),
    ("{weight_decay: [0.1]}", "one setting leaves nothing to compare"),
    ("{weight_dacey: [0.1, 0.2]}", "unknown key 'weight_dacey' varies here; did you mean"),
    ("{weight_decay: [0.1, 0.1]}", "0.1 appears 2 times"),
    ("{weight_decay: 0.1}", "write a list"),
    ("{rank: [4, 8]}", "'rank' varies and has a fixed value"),
    ("{weight_decay: [0.1, 0.2], on: test}", "'test' is the tested split"),
    ("{weight_decay: [0.1, 0.2], on: vla}", "no split 'vla'"),
    ("{weight_decay: [0.1, 0.2], metric: CIDEr}", "vqa does not report 'CIDEr'"),
    ("{weight_decay: [0.1, 0.2], seeds: []}", "seeds"),
    ("{weight_decay: [0.1, 0.2], selector: orcale}", "selector"),
    ("{weight_decay: [-1.0, 0.2]}", "weight_decay"),
    ("[1]", "tune: write a mapping"),
]


@pytest.mark.parametrize(("new", "says"), REFUSED, ids=[new for new, _ in REFUSED])
def test_refusals_are_one_line(handle, new, says):
    with pytest.raises(UserError) as error:
        plan(handle(SWEEP.replace("{weight_decay: [0.0, 0.1, 0.2], on: val}", new)), need_data=True)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "a.yaml" in str(error.value)


def test_the_best_setting_of_an_oracle_may_be_one_cell_in_both_stages(handle, store):
    text = SWEEP.replace("on: val", "selector: oracle").replace("seeds: [3, 4]", "seeds: [0, 1]")
    sweep = handle(text)
    finish(store, sweep, 1.0, 3.0, 2.0)
    made = plan(sweep, need_data=True, results=store)
    ids = {stage: {c.id for c in made.cells if bool(c.stage) is stage} for stage in (True, False)}
    assert ids[True] & ids[False], "seed 0 of the best setting is trained once"


def test_an_oracle_is_labelled(handle, store):
    sweep = handle(SWEEP.replace("on: val", "selector: oracle"))
    compared = [cell for cell in expand(sweep) if cell.stage]
    assert {cell.cell.protocol.eval_split for cell in compared} == {"test"}
    finish(store, sweep, 1.0, 3.0, 2.0)
    made = plan(sweep, need_data=True, results=store)
    assert ORACLE in leaderboard(made, store).remarks


def test_what_tables_say(handle, store):
    sweep = handle()
    finish(store, sweep, 1.0, None, 2.0)
    made = plan(sweep, need_data=True, results=store)
    place = "lora on vit_roberta, vqa/shapes"
    assert list(tuning_sentences(made, store)) == [
        f"Tuned on 'val' over 3 settings, 1 seed each: {place}: weight_decay=0.2 (1 diverged).",
        "Not tuned: head_only.",
        f"At the edge of what was tried: {place}: weight_decay: 0.2. A wider range may give a "
        "better score (`vlpeft plan --widen`).",
        "Comparing the settings took 2 more cells.",
    ]
    costs = render(cost_table(leaderboard(made, store)), "text")
    assert (
        "Comparing the settings took 2 more cells and 240 s of training, which are not in the table"
    ) in costs
    assert "240 s" not in render(score_table(leaderboard(made, store)), "text")
    assert list(widened(made)) == [f"{place}: weight_decay: add 0.4"]
    compared = leaderboard(made, store, stage="tune").frame
    assert set(compared["method"]) == {f"lora (weight_decay={value})" for value in (0.0, 0.1, 0.2)}
    assert set(leaderboard(made, store).frame["method"]) == {"lora", "head_only"}


def test_unequal_budgets_are_said(handle, store):
    text = SWEEP.replace("tune: null", "tune: {weight_decay: [0.0, 0.1]}")
    sweep = handle(text)
    finish(store, sweep, 1.0, 2.0, 1.5, 1.0, 2.0)
    made = plan(sweep, need_data=True, results=store)
    said = list(tuning_sentences(made, store))
    assert "The budgets differ, so methods with more settings have an advantage." in said


def examples(count: int) -> list[Example]:
    return [Example(str(i), (f"{i // 3}.png",), "?", ("a",)) for i in range(count)]


def test_a_cut_splits_by_images():
    cut, every = Cut(share=0.3), examples(600)
    val, rest = cut.select(every, "val"), cut.select(every, "train without val")
    assert sorted(val + rest, key=lambda example: int(example.id)) == every
    assert not {example.images for example in val} & {example.images for example in rest}
    assert 0.2 < len(val) / len(every) < 0.4
    # The place in the file has no influence, and the seed has.
    assert cut.select(every[::-1], "val") == val[::-1]
    assert Cut(share=0.3, seed=1).select(every, "val") != val


def test_a_cut_leaves_out_what_is_on_both_sides():
    cut, every = Cut(share=0.5), examples(60)
    first, second = cut.select(every, "val")[0], cut.select(every, "train without val")[0]
    both = Example("both", (*first.images, *second.images), "?", ("a",))
    assert cut.select([both], "val") == cut.select([both], "train without val") == []


def test_a_dataset_without_a_validation_split_gets_one(handle):
    assert load_spec("easy_vqa").splits() == ("train", "test", "val", "train without val")
    cells = expand(handle(SWEEP.replace("vqa/shapes", "vqa/easy_vqa")))
    compared = next(cell for cell in cells if cell.stage)
    recipe = compared.cell.protocol
    assert (recipe.train_split, recipe.eval_split) == ("train without val", "val")
    assert compared.cell.parts[0].identity()["dataset"]["cut"]["share"] == 0.1
    assert "cut" not in final(cells)[0].cell.parts[0].identity()["dataset"]


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("{of: trian}", "cut: of: no split 'trian'; did you mean 'train'?"),
        ("{name: test}", "cut: name: the files have a split 'test'"),
        ("{share: 1.0}", "cut.share"),
        ("{sahre: 0.1}", "unknown key 'cut.sahre'"),
    ],
)
def test_bad_cuts(tmp_path, cut, says):
    (tmp_path / "mine.yaml").write_text(f"format: easy_vqa\ncut: {cut}\n")
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        load_spec(str(tmp_path / "mine.yaml"))
    assert says in str(error.value)
