"""Check a sweep before anything runs: settings, capabilities, data; and count parameters at full size on the meta device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Part, Plan, Planned
from vlpeft.benchmark.cells.records import Store, to_json, write_atomically
from vlpeft.benchmark.contract.backbone import BackboneConfig
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core.config import Protocol, dump, parse
from vlpeft.benchmark.core.errors import DataError, UserError, did_you_mean, error_context
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import fingerprint, load_sweep, plan_file, sweep_name, sweep_path
from vlpeft.benchmark.run.cost import parameters
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.selection import selection_metrics
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.labelled import Labelled

UNREADABLE = "data: "  # how the reason begins of cells that are skipped because their data cannot be read here


def plan(name_or_path: str, *, need_data: bool, scale: str = "") -> Plan:
    """Expand and check a sweep.

    Cells that a backbone or method rules out are marked skipped with the reason; so are cells without readable data,
    unless `need_data`: then that is an error. At another `scale`, so are cells that it makes equal to an earlier one.
    Settings that cannot work are always an error, for the whole grid at once; so is a grid of which nothing can run, unless
    that is for data whose whole folder is not on this machine.
    """
    path = sweep_path(name_or_path)
    sweep = load_sweep(name_or_path)
    checker = _Checker(need_data, str(path))
    cells = tuple(checker.check(cell) for cell in expand(name_or_path, scale))
    if scale:
        cells = tuple(_without_repetition(cells))
    _refuse_equal_cells(cells, str(path))
    if all(cell.skipped for cell in cells) and (need_data or not any(map(_data_elsewhere, cells))):
        raise UserError(
            f"{path}: nothing to run: all {len(cells)} cells are skipped; the first: {cells[0].skipped}"
        )
    name, title = sweep_name(path), sweep.title or sweep_name(path)
    if scale:
        name, title = f"{name}@{scale}", f"{title} (scale: {scale})"
    return Plan(name, title, sweep.notes, fingerprint(path, scale), cells)


def _data_elsewhere(cell: Planned) -> bool:
    return any(
        part.dataset.root and not Path(part.dataset.root).exists() for part in cell.cell.parts
    )


def save_plan(plan_: Plan, root: Path) -> None:
    """Leave the plan and its cells in a result folder, where workers and tables find them."""
    store = Store(root)
    store.reserve()
    for planned in plan_.runnable():
        if not store.has_record(planned.id):
            store.write_cell(planned.id, dump(planned.cell))
        elif store.record(planned.id).provenance.get("data") != planned.data:
            raise UserError(
                f"dataset '{planned.dataset}' has changed since cell {planned.id} was run; "
                f"choose another --root, or delete {store.folder(planned.id)} and its like to run them again"
            )
    write_atomically(plan_file(root, plan_.sweep), to_json(dump(plan_), indent=None))


OPTIMIZER = (
    "lr",
    "epochs",
    "steps",
    "betas",
    "eps",
    "weight_decay",
    "decays",
    "schedule",
    "warmup_fraction",
    "warmup_steps",
    "clip_norm",
)


class _Checker:
    """Remembers what it has opened and built: many cells share data, models and methods."""

    def __init__(self, need_data: bool, where: str) -> None:
        self.need_data, self.where = need_data, where
        self.answers: dict[str, int | str] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.data: dict[str, str] = {}
        self.last: Planned | None = None

    def check(self, planned: Planned) -> Planned:
        """Fill in the reason to skip, or the parameter counts. Seeds differ in nothing of this."""
        last = self.last
        if last is not None and replace(planned.cell, seed=last.seed) == last.cell:
            same = {
                name: getattr(last, name)
                for name in ("skipped", "trainable", "head", "total", "data")
            }
            return replace(planned, **same)
        self.last = self._check(planned)
        return self.last

    def _check(self, planned: Planned) -> Planned:
        cell = planned.cell
        reason = reason_to_skip(cell)
        if reason:
            return replace(planned, skipped=reason)
        place = f"{self.where}: '{planned.row}' on '{planned.backbone}', {planned.task}/{planned.dataset}"
        with error_context(place):
            check_recipe(cell)
            for part in cell.parts:
                check_names(part)
        found = [self._answers(part) for part in cell.parts]
        unreadable = next((answers for answers in found if isinstance(answers, str)), None)
        if unreadable is not None:
            with error_context(place):
                self._count(
                    cell, cell.protocol.max_answers
                )  # what cannot be built must show all the same
            return replace(planned, skipped=unreadable)
        with error_context(place):
            counts = self._count(cell, int(found[0]))
        data = "+".join(self._data(part) for part in cell.parts)
        return replace(
            planned,
            trainable=counts["trainable"],
            head=counts["head"],
            total=counts["total"],
            data=data,
        )

    def _data(self, part: Part) -> str:
        key = json.dumps(dump(part.dataset), sort_keys=True)
        if key not in self.data:
            self.data[key] = part.dataset.open().fingerprint()
        return self.data[key]

    def _answers(self, part: Part) -> int | str:
        """Size of the answer list, or why the data cannot be read."""
        key = json.dumps(part.identity(), sort_keys=True)
        if key not in self.answers:
            try:
                found = Inputs.open(part)
                self.answers[key] = len(found.answers)
            except DataError as error:
                if self.need_data:
                    raise
                self.answers[key] = f"{UNREADABLE}{error}"
            else:
                empty = (
                    not found.training
                    or not found.test
                    or (part.protocol.select == "best" and not found.selection)
                )
                if empty:
                    raise UserError(
                        f"dataset '{part.dataset.name}': an empty split; check `train_split`, `eval_split`, `select_split` and the limits"
                    )
        return self.answers[key]

    def _count(self, cell: Cell, answers: int) -> dict[str, int]:
        recipes = [dump(part.protocol) for part in cell.parts]
        key = json.dumps([dump(cell.method), dump(cell.backbone), answers, recipes], sort_keys=True)
        if key not in self.counts:
            self.counts[key] = count_parameters(cell, answers)
        return self.counts[key]


def count_parameters(cell: Cell, answers: int) -> dict[str, int]:
    """What the adapted model trains and holds, built at full size without weights; see `vlpeft.benchmark.run.cost.parameters`."""
    names = [str(i) for i in range(answers)]
    with torch.device("meta"):
        backbone = build(cell, names)
        for task, part in enumerate(
            cell.parts
        ):  # what a joint cell's later tasks ask for must fit the backbone too
            backbone.follow(part.protocol, names, task)
        return parameters(backbone)


def combinations(name_or_path: str) -> list[Planned]:
    """The first cell of each method and backbone of a sweep that go together, in its order. Raises UserError if none do."""
    first: dict[tuple[str, str], Planned] = {}
    for planned in expand(name_or_path):
        if (planned.row, planned.backbone) not in first and not reason_to_skip(planned.cell):
            first[planned.row, planned.backbone] = planned
    if not first:
        raise UserError(
            f"{name_or_path}: no method of this sweep goes with a backbone and task of it; see `vlpeft plan {name_or_path}`"
        )
    return list(first.values())


def reason_to_skip(cell: Cell) -> str:
    """Why the cell's backbone cannot do its task or lacks what its method needs; "" where it can."""
    model: type[BackboneConfig] = BACKBONES.load(cell.backbone.name)
    for part in cell.parts:
        if part.task not in model.tasks:
            return f"{cell.backbone.name} does {', '.join(model.tasks)}, not {part.task}"
    if cell.also and not model.joint:
        return f"{cell.backbone.name} trains on one task at a time"
    if cell.method.settings.get("per_task", False) not in (False, "nothing") and not cell.also:
        return "per_task is for a model trained on several tasks (`joint:`)"
    config = parse(model, cell.backbone.settings, cell.backbone.name)
    for part in cell.parts:
        if reason := _unfit(part, config):
            return reason
    offers = config.offers()
    lacking: Sequence[str] = [
        need for need in METHODS.load(cell.method.name).needs if need not in offers
    ]
    return (
        f"{cell.method.name} needs {lacking[0]}, which {cell.backbone.name} does not have here"
        if lacking
        else ""
    )


