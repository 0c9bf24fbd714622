"""Tables of sweeps that failed in part: no mean of fewer seeds, no best value of an open column."""

import json
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.synthetic import fill, make_plan, planned, record, score
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import parse
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.papers.compare import published_table
from vlpeft.results.papers.published import PublishedTable
from vlpeft.results.report import charts
from vlpeft.results.report.data import ReadOnce, gather
from vlpeft.results.report.page import write_report
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import significance
from vlpeft.results.tables.blocks import Table
from vlpeft.results.tables.pivot import pivot_table
from vlpeft.results.tables.render import FORMATS, render
from vlpeft.results.tables.table import cost_table, score_table

METHODS, BACKBONES, SEEDS = ("low", "top", "middle"), ("blip", "gpt2"), (0, 1, 2)
TASKS = {"vqa": ("shapes", "vqa_accuracy"), "captioning": ("coco", "CIDEr")}
LEVELS = {"low": 40.0, "middle": 60.0, "top": 80.0}
RIPPLE = [1.0, -1.0, 3.0, -3.0, 2.0, -2.0, 0.5, -0.5] * 3
FAILURE = {"cause": "TypeError", "message": "unexpected keyword", "user": False}


def only(**wanted):
    """Return a test that selects cells by their keys."""
    return lambda cell: all(getattr(cell, key) == value for key, value in wanted.items())


HURT = only(row="middle", backbone="blip", task="vqa")
PATTERNS = {  # which cells, and their state
    "one seed failed": (only(row="middle", backbone="blip", task="vqa", seed=1), "failed"),
    "one seed is missing": (only(row="middle", backbone="blip", task="vqa", seed=2), "missing"),
    "one seed has no value": (
        only(row="low", backbone="gpt2", task="captioning", seed=0),
        "absent",
    ),
    "all seeds failed": (HURT, "failed"),
    "all seeds are missing": (HURT, "missing"),
    "a seed of the best failed": (only(row="top", backbone="gpt2", task="vqa", seed=0), "failed"),
    "a method failed": (only(row="low"), "failed"),
    "a column failed": (only(backbone="gpt2", task="captioning"), "failed"),
    "all but a seed is missing": (lambda cell: cell.seed != 0, "missing"),
    "nothing is done": (only(), "missing"),
    "one is ruled out": (HURT, "skipped"),
    "all is done": (only(row="no such method"), "failed"),
}
Column = tuple[str, str]  # backbone, task


class Sweep:
    """A sweep with a pattern of failures, and the properties that its tables must have."""

    def __init__(self, root: Path, pattern: str) -> None:
        hit, self.state = PATTERNS[pattern]
        cells = [
            one_metric(planned(row, backbone, task, dataset, seed))
            for backbone in BACKBONES
            for task, (dataset, _) in TASKS.items()
            for row in METHODS
            for seed in SEEDS
        ]
        self.hit = {cell.id for cell in cells if hit(cell)}
        if self.state == "skipped":
            cells = [
                replace(cell, skipped="no site") if cell.id in self.hit else cell for cell in cells
            ]
        self.plan, self.store = make_plan(*cells), Store(root)
        for cell in self.plan.runnable():
            self.finish(cell)
        self.board = leaderboard(self.plan, self.store)
        self.tests = significance(self.board, self.store)

    def finish(self, cell: Planned) -> None:
        if cell.id in self.hit and self.state == "missing":
            return
        if cell.id in self.hit and self.state == "failed":
            path = self.store.folder(cell.id) / "failure.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(FAILURE))
            return
        value = LEVELS[cell.row] + cell.seed
        absent = cell.id in self.hit and self.state == "absent"
        made = record(cell, {TASKS[cell.task][1]: {"absent": "no java"} if absent else value})
        scalars = {"encoder.0.self.p": [(1, 1.5), (2, 1.6)]}
        fill(self.store.root, [replace(made, curve=[(1, 2.0), (2, value)], scalars=scalars)])
        score(self.store, cell, {TASKS[cell.task][1]: [value + each for each in RIPPLE]})

    def undone(self, **wanted) -> list[Planned]:
        """Return the cells without a value, except those that the grid rules out."""
        return [c for c in self.plan.runnable() if c.id in self.hit and only(**wanted)(c)]

    @property
    def open(self) -> set[Column]:
        """Return the columns in which a planned value is missing."""
        return {(cell.backbone, cell.task) for cell in self.undone()}

    @property
    def counts(self) -> str:
        """Return the captions' note on unfinished cells, or "" if all are done."""
        counts = Counter({"done": len(self.plan.runnable())})
        if self.state in ("failed", "missing"):
            counts += Counter({self.state: len(self.hit), "done": 0})
            counts["done"] -= len(self.hit)
        listed = ", ".join(
            f"{counts[what]} {what}"
            for what in ("done", "failed", "missing")
            if what == "done" or counts[what]
        )
        return f"Cells: {listed}." if counts["failed"] + counts["missing"] else ""


