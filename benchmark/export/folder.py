"""Exported adapters: the content of a folder, and the way to rebuild its model.

A folder holds:

    adapter.safetensors   the trained tensors
    config.json           all that is needed to build the model (`AdapterFolder`)
    base.json             norms of the frozen tensors, to recognise the base weights
    README.md             the model card
    text/, vision/ ...    the towers of a merged model as Hugging Face folders
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.files import check_file, library_errors, local_path
from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.core.config import JSON, Config, parse
from vlpeft.benchmark.core.errors import UserError, error_context
from vlpeft.benchmark.core.files import sha256, to_json
from vlpeft.benchmark.datasets.json_files import unique_keys
from vlpeft.benchmark.export.weights import check_base
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Task

SCHEMA = 1
TENSORS, BASE, CONFIG = "adapter.safetensors", "base.json", "config.json"
IN_FOLDER = "./"  # the prefix of weights that are in the adapter's own folder
AGAIN = "copy or export the adapter again"
Format = Literal["vlpeft", "peft", "merged"]


@dataclass(frozen=True)
class AdapterFolder(Config):
    """The config.json of an exported adapter."""

    id: str  # of the finished cell
    format: Format
    # The cell to build, without paths of data. The cell of a merged model trains the head only.
    cell: Cell
    method: str  # of the finished cell
    answers: tuple[tuple[str, ...], ...]  # for each task, its closed answer list
    base: dict[str, str]  # setting -> the weights it was trained on; hub ids have their revision
    # Setting of the backbone -> weights to use: pinned hub ids, or folders in this one (`./text`).
    weights: dict[str, str]
    image: dict[str, JSON]  # the image transform
    metrics: dict[str, float | dict[str, str]]  # of the finished cell
    trained: dict[str, float]  # parameter counts and steps of the finished cell
    provenance: dict[str, Any]
    # Of how many test examples the export repeated the run's answer, and how many it tried: none
    # if the data was not there.
    reproduced: tuple[int, int]
    plugin: str = ""  # the module of a method from another package
    files: dict[str, str] = field(default_factory=dict)  # file -> sha256
    schema: int = SCHEMA
    # sha256 of the other values but `weights`; older exports have none.
    checksum: str = ""

    def locate_weights(self, folder: Path) -> Cell:
        """Return the cell to build, with its weights located in the adapter's folder."""
        settings = dict(self.cell.backbone.settings)
        for key, value in self.weights.items():
            settings[key] = value
            if value.startswith(IN_FOLDER):
                settings[key] = str(folder / value)
        return replace(self.cell, backbone=replace(self.cell.backbone, settings=settings))


@dataclass(frozen=True)
class BaseNorms(Config):
    """The content of base.json: the norm of each frozen tensor, by name."""

    norms: dict[str, float]


def read_adapter(folder: Path) -> AdapterFolder:
    """Read and check the folder of an exported adapter.

    Raises:
        UserError: The folder is not an adapter, is damaged, or has another schema or format.
    """
    path = folder / CONFIG
    if local_path(str(path)) is None:
        raise UserError(
            f"{folder} is not an exported adapter: it has no {CONFIG};"
            " make one with `vlpeft export-adapter`"
        )
    values = _read_json(path)
    schema: object = type(values).__name__
    if isinstance(values, dict):
        schema = values.get("schema")
    if schema != SCHEMA:
        raise UserError(
            f"{path}: adapter schema {schema}, this version reads {SCHEMA};"
            " use a matching version of vlpeft, or export again"
        )
    adapter = parse(AdapterFolder, values, str(path))
    if adapter.format == "peft":
        raise UserError(
            f"{folder} is in peft's format: load it with peft (see its README.md),"
            " or export the cell without `--format`"
        )
    _check_content(adapter, path)
    _check_files(adapter, folder)
    if adapter.checksum not in ("", checksum(values)):
        raise UserError(f"{path}: changed since the export; {AGAIN}")
    return adapter


def checksum(values: Mapping[str, JSON]) -> str:
    """Return the sha256 of the values of a config.json.

    Left out are the checksum itself, and where weights lie: a user may have them elsewhere, and
    base.json recognises them.
    """
    named = {key: value for key, value in values.items() if key not in ("checksum", "weights")}
    return hashlib.sha256(to_json(named)).hexdigest()


def _read_json(path: Path) -> JSON:
    """Read a JSON file of an adapter. Raises UserError for a damaged one."""
    check_adapter_file(path)
    with library_errors(lambda cause: UserError(f"{path}: damaged ({cause}); {AGAIN}")):
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)


def check_adapter_file(path: Path) -> None:
    """Raise UserError unless a file of an adapter is a regular file that exists."""
    try:
        check_file(path)
    except UserError as error:
        raise UserError(f"{path}: missing or not a regular file; {AGAIN}") from error


def _check_content(adapter: AdapterFolder, path: Path) -> None:
    """Raise UserError for values that fit their types, and not each other."""
    parts = adapter.cell.parts
    if len(adapter.answers) != len(parts):
        raise UserError(
            f"{path}: answers: {len(adapter.answers)} lists for {len(parts)} tasks; {AGAIN}"
        )
    for part, answers in zip(parts, adapter.answers, strict=True):
        check_answers(part.task, answers, f"{path}: answers")
    for key, value in adapter.weights.items():
        if value.startswith(IN_FOLDER) and not _is_plain(value.removeprefix(IN_FOLDER)):
            raise UserError(f"{path}: weights: {key}: '{value}' leaves the folder; {AGAIN}")


