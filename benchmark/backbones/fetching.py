"""Look for the weights that a backbone opens, or fetch them.

The look-ups are those of the libraries that load the weights. The same function looks and fetches,
with and without permission to ask the hub. So files that were found can also be loaded on a machine
without a network. No model is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlpeft.benchmark.backbones.files import (
    CONFIG,
    PIXELS,
    check_file,
    check_folder,
    local_path,
    read_shapes,
    shorten,
)
from vlpeft.benchmark.backbones.geometries import known_models
from vlpeft.benchmark.backbones.weights import WeightSource, quiet
from vlpeft.benchmark.contract.backbone import WeightFiles
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.libraries import open_clip, timm
from vlpeft.benchmark.core.libraries.huggingface_hub import cache_folder, cached_path, first_file
from vlpeft.benchmark.core.libraries.transformers import (
    CHECKPOINTS,
    PICKLED,
    find_file,
    find_shards,
    load_tokenizer,
)


class NotHere(UserError):
    """Not in the hub's cache; `obtain(..., fetch=True)` may get it."""


def obtain(wanted: WeightFiles, *, fetch: bool) -> None:
    """Look for all files of a weight source; with `fetch`, get those that are missing.

    Raises UserError for a file that stays missing. Without `fetch` it is NotHere, if the file could
    be fetched.
    """
    try:
        with quiet(bars=fetch):
            _obtain(wanted, fetch)
    except UserError:
        raise
    # Tokenizers that are damaged raise a bare Exception.
    except Exception as error:
        is_folder = local_path(wanted.source.removeprefix("random:")) is not None
        if not fetch and not is_folder:
            raise NotHere(
                f"weights '{wanted.source}' are not, or not all, in {cache_folder()}"
            ) from error
        fix = "check the id and the network"
        if is_folder:
            fix = "complete the folder"
        raise UserError(f"weights '{wanted.source}': {shorten(error)}; {fix}") from error


def _obtain(wanted: WeightFiles, fetch: bool) -> None:
    library, _, name = wanted.source.partition(":")
    if library == "open_clip":
        _obtain_open_clip(name, fetch)
    elif library == "timm":
        _obtain_timm(name, fetch)
    else:
        _obtain_transformers(wanted, fetch)


def _obtain_transformers(wanted: WeightFiles, fetch: bool) -> None:
    source = WeightSource.parse(wanted.source, tiny=wanted.tiny)
    is_file = source.location.endswith(".pth")
    # A path that does not exist would be taken for a hub id, with a puzzling error.
    if is_file or source.location.startswith(("/", ".", "~")):
        _check_exists(source.location)
    if is_file:
        check_file(Path(source.location))
        return
    if source.folder is not None:
        check_folder(source.folder)
        if "model" in wanted.files and not source.random:
            read_shapes(source.folder)
    if "model" in wanted.files:
        _obtain_model(source, fetch)
    if "pixels" in wanted.files and not source.random:
        _obtain_pixels(source, fetch)
    if "tokenizer" in wanted.files:
        load_tokenizer(source.location, source.revision, local_only=not fetch)


def _obtain_model(source: WeightSource, fetch: bool) -> None:
    if not source.random:
        _obtain_checkpoint(source, fetch)
    elif source.location not in known_models("hub"):
        # Random weights need only the architecture, and that of known names is in `geometry/`.
        find_file(source.location, CONFIG, revision=source.revision, local_only=not fetch)


def _obtain_checkpoint(source: WeightSource, fetch: bool) -> None:
    # The error for this file says what is wrong with an id. The other files may be missing.
    find_file(source.location, CONFIG, revision=source.revision, local_only=not fetch)
    found = _first_checkpoint(source, fetch)
    if found is None:
        raise OSError(f"found none of {', '.join(CHECKPOINTS)}")
    if found.endswith(".json"):
        find_shards(source.location, found, revision=source.revision, local_only=not fetch)


def _first_checkpoint(source: WeightSource, fetch: bool) -> str | None:
    # In the order in which transformers tries them: one file, or an index of shards.
    for name in CHECKPOINTS:
        found = _find_optional(source, name, fetch)
        if found:
            return found
    return None


def _find_optional(source: WeightSource, name: str, fetch: bool) -> str | None:
    return find_file(
        source.location, name, revision=source.revision, local_only=not fetch, required=False
    )


def _obtain_pixels(source: WeightSource, fetch: bool) -> None:
    """Find the file about pixels, or the knowledge that the checkpoint has none.

    Without that knowledge, a job without a network would scale pixels by other numbers.
    """
    _find_optional(source, PIXELS, fetch)
    if source.folder is not None:
        return
    if cached_path(source.location, PIXELS, source.revision) is None:
        raise OSError(f"it is unknown whether {PIXELS} exists")


def _obtain_timm(name: str, fetch: bool) -> None:
    where, _, place = name.partition(":")
    if where == "random":
        return
    if where == "local-dir":
        _check_exists(f"{place}/{CONFIG}")
        return
    if where in ("hf-hub", "hf_hub"):
        _obtain_first(place, (CONFIG,), fetch)
        _obtain_first(place, timm_choices(PICKLED), fetch)
        return
    # The other names are timm's own. It knows which repository of the hub holds their weights.
    known = timm.hub_weights(name)
    if known is None:
        raise ValueError("timm knows no weights of it on the hub")
    repository, file = known
    _obtain_first(repository, timm_choices(file or PICKLED), fetch)


def _obtain_open_clip(name: str, fetch: bool) -> None:
    model, _, tag = name.partition("/")
    if model.startswith("random:"):
        return
    known = open_clip.known_weights(model, tag)
    if not known:
        _check_exists(tag)
        return
    place, _, file = known["hf_hub"].rpartition("/")
    _obtain_first(place, open_clip_choices(file or open_clip.WEIGHTS), fetch)
    # open_clip builds the text model too, from its configuration.
    text = open_clip.text_model(model)
    if text:
        find_file(text, CONFIG, local_only=not fetch)


def timm_choices(file: str) -> tuple[str, ...]:
    """Return the files that timm tries in turn for this one."""
    return _choices(file, timm.SAFE, timm.ENDINGS)


def open_clip_choices(file: str) -> tuple[str, ...]:
    """Return the files that open_clip tries in turn for this one."""
    return _choices(file, open_clip.SAFE, open_clip.ENDINGS)


def _choices(file: str, safe: Mapping[str, str], endings: tuple[str, ...]) -> tuple[str, ...]:
    # Both libraries prefer safetensors, which cannot run code, over pickled files.
    if file in safe:
        return safe[file], file
    if file.endswith(endings):
        return f"{file[:-4]}.safetensors", file
    return (file,)


def _obtain_first(place: str, files: Sequence[str], fetch: bool) -> None:
    """Find the first of these files that `ID` or `ID@REVISION` has."""
    repository, _, revision = place.partition("@")
    first_file(repository, files, revision or None, local_only=not fetch)


def _check_exists(path: str) -> None:
    if local_path(path) is None:
        raise UserError(
            f"weights {path} do not exist; save them there, or fix the path in the sweep"
        )