@pytest.fixture(scope="module", params=PATTERNS)
def sweep(request, tmp_path_factory):
    return Sweep(tmp_path_factory.mktemp("root"), request.param)


def one_metric(cell: Planned) -> Planned:
    """Set one metric for the cell, so that its column has one even if no cell is done."""
    metric = TASKS[cell.task][1].lower()
    made = replace(cell.cell, protocol=replace(cell.cell.protocol, metrics=(metric,)))
    return replace(cell, cell=made, id=made.id)


def tables(sweep: Sweep) -> dict[str, Table]:
    board, tests = sweep.board, sweep.tests
    return {
        "scores": score_table(board, tests),
        "details": score_table(board, tests, details=True),
        "costs": cost_table(board),
        "significance": significance_table(board, tests),
        "pivot": pivot_table(board, ("method",), ("task",)),
        "published": published_table("paper/table", PUBLISHED, sweep.plan, sweep.store),
    }


PUBLISHED = parse(
    PublishedTable,
    {
        "paper": "A paper",
        "table": "Table 1",
        "sources": {"pdf": {"url": "https://example.org/a.pdf", "primary": True, "read": "text"}},
        "tolerance": "half a point",
        "columns": [
            {
                "name": "VQA",
                "metric": "accuracy",
                "task": "vqa/shapes",
                "measured": "vqa_accuracy",
                "tolerance": 0.5,
            },
            {
                "name": "COCO",
                "metric": "CIDEr",
                "task": "captioning/coco",
                "measured": "CIDEr",
                "tolerance": 0.5,
            },
            {
                "name": "Avg.",
                "metric": "mean",
                "mean_of": ["VQA", "COCO"],
                "tolerance": 0.5,
                "within": 1,
            },
        ],
        "groups": [
            {
                "name": backbone,
                "backbone": backbone,
                "rows": [
                    *(
                        {"name": row, "method": row, "values": [LEVELS[row] + 1] * 3}
                        for row in METHODS
                    ),
                    {
                        "name": "gain",
                        "gain": {"of": "top", "over": "middle"},
                        "values": [20.0, 20.0, 20.0],
                    },
                ],
            }
            for backbone in BACKBONES
        ],
    },
    "a.yaml",
)


@pytest.mark.parametrize(
    "kind", ["scores", "details", "costs", "significance", "pivot", "published"]
)
def test_every_table_counts_unfinished_cells(sweep, kind):
    table = tables(sweep)[kind]
    assert table.remark_lines == ((sweep.counts,) if sweep.counts else ())
    for form in FORMATS:
        text = render(table, form)
        # the table has no caption, and the command prints the note
        if sweep.counts and form != "csv":
            assert sweep.counts in text, form
        else:
            assert "Cells: " not in text, form