def _unfit(part: Part, config: BackboneConfig) -> str:
    """Why a backbone cannot see a part's images, where a dataset holds features in their place; "" where it can."""
    has_features = part.dataset.open().has_features
    if has_features != config.reads_features:
        holds, needs = ("images", "features") if config.reads_features else ("features", "images")
        return f"{config.name} needs {needs} here, and {part.dataset.name} holds {holds}"
    for key, plain in (("images", "real"), ("augment", "none")):
        if has_features and getattr(part.protocol, key) != plain:
            return f"{key}: {getattr(part.protocol, key)} needs images, and {part.dataset.name} holds features"
    return ""


def check_recipe(cell: Cell) -> None:
    """Refuse protocol keys without effect: what the backbone does not heed, and optimizers that differ within a joint cell."""
    model: type[BackboneConfig] = BACKBONES.load(cell.backbone.name)
    defaults = {f.name: f.default for f in fields(Protocol)}
    for part in cell.parts:
        for key in model.ignores:
            if getattr(part.protocol, key) != defaults[key]:
                raise UserError(
                    f"protocol: {key}: {cell.backbone.name} does not heed it; leave it out, or set it for other backbones only"
                )
    if cell.also and any(part.protocol.select != "last" for part in cell.parts):
        raise UserError(
            "protocol: select: a joint cell is tested with its last weights; set `select: last`"
        )
    for part in cell.also:
        for key in OPTIMIZER:
            first, other = getattr(cell.protocol, key), getattr(part.protocol, key)
            if first != other:
                raise UserError(
                    f"protocol: {key}: {first} and {other}; a joint cell has one optimizer: set one value for all its tasks"
                )


