"""The best method of a backbone against the others, example by example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlpeft.results.compatible import JOINT
from vlpeft.results.report.data import ReportModel
from vlpeft.results.report.examples import Browser
from vlpeft.results.report.predictions import count_words


@dataclass(frozen=True)
class Duel:
    """The best method of a backbone against the others, on the same examples of one seed.

    rows: method, mean, and on how many examples it is better than the winner, worse, and equal.
    """

    backbone: str
    data: str
    metric: str
    seeds: str
    compared: str
    winner: str
    mean: float
    equal: int  # how many others have this mean
    rows: tuple[tuple[str, float, int, int, int], ...]


def duels(browser: Browser, model: ReportModel) -> Iterator[Duel]:
    """Yield a duel for each backbone with two scored methods or more.

    There is none where a planned method has no score, because it could be the best.
    """
    for backbone in browser.backbones:
        means = {}
        for i in browser.series_of(backbone):
            mean = browser.means[i]
            if mean is not None:
                means[i] = mean
        if len(means) > 1 and not _unscored(browser, model, backbone):
            yield _duel(browser, backbone, means)


def _duel(browser: Browser, backbone: str, means: dict[int, float]) -> Duel:
    """Compare the best series with the others, sorted by their means."""
    best, *others = sorted(means, key=lambda i: (-means[i], i))
    better, equal = browser.better, browser.equal
    rows = []
    for i in others:
        counts = (better[i][best], better[best][i], equal[i][best])
        rows.append((browser.series[i][1], means[i], *counts))
    return Duel(
        backbone=backbone,
        data=f"{browser.task}/{browser.dataset}",
        metric=browser.metric,
        seeds=browser.answered_by(browser.series_of(backbone)),
        compared=count_words(equal[best][best]),
        winner=browser.series[best][1],
        mean=means[best],
        equal=sum(means[i] == means[best] for i in others),
        rows=tuple(rows),
    )


def undecided(browsers: Sequence[Browser], model: ReportModel) -> Iterator[str]:
    """Yield a sentence for each backbone whose best method is not known."""
    for browser in browsers:
        for backbone in browser.backbones:
            lacking = ", ".join(_unscored(browser, model, backbone))
            if lacking:
                place = f"{backbone}, {browser.task}/{browser.dataset}"
                yield f"No best method on {place}, without {lacking}."


def _unscored(browser: Browser, model: ReportModel, backbone: str) -> list[str]:
    """Return planned methods with a seed that failed, is missing or has no value."""
    wanted = (backbone, browser.task, browser.dataset, browser.metric)
    found = []
    for score in model.main:
        entry = score.entry
        place = entry.backbone, entry.task, entry.dataset.partition(JOINT)[0], entry.metric
        state = entry.state
        if place == wanted and not state.is_done and not state.is_skipped:
            found.append(f"{entry.method} ({state.kind})")
    return found
