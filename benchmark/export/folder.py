"""Exported adapters: the content of a folder, and the way to rebuild its model.

A folder holds:

    adapter.safetensors   the trained tensors
    config.json           all that is needed to build the model (`AdapterFolder`)
    base.json             norms of the frozen tensors, to recognise the base weights
    README.md             the model card
    text/, vision/ ...    the towers of a merged model as Hugging Face folders
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.core.config import JSON, Config, parse
from vlpeft.benchmark.core.errors import UserError, error_context
from vlpeft.benchmark.core.files import sha256
from vlpeft.benchmark.export.weights import check_base
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.model import build

SCHEMA = 1
TENSORS, BASE, CONFIG = "adapter.safetensors", "base.json", "config.json"
IN_FOLDER = "./"  # the prefix of weights that are in the adapter's own folder
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
    # Of how many test examples the export repeated the run's answer, and how many it tried.
    reproduced: tuple[int, int]
    plugin: str = ""  # the module of a method from another package
    files: dict[str, str] = field(default_factory=dict)  # file -> sha256
    schema: int = SCHEMA

    def locate_weights(self, folder: Path) -> Cell:
        """Return the cell to build, with its weights located in the adapter's folder."""
        settings = dict(self.cell.backbone.settings)
        for key, value in self.weights.items():
            settings[key] = value
            if value.startswith(IN_FOLDER):
                settings[key] = str(folder / value)
        return replace(self.cell, backbone=replace(self.cell.backbone, settings=settings))


def read_adapter(folder: Path) -> AdapterFolder:
    """Read and check the folder of an exported adapter.

    Raises:
        UserError: The folder is not an adapter, is damaged, or has another schema or format.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not an exported adapter: it has no {CONFIG};"
            " make one with `vlpeft export-adapter`"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); copy or export the adapter again") from error
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
    _check_files(adapter, folder)
    return adapter


def _check_files(adapter: AdapterFolder, folder: Path) -> None:
    for name, digest in adapter.files.items():
        path = folder / name
        try:
            found = sha256(path)
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}; copy or export the adapter again"
            ) from error
        if found != digest:
            raise UserError(
                f"{path}: damaged: its content differs from the export;"
                " copy or export the adapter again"
            )


def rebuild(adapter: AdapterFolder, folder: Path) -> Backbone:
    """Return the adapted model in evaluation mode.

    Raises:
        UserError: The base weights are missing, or not those that the adapter was trained on.
    """
    if adapter.cell.method.name not in METHODS.entries and adapter.plugin:
        raise UserError(
            f"{folder}: method '{adapter.method}' comes from another package;"
            f" install the one that holds `{adapter.plugin}`"
        )
    with error_context(str(folder)):
        cell = adapter.locate_weights(folder)
        backbone = rebuild_model(cell, adapter.answers[0], folder / TENSORS)
    transform = image_transform(backbone.vision)
    if transform != adapter.image:
        raise UserError(
            f"{folder}: images would be prepared differently"
            f" ({transform}, exported with {adapter.image}); use the same vision weights"
        )
    norms = json.loads((folder / BASE).read_text(encoding="utf-8"))
    check_base(backbone, norms, f"{folder}: {_weight_names(adapter)}")
    return backbone


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
    torch.manual_seed(cell.seed)
    backbone = build(cell, answers)
    saved = load_file(tensors)
    own = {name: tensor.shape for name, tensor in trained_tensors(backbone).items()}
    unfit = [
        name
        for name in sorted(own.keys() | saved.keys())
        if name not in saved or own.get(name) != saved[name].shape
    ]
    if unfit:
        raise UserError(
            f"{unfit[0]} is not trained, or has another shape, in the model built here"
            f" ({len(unfit)} such); use the version of vlpeft that exported it"
        )
    load_trained(backbone, saved)
    return backbone.eval()


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
