"""The prediction browser's content: the examples on which methods disagree most, what each answered, and who beats whom.

Of each setting the first seed's predictions are read. Nothing is sampled: the same records give the same choice.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import sha256
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.base import DataFormat, Example
from vlpeft.results.report.data import Model, ReadOnce

LINES = 20_000  # read of a cell's predictions, so that time stays bounded; the page says where there may be more
METHODS = 16  # shown on a backbone: those with the highest scores
LOSSLESS = 8000  # drawn scenes lose by JPEG, photographs do not
THUMBNAIL = 192  # pixels, the longer side
Series = tuple[str, str]  # backbone, method
ExampleScores = NDArray[np.float64]


@dataclass(frozen=True)
class Answered:
    """A line of predictions.jsonl."""

    id: str
    kind: str
    text: str
    references: tuple[str, ...]
    score: float  # of the first metric that scores single examples, NaN if none does


@dataclass(frozen=True)
class Answer:
    """One answer and who gave it."""

    text: str
    score: float | None
    by: tuple[int, ...]  # indices into `Browser.series`


@dataclass(frozen=True)
class ShownExample:
    """One example: what was asked, what people said, what methods said. `missing` says why there is no picture or question."""

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

    series: who answers, by backbone and method.  seeds: of each, whose answers they are.  n: examples that were compared, of each series.
    better: [i][j] is on how many examples series i has a higher score than series j; equal: the same score.
    images: by image id of the dataset, data URIs.
    """

    task: str
    dataset: str
    metric: str
    seeds: tuple[int, ...]
    n: int
    left_out: int  # methods
    series: tuple[Series, ...]
    shown: tuple[ShownExample, ...]
    images: Mapping[str, str]
    means: tuple[float | None, ...]  # of each series over those examples
    better: tuple[tuple[int, ...], ...]
    equal: tuple[tuple[int, ...], ...]

    @property
    def order(self) -> dict[str, int]:
        """Number of each image."""
        return {image: number for number, image in enumerate(self.images)}

    @property
    def comparison(self) -> str:
        """How many examples, in words."""
        return count_words(self.n)

    def answered_by(self, series: Sequence[int] | None = None) -> str:
        """The seed of some series, of all by default; where they are not of one, so it says."""
        seeds = sorted(
            {self.seeds[i] for i in (range(len(self.seeds)) if series is None else series)}
        )
        if len(seeds) == 1:
            return f"seed {seeds[0]}"
        return f"seeds {', '.join(map(str, seeds))} (of each method the first that is done)"

    @property
    def verdict_words(self) -> bool:
        """Whether an answer is right or wrong; captions are better or worse."""
        return self.task != "captioning"


def count_words(n: int) -> str:
    """So many examples, of those that were read."""
    return f"the first {n:,} examples" if n >= LINES else f"{n:,} examples"


