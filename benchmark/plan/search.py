"""`tune:` with a sampler: each trial is chosen from the scores of those before it.

    tune: {sampler: optuna.tpe, trials: 20, lr: log(1e-5, 1e-2), on: val}

A trial is a cell of stage 1, like a setting of a list. Which trials there are depends on earlier
results, so they are kept in the result folder, in a journal of optuna, and are never asked for
again. Only a launch asks for new ones; a plan shows those that are known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from filelock import FileLock
from pydantic import Field

from vlpeft.benchmark.core.config import JSON, Config, Positive, Seed, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import write_errors
from vlpeft.benchmark.plan.draws import FORMS, SettingRange, parse_ranges
from vlpeft.benchmark.plan.vary import Values

JOURNAL = "search.journal"  # in the result folder


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

    def settings(self, place: Mapping[str, float]) -> Values:
        """Return the settings at a point of the journal."""
        return {key: each.at(each.share(place[key])) for key, each in self.ranges.items()}

    def first_settings(self) -> Values:
        """Return the lowest value of each range, which stands for all before there is a trial."""
        return {key: each.at(0.0) for key, each in self.ranges.items()}


def parse_search(item: Mapping[str, JSON], where: str) -> Search:
    """Read the options and ranges of a search. Raises UserError for a bad one."""
    given = {key: item[key] for key in SearchOptions.OPTIONS if key in item}
    options = parse(SearchOptions, given, where)
    written = {key: value for key, value in item.items() if key not in SearchOptions.OPTIONS}
    if not written:
        raise UserError(f"{where}: it searches nothing; add a setting with a range: {FORMS}")
    return Search(options, written, parse_ranges(written, where))


@dataclass(frozen=True)
class Study:
    """The trials of a search for one method, backbone and task.

    journal: the file; None where there is no result folder.
    """

    journal: Path | None
    name: str
    search: Search

    def tried(self) -> list[Values]:
        """Return the different settings of all trials, in the order in which they were chosen."""
        found: list[Values] = []
        for settings in self._settings().values():
            if settings not in found:
                found.append(settings)
        return found

    def is_complete(self) -> bool:
        """Return whether no more trials are to be chosen."""
        return len(self._settings()) >= self.search.options.trials

    def advance(self, scores: Sequence[float | None]) -> None:
        """Record the scores of the trials, and choose the next ones.

        Nothing happens while a trial has no score.

        Args:
            scores: Of the settings of `tried`; -inf for one that has diverged, None for one that
                is not done.

        Raises:
            UserError: Without optuna, or if the journal cannot be read or written.
        """
        from vlpeft.benchmark.core.libraries import optuna

        if None in scores or self.journal is None:
            return
        tried = self.tried()
        by_settings = list(zip(tried, scores, strict=True))
        options = self.search.options
        choices = {key: each.choices for key, each in self.search.ranges.items()}
        with write_errors(self.journal):
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.journal.with_suffix(".lock")):
                if self.tried() != tried:  # another launcher has chosen the next trials
                    return
                values: dict[int, float | None] = {}
                for point in optuna.recorded(self.journal, self.name):
                    if not point.is_scored:
                        settings = self.search.settings(point.place)
                        values[point.number] = _score(settings, by_settings)
                if values:
                    optuna.record_values(self.journal, self.name, values)
                left = options.trials - len(self._settings())
                for _ in range(min(options.at_once, left)):
                    sampler = options.sampler.removeprefix("optuna.")
                    optuna.ask(self.journal, self.name, sampler, options.seed, choices)

    def _settings(self) -> dict[int, Values]:
        """Return the settings of each trial in the journal, by its number."""
        if self.journal is None or not self.journal.exists():
            return {}
        from vlpeft.benchmark.core.libraries import optuna

        points = optuna.recorded(self.journal, self.name)
        optuna.check_places(points, tuple(self.search.ranges), self.journal)
        return {point.number: self.search.settings(point.place) for point in points}


def _score(settings: Values, by_settings: Sequence[tuple[Values, float | None]]) -> float | None:
    """Return the score of a setting; None if it has diverged."""
    (score,) = (score for each, score in by_settings if each == settings)
    if score == float("-inf"):
        return None
    return score


def study_name(place: str, *identity: JSON) -> str:
    """Return the name of a study: where it belongs, and a hash of what its scores depend on."""
    text = json.dumps(identity, sort_keys=True)
    return f"{place} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
