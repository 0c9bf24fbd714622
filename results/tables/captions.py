"""Sentences of captions, and how numbers are written in tables."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from vlpeft.benchmark.metrics import other_units
from vlpeft.results.states import State
from vlpeft.results.statistics.crossed import SEEDS
from vlpeft.results.statistics.significance import NO_VALUE, Significance
from vlpeft.results.summaries import SummaryEntry

OVER_BOTH = (
    "significantly above every other method in its column, in a test over both seeds and "
    "images (p < 5 % after Holm's correction)"
)
OVER_IMAGES = (
    "above every other method in its column with every seed, and significantly so in a paired "
    "test over images (sign flips, seeds averaged, p < 5 % after Holm's correction)"
)
TOO_FEW = f"So it differs on these images; fewer than {SEEDS} seeds are too few to say more."
NO_WINNER = "A column without one has no clear winner."


def percent(metrics: Iterable[str]) -> str:
    """Return the unit of a table's values. What is not a percentage, such as CIDEr, is named."""
    return "; ".join(["Percent", *other_units(metrics)]) + "."


def plus_minus(std: float | None, digits: int = 1) -> str:
    """Return the standard deviation as it follows a mean, or "" if there is none."""
    if std is None:
        return ""
    return f" ± {std:.{digits}f}"


def mean_text(entry: SummaryEntry, digits: int) -> str:
    """Return mean and standard deviation of an entry."""
    mean = "NaN"
    if entry.mean is not None and not math.isnan(entry.mean):
        mean = f"{entry.mean:.{digits}f}"
    if entry.std is None or math.isnan(entry.std):
        return mean
    return mean + plus_minus(entry.std, digits)


def short_value(value: float) -> str:
    """Return a measured value with about three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 1 or value == 0:
        return f"{value:.1f}"
    return f"{value:.2g}"


def share_text(share: float) -> str:
    """Return a share in percent."""
    if 0 < share < 0.005:
        return "<0.01"
    return f"{share:.2f}"


def range_text(texts: Sequence[str]) -> str:
    """Return one text, or lowest–highest where tasks differ (by their heads)."""
    if not texts:
        return "?"
    if texts[0] == texts[-1]:
        return texts[0]
    return f"{texts[0]}–{texts[-1]}"


def seeds_sentence(counts: Collection[int]) -> str:
    """Return what a mean is over, for the numbers of planned seeds of the entries."""
    if set(counts) <= {1}:
        return "One seed each, hence no standard deviation"
    if len(counts) == 1:
        return f"Mean ± standard deviation (ddof=1) over n={min(counts)} seeds"
    return "Mean ± standard deviation (ddof=1); the number n of seeds is next to each"


def bold_sentence(tests: Significance) -> str:
    """Return what is bold, which depends on the number of seeds; "" if nothing was tested."""
    enough = {column.has_enough_seeds for column in tests.columns.values()}
    if not enough:
        return ""
    if enough == {True}:
        return f"{OVER_BOTH}. {NO_WINNER}"
    if enough == {False}:
        return f"{OVER_IMAGES}. {TOO_FEW} {NO_WINNER}"
    both = f"with {SEEDS} seeds or more, {OVER_BOTH}"
    return f"{both}; with fewer, {OVER_IMAGES}. {TOO_FEW} {NO_WINNER}"


def untested_sentences(tests: Significance) -> Iterator[str]:
    """Yield which columns have nothing bold because no test was possible."""
    places: dict[str, list[str]] = {}
    for (backbone, task, dataset, metric), reason in tests.reasons.items():
        if reason != NO_VALUE:  # the table shows missing values
            places.setdefault(reason, []).append(f"{metric} of {task}/{dataset} on {backbone}")
    for reason, listed in places.items():
        yield f"Differences not tested ({reason}): {', '.join(listed)}."


def ruled_out_sentences(entries: Iterable[SummaryEntry]) -> Iterator[str]:
    """Yield a line for each (backbone, task) whose cells are all skipped for one reason."""
    states: dict[tuple[str, str], set[State]] = {}
    for entry in entries:
        place = entry.backbone, f"{entry.task}/{entry.dataset}"
        states.setdefault(place, set()).add(entry.state)
    for (_, task), found in states.items():
        state, *others = found
        if state.is_skipped and not others:
            yield f"{task} is skipped: {state.reason}."