def browsers(plan: Plan, store: ReadOnce, model: Model, wanted: int) -> list[Browser]:
    """One a task and dataset that has predictions; `wanted` examples in all, shared evenly."""
    groups = _groups(plan, store, model)
    shares = [wanted // len(groups) + (i < wanted % len(groups)) for i in range(len(groups))]
    return [
        _browser(group, store, share) for group, share in zip(groups, shares, strict=True) if share
    ]


@dataclass(frozen=True)
class _Group:
    """The cells that answer one task on one dataset: a series each, the first seed's."""

    task: str
    dataset: str
    metric: str
    cells: Mapping[Series, tuple[Planned, int]]  # and the task's place in the cell
    left_out: int


def _groups(plan: Plan, store: ReadOnce, model: Model) -> list[_Group]:
    found: dict[tuple[str, str], dict[Series, tuple[Planned, int]]] = {}
    for cell in sorted(plan.runnable(), key=lambda cell: cell.seed):
        if cell.id in store.kept and (store.folder(cell.id) / "predictions.jsonl").exists():
            for i, part in enumerate(cell.cell.parts):
                found.setdefault((part.task, part.dataset.name), {}).setdefault(
                    (cell.backbone, cell.row), (cell, i)
                )
    order = {(row.backbone, row.row): i for i, row in reversed(list(enumerate(plan.cells)))}
    groups = []
    for (task, dataset), cells in sorted(found.items()):
        metric, kept = _best(model, task, dataset, sorted(cells, key=order.__getitem__))
        groups.append(
            _Group(
                task,
                dataset,
                metric,
                {series: cells[series] for series in kept},
                len(cells) - len(kept),
            )
        )
    return groups


def _best(
    model: Model, task: str, dataset: str, series: Sequence[Series]
) -> tuple[str, list[Series]]:
    """The group's first metric, and of each backbone its METHODS best series in the given order."""
    own = [
        score.entry
        for score in model.main
        if score.entry.task == task and score.entry.dataset.partition(" (joint: ")[0] == dataset
    ]
    metric = own[0].metric if own else ""
    means = {
        (entry.backbone, entry.method): entry.mean or 0.0 for entry in own if entry.metric == metric
    }
    kept: list[Series] = []
    for backbone in dict.fromkeys(backbone for backbone, _ in series):
        of = [each for each in series if each[0] == backbone]
        best = sorted(of, key=lambda each: -means.get(each, 0.0))[:METHODS]
        kept += [each for each in of if each in best]
    return metric, kept


def _browser(group: _Group, store: ReadOnce, share: int) -> Browser:
    answers = [_read(store, cell, part, group.metric) for cell, part in group.cells.values()]
    ids = list(dict.fromkeys(name for own in answers for name in own))
    table = np.array(
        [[own[name].score if name in own else np.nan for name in ids] for own in answers]
    )
    series = tuple(group.cells)
    chosen = _chosen(
        table,
        [backbone for backbone, _ in series],
        [_first(answers, name).kind for name in ids],
        share,
    )
    names = [ids[i] for i in chosen]
    cell, part = next(iter(group.cells.values()))
    opened = _Opened.of(cell, part, store, names)
    shown = tuple(_shown(name, answers, opened) for name in names)
    compared = table[:, None, :], table[None, :, :]
    better, equal = np.greater(*compared).sum(axis=2), np.equal(*compared).sum(axis=2)
    return Browser(
        group.task,
        group.dataset,
        group.metric,
        tuple(cell.seed for cell, _ in group.cells.values()),
        len(ids),
        group.left_out,
        series,
        shown,
        opened.pictures,
        tuple(
            fmean(known) if (known := [float(v) for v in own if np.isfinite(v)]) else None
            for own in table
        ),
        tuple(map(tuple, better.tolist())),
        tuple(map(tuple, equal.tolist())),
    )


def _read(store: ReadOnce, cell: Planned, part: int, metric: str) -> dict[str, Answered]:
    path, found = store.folder(cell.id) / "predictions.jsonl", dict[str, Answered]()
    task = cell.cell.parts[part].name
    written = store.record(cell.id).files.get(path.name)
    if (
        written and sha256(path) != written
    ):  # cut at the end of a line it could still be read, and be miscounted
        raise UserError(
            f"{path} is not what the run wrote; delete the cell's folder and run it again, or use --examples 0"
        )
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                row = json.loads(text)
                if row.get("task", task) != task:
                    continue
                score = float(row["scores"].get(metric, np.nan))
                found[row["id"]] = Answered(
                    row["id"], row["kind"], row["prediction"], tuple(row["references"]), score
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}: line {number} is damaged ({error}); delete the cell's folder and run it again, or use --examples 0"
                ) from error
            if len(found) == LINES:
                break
    return found


