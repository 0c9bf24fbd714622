"""Which methods, backbones, tasks and recipes fit together.

A combination that a backbone or method rules out is skipped: `reason_to_skip` says why. A
setting that cannot work, or has no effect, is an error: `check_recipe` and `check_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Part, Planned
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import BackboneConfig
from vlpeft.benchmark.core.config import JSON, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.run.selection import selection_metrics
from vlpeft.benchmark.tasks import TASKS, tasks_for
from vlpeft.benchmark.tasks.base import Task
from vlpeft.benchmark.tasks.labelled import Labelled

# Keys that set up the optimizer. A joint cell has one optimizer for all its tasks.
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
# Settings of the recipe that change neither the data nor the model.
STEERING = {*OPTIMIZER, "batch_size", "length_window", "precision"}
# The usual names of splits, to suggest one that a dataset does have.
USUAL_SPLITS = {
    "train_split": ("train",),
    "eval_split": ("test", "val", "validation"),
    "select_split": ("val", "validation", "dev"),
}


def reason_to_skip(cell: Cell) -> str:
    """Return why a cell's backbone cannot do its task or serve its method; "" if it can."""
    model: type[BackboneConfig] = BACKBONES.load(cell.backbone.name)
    if reason := _unsupported_task(cell, model):
        return reason
    config = parse(model, cell.backbone.settings, cell.backbone.name)
    for part in cell.parts:
        if reason := _unusable_images(part, config):
            return reason
    offers = config.offers()
    for need in METHODS.load(cell.method.name).needs:
        if need not in offers:
            return f"{cell.method.name} needs {need}, which {cell.backbone.name} does not have here"
    return ""


def skip_unfit(cell: Planned) -> Planned:
    """Return a cell with its reason to skip, if it has none yet and does not fit."""
    if cell.skipped:
        return cell
    return replace(cell, skipped=reason_to_skip(cell.cell))


def _unsupported_task(cell: Cell, model: type[BackboneConfig]) -> str:
    """Return why a backbone cannot train on the tasks of a cell; "" if it can."""
    able = tasks_for(model.abilities)
    for part in cell.parts:
        if part.task not in able:
            return f"{cell.backbone.name} does {', '.join(able)}, not {part.task}"
    if cell.also and not model.joint:
        return f"{cell.backbone.name} trains on one task at a time"
    per_task = cell.method.settings.get("per_task", False) not in (False, "nothing")
    if per_task and not cell.also:
        return "per_task is for a model trained on several tasks (`joint:`)"
    return ""


def _unusable_images(part: Part, config: BackboneConfig) -> str:
    """Return why a backbone cannot use the images or features of a dataset; "" if it can."""
    has_features = part.dataset.open().has_features
    name = part.dataset.name
    if has_features and not config.reads_features:
        return f"{config.name} needs images here, and {name} holds features"
    if config.reads_features and not has_features:
        return f"{config.name} needs features here, and {name} holds images"
    if not has_features:
        return ""
    for key, plain in (("images", "real"), ("augment", "none")):
        value = getattr(part.protocol, key)
        if value != plain:
            return f"{key}: {value} needs images, and {name} holds features"
    return ""


def without_optimizer(part: Part) -> dict[str, JSON]:
    """Return what identifies a task, without the settings that change neither data nor model.

    Cells that differ in those alone are checked once.
    """
    identity = part.identity()
    recipe = {key: value for key, value in identity["protocol"].items() if key not in STEERING}
    return {**identity, "protocol": recipe}


def check_recipe(cell: Cell) -> None:
    """Raise UserError for protocol keys without effect.

    These are keys that the backbone ignores, and a joint cell's keys that differ between tasks
    although there is one optimizer and one set of tested weights.
    """
    model: type[BackboneConfig] = BACKBONES.load(cell.backbone.name)
    defaults = {f.name: f.default for f in fields(Protocol)}
    for part in cell.parts:
        for key in model.ignores:
            if getattr(part.protocol, key) != defaults[key]:
                raise UserError(
                    f"protocol: {key}: {cell.backbone.name} ignores this key; "
                    "remove it, or set it for other backbones only"
                )
    if not cell.also:
        return
    if any(part.protocol.select != "last" for part in cell.parts):
        raise UserError(
            "protocol: select: a joint cell is tested with its last weights; set `select: last`"
        )
    _check_optimizer(cell)


def _check_optimizer(cell: Cell) -> None:
    """Raise UserError if the tasks of a joint cell ask for different optimizers."""
    for part in cell.also:
        for key in OPTIMIZER:
            first, other = getattr(cell.protocol, key), getattr(part.protocol, key)
            if first != other:
                raise UserError(
                    f"protocol: {key}: {first} and {other}; "
                    "a joint cell has one optimizer: set one value for all its tasks"
                )


def check_names(part: Part) -> None:
    """Raise UserError for unknown metrics and splits: a typo must not cost a training run."""
    task = TASKS.load(part.task)
    _check_metrics(part, task)
    _check_texts(part, task)
    keys = ["train_split", "eval_split"]
    if part.protocol.select == "best":
        _check_selection(part, task)
        keys.append("select_split")
    known = part.dataset.splits()
    for key in keys:
        if getattr(part.protocol, key) not in known:
            _refuse_split(part, key, known)


def _check_metrics(part: Part, task: type[Task]) -> None:
    """Raise UserError for a metric that does not exist, or that is not for the task."""
    known = (*task.metrics, *task.optional)
    for metric in part.protocol.metrics or ():
        METRICS.entry(metric)
        if metric not in known:
            raise UserError(
                f"metrics: '{metric}' is not for {part.task}; choose from: {', '.join(known)}"
            )


def _check_texts(part: Part, task: type[Task]) -> None:
    """Raise UserError for a prompt without the question, and for labels that the task lacks."""
    if task.asks and "{text}" not in part.protocol.prompt:
        raise UserError(
            f"prompt: '{part.protocol.prompt}' leaves out the text of {part.task}; "
            "write {text} where it belongs"
        )
    if issubclass(task, Labelled):
        task().answers((), part.protocol)  # raises for wrong `label_words`
    elif part.protocol.label_words is not None:
        raise UserError(
            f"label_words: {part.task} has no labels; "
            "remove it, or set it in a rule for the tasks that have labels"
        )


def _check_selection(part: Part, task: type[Task]) -> None:
    """Raise UserError if epochs cannot be compared, or would be on the split that is tested."""
    selection_metrics(task, part.protocol)
    tested = part.protocol.eval_split
    if part.protocol.select_split == tested:
        raise UserError(
            f"select_split: '{tested}' is what is tested, and epochs chosen on it flatter "
            "the result; set `select: last`, or another split"
        )


def _refuse_split(part: Part, key: str, known: Sequence[str]) -> None:
    """Raise UserError for a split that a dataset does not have."""
    split = getattr(part.protocol, key)
    hint = did_you_mean(split, known)
    fix = ""
    if hint.startswith("; known"):  # no split has a similar name: suggest a usual one
        fix = f"; set `protocol: {{{key}: {_usual_split(key, known)}}}`"
    raise UserError(f"{key}: dataset '{part.dataset.name}' has no split '{split}'{hint}{fix}")


def _usual_split(key: str, known: Sequence[str]) -> str:
    """Return the split of a dataset that most likely serves as `key`."""
    for split in USUAL_SPLITS[key]:
        if split in known:
            return split
    return known[-1]
