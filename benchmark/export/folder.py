"""Exported adapters: what a folder holds, and the one way to make a model of it again.

Layout of a folder:

    adapter.safetensors   what was trained
    config.json           all that is needed to build the model (`Adapter`)
    base.json             norms of the frozen tensors: they tell whether the base weights are those it was trained on
    README.md             the model card
    text/, vision/ ...    a merged model's towers as Hugging Face folders
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.cells.records import sha256
from vlpeft.benchmark.contract.backbone import Backbone, VisionTower
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core.config import JSON, Config, parse
from vlpeft.benchmark.core.errors import UserError, error_context
from vlpeft.benchmark.libraries.huggingface_hub import cached_path, snapshot_source
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.model import build

SCHEMA = 1
TENSORS, BASE, CONFIG = "adapter.safetensors", "base.json", "config.json"
BESIDE = "./"  # marks weights that lie in the folder itself
SAME = 1e-5  # norms of equal weights differ by rounding alone
SOURCES = ("text", "vision", "weights", "tokenizer")  # settings of backbones that name weights
Format = Literal["vlpeft", "peft", "merged"]


@dataclass(frozen=True)
class AdapterFolder(Config):
    """An exported adapter's config.json.

    `cell` is what to build, without paths of data; that of a merged model trains the head alone. `answers` holds each
    task's closed list. `base` are the weights that it was trained on, hub ids with their revision; `weights` replaces settings
    of the backbone: those ids, or folders beside (`./text`). `metrics` are the finished cell's, `trained` its parameter counts.
    `reproduced`: how many test examples were answered as in the run when it was exported, and of how many.
    """

    id: str  # the finished cell's
    format: Format
    cell: Cell
    method: str  # the finished cell's
    answers: tuple[tuple[str, ...], ...]
    base: dict[str, str]
    weights: dict[str, str]
    image: dict[str, JSON]
    metrics: dict[str, float | dict[str, str]]
    trained: dict[str, float]
    provenance: dict[str, Any]
    reproduced: tuple[int, int]
    plugin: str = ""  # the module of a method that is not vlpeft's own
    files: dict[str, str] = field(default_factory=dict)  # file -> sha256
    schema: int = SCHEMA

    def locate_weights(self, folder: Path) -> Cell:
        """The cell to build, its weights found."""
        there = {
            key: str(folder / value) if value.startswith(BESIDE) else value
            for key, value in self.weights.items()
        }
        backbone = self.cell.backbone
        return replace(
            self.cell, backbone=replace(backbone, settings={**backbone.settings, **there})
        )


def read_adapter(folder: Path) -> AdapterFolder:
    """Read and check a folder. Raises UserError where it is none, is damaged, or is of another schema or format."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is no exported adapter: it has no {CONFIG}; make one with `vlpeft export-adapter`"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); copy or export the adapter again") from error
    schema = values.get("schema") if isinstance(values, dict) else type(values).__name__
    if schema != SCHEMA:
        raise UserError(
            f"{path}: adapter schema {schema}, this version reads {SCHEMA}; use a matching version of vlpeft, or export again"
        )
    adapter = parse(AdapterFolder, values, str(path))
    if adapter.format == "peft":
        raise UserError(
            f"{folder} is in peft's format: load it with peft (see its README.md), or export the cell without `--format`"
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
                f"{path}: damaged, its content is not what was exported; copy or export the adapter again"
            )


def rebuild(adapter: AdapterFolder, folder: Path) -> Backbone:
    """The adapted model in eval mode. Raises UserError for base weights that are missing, or not those it was trained on."""
    if adapter.cell.method.name not in METHODS.entries and adapter.plugin:
        raise UserError(
            f"{folder}: method '{adapter.method}' comes from another package; install the one that holds `{adapter.plugin}`"
        )
    with error_context(str(folder)):
        backbone = rebuild_model(
            adapter.locate_weights(folder), adapter.answers[0], folder / TENSORS
        )
    if (now := image_transform(backbone.vision)) != adapter.image:
        raise UserError(
            f"{folder}: images would be prepared differently ({now}, exported with {adapter.image}); use the same vision weights"
        )
    check_base(
        backbone,
        json.loads((folder / BASE).read_text(encoding="utf-8")),
        f"{folder}: {_named(adapter)}",
    )
    return backbone


def rebuild_model(cell: Cell, answers: Sequence[str], tensors: Path) -> Backbone:
    """A cell's model with what was trained, built as a run builds it: what is drawn comes from the cell's seed."""
    torch.manual_seed(cell.seed)
    backbone = build(cell, answers)
    saved = load_file(tensors)
    own = {name: tensor.shape for name, tensor in trained_tensors(backbone).items()}
    if other := sorted(
        name
        for name in own.keys() | saved.keys()
        if name not in saved or own.get(name) != saved[name].shape
    ):
        raise UserError(
            f"{other[0]} is not trained, or of another shape, in the model built here ({len(other)} such); use its version of vlpeft"
        )
    load_trained(backbone, saved)
    return backbone.eval()


def base_norms(backbone: Backbone) -> dict[str, float]:
    """Euclidean norm of every frozen tensor, by name."""
    changed = trained_tensors(backbone)
    frozen = {name: tensor for name, tensor in backbone.state_dict().items() if name not in changed}
    return {
        name: float(torch.linalg.vector_norm(tensor.double())) for name, tensor in frozen.items()
    }


def check_base(backbone: Backbone, expected: Mapping[str, float], weights: str) -> None:
    """Refuse frozen weights that are not those of the export."""
    found = base_norms(backbone)
    for name in sorted(expected.keys() | found.keys()):
        if not math.isclose(
            found.get(name, math.nan), expected.get(name, math.nan), rel_tol=SAME, abs_tol=SAME
        ):
            raise UserError(
                f"{weights} is not what the adapter was trained on ({name} differs); give it the very weights"
            )


def _named(adapter: AdapterFolder) -> str:
    return " or ".join(f"{key}: {value}" for key, value in (adapter.base | adapter.weights).items())


def image_transform(tower: VisionTower) -> dict[str, JSON]:
    """How images are prepared: resized without crop to (size, size), scaled to 0..1, normalised. Features have no transform."""
    if not hasattr(tower, "size"):
        return {}
    return {
        "size": tower.size,
        "mean": list(tower.mean),
        "std": list(tower.std),
        "resample": tower.resample.name.lower(),
    }


def base_weights(settings: Mapping[str, JSON]) -> dict[str, str]:
    """The settings of a backbone that name weights, as they are or pinned."""
    return {
        key: pin_revision(settings[key]) or settings[key]
        for key in SOURCES
        if isinstance(settings.get(key), str)
    }


def pin_revision(source: str) -> str:
    """A hub id, or a folder of the hub's cache, as `id@commit`; "" for other weights."""
    location, _, revision = source.partition("@")
    if cached := snapshot_source(location):
        return "@".join(cached)
    commit = "" if Path(location).exists() else _commit(location, revision)
    return f"{location}@{commit}" if commit else ""


def _commit(location: str, revision: str) -> str:
    path = cached_path(location, "config.json", revision or None)
    return Path(path).parent.name if path else ""


def plugin(method: str) -> str:
    """The module of a method from another package, "" for vlpeft's own."""
    module = METHODS.entry(method).module
    return "" if module.split(".")[0] in METHODS.folders else module