def check_answers(task: str, answers: Sequence[str], where: str) -> None:
    """Raise UserError for a closed answer list that a task cannot use."""
    kind: type[Task] = TASKS.load(task)
    if "choose" in kind.needs and not answers:
        raise UserError(f"{where}: {task} chooses from a list of answers, which is empty")
    for answer in answers:
        if not isinstance(answer, str):
            raise UserError(f"{where}: {answer!r} is not a text; write it in quotes")
    if len(set(answers)) < len(answers):
        twice = next(each for each in answers if list(answers).count(each) > 1)
        raise UserError(f"{where}: {twice!r} is there twice; remove one")


def _is_plain(name: str) -> bool:
    """Check whether a name is that of a file inside the folder, without `.` and `..`."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and "\0" not in name


def _check_files(adapter: AdapterFolder, folder: Path) -> None:
    for name, digest in adapter.files.items():
        if not _is_plain(name):
            raise UserError(
                f"{folder / CONFIG}: files: {name!r} is not a file of the folder; {AGAIN}"
            )
        path = folder / name
        check_adapter_file(path)
        try:
            found = sha256(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {AGAIN}") from error
        if found != digest:
            raise UserError(f"{path}: damaged: its content differs from the export; {AGAIN}")


def rebuild(adapter: AdapterFolder, folder: Path) -> Backbone:
    """Return the adapted model in evaluation mode.

    Raises:
        UserError: The base weights are missing, or not those that the adapter was trained on.
    """
    _check_plugins(adapter, folder)
    with error_context(str(folder)):
        cell = adapter.locate_weights(folder)
        backbone = rebuild_model(cell, adapter.answers[0], folder / TENSORS)
    transform = image_transform(backbone.vision)
    if transform != adapter.image:
        raise UserError(
            f"{folder}: images would be prepared differently"
            f" ({transform}, exported with {adapter.image}); use the same vision weights"
        )
    norms = parse(BaseNorms, {"norms": _read_json(folder / BASE)}, str(folder / BASE)).norms
    check_base(backbone, norms, f"{folder}: {_weight_names(adapter)}")
    return backbone


def _check_plugins(adapter: AdapterFolder, folder: Path) -> None:
    """Raise UserError if the code of the method or backbone is not registered here."""
    cell = adapter.cell
    for registry, name in ((METHODS, cell.method.name), (BACKBONES, cell.backbone.name)):
        if name in registry.entries:
            continue
        if cell.plugins:
            files = ", ".join(cell.plugins)
            raise UserError(
                f"{folder}: {registry.kind} '{name}' comes from a plug-in ({files});"
                " name that file with --plugin"
            )
        if adapter.plugin:
            raise UserError(
                f"{folder}: {registry.kind} '{name}' comes from another package;"
                f" install the one that holds `{adapter.plugin}`"
            )


def rebuild_model(cell: Cell, answers: Sequence[str], tensors: Path) -> Backbone:
    """Build the model of a cell as its run did, and load the trained tensors.

    Random parts come from the cell's seed, as in the run.

    Args:
        cell: The cell.
        answers: The closed answer list of its first task.
        tensors: The file of the trained tensors.

    Raises:
        UserError: The file does not fit the model.
    """
    check_adapter_file(tensors)
    torch.manual_seed(cell.seed)
    backbone = build(cell, answers)
    with library_errors(lambda cause: UserError(f"{tensors}: damaged ({cause}); {AGAIN}")):
        saved = load_file(tensors)
    _check_tensors(trained_tensors(backbone), saved, tensors)
    load_trained(backbone, saved)
    return backbone.eval()


def _check_tensors(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError for tensors that the model does not train in this form, and for NaN."""
    unfit = [
        name
        for name in sorted(own.keys() | saved.keys())
        if name not in saved or name not in own or _form(own[name]) != _form(saved[name])
    ]
    if unfit:
        raise UserError(
            f"{path}: {unfit[0]} is missing in the file or in the model built here, or differs in"
            f" shape or type ({len(unfit)} such); use the version of vlpeft that exported it"
        )
    for name, tensor in saved.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name} holds values that are not finite numbers; {AGAIN}")


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _weight_names(adapter: AdapterFolder) -> str:
    return " or ".join(f"{key}: {value}" for key, value in (adapter.base | adapter.weights).items())


def image_transform(tower: VisionTower) -> dict[str, JSON]:
    """Return the image transform of a vision tower, or {} for a tower of features.

    An image is resized to (size, size) without cropping, scaled to 0..1 and normalised.
    """
    if not hasattr(tower, "size"):
        return {}
    return {
        "size": tower.size,
        "mean": list(tower.mean),
        "std": list(tower.std),
        "resample": tower.resample.name.lower(),
    }


def plugin_module(method: str) -> str:
    """Return the module of a method from another package, or "" for a method of vlpeft."""
    module = METHODS.entry(method).module
    folder = module.rpartition(".")[0].replace(".", "/")
    if folder in METHODS.folders:
        return ""
    return module
