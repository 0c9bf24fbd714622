"""Are the weights that a backbone opens on this machine, and fetch them: through the look-ups of the libraries that load them.

The same function looks and fetches, with and without leave to ask the hub, so that what is found to be here can be
loaded where there is no network. No model is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlpeft.benchmark.backbones.weights import KNOWN, WeightSource, quiet
from vlpeft.benchmark.contract.backbone import WeightFiles
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.libraries import open_clip, timm
from vlpeft.benchmark.libraries.huggingface_hub import cache_folder, cached_path, first_file
from vlpeft.benchmark.libraries.transformers import (
    CHECKPOINTS,
    PICKLED,
    find_file,
    find_shards,
    load_tokenizer,
)

CONFIG, PIXELS = "config.json", "preprocessor_config.json"


class NotHere(UserError):
    """Not in the hub's cache; `obtain(..., fetch=True)` may get it."""


def obtain(wanted: WeightFiles, *, fetch: bool) -> None:
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
        raise NotHere(
            f"weights '{wanted.source}' are not, or not all, in {cache_folder()}"
        ) from error


def _obtain(wanted: WeightFiles, fetch: bool) -> None:
    library, _, name = wanted.source.partition(":")
    if library == "open_clip":
        _open_clip(name, fetch)
    elif library == "timm":
        _timm(name, fetch)
    else:
        _transformers(wanted, fetch)


def _transformers(wanted: WeightFiles, fetch: bool) -> None:
    source = WeightSource.parse(wanted.source, tiny=wanted.tiny)
    if source.location.endswith(".pth") or source.location.startswith(("/", ".", "~")):
        _file(source.location)
    if source.location.endswith(".pth"):
        return
    if "model" in wanted.files and not source.random:
        _checkpoint(source, fetch)
    elif "model" in wanted.files and source.location not in KNOWN:
        find_file(source.location, CONFIG, revision=source.revision, local_only=not fetch)
    if "pixels" in wanted.files and not source.random:
        _pixels(source, fetch)
    if "tokenizer" in wanted.files:
        load_tokenizer(source.location, source.revision, local_only=not fetch)


def _checkpoint(source: WeightSource, fetch: bool) -> None:
    # An error for this file says what is wrong with an id; the others may be missing.
    find_file(source.location, CONFIG, revision=source.revision, local_only=not fetch)
    found = next(filter(None, (_optional(source, name, fetch) for name in CHECKPOINTS)), None)
    if found is None:
        raise OSError(f"found none of {', '.join(CHECKPOINTS)}")
    if found.endswith(".json"):
        find_shards(source.location, found, revision=source.revision, local_only=not fetch)


def _optional(source: WeightSource, name: str, fetch: bool) -> str | None:
    return find_file(
        source.location, name, revision=source.revision, local_only=not fetch, required=False
    )


def _pixels(source: WeightSource, fetch: bool) -> None:
    """Some checkpoints have no such file. Here, it must be known that there is none: without it pixels are scaled by other numbers."""
    _optional(source, PIXELS, fetch)
    if Path(source.location).exists():
        return
    if cached_path(source.location, PIXELS, source.revision) is None:
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
        _first(place, timm_choices(PICKLED), fetch)
        return
    known = timm.hub_weights(name)
    if known is None:
        raise ValueError("timm knows no weights of it on the hub")
    repository, file = known
    _first(repository, timm_choices(file or PICKLED), fetch)


def _open_clip(name: str, fetch: bool) -> None:
    model, _, tag = name.partition("/")
    if model.startswith("random:"):
        return
    known = open_clip.known_weights(model, tag)
    if not known:
        _file(tag)
        return
    place, _, file = known["hf_hub"].rpartition("/")
    _first(place, open_clip_choices(file or open_clip.WEIGHTS), fetch)
    text = open_clip.text_model(model)  # built, too, from its configuration
    if text:
        find_file(text, CONFIG, local_only=not fetch)


def timm_choices(file: str) -> tuple[str, ...]:
    """Files that timm tries in turn where it is told one."""
    return _choices(file, timm.SAFE, timm.ENDINGS)


def open_clip_choices(file: str) -> tuple[str, ...]:
    """Files that open_clip tries in turn where it is told one."""
    return _choices(file, open_clip.SAFE, open_clip.ENDINGS)


def _choices(file: str, safe: Mapping[str, str], endings: tuple[str, ...]) -> tuple[str, ...]:
    if file in safe:
        return safe[file], file
    return (f"{file[:-4]}.safetensors", file) if file.endswith(endings) else (file,)


def _first(place: str, files: Sequence[str], fetch: bool) -> None:
    """The first of these files that `ID` or `ID@REVISION` has."""
    repository, _, revision = place.partition("@")
    first_file(repository, files, revision or None, local_only=not fetch)


def _file(path: str) -> None:
    if not Path(path).exists():
        raise UserError(
            f"weights {path} do not exist; save them there, or mend the path in the sweep"
        )
