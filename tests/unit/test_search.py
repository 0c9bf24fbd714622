"""`tune:` with a sampler: trials are chosen by earlier scores, and are kept."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.synthetic import record
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.plan.best import score_all
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import expand, list_searches
from vlpeft.benchmark.plan.search import FILE, append_points
from vlpeft.benchmark.plan.stages import first_stage, next_stage, waits
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.tuned import tuning_sentences, widened

SMALL = 'format: shapes\nroot: ""\ntrain_scenes: 24\nval_scenes: 4\ntest_scenes: 12\n'
SWEEP = """
protocol: {steps: 2, lr: 1e-3}
tune: {sampler: optuna.tpe, trials: 6, at_once: 2, weight_decay: uniform(0, 1), on: val}
tasks: [{task: vqa, dataset: small.yaml}, {task: captioning, dataset: small.yaml}]
seeds: [3, 4]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [{name: lora, rank: 4}, {name: head_only, tune: null}]
"""


ONE = SWEEP.replace(", {task: captioning, dataset: small.yaml}", "").replace(
    ", {name: head_only, tune: null}", ""
)


@pytest.fixture
def handle(tmp_path):
    """Return a function that writes a sweep and returns its handle."""

    def call(text: str = SWEEP, folder: str = "root") -> SweepHandle:
        (tmp_path / "small.yaml").write_text(SMALL)
        (tmp_path / "a.yaml").write_text(text)
        return SweepHandle(str(tmp_path / "a.yaml"), root=tmp_path / folder)

    return call


def score_of(cell: Planned) -> float:
    """Return a made-up score that is best at a weight decay of 0.3."""
    return 100 - 100 * abs(cell.varied["weight_decay"] - 0.3)


def finish(store: Store, cells: list[Planned], *, diverged: bool = False) -> None:
    for cell in cells:
        if cell.stage and diverged:
            folder = store.folder(cell.id)
            folder.mkdir(parents=True)
            about = {"cause": "diverged", "message": "the loss became nan", "user": True}
            (folder / "failure.json").write_bytes(to_json(about))
        elif cell.stage:
            store.publish(record(cell, {"vqa_accuracy": score_of(cell)}))


def search(sweep: SweepHandle) -> list[list[float]]:
    """Run all rounds with made-up scores; return what each has tried."""
    store, rounds = Store(sweep.root), []
    stage = first_stage(sweep, store, choose=True)
    while stage is not None and waits(stage.plan):
        new = [cell for cell in stage.cells if cell.stage]
        rounds.append([cell.varied["weight_decay"] for cell in new])
        finish(store, new)
        stage = next_stage(sweep, store, stage)
    return rounds


def final_cells(sweep: SweepHandle) -> list[Planned]:
    made = plan(sweep, need_data=True, results=Store(sweep.root))
    return [cell for cell in made.runnable() if not cell.stage and cell.row == "lora"]


def test_trials_are_chosen_in_rounds_and_the_best_is_tested(handle):
    sweep = handle()
    rounds = search(sweep)
    assert [len(each) for each in rounds] == [2, 2, 2]
    tried = [value for each in rounds for value in each]
    assert len(set(tried)) == 6
    best = min(tried, key=lambda value: abs(value - 0.3))
    found = final_cells(sweep)
    assert [cell.seed for cell in found] == [3, 4]
    assert {cell.tuned.settings["weight_decay"] for cell in found} == {best}
    hand = SWEEP.replace(SWEEP.splitlines()[2], "").replace(
        "rank: 4}", f"rank: 4, protocol: {{weight_decay: {best}}}}}"
    )
    by_hand = [cell.id for cell in expand(handle(hand)) if cell.task == "vqa"]
    assert [cell.id for cell in found] == by_hand[:2]


def trials(cells) -> list[str]:
    return [cell.id for cell in cells if cell.stage]


def test_trials_are_recorded_and_not_chosen_again(handle):
    """Only a launch chooses trials; a plan, a dry run and a second launch show those there are."""
    sweep = handle()
    store = Store(sweep.root)
    assert trials(first_stage(sweep, store).cells) == []
    assert not sweep.root.exists()
    first = trials(first_stage(sweep, store, choose=True).cells)
    assert len(first) == 2
    kept = (sweep.root / FILE).read_bytes()
    assert trials(first_stage(sweep, store, choose=True).cells) == first
    assert trials(plan(sweep, need_data=True, results=store).runnable()) == first
    assert (sweep.root / FILE).read_bytes() == kept


def test_two_launchers_at_once_choose_the_next_trials_once(handle):
    """Both have seen the same scores; the second finds the trials of the first."""
    sweep = handle()
    store = Store(sweep.root)
    finish(store, first_stage(sweep, store, choose=True).cells)
    (compared,) = list_searches(sweep, store)
    points = compared.study.choose(score_all(compared.tuning, compared.list_tried(), store))
    append_points(sweep.root, compared.study, points)
    kept = (sweep.root / FILE).read_bytes()
    append_points(sweep.root, compared.study, points)
    assert (sweep.root / FILE).read_bytes() == kept
    (after,) = list_searches(sweep, store)
    assert after.study.points == (*compared.study.points, *points)


def test_a_sweep_in_which_all_is_searched_can_be_planned(handle):
    made = plan(handle(ONE), need_data=True)
    assert made.runnable() == ()
    assert waits(made)


def test_a_search_goes_on_where_all_trials_are_on_record(handle):
    """Without its file, the same trials are chosen again, and none of them has to run."""
    sweep = handle(ONE)
    tried = search(sweep)
    (sweep.root / FILE).unlink()
    stage = first_stage(sweep, Store(sweep.root), choose=True)
    assert not waits(stage.plan)
    assert [cell.stage for cell in stage.cells] == ["", ""]
    assert sum(map(len, tried)) == 6


def test_a_cell_that_failed_is_not_tried_again_in_the_same_launch(handle):
    sweep = handle()
    store, handed = Store(sweep.root), Counter()
    stage = first_stage(sweep, store, choose=True)
    while stage is not None and waits(stage.plan):
        handed.update(cell.id for cell in stage.cells)
        finish(store, stage.cells)  # the cells of head_only have no record
        stage = next_stage(sweep, store, stage)
    assert set(handed.values()) == {1}


def test_divergence_is_avoided(handle):
    """Above 0.3 everything diverges."""
    sweep = handle(ONE.replace("trials: 6, at_once: 2", "trials: 40, at_once: 4"))
    store, tried = Store(sweep.root), []
    stage = first_stage(sweep, store, choose=True)
    while stage is not None and waits(stage.plan):
        for cell in stage.cells:
            tried.append(cell.varied["weight_decay"])
            finish(store, [cell], diverged=tried[-1] > 0.3)
        stage = next_stage(sweep, store, stage)
    late = sum(value > 0.3 for value in tried[-10:])
    assert late < sum(value > 0.3 for value in tried[:10])
    assert late <= 5  # of ten; seven by chance


def test_two_methods_may_try_the_same_cell(handle):
    both = ONE.replace(
        "{name: lora, rank: 4}",
        "{name: lora, rank: 4, tune: {sampler: optuna.random, trials: 4, weight_decay: choice(0.1, "
        "0.2)}}, {name: lora, label: b, tune: {sampler: optuna.random, trials: 8, "
        "weight_decay: choice(0.1, 0.2), rank: choice(4, 8)}}",
    )
    sweep = handle(both)
    search(sweep)
    made = plan(sweep, need_data=True, results=Store(sweep.root))
    assert not waits(made)


def test_a_smaller_number_of_trials_uses_the_first(handle):
    search(handle(ONE))
    fewer = handle(ONE.replace("trials: 6", "trials: 3"))
    assert final_cells(fewer)[0].tuned.tried == 3


def test_the_same_scores_give_the_same_trials(handle):
    one, two = search(handle(folder="one")), search(handle(folder="two"))
    assert one == two
    other = SWEEP.replace("trials: 6", "trials: 6, seed: 1")
    again = search(handle(other, folder="three"))
    assert not {value for each in one for value in each} & {v for each in again for v in each}


def test_tpe_learns_from_scores(handle):
    """Of forty trials, the last ten are nearer to the best than the first ten."""
    many = SWEEP.replace("trials: 6, at_once: 2", "trials: 40, at_once: 5")
    tried = [value for each in search(handle(many)) for value in each]
    distance = [abs(value - 0.3) for value in tried]
    assert sum(distance[-10:]) < sum(distance[:10]) * 0.75


def test_more_trials_continue_a_search(handle):
    first = search(handle())
    more = search(handle(SWEEP.replace("trials: 6", "trials: 8")))
    assert [len(each) for each in more] == [2]
    assert not set(more[0]) & {value for each in first for value in each}


def test_other_settings_are_another_search(handle):
    search(handle())
    assert len(search(handle(SWEEP.replace("rank: 4", "rank: 8")))) == 3
    assert len(search(handle(SWEEP.replace("uniform(0, 1)", "uniform(0, 0.5)")))) == 3


def test_a_choice_may_come_up_again_and_is_one_cell(handle):
    text = SWEEP.replace("uniform(0, 1)", "choice(0.1, 0.2)").replace("trials: 6", "trials: 8")
    sweep = handle(text)
    rounds = search(sweep)
    assert sorted({value for each in rounds for value in each}) == [0.1, 0.2]
    assert final_cells(sweep)[0].tuned.settings == {"weight_decay": 0.2}
    assert final_cells(sweep)[0].tuned.tried == 2


def test_where_all_trials_diverge_nothing_is_tested(handle):
    sweep = handle()
    store = Store(sweep.root)
    stage = first_stage(sweep, store, choose=True)
    while stage is not None and waits(stage.plan):
        finish(store, stage.cells, diverged=True)
        stage = next_stage(sweep, store, stage)
    made = plan(sweep, need_data=True, results=store)
    reasons = {cell.skipped for cell in made.cells if cell.row == "lora" and cell.task == "vqa"}
    assert reasons == {"every setting of `tune:` has diverged: try lower learning rates"}


def test_a_plan_without_results_says_what_it_waits_for(handle):
    made = plan(handle(), need_data=True)
    found = {cell.skipped for cell in made.cells if cell.row == "lora" and cell.task == "vqa"}
    assert found == {"waiting for the tuning: 0 of 6 trials are done"}


def test_tables_say_that_the_search_was_adaptive(handle):
    sweep = handle()
    search(sweep)
    made = plan(sweep, need_data=True, results=Store(sweep.root))
    said = " ".join(tuning_sentences(made, Store(sweep.root)))
    assert (
        "Tuned on 'val' over 6 settings, 1 seed each, chosen one after the other by optuna.tpe "
        "(an adaptive search): lora on vit_roberta"
    ) in said
    assert "edge" not in said
    assert not list(widened(made))


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("sampler: optuna.tp, trials: 6, lr: log(1e-5, 1e-2)", "sampler: .*'optuna.tpe'"),
        ("sampler: optuna.tpe, lr: log(1e-5, 1e-2)", "'trials' is required"),
        ("sampler: optuna.tpe, trials: 1, lr: log(1e-5, 1e-2)", "trials: .*greater than or equal"),
        ("sampler: optuna.tpe, trials: 6", "it searches nothing; add a setting with a range"),
        ("sampler: optuna.tpe, trials: 6, lr: [1e-3, 1e-2]", r"tune\.lr: write a range: log"),
        ("sampler: optuna.tpe, trials: 6, lr: log(1e-2, 1e-5)", "turned round: write log"),
        ("sampler: optuna.tpe, trials: 6, lrr: log(1e-5, 1e-2)", "unknown key 'lrr' varies here"),
        (
            "sampler: optuna.tpe, trials: 6, lr: log(1e-5, 1), batch_size: choice(4, big)",
            "batch_size: .*write whole numbers as choice",
        ),
        ("sampler: optuna.tpe, trials: 6, lr: uniform(-1, 1)", "lr: input should be greater"),
        ("sampler: optuna.tpe, trials: 6, lr: log(1e-5, 1), batch_size: log(4, 16)", "write whole"),
        ("trials: 6, lr: [1e-3, 1e-2]", r"vary\.trials: write a list"),
    ],
)
def test_refusals_are_one_line(handle, new, says):
    text = SWEEP.replace(SWEEP.splitlines()[2], f"tune: {{{new}}}").replace(", lr: 1e-3}", "}")
    with pytest.raises(UserError, match=says) as error:
        expand(handle(text))
    assert "\n" not in str(error.value)


def test_without_optuna(handle, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    sweep = handle()
    assert waits(plan(sweep, need_data=True))
    with pytest.raises(UserError, match=r"needs optuna .*pip install 'vlpeft\[optuna\]'"):
        first_stage(sweep, Store(sweep.root), choose=True)


def test_a_search_of_what_by_task_sets_is_refused(handle):
    text = ONE.replace("rank: 4}", "by_task: {vqa: {rank: 4}}}").replace(
        "weight_decay: uniform(0, 1)", "rank: choice(2, 8)"
    )
    with pytest.raises(UserError, match="'rank' is searched, and by_task has it, too"):
        expand(handle(text))


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"{}x", b'{"studies": 1}', b'{"studies": {"a": [{"b": "c"}]}}']
)
def test_a_damaged_file_is_one_line(handle, content):
    sweep = handle(ONE)
    search(sweep)
    (sweep.root / FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"search\.json .*delete it to search again"):
        plan(sweep, need_data=True, results=Store(sweep.root))
