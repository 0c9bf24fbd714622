"""`tune:` with a sampler: each trial is chosen from the scores of those before it.

    tune: {sampler: optuna.tpe, trials: 20, lr: log(1e-5, 1e-2), on: val}

A trial is a cell of stage 1, like a setting of a list. Which trials there are depends on earlier
results, so they are kept in the result folder, in `search.json`. Only `vlpeft sweep` chooses new
ones; a plan shows those that are known.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from filelock import Timeout
from pydantic import Field

from vlpeft.benchmark.core.config import JSON, Config, Positive, Seed, dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json, to_json, write_atomically
from vlpeft.benchmark.core.locks import hold
from vlpeft.benchmark.plan.draws import FORMS, SettingRange, parse_ranges
from vlpeft.benchmark.plan.vary import Values

FILE = "search.json"  # in the result folder
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class SearchOptions(Config):
    """The keys of `tune:` that ask for a search.

    Attributes:
        sampler: What chooses the trials.
        trials: How many; a larger number continues a search.
        at_once: How many are chosen together, and can run at the same time.
        seed: Of the sampler.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("sampler", "trials", "at_once", "seed")

    sampler: Literal["optuna.tpe", "optuna.random"]
    trials: Annotated[int, Field(ge=2, le=10_000)]
    at_once: Positive = 4
    seed: Seed = 0


@dataclass(frozen=True)
class Search:
    """The options of a search, and the ranges of its settings."""

    options: SearchOptions
    written: Mapping[str, JSON]  # the ranges, as they are in the file
    ranges: Mapping[str, SettingRange]

    def settings(self, point: Mapping[str, float]) -> Values:
        """Return the settings at a point: for each a number in [0, 1], or a choice's index."""
        return {key: each.at(each.share(point[key])) for key, each in self.ranges.items()}

    def limits(self) -> list[Values]:
        """Return settings that hold each choice, and the lowest and highest of each range.

        The first has the lowest values. They are checked before there is a trial.
        """
        values = {key: each.limits() for key, each in self.ranges.items()}
        count = max(map(len, values.values()))
        return [
            {key: own[min(number, len(own) - 1)] for key, own in values.items()}
            for number in range(count)
        ]


def parse_search(item: Mapping[str, JSON], where: str) -> Search:
    """Read the options and ranges of a search. Raises UserError for a bad one."""
    given = {key: item[key] for key in SearchOptions.OPTIONS if key in item}
    options = parse(SearchOptions, given, where)
    written = {key: value for key, value in item.items() if key not in SearchOptions.OPTIONS}
    if not written:
        raise UserError(f"{where}: it searches nothing; add a setting with a range: {FORMS}")
    return Search(options, written, parse_ranges(written, where))


@dataclass(frozen=True)
class Trials(Config):
    """The file of the searches of a result folder: the points of each study, in their order."""

    studies: dict[str, tuple[dict[str, float], ...]] = field(default_factory=dict)


def read_trials(root: Path) -> Trials:
    """Read the trials in a result folder; none if there is no file.

    Raises UserError for a damaged file.
    """
    path = root / FILE
    try:
        values = read_json(path)
        return parse(Trials, values or {}, str(path))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"cannot read {path} ({error}); delete it to search again") from error


@dataclass(frozen=True)
class Study:
    """The trials of a search for one method, backbone and task.

    points: all that have been chosen, also by a sweep with more trials.
    """

    name: str
    search: Search
    points: tuple[dict[str, float], ...]

    def list_settings(self) -> list[Values]:
        """Return the different settings of the trials, in the order in which they were chosen."""
        found: list[Values] = []
        for point in self.points[: self.search.options.trials]:
            settings = self.search.settings(point)
            if settings not in found:
                found.append(settings)
        return found

    def is_complete(self) -> bool:
        """Return whether no more trials are to be chosen."""
        return len(self.points) >= self.search.options.trials

    def choose(self, scores: Sequence[float | None]) -> tuple[dict[str, float], ...]:
        """Return the next points; none while a trial has no score, or if there are enough.

        Args:
            scores: Of `list_settings`; -inf for one that has diverged, None for one not done.

        Raises:
            UserError: optuna is not installed.
        """
        known = [score for score in scores if score is not None]
        if len(known) < len(scores) or self.is_complete():
            return ()
        from vlpeft.benchmark.core.libraries.optuna import ScoredPoint, propose_points

        settings = self.list_settings()
        earlier = []
        for point in self.points:
            score = known[settings.index(self.search.settings(point))]
            earlier.append(ScoredPoint(point, _finite(score, known)))
        options = self.search.options
        text = f"{options.seed} {self.name} {len(self.points)}"
        return tuple(
            propose_points(
                options.sampler.removeprefix("optuna."),
                int(hashlib.sha256(text.encode()).hexdigest()[:8], 16),
                {key: each.choices for key, each in self.search.ranges.items()},
                earlier,
                min(options.at_once, options.trials - len(self.points)),
            )
        )


def _finite(score: float, known: Sequence[float]) -> float:
    """Return a score; for one that has diverged, less than the worst of the others."""
    if math.isfinite(score):
        return score
    finite = [each for each in known if math.isfinite(each)] or [0.0]
    return min(finite) - 1 - (max(finite) - min(finite))


def append_points(root: Path, study: Study, points: Sequence[dict[str, float]]) -> None:
    """Add trials to a study in a result folder, unless another launcher has added some.

    Raises UserError if the file cannot be read or written.
    """
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with hold(path.with_suffix(".lock"), LOCK_SECONDS):
            studies = dict(read_trials(root).studies)
            if studies.get(study.name, ()) == study.points:
                studies[study.name] = (*study.points, *points)
                write_atomically(path, to_json(dump(Trials(studies)), indent=None))
    except Timeout as error:
        raise UserError(f"{path} is locked by another process; try again") from error


def study_name(*identity: JSON) -> str:
    """Return the name of a study: a hash of what its scores depend on."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