def test_no_format_sets_a_value_of_an_open_column_in_bold(sweep):
    table = score_table(sweep.board, sweep.tests)
    bold = [(row["backbone"], row["task"]) for row in table.data if row["bold"]]
    closed = [
        (backbone, task)
        for backbone in BACKBONES
        for task in TASKS
        if (backbone, task) not in sweep.open
    ]
    assert sorted(bold) == sorted(closed)  # the best value is clear in all the others
    assert {row["method"] for row in table.data if row["bold"]} <= {"top"}
    for made in (table, significance_table(sweep.board, sweep.tests)):
        assert sum(cell.bold for block in made.blocks for row in block.rows for cell in row) == len(
            closed
        )
        marks = {"markdown": "| **", "latex": r"\textbf{8", "html": "<b>", "text": "*8"}
        found = {form: render(made, form).count(mark) for form, mark in marks.items()}
        assert found == dict.fromkeys(marks, len(closed)), found


def test_no_mean_rank_or_deviation_without_every_seed(sweep):
    for details in (False, True):
        for row in score_table(sweep.board, sweep.tests, details=details).data:
            undone = sweep.undone(row=row["method"], backbone=row["backbone"], task=row["task"])
            skipped = row["state"].startswith("skipped")
            assert (row["mean"] is None) == bool(undone or skipped)
            assert (row["std"] is None) == bool(undone or skipped)
            assert row["n"] == (0 if skipped else len(SEEDS) - len(undone))
            in_open = (row["backbone"], row["task"]) in sweep.open
            assert (row["rank"] is None) == (in_open or skipped)


def test_other_columns_do_not_change(sweep, tmp_path):
    whole = Sweep(tmp_path / "whole", "all is done")
    expected, found = (score_table(each.board, each.tests).data for each in (whole, sweep))
    hurt = sweep.open if sweep.state != "skipped" else {("blip", "vqa")}
    assert [row for row in found if (row["backbone"], row["task"]) not in hurt] == [
        row for row in expected if (row["backbone"], row["task"]) not in hurt
    ]


def test_costs_are_means_over_every_seed(sweep):
    for row in cost_table(sweep.board).data:
        undone = sweep.undone(row=row["method"], backbone=row["backbone"], task=row["task"])
        blocked = row["state"].startswith("skipped") or (undone and sweep.state != "absent")
        assert (row["mean"] is None) == bool(blocked)


def test_an_open_column_is_not_tested_and_the_caption_says_so(sweep):
    table = significance_table(sweep.board, sweep.tests)
    tested = {(row["backbone"], row["task"]) for row in table.data}
    assert tested == {(backbone, task) for backbone in BACKBONES for task in TASKS} - sweep.open
    for backbone, task in sweep.open:
        dataset, metric = TASKS[task]
        assert (
            f"Not tested: {backbone} / {task} / {dataset} / {metric}: a value is missing."
            in table.lines()
        )
    assert all(row["n"] == len(SEEDS) for row in table.data)


SIDES = [
    ("method", "task"),
    ("backbone", "task"),
    ("method", "backbone,task"),
    ("task", "method"),
    ("task", "backbone"),
]


@pytest.mark.parametrize(("down", "across"), SIDES)
def test_no_pivot_averages_over_less_than_the_plan(sweep, down, across):
    names = across.split(",")
    for row in pivot_table(sweep.board, (down,), tuple(names)).data:
        keys = {"row" if key == "method" else key: row[key] for key in (down, *names)}
        own = [c for c in sweep.plan.cells if only(**keys)(c) and TASKS[c.task][1] == row["metric"]]
        if row["mean"] is None:
            # The grid may rule out a cell of one entry that the others of the column have.
            assert not own or sweep.hit & {cell.id for cell in own}, row
        else:
            assert own
            values = [LEVELS[cell.row] + cell.seed for cell in own if not cell.skipped]
            assert not sweep.undone(**keys)
            assert row["mean"] == pytest.approx(statistics.fmean(values))
            assert row["n"] == len(SEEDS)


def test_tidy_rows_have_the_values_of_the_cells(sweep):
    frame = sweep.board.frame
    assert len(frame) == len(sweep.plan.cells)
    assert (frame["value"].notna() == (frame["state"] == "done")).all()
    hit = frame[frame["id"].isin(sweep.hit)]
    assert {state.partition(": ")[0] for state in hit["state"]} <= {sweep.state}
    assert set(frame[~frame["id"].isin(sweep.hit)]["state"]) <= {"done"}


