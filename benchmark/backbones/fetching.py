"""Are the weights that a backbone opens on this machine, and fetch them: through the look-ups of the libraries that load them.

The same function looks and fetches, with and without leave to ask the hub, so that what is found to be here can be
loaded where there is no network. No model is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoTokenizer
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from benchmark.backbones.base import Wanted
from benchmark.backbones.weights import KNOWN, Source, quiet
from benchmark.errors import UserError

CONFIG, PIXELS = "config.json", "preprocessor_config.json"
CHECKPOINTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)  # in transformers' order
OPEN_CLIP = "open_clip_pytorch_model.bin"  # where a tag names no file
OPEN_CLIP_SAFE = {OPEN_CLIP: "open_clip_model.safetensors"}  # what open_clip takes instead, if it is there
TIMM_SAFE = {WEIGHTS_NAME: SAFE_WEIGHTS_NAME, **OPEN_CLIP_SAFE}


class NotHere(UserError):
    """Not in the hub's cache; `obtain(..., fetch=True)` may get it."""


def obtain(wanted: Wanted, *, fetch: bool) -> None:
    """Look for all files of a weight source; with `fetch`, get those that are not here. Raises UserError for what stays missing.

    Without `fetch` that is NotHere for what could be fetched.
    """
    try:
        with quiet(bars=fetch):
            _obtain(wanted, fetch)
    except (OSError, ValueError, RuntimeError) as error:
        here = Path(wanted.source.removeprefix("random:")).exists()
        if fetch or here:
            said = " ".join(str(error).split())[:200].removesuffix(".")
            raise UserError(
                f"weights '{wanted.source}': {said}; {'complete the folder' if here else 'check the id and the network'}"
            ) from error
        raise NotHere(f"weights '{wanted.source}' are not, or not all, in {constants.HF_HUB_CACHE}") from error


def _obtain(wanted: Wanted, fetch: bool) -> None:
    library, _, name = wanted.source.partition(":")
    if library == "open_clip":
        _open_clip(name, fetch)
    elif library == "timm":
        _timm(name, fetch)
    else:
        _transformers(wanted, fetch)


def _transformers(wanted: Wanted, fetch: bool) -> None:
    source = Source.parse(wanted.source, tiny=wanted.tiny)
    options = {"revision": source.revision, "local_files_only": not fetch}
    if source.location.endswith(".pth") or source.location.startswith(("/", ".", "~")):
        _file(source.location)
    if source.location.endswith(".pth"):
        return
    if "model" in wanted.files and not source.random:
        _checkpoint(source.location, options)
    elif "model" in wanted.files and source.location not in KNOWN:
        cached_file(source.location, CONFIG, **options)
    if "pixels" in wanted.files and not source.random:
        _pixels(source, options)
    if "tokenizer" in wanted.files:
        AutoTokenizer.from_pretrained(source.location, **options)


def _checkpoint(location: str, options: dict[str, Any]) -> None:
    cached_file(location, CONFIG, **options)  # its error says what is wrong with an id; the others may be missing
    each = (cached_file(location, name, **options, _raise_exceptions_for_missing_entries=False) for name in CHECKPOINTS)
    found = next(filter(None, each), None)
    if found is None:
        raise OSError(f"found none of {', '.join(CHECKPOINTS)}")
    if found.endswith(".json"):
        get_checkpoint_shard_files(location, found, **options)


def _pixels(source: Source, options: dict[str, Any]) -> None:
    """Some checkpoints have no such file. Here, it must be known that there is none: without it pixels are scaled by other numbers."""
    cached_file(source.location, PIXELS, **options, _raise_exceptions_for_missing_entries=False)
    known = try_to_load_from_cache(source.location, PIXELS, revision=source.revision) if not Path(source.location).exists() else ""
    if known is None:
        raise OSError(f"nobody has looked for {PIXELS}")


def _timm(name: str, fetch: bool) -> None:
    where, _, place = name.partition(":")
    if where == "random":
        return
    if where == "local-dir":
        _file(f"{place}/{CONFIG}")
        return
    if where in ("hf-hub", "hf_hub"):
        _first(place, (CONFIG,), fetch)
        _first(place, timm_choices(WEIGHTS_NAME), fetch)
        return
    known = timm.models.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        raise ValueError("timm knows no weights of it on the hub")
    _first(known.hf_hub_id, timm_choices(known.hf_hub_filename or WEIGHTS_NAME), fetch)


def _open_clip(name: str, fetch: bool) -> None:
    model, _, tag = name.partition("/")
    if model.startswith("random:"):
        return
    known = open_clip.get_pretrained_cfg(model, tag)
    if not known:
        _file(tag)
        return
    place, _, file = known["hf_hub"].rpartition("/")
    _first(place, open_clip_choices(file or OPEN_CLIP), fetch)
    text = open_clip.get_model_config(model)["text_cfg"].get("hf_model_name")  # built, too, from its configuration
    if text:
        cached_file(text, CONFIG, local_files_only=not fetch)


def timm_choices(file: str) -> tuple[str, ...]:
    """Files that timm tries in turn where it is told one."""
    return _choices(file, TIMM_SAFE, (".bin",))


def open_clip_choices(file: str) -> tuple[str, ...]:
    """Files that open_clip tries in turn where it is told one."""
    return _choices(file, OPEN_CLIP_SAFE, (".bin", ".pth"))


def _choices(file: str, safe: Mapping[str, str], endings: tuple[str, ...]) -> tuple[str, ...]:
    if file in safe:
        return safe[file], file
    return (f"{file[:-4]}.safetensors", file) if file.endswith(endings) else (file,)


def _first(place: str, files: Sequence[str], fetch: bool) -> None:
    """The first of these files that `ID` or `ID@REVISION` has."""
    repository, _, revision = place.partition("@")
    for file in files:
        try:
            hf_hub_download(repository, file, revision=revision or None, local_files_only=not fetch)
            return
        except EntryNotFoundError as error:
            last = error
    raise last


def _file(path: str) -> None:
    if not Path(path).exists():
        raise UserError(f"weights {path} do not exist; save them there, or mend the path in the sweep")
