"""`vlpeft prefetch`: fetch the weights and data that the jobs of a sweep need.

The nodes of a cluster often have no network. So everything is looked for first, and what is
missing is fetched on a machine that has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import is_offline_mode

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.fetching import NotHere, obtain
from vlpeft.benchmark.cells.cell import Cell, Part
from vlpeft.benchmark.contract.backbone import BackboneConfig, WeightFiles
from vlpeft.benchmark.core.config import dump, parse
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.datasets import Card, load_card
from vlpeft.benchmark.datasets.fetch.check import by_hand
from vlpeft.benchmark.datasets.fetch.download import download
from vlpeft.benchmark.datasets.sources import Download
from vlpeft.benchmark.plan.compatibility import reason_to_skip
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.inputs import splits
from vlpeft.benchmark.run.screen import PhaseProgress

FetchState = Literal["here", "fetched", "to fetch", "missing"]


@dataclass(frozen=True)
class Found:
    """A weight source or a dataset, and whether it is here.

    `problem`: why it is missing, and the fix, on one line; "" if it is here.
    """

    kind: Literal["weights", "data"]
    name: str
    state: FetchState
    problem: str = ""

    @property
    def message(self) -> str:
        """The state; if it is to be fetched, also what exactly is missing."""
        if self.state != "to fetch":
            return self.state
        # The line that prints this message starts with the kind and name already.
        about = self.problem.removeprefix(f"{self.kind} '{self.name}'").removeprefix(" are")
        return f"{self.state}: {about.lstrip(': ')}"


def prefetch(sweep: SweepHandle, *, fetch: bool, accepted: bool) -> Iterator[Found]:
    """Look for everything that the cells of a sweep need, and fetch what is missing.

    Args:
        sweep: The sweep and its scale.
        fetch: Whether to fetch what is missing; otherwise it is only reported.
        accepted: Whether the user accepts the licences of the datasets.

    Yields:
        A result for each weight source and each dataset.
    """
    cells = [planned.cell for planned in expand(sweep) if not reason_to_skip(planned.cell)]
    for each in weight_files_of(cells):
        yield weights(each, fetch=fetch)
    for source, parts in _group_by_dataset(sweep, cells).items():
        yield _data(source, parts, fetch=fetch, accepted=accepted)


def require_weights(cells: Iterable[Cell], sweep: str) -> None:
    """Raise UserError if a job could not load the weights of a cell, with the fix.

    Jobs run offline, so they fetch nothing themselves.
    """
    found = [weights(each, fetch=False) for each in weight_files_of(cells)]
    lacking = [each for each in found if each.state != "here"]
    if not lacking:
        return
    message = lacking[0].problem
    if len(lacking) > 1:
        message += f" (and {len(lacking) - 1} more)"
    if lacking[0].state == "to fetch":
        message += f"; jobs run offline: run `vlpeft prefetch {sweep}` where there is a network"
    raise UserError(message)


def weight_files_of(cells: Iterable[Cell]) -> list[WeightFiles]:
    """Return the weight sources of cells, each once, without the shipped tiny towers."""
    choices = {json.dumps(dump(cell.backbone), sort_keys=True): cell.backbone for cell in cells}
    found: dict[WeightFiles, None] = {}  # a set that keeps the order
    for choice in choices.values():
        config: BackboneConfig = parse(BACKBONES.load(choice.name), choice.settings, choice.name)
        for each in config.weight_files():
            if each.source != "tiny":
                found[each] = None
    return list(found)


def weights(each: WeightFiles, *, fetch: bool) -> Found:
    """Look for a weight source, and fetch what is missing of it if `fetch`.

    The hub is not contacted if everything is here.
    """
    try:
        obtain(each, fetch=False)
    except NotHere as error:
        if fetch:
            return _fetch_weights(each)
        return Found("weights", each.source, "to fetch", str(error))
    except UserError as error:
        return Found("weights", each.source, "missing", str(error))
    return Found("weights", each.source, "here")


def _fetch_weights(each: WeightFiles) -> Found:
    """Fetch a weight source from the hub."""
    if is_offline_mode():
        problem = f"weights '{each.source}': HF_HUB_OFFLINE is set; unset it to fetch them"
        return Found("weights", each.source, "missing", problem)
    try:
        obtain(each, fetch=True)
    except UserError as error:
        return Found("weights", each.source, "missing", str(error))
    return Found("weights", each.source, "fetched")


def _group_by_dataset(sweep: SweepHandle, cells: Sequence[Cell]) -> dict[str, list[Part]]:
    """Return the tasks that use each dataset, by the dataset's name or path in the sweep.

    Datasets that a scale replaces are left out.
    """
    parts = [part for cell in cells for part in cell.parts]
    used: dict[str, list[Part]] = {}
    for place in sweep.places():
        mine = [part for part in parts if part.dataset == place.spec]
        if mine:
            used[place.source] = mine
    return used


def _data(source: str, parts: Sequence[Part], *, fetch: bool, accepted: bool) -> Found:
    """Look for a dataset, and fetch the files that are missing if `fetch`."""
    card, root = load_card(source), Path(parts[0].dataset.root)
    gone: tuple[Download, ...] = ()
    if parts[0].dataset.root:  # drawn data has no folder
        gone = tuple(each for each in card.downloads if each.missing(root))
    if gone and not fetch:
        return Found("data", card.name, "to fetch", _describe_missing(card, gone, root))
    problem = ""
    if gone:
        problem = _download(card, gone, root, accepted)
    if not problem and (requests := "; ".join(_requests(card, root))):
        problem = f"data '{card.name}': {requests}"
    problem = problem or _unreadable(parts)
    if problem:
        return Found("data", card.name, "missing", problem)
    if gone:
        return Found("data", card.name, "fetched")
    return Found("data", card.name, "here")


def _describe_missing(card: Card, gone: Sequence[Download], root: Path) -> str:
    """Say which files are missing, and which of them a person must fetch."""
    files = [place for each in gone for place in each.missing(root)]
    lacking = f"{root} lacks {', '.join(files)}"
    return f"data '{card.name}': {'; '.join((lacking, *_requests(card, root)))}"


def _download(card: Card, gone: tuple[Download, ...], root: Path, accepted: bool) -> str:
    """Fetch files. Return why they are still missing, or "" if all came."""
    if not accepted:
        licence = f"{card.licence or 'not stated'}, see {card.homepage or 'its source'}"
        return (
            f"data '{card.name}': its licence ({licence}) must be accepted before it is fetched: "
            "read its terms, then add --yes"
        )
    try:
        with PhaseProgress(card.name) as progress:
            download(gone, root, progress)
    except UserError as error:
        return f"data '{card.name}': {error}"
    return ""


def _requests(card: Card, root: Path) -> list[str]:
    """Return what a person must do for missing files that no program can fetch."""
    return [by_hand(each, gone, root) for each in card.by_hand if (gone := each.missing(root))]


def _unreadable(parts: Sequence[Part]) -> str:
    """Return what is wrong with the annotations of the splits in use; "" if nothing is."""
    keys = ("train_split", "eval_split", "select", "select_split")
    different: dict[tuple[object, ...], Part] = {}
    for part in parts:
        values = [getattr(part.protocol, key) for key in keys]
        different[(part.task, *values)] = part
    for part in different.values():
        try:
            splits(part)
        except DataError as error:
            return f"data '{part.dataset.name}': {error}"
    return ""
