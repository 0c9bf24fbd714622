"""The prediction browser: the examples on which methods disagree most, and who beats whom.

The predictions of the first finished seed of each setting are read. Nothing is sampled: the same
records give the same choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.tasks import TASKS
from vlpeft.results.compatible import group_of
from vlpeft.results.report.data import ReadOnce, ReportModel
from vlpeft.results.report.pictures import OpenedExamples, open_examples
from vlpeft.results.report.predictions import PredictionLine, count_words, read_predictions

METHODS = 16  # shown on a backbone: those with the highest scores
Series = tuple[str, str]  # backbone, method
SeriesCell = tuple[Planned, int]  # the cell whose answers are shown, and the index of the task
Predictions = Mapping[str, PredictionLine]  # of one series, by example id
ExampleScores = NDArray[np.float64]  # (series, examples)


@dataclass(frozen=True)
class Answer:
    """One answer, and who gave it: indices into `Browser.series`."""

    text: str
    score: float | None
    by: tuple[int, ...]


@dataclass(frozen=True)
class ShownExample:
    """One example: the question, the references and the answers of the methods.

    missing: why there is no picture or question.
    """

    id: str
    kind: str
    question: str
    references: tuple[str, ...]
    images: tuple[str, ...]
    answers: tuple[Answer, ...]
    missing: str = ""


@dataclass(frozen=True)
class Browser:
    """The examples of one task on one dataset.

    seeds: the seed of each series.
    n: how many examples were compared.
    left_out: how many methods are not shown.
    series: who answers, by backbone and method.
    images: data URIs by image id.
    means: the mean score of each series over the examples.
    better: [i][j] is the number of examples on which series i scores higher than series j.
    equal: [i][j] is the number of examples on which both have the same score.
    """

    task: str
    dataset: str
    metric: str
    seeds: tuple[int, ...]
    n: int
    left_out: int
    series: tuple[Series, ...]
    shown: tuple[ShownExample, ...]
    images: Mapping[str, str]
    means: tuple[float | None, ...]
    better: tuple[tuple[int, ...], ...]
    equal: tuple[tuple[int, ...], ...]

    @property
    def order(self) -> dict[str, int]:
        """The number of each image."""
        return {image: number for number, image in enumerate(self.images)}

    @property
    def compared(self) -> str:
        """How many examples were compared, in words."""
        return count_words(self.n)

    @property
    def backbones(self) -> list[str]:
        """The backbones of the series, in order."""
        return list(dict.fromkeys(backbone for backbone, _ in self.series))

    @property
    def has_right_answers(self) -> bool:
        """Whether an answer is right or wrong. A caption is better or worse."""
        return TASKS.load(self.task).asks

    def series_of(self, backbone: str) -> list[int]:
        """Return the indices of the series of a backbone."""
        return [i for i, (own, _) in enumerate(self.series) if own == backbone]

    def answered_by(self, series: Sequence[int] | None = None) -> str:
        """Return the seed of some series, or of all; the words say if there are several seeds."""
        if series is None:
            series = range(len(self.seeds))
        seeds = sorted({self.seeds[i] for i in series})
        if len(seeds) == 1:
            return f"seed {seeds[0]}"
        return f"seeds {', '.join(map(str, seeds))} (of each method the first that is done)"


def browsers(plan: Plan, store: ReadOnce, model: ReportModel, wanted: int) -> list[Browser]:
    """Return a browser for each task and dataset that has predictions.

    wanted: how many examples all browsers show together; they share them evenly. Each shows at
        least one, unless none are wanted.
    """
    if not wanted:
        return []
    groups = _groups(plan, store, model)
    found = []
    for i, group in enumerate(groups):
        share = wanted // len(groups) + (i < wanted % len(groups))
        found.append(_browser(group, store, max(1, share)))
    return found


@dataclass(frozen=True)
class _Group:
    """The cells that answer one task on one dataset, one a series.

    dataset: as the tables name it; a model that is trained jointly has another one.
    """

    task: str
    dataset: str
    metric: str
    cells: Mapping[Series, SeriesCell]
    left_out: int


def _groups(plan: Plan, store: ReadOnce, model: ReportModel) -> list[_Group]:
    """Group the cells that have predictions by task and dataset."""
    order: dict[Series, int] = {}
    for number, cell in enumerate(plan.cells):
        order.setdefault((cell.backbone, cell.row), number)
    groups = []
    for (task, dataset), cells in sorted(_cells_by_task(plan, store).items()):
        series = sorted(cells, key=order.__getitem__)
        metric, kept = _best(model, task, dataset, series)
        shown = {each: cells[each] for each in kept}
        groups.append(_Group(task, dataset, metric, shown, len(cells) - len(kept)))
    return groups


def _cells_by_task(plan: Plan, store: ReadOnce) -> dict[tuple[str, str], dict[Series, SeriesCell]]:
    """Return the cell of the lowest finished seed of each series, by task and dataset."""
    found: dict[tuple[str, str], dict[Series, SeriesCell]] = {}
    for cell in sorted(plan.runnable(), key=lambda cell: cell.seed):
        if cell.id not in store.kept:
            continue
        if not (store.folder(cell.id) / "predictions.jsonl").exists():
            continue
        for i in range(len(cell.cell.parts)):
            _, task, dataset = group_of(cell, i)
            group = found.setdefault((task, dataset), {})
            group.setdefault((cell.backbone, cell.row), (cell, i))
    return found


def _best(
    model: ReportModel, task: str, dataset: str, series: Sequence[Series]
) -> tuple[str, list[Series]]:
    """Return the first metric of a task, and the METHODS best series of each backbone.

    The series keep their order.
    """
    own = []
    for score in model.main:
        entry = score.entry
        if (entry.task, entry.dataset) == (task, dataset):
            own.append(entry)
    metric = own[0].metric if own else ""
    means: dict[Series, float] = {}
    for entry in own:
        if entry.metric == metric:
            means[entry.backbone, entry.method] = entry.mean or 0.0
    kept: list[Series] = []
    for backbone in dict.fromkeys(backbone for backbone, _ in series):
        every = [each for each in series if each[0] == backbone]
        best = sorted(every, key=lambda each: -means.get(each, 0.0))[:METHODS]
        kept += [each for each in every if each in best]
    return metric, kept


def _browser(group: _Group, store: ReadOnce, share: int) -> Browser:
    """Read the predictions of a group, and choose `share` examples."""
    cells = list(group.cells.values())
    series = tuple(group.cells)
    predictions = [read_predictions(store, cell, part, group.metric) for cell, part in cells]
    first: dict[str, PredictionLine] = {}  # of each example, by the first series that has it
    for own in predictions:
        for name, prediction in own.items():
            first.setdefault(name, prediction)
    ids = list(first)
    table = np.array([[_score(own, name) for name in ids] for own in predictions])
    kinds = [prediction.kind for prediction in first.values()]
    chosen = _choose([backbone for backbone, _ in series], kinds, table, share)
    names = [ids[i] for i in chosen]
    opened = open_examples(*cells[0], store, names)
    pair = table[:, None, :], table[None, :, :]
    return Browser(
        task=group.task,
        dataset=group.dataset,
        metric=group.metric,
        seeds=tuple(cell.seed for cell, _ in cells),
        n=len(ids),
        left_out=group.left_out,
        series=series,
        shown=tuple(_shown(first[name], predictions, opened) for name in names),
        images=opened.pictures,
        means=tuple(map(_mean, table)),
        better=tuple(map(tuple, np.greater(*pair).sum(axis=2).tolist())),
        equal=tuple(map(tuple, np.equal(*pair).sum(axis=2).tolist())),
    )


def _score(predictions: Predictions, name: str) -> float:
    """Return the score of an example, NaN where there is no prediction."""
    if name not in predictions:
        return float("nan")
    return predictions[name].score


def _mean(scores: ExampleScores) -> float | None:
    """Return the mean of the finite scores; None if there are none."""
    known = [float(score) for score in scores if np.isfinite(score)]
    if not known:
        return None
    return fmean(known)


def _choose(
    backbones: Sequence[str], kinds: Sequence[str], table: ExampleScores, share: int
) -> list[int]:
    """Return the examples on which methods of one backbone disagree most.

    The disagreement is the variance of their scores, summed over backbones. Question types take
    turns.
    """
    names = np.array(backbones)
    spread = np.zeros(table.shape[1])
    for backbone in dict.fromkeys(backbones):
        own = table[names == backbone]
        known = np.isfinite(own).sum(axis=0)
        centre = np.nansum(own, axis=0) / np.maximum(known, 1)
        spread += np.nansum((own - centre) ** 2, axis=0) / np.maximum(known, 1)
    queues: dict[str, list[int]] = {kind: [] for kind in sorted(set(kinds))}
    for i in sorted(range(len(kinds)), key=lambda i: (-spread[i], i)):
        queues[kinds[i]].append(i)
    chosen: list[int] = []
    for turn in zip_longest(*queues.values()):
        chosen += [i for i in turn if i is not None]
    return chosen[:share]


def _shown(
    first: PredictionLine, predictions: Sequence[Predictions], opened: OpenedExamples
) -> ShownExample:
    example = opened.examples.get(first.id)
    return ShownExample(
        id=first.id,
        kind=first.kind,
        question=example.question if example else "",
        references=first.references,
        images=example.images if example else (),
        answers=tuple(_answers(first.id, predictions)),
        missing=opened.why_missing(example),
    )


def _answers(name: str, predictions: Sequence[Predictions]) -> Iterator[Answer]:
    """Yield the distinct answers to an example, the best first."""
    found: dict[tuple[str, float | None], list[int]] = {}
    for i, own in enumerate(predictions):
        if name not in own:
            continue
        score: float | None = own[name].score
        if not np.isfinite(own[name].score):
            score = None
        found.setdefault((own[name].text, score), []).append(i)
    for (text, score), by in sorted(found.items(), key=lambda item: _answer_order(*item)):
        yield Answer(text, score, tuple(by))


def _answer_order(answer: tuple[str, float | None], by: list[int]) -> tuple[float, list[int]]:
    return -(answer[1] or 0.0), by
