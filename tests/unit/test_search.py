"""`tune:` with a sampler: trials come from a journal, are chosen by earlier scores, and stay."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from tests.synthetic import record
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.plan.best import score_all
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import expand, searches
from vlpeft.benchmark.plan.search import Study
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
    stage = first_stage(sweep, store)
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


def test_trials_are_recorded_and_never_chosen_again(handle):
    sweep = handle()
    first = [cell.id for cell in first_stage(sweep, Store(sweep.root)).cells]
    journal = (sweep.root / "search.journal").read_bytes()
    assert [cell.id for cell in first_stage(sweep, Store(sweep.root)).cells] == first
    shown = plan(sweep, need_data=True, results=Store(sweep.root))
    assert [cell.id for cell in shown.runnable() if cell.row != "head_only"] == [
        cell for cell in first if "lora" in {c.id: c.row for c in shown.cells}[cell]
    ]
    assert (sweep.root / "search.journal").read_bytes() == journal


def test_two_launchers_at_once_choose_the_next_trials_once(handle):
    """Both have seen the same scores; the second finds the trials of the first."""
    sweep = handle()
    store = Store(sweep.root)
    finish(store, [cell for cell in first_stage(sweep, store).cells if cell.stage])
    (compared,) = searches(sweep, store)
    scores = score_all(compared.tuning, compared.tried(), store)
    study = compared.study
    journal = sweep.root / "search.journal"
    before = study.tried()
    study.advance(scores)
    assert len(study.tried()) == 4
    late = replace(study)
    written = journal.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        answers = iter([before])
        real = Study.tried
        patch.setattr(Study, "tried", lambda self: next(answers, None) or real(self))
        late.advance(scores)
    assert journal.read_bytes() == written


def test_the_same_scores_give_the_same_trials(handle):
    one, two = search(handle(folder="one")), search(handle(folder="two"))
    assert one == two
    other = SWEEP.replace("trials: 6", "trials: 6, seed: 1")
    assert search(handle(other, folder="three")) != one


def test_tpe_learns_from_scores(handle):
    """Of forty trials, the last ten are nearer to the best than the first ten."""
    many = SWEEP.replace("trials: 6, at_once: 2", "trials: 40, at_once: 5")
    tried = [value for each in search(handle(many)) for value in each]
    distance = [abs(value - 0.3) for value in tried]
    assert sum(distance[-10:]) < sum(distance[:10]) / 2


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
    store, stage = Store(sweep.root), first_stage(sweep, Store(sweep.root))
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
        first_stage(sweep, Store(sweep.root))


@pytest.mark.parametrize("damage", [b"nonsense\n", b"{}\n", b'{"op_code": 99}\n'])
def test_a_damaged_journal_is_one_line(handle, damage):
    sweep = handle()
    search(sweep)
    journal = sweep.root / "search.journal"
    journal.write_bytes(damage + journal.read_bytes())
    with pytest.raises(UserError, match=r"cannot read .*search\.journal .*delete it to begin"):
        plan(sweep, need_data=True, results=Store(sweep.root))
