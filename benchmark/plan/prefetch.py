"""What the jobs of a sweep need from the net, weights and data: is it here, and fetch it where there is a network (`vlpeft prefetch`)."""

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
from vlpeft.benchmark.plan.check import reason_to_skip
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import places, sweep_path
from vlpeft.benchmark.run.inputs import splits
from vlpeft.benchmark.run.screen import PhaseProgress

FetchState = Literal["here", "fetched", "to fetch", "missing"]


@dataclass(frozen=True)
class Found:
    """A weight source or a dataset; `problem` says what keeps it missing, and the fix, on one line."""

    kind: Literal["weights", "data"]
    name: str
    state: FetchState
    problem: str = ""

    @property
    def message(self) -> str:
        """The state, with what is to be fetched, which is no error."""
        about = (
            self.problem.removeprefix(f"{self.kind} '{self.name}'")
            .removeprefix(" are")
            .lstrip(": ")
        )
        return f"{self.state}: {about}" if self.state == "to fetch" else self.state


def prefetch(sweep: str, scale: str, *, fetch: bool, accepted: bool) -> Iterator[Found]:
    """Everything that the cells of a sweep need, one after another; what is missing is fetched first if `fetch`.

    `accepted`: the user accepts the datasets' licences.
    """
    cells = [planned.cell for planned in expand(sweep, scale) if not reason_to_skip(planned.cell)]
    for each in weight_files_of(cells):
        yield weights(each, fetch=fetch)
    for source, parts in _datasets(sweep, cells).items():
        yield _data(source, parts, fetch=fetch, accepted=accepted)


def require_weights(cells: Iterable[Cell], sweep: str) -> None:
    """Refuse to submit cells whose weights no job could load. Raises UserError naming the first source and the fix."""
    found = [
        each
        for each in (weights(each, fetch=False) for each in weight_files_of(cells))
        if each.state != "here"
    ]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        fix = (
            f"; jobs run offline: run `vlpeft prefetch {sweep}` where there is a network"
            if found[0].state == "to fetch"
            else ""
        )
        raise UserError(f"{found[0].problem}{more}{fix}")


def weight_files_of(cells: Iterable[Cell]) -> list[WeightFiles]:
    """The weight sources of cells, each once, without the shipped ones."""
    choices = {
        json.dumps(dump(cell.backbone), sort_keys=True): cell.backbone for cell in cells
    }.values()
    configs: list[BackboneConfig] = [
        parse(BACKBONES.load(choice.name), choice.settings, choice.name) for choice in choices
    ]
    return list(
        dict.fromkeys(
            each for config in configs for each in config.weight_files() if each.source != "tiny"
        )
    )


def weights(each: WeightFiles, *, fetch: bool) -> Found:
    """Look for a weight source, and get what is missing of it if `fetch`. Where all is here the hub is not asked."""
    try:
        obtain(each, fetch=False)
    except NotHere as error:
        return _fetched(each) if fetch else Found("weights", each.source, "to fetch", str(error))
    except UserError as error:
        return Found("weights", each.source, "missing", str(error))
    return Found("weights", each.source, "here")


def _fetched(each: WeightFiles) -> Found:
    if is_offline_mode():
        return Found(
            "weights",
            each.source,
            "missing",
            f"weights '{each.source}': HF_HUB_OFFLINE is set; unset it to fetch them",
        )
    try:
        obtain(each, fetch=True)
    except UserError as error:
        return Found("weights", each.source, "missing", str(error))
    return Found("weights", each.source, "fetched")


def _datasets(sweep: str, cells: Sequence[Cell]) -> dict[str, list[Part]]:
    """What each dataset is used for, by the names that the sweep gives them; those that a scale replaces are not."""
    parts = [part for cell in cells for part in cell.parts]
    used = {
        place.source: [part for part in parts if part.dataset == place.spec]
        for place in places(sweep_path(sweep))
    }
    return {source: mine for source, mine in used.items() if mine}


def _data(source: str, parts: Sequence[Part], *, fetch: bool, accepted: bool) -> Found:
    card, root = load_card(source), Path(parts[0].dataset.root)
    gone = (
        tuple(each for each in card.downloads if each.missing(root))
        if parts[0].dataset.root
        else ()
    )
    if gone and not fetch:
        lacking = (
            f"{root} lacks {', '.join(place for each in gone for place in each.missing(root))}"
        )
        return Found(
            "data",
            card.name,
            "to fetch",
            f"data '{card.name}': {'; '.join((lacking, *_by_hand(card, root)))}",
        )
    problem = _download(card, gone, root, accepted) if gone else ""
    if not problem and (asked := "; ".join(_by_hand(card, root))):
        problem = f"data '{card.name}': {asked}"
    problem = problem or _unreadable(parts)
    return Found(
        "data", card.name, "missing" if problem else "fetched" if gone else "here", problem
    )


def _download(card: Card, gone: tuple[Download, ...], root: Path, accepted: bool) -> str:
    """Why files stay missing; "" once they are there."""
    if not accepted:
        licence = f"{card.licence or 'not stated'}, see {card.homepage or 'its source'}"
        return f"data '{card.name}': its licence ({licence}) must be accepted before it is fetched: read its terms, then add --yes"
    try:
        with PhaseProgress(card.name) as progress:
            download(gone, root, progress)
    except UserError as error:
        return f"data '{card.name}': {error}"
    return ""


def _by_hand(card: Card, root: Path) -> list[str]:
    """What a person must do for files that no program can fetch."""
    return [by_hand(each, gone, root) for each in card.by_hand if (gone := each.missing(root))]


def _unreadable(parts: Sequence[Part]) -> str:
    """What is wrong with the annotations of the splits that are used."""
    keys = ("train_split", "eval_split", "select", "select_split")
    different = {
        (part.task, *(getattr(part.protocol, key) for key in keys)): part for part in parts
    }
    for part in different.values():
        try:
            splits(part.dataset.open(), part.task, part.protocol)
        except DataError as error:
            return f"data '{part.dataset.name}': {error}"
    return ""
