"""Code for the model card that loads the base weights of an adapter."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel


def base_lines(model: PreTrainedModel, source: str) -> tuple[str, ...]:
    """Return lines of Python that load the base weights into the model's class, as `base`.

    Args:
        model: The model of transformers.
        source: The weights, as `base_weights` names them.
    """
    name = type(model).__name__
    if source.startswith("random:"):
        return (
            f"# The base had random weights ({source}), which vlpeft draws and no checkpoint holds:"
            f" `base` is its {name}.",
        )
    if source.endswith(".pth"):
        return _blip_file_lines(name, source)
    if source == "tiny":
        return _tiny_lines(name, model.config.model_type)
    return _pretrained_lines(name, source)


def _blip_file_lines(name: str, source: str) -> tuple[str, ...]:
    form = "decoder"
    if name == "BlipForQuestionAnswering":
        form = "vqa"
    file = json.dumps(Path(source).name)
    return (
        "from pathlib import Path",
        "from vlpeft.benchmark.backbones.blip_parts import load_original"
        "  # vlpeft reads BLIP's own files",
        "",
        f'base = load_original(Path({file}), "{form}")  # the path of that file',
    )


def _tiny_lines(name: str, model_type: str) -> tuple[str, ...]:
    place = f'files("vlpeft.benchmark") / "backbones" / "tiny" / {json.dumps(model_type)}'
    return (
        f"from transformers import {name}",
        "from importlib.resources import files",
        "",
        f"tiny = {place}  # shipped with vlpeft",
        f'base = {name}.from_pretrained(tiny, dtype="float32")',
    )


def _pretrained_lines(name: str, source: str) -> tuple[str, ...]:
    location, _, revision = source.partition("@")
    comment = ""
    if Path(location).is_absolute():  # of a path of this machine, the card shows the last name only
        location = Path(location).name
        comment = "  # the path of that folder"
    pin = ""
    if revision:
        pin = f", revision={json.dumps(revision)}"
    return (
        f"from transformers import {name}",
        "",
        f'base = {name}.from_pretrained({json.dumps(location)}{pin}, dtype="float32"){comment}',
    )
