"""A cell: one training run with every setting resolved.

Its id is a hash of everything that changes the result, and of nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from vlpeft.benchmark.core.config import JSON, Config, dump, dump_identity
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec

# Part of every id. Raise it when the same settings come to mean another computation, so that
# old and new records do not mix.
SCIENCE = 1


@dataclass(frozen=True)
class Choice(Config):
    """A registry entry with all its settings, defaults included.

    A setting that was added later is left out while it has its default, so that old ids stay
    (see `vlpeft.benchmark.core.config.added_field`).
    """

    name: str
    settings: dict[str, JSON]


@dataclass(frozen=True)
class Part(Config):
    """One task of a cell: its data, and the recipe resolved for it."""

    task: str
    dataset: DatasetSpec
    protocol: Protocol

    @property
    def name(self) -> str:
        """`task/dataset`."""
        return f"{self.task}/{self.dataset.name}"

    def identity(self) -> dict[str, JSON]:
        """Return what the id depends on: not the protocol's name, nor the data's path."""
        protocol = dump_identity(self.protocol)
        protocol.pop("name", None)
        dataset = self.dataset.identity()
        cut = self.dataset.cut
        if cut is not None and set(cut.names()) & self.split_names():
            dataset["cut"] = dump(cut)
        return {"task": self.task, "dataset": dataset, "protocol": protocol}

    def split_names(self) -> set[str]:
        """Return the splits that are read."""
        recipe = self.protocol
        names = {recipe.train_split, recipe.eval_split}
        if recipe.select == "best":
            names.add(recipe.select_split)
        return names


@dataclass(frozen=True)
class Cell(Config):
    """One combination of method, backbone, task and dataset, protocol, and seed.

    A joint cell trains one model on several tasks, with batches of one task at a time. `also`
    holds the tasks after the first. The protocol of the first task gives the optimizer, the
    schedule and the epochs.
    """

    method: Choice
    backbone: Choice
    task: str
    dataset: DatasetSpec
    protocol: Protocol
    seed: int
    also: tuple[Part, ...] = ()
    plugins: tuple[str, ...] = ()  # files with code of the user; no part of the id

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All tasks of the cell: one, unless it is joint."""
        return (Part(self.task, self.dataset, self.protocol), *self.also)

    def metric_prefix(self, part: int) -> str:
        """Return what precedes the metrics of a part in a joint cell's record, else ""."""
        if not self.also:
            return ""
        return f"{self.parts[part].name}:"

    def without_folders(self) -> Cell:
        """Return the cell with the last names of its folders and plug-ins; its id is the same.

        The name stays, because data without a folder is data that comes with a package.
        """
        first, *also = (
            Part(part.task, replace(part.dataset, root=Path(part.dataset.root).name), part.protocol)
            for part in self.parts
        )
        plugins = tuple(Path(file).name for file in self.plugins)
        return replace(self, dataset=first.dataset, also=tuple(also), plugins=plugins)

    def identity(self) -> dict[str, JSON]:
        """Return what the id is a hash of.

        It holds no names of protocols, no paths of data, and nothing about the machine.
        """
        identity: dict[str, JSON] = {
            "science": SCIENCE,
            "method": dump(self.method),
            "backbone": dump(self.backbone),
            **self.parts[0].identity(),
            "seed": self.seed,
        }
        if self.also:
            identity["also"] = [part.identity() for part in self.also]
        return identity

    @property
    def id(self) -> str:
        """Twelve hex digits."""
        return _hash(_canonical(self))

    def with_seeds(self, seeds: Iterable[int]) -> Iterator[tuple[str, Cell]]:
        """Yield the cell with each seed, and its id. What they share is written once."""
        # The keys are sorted, so the last "seed" is the cell's own; a number and a comma follow.
        before, key, after = _canonical(self).rpartition('"seed":')
        rest = after[after.index(",") :]
        for seed in seeds:
            yield _hash(f"{before}{key}{seed}{rest}"), replace(self, seed=seed)


def _canonical(cell: Cell) -> str:
    return json.dumps(cell.identity(), sort_keys=True, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Tuned(Config):
    """How the settings of a cell were chosen.

    Attributes:
        on: The split that the settings were compared on.
        selector: "validation", or "oracle" if that was the tested split.
        settings: The best setting.
        tried: The number of settings.
        seeds: The number of seeds of each.
        edges: Numbers of the best setting that are the lowest or highest tried, as "key: value".
        diverged: How many settings diverged.
        sampler: What chose the settings from the scores of earlier ones; "" for a fixed list.
    """

    on: str
    selector: str
    settings: dict[str, JSON]
    tried: int
    seeds: int
    edges: tuple[str, ...] = ()
    diverged: int = 0
    sampler: str = ""


@dataclass(frozen=True)
class Planned(Config):
    """A cell's place in a sweep's table, and whether it can run."""

    id: str
    row: str  # the method's label
    backbone: str  # the backbone's label
    task: str
    dataset: str
    seed: int
    cell: Cell
    skipped: str = ""  # the reason, if the grid rules the cell out
    # The next three count parameters; all are 0 if the cell was not checked.
    trainable: int = 0  # those that train, the task head included
    head: int = 0
    total: int = 0  # those of the built model, both towers
    data: str = ""  # fingerprint of the data at the time of planning
    # Training texts that are cut, in words, found in the first examples; "" if none is.
    cut: str = ""
    # What varies within an entry of the sweep, with its value here; and the labels of the method,
    # backbone or dataset without it, by "method", "backbone" and "dataset".
    varied: dict[str, JSON] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)
    stage: str = ""  # "tune" for a cell that compares settings
    searched: bool = False  # a search chose its settings
    tuned: Tuned | None = None  # how its settings were chosen, for a cell that tests them
    # What it needs of a cluster over the profile's (vlpeft.benchmark.plan.resources).
    resources: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan(Config):
    """An expanded and checked sweep.

    `vlpeft sweep` writes it to ROOT/sweeps/NAME.json, and `vlpeft status` and `table` read it.
    """

    sweep: str
    title: str
    notes: str
    source: str  # hash of the files that it was made from
    cells: tuple[Planned, ...]
    # The sweep's file, relative to the result folder; "" for a shipped sweep, and None in plans
    # of earlier versions.
    file: str | None = None

    def runnable(self) -> tuple[Planned, ...]:
        """Return the cells that the grid does not rule out."""
        return tuple(cell for cell in self.cells if not cell.skipped)

    def at_stage(self, stage: str) -> Plan:
        """Return the plan with the cells of one stage alone."""
        return replace(self, cells=tuple(cell for cell in self.cells if cell.stage == stage))

    def find(self, beginning: str) -> Planned:
        """Return the runnable cell whose id starts with `beginning`.

        Raises UserError if there is none, if there are several, or if it is skipped.
        """
        if not beginning:
            raise UserError("cell: give the beginning of a cell's id; see `vlpeft plan`")
        # At another scale a cell may repeat an earlier one. It has the same id, and the first
        # of the two runs.
        found: dict[str, Planned] = {}
        for cell in self.cells:
            if cell.id.startswith(beginning):
                found.setdefault(cell.id, cell)
        if len(found) != 1:
            number = len(found) or "no"
            raise UserError(
                f"cell {beginning}: {number} cells of '{self.sweep}' have an id that starts "
                "with this; see `vlpeft plan`"
            )
        (chosen,) = found.values()
        if chosen.skipped:
            raise UserError(f"cell {beginning}: skipped: {chosen.skipped}")
        return chosen
