"""The base weights of an adapter: their names, pinned to a revision, and a check by norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import JSON
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.libraries.huggingface_hub import cached_path, snapshot_source
from vlpeft.benchmark.run.checkpoint import trained_tensors

SOURCES = ("text", "vision", "weights", "tokenizer")  # settings of backbones that name weights
SAME = 1e-5  # norms of equal weights differ by rounding only


def base_weights(settings: Mapping[str, JSON]) -> dict[str, str]:
    """Return the settings of a backbone that name weights; hub ids are pinned to a revision."""
    found = {}
    for key in SOURCES:
        source = settings.get(key)
        if isinstance(source, str):
            found[key] = pin_revision(source) or source
    return found


def pin_revision(source: str) -> str:
    """Return a hub id, or a folder of the hub's cache, as `id@commit`, and "" for other weights."""
    location, _, revision = source.partition("@")
    if cached := snapshot_source(location):
        return "@".join(cached)
    if Path(location).exists():
        return ""
    commit = _cached_commit(location, revision)
    if not commit:
        return ""
    return f"{location}@{commit}"


def _cached_commit(location: str, revision: str) -> str:
    """Return the commit of a hub id in the cache, from the name of its snapshot folder, or ""."""
    path = cached_path(location, "config.json", revision or None)
    if not path:
        return ""
    return Path(path).parent.name


def base_norms(backbone: Backbone) -> dict[str, float]:
    """Return the Euclidean norm of every frozen tensor, by name."""
    changed = trained_tensors(backbone)
    norms = {}
    for name, tensor in backbone.state_dict().items():
        if name not in changed:
            norms[name] = float(torch.linalg.vector_norm(tensor.double()))
    return norms


def check_base(backbone: Backbone, expected: Mapping[str, float], weights: str) -> None:
    """Compare the norms of the frozen tensors with those at the export.

    Args:
        backbone: The rebuilt model.
        expected: Name -> norm, from the folder's base.json.
        weights: The names of the base weights, for the error message.

    Raises:
        UserError: The base weights are not the same.
    """
    found = base_norms(backbone)
    for name in sorted(expected.keys() | found.keys()):
        here, there = found.get(name, math.nan), expected.get(name, math.nan)
        if not math.isclose(here, there, rel_tol=SAME, abs_tol=SAME):
            raise UserError(
                f"{weights}: not the weights that the adapter was trained on ({name} differs);"
                " use exactly the same weights"
            )