def test_no_verdict_on_a_number_without_every_seed(sweep):
    parts = {"VQA": ("vqa",), "COCO": ("captioning",), "Avg.": ("vqa", "captioning")}
    rows = published_table("paper/table", PUBLISHED, sweep.plan, sweep.store).data
    assert len(rows) == len(BACKBONES) * (len(METHODS) + 1) * len(parts)
    for row in rows:
        methods = (row["method"],) if row["method"] else ("top", "middle")
        places = [(method, task) for method in methods for task in parts[row["column"]]]
        own = [
            c for c in sweep.plan.cells if c.backbone == row["group"] and (c.row, c.task) in places
        ]
        if sweep.hit & {cell.id for cell in own}:
            assert (row["mean"], row["std"], row["difference"]) == (None, None, None)
            assert row["verdict"] == ("cannot run" if sweep.state == "skipped" else "not run")
        else:
            assert (row["verdict"], row["n"]) == ("reproduced", len(SEEDS))


# --- the report ---


def test_no_front_is_drawn_if_a_method_has_no_dot(sweep):
    model = gather(sweep.plan, ReadOnce(sweep.store))
    figures = charts.pareto(model)
    for figure in figures:
        column = figure.backbone, figure.data.split("/", maxsplit=1)[0]
        fronts = [path for path in figure.paths if path.kind == "front"]
        assert bool(fronts) == (column not in sweep.open)
        assert ("On the Pareto front" in figure.about) == bool(fronts)
        assert ("no Pareto front, which might change without " in figure.caption) == (not fronts)
        assert figure.labels or fronts
    for figure in charts.spread(model):
        column = figure.backbone, figure.data.split("/", maxsplit=1)[0]
        named = [cell.row for cell in sweep.undone(backbone=column[0], task=column[1])]
        assert all(f"{name} ({sweep.state})" in figure.caption for name in named)
        assert ("without" in figure.caption) == bool(named)
        assert len(figure.marks) % len(SEEDS) == 0


def test_curves_are_means_over_every_seed(sweep):
    model = gather(sweep.plan, ReadOnce(sweep.store))
    wanted = {(c.backbone, c.task, c.row) for c in sweep.plan.runnable()}
    lost = {(c.backbone, c.task, c.row) for c in sweep.undone() if sweep.state != "absent"}
    task = {f"{name}/{dataset}": name for name, (dataset, _) in TASKS.items()}
    drawn = {(each.backbone, task[each.data], name) for each in model.curves for name in each.lines}
    assert drawn == wanted - lost
    assert {line.n for each in model.curves for line in each.lines.values()} <= {len(SEEDS)}
    assert {
        (each.backbone, task[each.data], each.method) for each in model.followed
    } == wanted - lost
    assert {len(site.last) for each in model.followed for site in each.sites} <= {len(SEEDS)}
    partly = {
        place
        for place in lost
        if len(sweep.undone(backbone=place[0], task=place[1], row=place[2])) < len(SEEDS)
    }
    assert {name.partition(",")[0] for name in model.unfinished} == {
        f"{row} on {backbone}" for backbone, _, row in partly
    }


def test_the_page_notes_it_at_each_table(sweep, tmp_path):
    (path,) = write_report([(sweep.plan, sweep.store)], tmp_path / "out", 0)
    text = path.read_text(encoding="utf-8")
    blocks = bool(significance_table(sweep.board, sweep.tests).blocks)
    assert text.count(f'<p class="caption">{sweep.counts or "Cells: "}') == (
        2 + blocks if sweep.counts else 0
    )
    assert text.count("Train s: seconds") == 1


def test_a_plan_without_its_failures_is_the_whole_plan(tmp_path):
    """With everything done, no table mentions a failure, and the best is bold everywhere."""
    made = Sweep(tmp_path, "all is done")
    assert isinstance(made.plan, Plan)
    assert (made.board.remarks, made.open) == ((), set())
    assert len(made.tests.columns) == len(BACKBONES) * len(TASKS)
