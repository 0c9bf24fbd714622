"""`tune:` in a sweep: settings are compared on a validation split, and the best one is tested.

    tune: {lr: [1e-4, 1e-3], on: val, seeds: [0]}

Stage 1 trains every setting of every method, and scores it on the split `on`. Stage 2 tests the
best setting of each method, backbone and task with all seeds of the sweep. Its cells have the ids
that they would have if the setting had been written into the sweep by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from vlpeft.benchmark.core.config import JSON, Config, Seed, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.draws import join_commas
from vlpeft.benchmark.plan.search import Search, parse_search
from vlpeft.benchmark.plan.vary import Values, combine, parse_variation

WAITING = "waiting for the tuning: "  # the reason why a cell of stage 2 cannot run yet begins so
DIVERGED_ALL = "every setting of `tune:` has diverged"  # then stage 2 is left out
STAGE = "tune"  # of a cell of stage 1


@dataclass(frozen=True)
class TuningOptions(Config):
    """The keys of `tune:` other than the settings to try.

    Attributes:
        on: The split that settings are compared on.
        seeds: Those of stage 1.
        metric: The value that is compared, named as in records; "" for the task's first.
        selector: `validation`, or `oracle`, which chooses on the tested split. Tables say so.
    """

    on: str = "val"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    metric: str = ""
    selector: Literal["validation", "oracle"] = "validation"


@dataclass(frozen=True)
class Tuning:
    """A `tune:` mapping: its options, and the settings to try.

    With a search, `settings` holds one setting: the lowest value of each range.
    """

    options: TuningOptions
    settings: tuple[Values, ...]
    search: Search | None = None

    def recipe(self, part_split: str, rest: str) -> dict[str, JSON]:
        """Return what stage 1 sets in the recipe of a task.

        Args:
            part_split: The tested split of the recipe. Raises UserError if it is `on`.
            rest: The training split without `on`, where the dataset cuts `on` out of it, or "".
        """
        options = self.options
        if options.selector == "oracle":
            return {}
        if part_split == options.on:
            raise UserError(
                f"tune: on: '{options.on}' is the tested split, and settings chosen on it flatter "
                "the result; choose another split, or say so with `selector: oracle`"
            )
        changes: dict[str, JSON] = {"eval_split": options.on}
        if rest:
            changes["train_split"] = rest
        return changes


OPTIONS = ("on", "seeds", "metric", "selector")


def parse_tuning(item: JSON, where: str) -> Tuning:
    """Read a `tune:` mapping. Raises UserError, also for fewer than two settings."""
    where = f"{where}: tune"
    if not isinstance(item, Mapping):
        raise UserError(f"{where}: write a mapping, such as {{lr: [1e-4, 1e-3], on: val}}")
    item = join_commas(item)
    options = parse(TuningOptions, {key: item[key] for key in OPTIONS if key in item}, where)
    lists = {key: value for key, value in item.items() if key not in OPTIONS}
    if "sampler" in lists:
        search = parse_search(lists, where)
        return Tuning(options, (search.limits()[0],), search)
    if not lists:
        raise UserError(f"{where}: it tries nothing; add a list of settings: lr: [1e-4, 1e-3]")
    settings = combine(parse_variation({"vary": lists}, where), where)
    if len(settings) == 1:
        raise UserError(
            f"{where}: one setting leaves nothing to compare; "
            "add a value, or write the setting into the entry"
        )
    return Tuning(options, tuple(settings))
