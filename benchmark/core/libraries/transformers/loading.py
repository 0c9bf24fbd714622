"""Configurations, tokenizers and models from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.utils import logging

from vlpeft.benchmark.core.libraries.changes import refuse_unsupported
from vlpeft.benchmark.core.libraries.transformers.calls import LIBRARY


def make_config(model_type: str, settings: Mapping[str, Any]) -> PretrainedConfig:
    """Return a configuration with these settings.

    Raises UserError for a setting that its class does not declare. transformers itself keeps an
    unknown setting as an attribute that no model reads.
    """
    known = AutoConfig.for_model(model_type)
    unknown = _undeclared(settings, known.to_dict(), known.attribute_map)
    refuse_unsupported(LIBRARY, f"the configuration of {model_type}", unknown)
    return AutoConfig.for_model(model_type, **settings)


def _undeclared(
    settings: Mapping[str, Any], known: Mapping[str, Any], aliases: Iterable[str] = ()
) -> list[str]:
    """Return the names of unknown settings; those of parts start with the part's name."""
    found = []
    for name, value in settings.items():
        if name not in known and name not in aliases:
            found.append(name)
        elif isinstance(value, dict):
            found += [f"{name}.{each}" for each in _undeclared(value, known[name])]
    return found


def load_config(location: str, revision: str | None) -> PretrainedConfig:
    """Return a checkpoint's configuration; code that comes with it is never run."""
    return AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)


def load_tokenizer(
    location: str | Path, revision: str | None = None, *, local_only: bool = False
) -> Any:
    """Return a checkpoint's tokenizer; code that comes with it is never run."""
    tokenizer = AutoTokenizer.from_pretrained(
        location, revision=revision, local_files_only=local_only, trust_remote_code=False
    )
    # Some damage of its configuration shows only when it is used.
    tokenizer("a")
    tokenizer.convert_tokens_to_ids(tokenizer.all_special_tokens)
    return tokenizer


def load_model(
    cls: type[PreTrainedModel], location: str, revision: str | None, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model in float32, and the names of weights that the checkpoint lacks."""
    model, info = cls.from_pretrained(
        location,
        revision=revision,
        dtype=torch.float32,
        ignore_mismatched_sizes=False,
        weights_only=True,
        output_loading_info=True,
        trust_remote_code=False,
        **options,
    )
    return model, list(info["missing_keys"])


def build_shapes(
    cls: type[PreTrainedModel], config: PretrainedConfig, options: Mapping[str, Any]
) -> PreTrainedModel:
    """Return a model on the meta device, which has no values.

    No initial values are drawn, which is most of the work of a small model.
    """
    with torch.device("meta"), initialization.no_init_weights():
        model = cls(config, **options)
    model.tie_weights()  # a part of the initialisation that was left out
    return model


def load_shapes(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    tensors: dict[str, torch.Tensor],
    options: Mapping[str, Any],
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model on the meta device, and the names of weights that the tensors lack.

    The tensors, on the meta device too, are matched with the model as `load_model` matches those of
    a checkpoint. Raises ValueError for a tensor of another shape.
    """
    with torch.device("cpu"):
        model, info = cls.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise ValueError(f"{name} has shape {tuple(found)}, and config.json says {tuple(wanted)}")
    return model, list(info["missing_keys"])


@contextmanager
def quiet(*, bars: bool) -> Iterator[None]:
    """Log errors only, and hide progress bars unless `bars` is set."""
    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # To set a level empties a cache of Python's logging, which takes 1 ms.
    if before != logging.ERROR:
        logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()
        if before != logging.ERROR:
            logging.set_verbosity(before)
