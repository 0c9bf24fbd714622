"""The sources of weights.

A source is `tiny` (shipped), a Hugging Face id, a local folder, or `random:ID`. `@revision` pins a
revision on the hub.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vlpeft.benchmark.backbones.files import (
    check_folder,
    library_errors,
    local_path,
    read_shapes,
)
from vlpeft.benchmark.backbones.geometries import build_config, find_geometry, known_models
from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.libraries import huggingface_hub, transformers
from vlpeft.benchmark.core.libraries.huggingface_hub import cached_path
from vlpeft.benchmark.core.libraries.transformers import (
    build_shapes,
    find_file,
    load_config,
    load_model,
    load_shapes,
    load_tokenizer,
)

# A name this similar to a known one is a typo. distilgpt2 and xlm-roberta-base are below it.
TYPO = 0.87

HUB_ID = re.compile(r"(?=.{1,96}$)[\w.-]+(/[\w.-]+)?")
# The files that a tokenizer is read from, of which a checkpoint has at least one.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")

# The tokenizers of plans, by place and content: a plan builds each backbone many times.
_TOKENIZERS: dict[object, Any] = {}
_RANDOM: ContextVar[bool] = ContextVar("random weights", default=False)


def known_names() -> tuple[str, ...]:
    """Return the sources that are known by name: `tiny`, and the models with a known geometry."""
    return ("tiny", *known_models("hub"))


@contextmanager
def random_weights() -> Iterator[None]:
    """Build models with random weights and the shipped tiny tokenizers.

    Measurements of speed and memory need no others, and so no download.
    """
    token = _RANDOM.set(True)
    try:
        yield
    finally:
        _RANDOM.reset(token)


def reads_weights() -> bool:
    """Check whether models are built with weights from files.

    They are not on the meta device, where models are only counted, and under `random_weights`.
    """
    return not _on_meta() and not _RANDOM.get()


def _on_meta() -> bool:
    return torch.get_default_device().type == "meta"


@dataclass(frozen=True)
class WeightSource:
    """A parsed weight source.

    Args:
        location: A hub id, or a folder.
        revision: The revision on the hub; None means the newest.
        random: Whether only the architecture is used.
        tiny: The shipped folder of this kind of model.
    """

    location: str
    revision: str | None
    random: bool
    tiny: str

    @classmethod
    def parse(cls, text: str, tiny: str) -> WeightSource:
        """Parse a setting such as `roberta-base@abc123` or `random:gpt2`.

        `tiny` names the shipped folder of this kind. Raises UserError for a typo in a known name.
        """
        # Hub ids contain no "@", so it separates a revision. A fixed one names fixed weights.
        random = text.startswith("random:")
        location, _, name = text.removeprefix("random:").partition("@")
        revision = name or None
        if not location.strip():
            raise UserError(
                f"weights: the value '{text}' names nothing; "
                f"write a hub id, a folder, or one of {', '.join(known_names())}"
            )
        _refuse_typo(location, revision)
        if location == "tiny":
            location = str(TINY / tiny)
        return cls(location, revision, random, tiny)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for a name of the hub."""
        return local_path(self.location)

    def config(self) -> PretrainedConfig:
        """Return the architecture, without weights."""
        known = find_geometry("hub", self.location)
        if known is not None:
            return build_config(known)
        return self._load(lambda: load_config(self.location, self.revision))

    def model(self, cls: type[PreTrainedModel], **options: Any) -> PreTrainedModel:
        """Return the model in float32 and evaluation mode.

        On the meta device it has no values, so that a plan can count parameters.

        Raises:
            WeightsError: The checkpoint is damaged, or lacks a weight, which transformers would
                draw at random. For a folder a plan finds this too, from the headers of the files.
        """
        if self.random or _RANDOM.get():
            return self._build(cls, options)
        if not _on_meta():
            return self._check_complete(*self._load(lambda: self._read(cls, options)))
        # The shipped towers are complete, which a test checks.
        if self.folder is None or self.folder.parent == TINY:
            return self._build(cls, options)
        tensors = self._load(lambda: read_shapes(Path(self.location)))
        config = self.config()
        return self._check_complete(*self._load(lambda: load_shapes(cls, config, tensors, options)))

    def _read(
        self, cls: type[PreTrainedModel], options: Mapping[str, Any]
    ) -> tuple[PreTrainedModel, list[str]]:
        if self.folder is not None:
            read_shapes(self.folder)  # refuses types that transformers would convert to numbers
        return load_model(cls, self.location, self.revision, options)

    def _build(self, cls: type[PreTrainedModel], options: Mapping[str, Any]) -> PreTrainedModel:
        """Return the model with new weights, or without values on the meta device."""
        config = self.config()
        if _on_meta():
            shapes: PreTrainedModel = self._load(lambda: build_shapes(cls, config, options))
            return shapes.eval()
        model: PreTrainedModel = self._load(lambda: cls(config, **options))
        return model.eval()

    def _check_complete(self, model: PreTrainedModel, lacking: Sequence[str]) -> PreTrainedModel:
        # Some checkpoints lack position ids, which are a buffer and not a weight.
        missing = sorted(key for key in lacking if not re.search(r"position_ids$", key))
        if missing:
            raise WeightsError(
                f"{self.location} lacks pretrained weights for {missing[0]} "
                f"({len(missing)} missing); {_suggest_fix(missing[0])}"
            )
        return model.eval()

    def tokenizer(self) -> Any:
        """Return the tokenizer next to the weights.

        None on the meta device, if it is not on this machine: a plan asks no hub.
        """
        if _RANDOM.get():
            return load_tokenizer(TINY / self.tiny)
        if not _on_meta():
            return self._load(lambda: load_tokenizer(self.location, self.revision))
        if self.folder is None and not self._has_cached_tokenizer():
            return None
        key = (self.location, self.revision, _stamp(self.folder))
        if key not in _TOKENIZERS:
            _TOKENIZERS[key] = self._load(
                lambda: load_tokenizer(self.location, self.revision, local_only=True)
            )
        return _TOKENIZERS[key]

    def find(self, name: str) -> str | None:
        """Return the path of a file of the checkpoint; None if the checkpoint has no such file."""
        found: str | None = self._load(
            lambda: find_file(self.location, name, revision=self.revision, required=False)
        )
        return found

    def _has_cached_tokenizer(self) -> bool:
        return any(cached_path(self.location, name, self.revision) for name in VOCABULARIES)

    def _load(self, load: Callable[[], Any]) -> Any:
        """Run a load without messages of the libraries, and turn its errors into WeightsError."""
        if self.folder is not None:
            check_folder(self.folder)
        with library_errors(self._describe), quiet(), self._ask_hub():
            return load()

    def _ask_hub(self) -> AbstractContextManager[None]:
        """Return a context in which a hub that does not answer is not asked."""
        if self.folder is not None or _on_meta():
            return nullcontext()
        return huggingface_hub.offline_if_unreachable()

    def _describe(self, cause: str) -> WeightsError:
        """Return the error for weights that cannot be loaded, with the fix."""
        if self.folder is not None:
            return WeightsError(
                f"cannot load weights from '{self.location}': {cause}; "
                "complete the folder, or copy or download it again"
            )
        if self.location.startswith(("/", ".", "~")):
            return WeightsError(
                f"cannot load weights from '{self.location}': no such folder; fix the path"
            )
        if not HUB_ID.fullmatch(self.location):
            return WeightsError(
                f"cannot load weights from '{self.location[:100]}': neither a folder here nor a "
                "name that the hub allows; fix the name"
            )
        return WeightsError(
            f"cannot load weights from '{self.location}': check the id{self._suggest_id()}, "
            "or fetch it on a machine with a network "
            f"(`vlpeft prefetch SWEEP`, or `hf download {self.location}`) ({cause})"
        )

    def _suggest_id(self) -> str:
        """Return the known name that the location may mean, or ""."""
        near = difflib.get_close_matches(self.location, known_names(), n=1)
        if near and near[0] != self.location:
            return f" (did you mean '{near[0]}'?)"
        return ""


def _stamp(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Return what changes if a file of a folder changes."""
    if folder is None:
        return ()
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, each.st_size, each.st_mtime_ns) for name, each in found)


def _refuse_typo(location: str, revision: str | None) -> None:
    """Refuse a near miss of a known name before the hub is asked, which takes long to refuse it."""
    names = known_names()
    if location in names or "/" in location or local_path(location):
        return
    near = difflib.get_close_matches(location, names, n=1, cutoff=TYPO)
    if near and not cached_path(location, "config.json", revision):
        raise UserError(
            f"unknown weights '{location}'; did you mean '{near[0]}'? "
            f"(If the hub does hold a model of that name, `hf download {location}` first.)"
        )


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Silence the libraries, except for progress bars if `bars` is set.

    vlpeft reports the outcome of a load once; the libraries would report every retry.
    """
    with transformers.quiet(bars=bars), huggingface_hub.quiet():
        yield


def _suggest_fix(key: str) -> str:
    # The usual case: roberta-base has no pooler, since masked language modelling uses none.
    if "pooler" in key:
        return (
            "its pooler would be random: choose `pool: cls` for a vision tower, "
            "`pooler: random` or `pooler: trained` for a text tower"
        )
    return "choose a complete checkpoint"