def check_names(part: Part) -> None:
    """Refuse metrics and splits that do not exist here: a slip of the keyboard must not cost a training run."""
    task = TASKS.load(part.task)
    for metric in part.protocol.metrics or ():
        METRICS.entry(metric)
        if metric not in (*task.metrics, *task.optional):
            raise UserError(
                f"metrics: '{metric}' is not for {part.task}; choose from: {', '.join((*task.metrics, *task.optional))}"
            )
    if task.asks and "{text}" not in part.protocol.prompt:
        raise UserError(
            f"prompt: '{part.protocol.prompt}' leaves out the text of {part.task}; write {{text}} where it belongs"
        )
    if issubclass(task, Labelled):
        task().answers((), part.protocol)
    elif part.protocol.label_words is not None:
        raise UserError(
            f"label_words: {part.task} has no labels; leave it out, or set it in a rule for the tasks that have"
        )
    chosen = part.protocol.select == "best"
    if chosen:
        selection_metrics(task, part.protocol)
        if part.protocol.select_split == part.protocol.eval_split:
            tested = part.protocol.eval_split
            raise UserError(
                f"select_split: '{tested}' is what is tested, and epochs chosen on it flatter the result; set `select: last`, or another"
            )
    known = part.dataset.open().splits()
    for key in ("train_split", "eval_split", *(("select_split",) if chosen else ())):
        split = getattr(part.protocol, key)
        if split not in known:
            near = did_you_mean(split, known)
            fix = (
                f"; set `protocol: {{{key}: {_instead(key, known)}}}`"
                if near.startswith("; known")
                else ""
            )
            raise UserError(
                f"{key}: dataset '{part.dataset.name}' has no split '{split}'{near}{fix}"
            )


def _instead(key: str, known: Sequence[str]) -> str:
    """The split of a dataset that serves as `key` most likely."""
    usual = {"train_split": ("train",), "eval_split": ("test", "val", "validation")}.get(
        key, ("val", "validation", "dev")
    )
    return next((split for split in usual if split in known), known[-1])


def _without_repetition(cells: Sequence[Planned]) -> Iterator[Planned]:
    """Towers of two sizes may become one at a smaller scale: such a cell runs once."""
    first: dict[str, Planned] = {}
    for cell in cells:
        same = first.setdefault(cell.id, cell)
        if same is cell or cell.skipped:
            yield cell
        else:
            yield replace(
                cell,
                skipped=f"at this scale it is the cell of {same.row} on {same.backbone}, {same.task}/{same.dataset}",
            )


def _refuse_equal_cells(cells: Sequence[Planned], where: str) -> None:
    seen: dict[str, Planned] = {}
    for cell in cells:
        if cell.id in seen and not cell.skipped:
            first = seen[cell.id]
            raise UserError(
                f"{where}: '{first.row}' and '{cell.row}' on {cell.backbone} are the same cell {cell.id}; remove one"
            )
        seen[cell.id] = cell