def _chosen(
    table: ExampleScores, backbones: Sequence[str], kinds: Sequence[str], share: int
) -> list[int]:
    """Where methods of one backbone disagree most (variance of their scores, a mean over backbones), question types in turn."""
    names = np.array(backbones)
    spread = np.zeros(table.shape[1])
    for backbone in dict.fromkeys(backbones):
        own = table[names == backbone]
        known = np.isfinite(own).sum(axis=0)
        centre = np.nansum(own, axis=0) / np.maximum(known, 1)
        spread += np.nansum((own - centre) ** 2, axis=0) / np.maximum(known, 1)
    ranked = sorted(range(len(kinds)), key=lambda i: (-spread[i], i))
    queues = [[i for i in ranked if kinds[i] == kind] for kind in sorted(set(kinds))]
    return [i for turn in zip_longest(*queues) for i in turn if i is not None][:share]


def _first(answers: Iterable[Mapping[str, Answered]], name: str) -> Answered:
    return next(own[name] for own in answers if name in own)


def _shown(name: str, answers: Sequence[Mapping[str, Answered]], opened: _Opened) -> ShownExample:
    first = _first(answers, name)
    example = opened.examples.get(name)
    images = example.images if example else ()
    missing = opened.missing or "; ".join(
        dict.fromkeys(opened.unseen[image] for image in images if image in opened.unseen)
    )
    question = example.question if example else ""
    return ShownExample(
        name,
        first.kind,
        question,
        first.references,
        images,
        tuple(_grouped(name, answers)),
        missing,
    )


def _grouped(name: str, answers: Sequence[Mapping[str, Answered]]) -> Iterator[Answer]:
    """Equal answers together, the best first."""
    found: dict[tuple[str, float | None], list[int]] = {}
    for i, own in enumerate(answers):
        if name in own:
            score = own[name].score
            found.setdefault((own[name].text, score if np.isfinite(score) else None), []).append(i)
    for (text, known), by in sorted(
        found.items(), key=lambda item: (-(item[0][1] or 0.0), item[1])
    ):
        yield Answer(text, known, tuple(by))


@dataclass(frozen=True)
class _Opened:
    """What the dataset says of the chosen examples: `missing` is why it says nothing, `unseen` why an image is not there."""

    examples: Mapping[str, Example]
    pictures: Mapping[str, str]
    unseen: Mapping[str, str]
    missing: str = ""

    @classmethod
    def of(cls, cell: Planned, part: int, store: ReadOnce, names: Sequence[str]) -> _Opened:
        where = cell.cell.parts[part]
        try:
            data = where.dataset.open()
            if _is_other(data, part, store.record(cell.id).provenance.get("data")):
                return cls(
                    {},
                    {},
                    {},
                    f"the dataset '{where.dataset.name}' that is here is not the one that the cells saw",
                )
            wanted = set(names)
            examples = {
                each.id: each
                for each in data.examples(where.task, where.protocol.eval_split)
                if each.id in wanted
            }
        except UserError as error:
            return cls({}, {}, {}, f"question and image are not here: {error}")
        pictures, unseen = dict[str, str](), dict[str, str]()
        for image in dict.fromkeys(
            image for name in names if name in examples for image in examples[name].images
        ):
            try:
                pictures[image] = _thumbnail(data, image)
            except UserError as error:
                unseen[image] = f"the image is not here: {error}"
        return cls(examples, pictures, unseen)


def _is_other(data: DataFormat, part: int, recorded: object) -> bool:
    """Whether the record was made from other data; of a joint cell each task's fingerprint stands in its place."""
    found = str(recorded).split("+")
    return part >= len(found) or data.fingerprint() != found[part]


def _thumbnail(data: DataFormat, image: str) -> str:
    """A data URI of the image, at most THUMBNAIL pixels wide and high: PNG, or JPEG where that would be more than LOSSLESS bytes."""
    if data.has_features:
        raise UserError("this dataset is of features, not of pictures")
    picture = Image.fromarray(data.image(image))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    kind, content = "png", _encoded(picture, "PNG", optimize=True)
    if len(content) > LOSSLESS:
        kind, content = "jpeg", _encoded(picture, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
