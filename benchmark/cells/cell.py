"""What a cell is: one training run with every setting resolved. Its id is a hash of what changes the science."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from vlpeft.benchmark.core.config import JSON, Config, Protocol, dump, dump_identity
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets import DatasetSpec

SCIENCE = 1  # raised when the same settings come to mean another computation, so that old records are not mixed in


@dataclass(frozen=True)
class Choice(Config):
    """A registry entry with all its settings, defaults spelled out (see `vlpeft.benchmark.core.config.added` for the exception)."""

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
        """No name of the protocol, no path of the data."""
        protocol = {
            key: value for key, value in dump_identity(self.protocol).items() if key != "name"
        }
        return {"task": self.task, "dataset": self.dataset.identity(), "protocol": protocol}


@dataclass(frozen=True)
class Cell(Config):
    """One (method, backbone, task + dataset, protocol, seed).

    A joint cell trains one model on several tasks, a batch of one task at a time: `also` holds those behind the first,
    whose protocol gives the optimizer, the schedule and the epochs.
    """

    method: Choice
    backbone: Choice
    task: str
    dataset: DatasetSpec
    protocol: Protocol
    seed: int
    also: tuple[Part, ...] = ()

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All tasks of the cell; one, unless it is joint."""
        return (Part(self.task, self.dataset, self.protocol), *self.also)

    def metric_prefix(self, part: int) -> str:
        """Stands before the names of a part's metrics in the record of a joint cell."""
        return f"{self.parts[part].name}:" if self.also else ""

    def identity(self) -> dict[str, JSON]:
        """What the id is a hash of: no names of protocols, no paths of data, nothing of the machine."""
        also = {"also": [part.identity() for part in self.also]} if self.also else {}
        return {
            "science": SCIENCE,
            "method": dump(self.method),
            "backbone": dump(self.backbone),
            **self.parts[0].identity(),
            "seed": self.seed,
            **also,
        }

    @property
    def id(self) -> str:
        """Twelve hex digits."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


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
    skipped: str = ""  # the reason, where the grid itself rules the cell out
    trainable: int = 0  # parameters that train, task head included
    head: int = 0
    total: int = 0  # parameters of the built model, both towers
    data: str = ""  # fingerprint of the data as it is now


@dataclass(frozen=True)
class Plan(Config):
    """An expanded and checked sweep; `vlpeft sweep` leaves it in ROOT/sweeps/NAME.json, which status and table read."""

    sweep: str
    title: str
    notes: str
    source: str  # hash of the sweep file it was made from
    cells: tuple[Planned, ...]

    def runnable(self) -> tuple[Planned, ...]:
        """Cells that the grid does not rule out."""
        return tuple(cell for cell in self.cells if not cell.skipped)

    def find(self, beginning: str) -> Planned:
        """The runnable cell whose id starts so. Raises UserError for none, several, or a skipped one."""
        if not beginning:
            raise UserError("cell: give the beginning of a cell's id; see `vlpeft plan`")
        found: dict[str, Planned] = {}
        for (
            cell
        ) in self.cells:  # at another scale a cell may repeat an earlier one, whose id it has
            if cell.id.startswith(beginning):
                found.setdefault(cell.id, cell)
        if len(found) != 1:
            number = len(found) or "no"
            raise UserError(
                f"cell {beginning}: {number} cells of '{self.sweep}' have an id that starts so; see `vlpeft plan`"
            )
        (chosen,) = found.values()
        if chosen.skipped:
            raise UserError(f"cell {beginning}: skipped: {chosen.skipped}")
        return chosen
