"""Where weights come from: `tiny` (shipped), a Hugging Face id, a local folder, `random:ID`; `@revision` pins a hub revision."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.libraries import huggingface_hub, transformers
from vlpeft.benchmark.libraries.huggingface_hub import cached_path
from vlpeft.benchmark.libraries.transformers import (
    load_config,
    load_model,
    load_tokenizer,
    make_config,
)

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_ROBERTA = {
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "model_type": "roberta",
}
_VIT = {"model_type": "vit", "image_size": 224, "patch_size": 16}
_BART = {
    "model_type": "bart",
    "d_model": 768,
    **{
        f"{side}_{key}": n
        for side in ("encoder", "decoder")
        for key, n in (("layers", 6), ("attention_heads", 12), ("ffn_dim", 3072))
    },
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.1),
}
_BLIP_PARTS = {"text_config": {"num_attention_heads": 12}, "vision_config": {"image_size": 384}}
_BLIP_CAPTION = {
    "model_type": "blip",
    "architectures": ["BlipForConditionalGeneration"],
    **_BLIP_PARTS,
}
_BLIP_VQA = {"model_type": "blip", "architectures": ["BlipForQuestionAnswering"], **_BLIP_PARTS}
# Geometry of the papers' towers, so that they can be planned and counted with no file at hand.
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "roberta-base": _ROBERTA,
    "roberta-large": _ROBERTA | LARGE,
    "facebook/bart-base": _BART,
    "gpt2": {"model_type": "gpt2"},
    "gpt2-medium": {"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16},
    "Salesforce/blip-image-captioning-base": _BLIP_CAPTION,
    "Salesforce/blip-vqa-base": _BLIP_VQA,
    "Salesforce/blip-vqa-capfilt-large": _BLIP_VQA,
    "google/vit-base-patch16-224-in21k": _VIT,
    "google/vit-large-patch16-224-in21k": _VIT | LARGE,
}
NAMES = ("tiny", *KNOWN)
SLIP = 0.87  # this alike and no more: distilgpt2 and xlm-roberta-base are no slips


_RANDOM: ContextVar[bool] = ContextVar("random weights", default=False)


@contextmanager
def random_weights() -> Iterator[None]:
    """Build models with random weights and the shipped tiny tokenizers: speed and memory need no others, and no download."""
    token = _RANDOM.set(True)
    try:
        yield
    finally:
        _RANDOM.reset(token)


def reads_weights() -> bool:
    """False on the meta device, where models are only counted, and under `random_weights`."""
    return torch.get_default_device().type != "meta" and not _RANDOM.get()


@dataclass(frozen=True)
class WeightSource:
    """A parsed weight source."""

    location: str
    revision: str | None
    random: bool
    tiny: str  # the shipped folder of this kind

    @classmethod
    def parse(cls, text: str, tiny: str) -> WeightSource:
        """Parse a setting such as `roberta-base@abc123` or `random:gpt2`; `tiny` names the shipped folder of this kind."""
        random = text.startswith("random:")
        location, _, revision = text.removeprefix("random:").partition("@")
        _refuse_slip(location, revision or None)
        return cls(
            str(TINY / tiny) if location == "tiny" else location, revision or None, random, tiny
        )

    def config(self) -> PretrainedConfig:
        """The architecture, without weights."""
        known = KNOWN.get(self.location)
        if known is not None:
            settings = {key: value for key, value in known.items() if key != "model_type"}
            return make_config(known["model_type"], settings)
        return self._guard(lambda: load_config(self.location, self.revision))

    def model(self, cls: type[PreTrainedModel], **options: Any) -> PreTrainedModel:
        """The model in fp32, eval mode. Raises UserError if a weight the checkpoint should hold is missing from it."""
        if self.random or not reads_weights():
            return cls(self.config(), **options).eval()

        model, lacking = self._guard(lambda: load_model(cls, self.location, self.revision, options))
        missing = sorted(key for key in lacking if not re.search(r"position_ids$", key))
        if missing:
            raise UserError(
                f"{self.location} lacks pretrained weights for {missing[0]} ({len(missing)} missing); {_hint(missing[0])}"
            )
        return model.eval()

    def tokenizer(self) -> Any:
        """The tokenizer beside the weights; None on the meta device, where nothing is read."""
        if torch.get_default_device().type == "meta":
            return None
        if _RANDOM.get():
            return load_tokenizer(TINY / self.tiny)
        return self._guard(lambda: load_tokenizer(self.location, self.revision))

    def _guard(self, load: Any) -> Any:
        try:
            with quiet():
                return load()
        except (OSError, ValueError) as error:
            where = "the folder" if Path(self.location).exists() else "the id"
            near = (
                []
                if where == "the folder"
                else difflib.get_close_matches(self.location, NAMES, n=1)
            )
            where += f" (did you mean '{near[0]}'?)" if near and near[0] != self.location else ""
            raise WeightsError(
                f"cannot load weights from '{self.location}': check {where}, or fetch it where there is a network "
                f"(`vlpeft prefetch SWEEP`, or `hf download {self.location}`) ({str(error).splitlines()[0][:120]})"
            ) from error


def _refuse_slip(location: str, revision: str | None) -> None:
    """A near miss of a known name is refused before the hub is asked, which takes long to say no."""
    if location in NAMES or "/" in location or Path(location).exists():
        return
    near = difflib.get_close_matches(location, NAMES, n=1, cutoff=SLIP)
    if near and not cached_path(location, "config.json", revision):
        raise UserError(
            f"unknown weights '{location}'; did you mean '{near[0]}'? "
            f"(If the hub does hold a model of that name, `hf download {location}` first.)"
        )


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """No bars, unless asked for, no retries told one by one: what comes of a load is said once, by us."""
    with transformers.quiet(bars=bars), huggingface_hub.quiet():
        yield


def _hint(key: str) -> str:
    if "pooler" in key:
        return "its pooler would be random: choose `pool: cls` for a vision tower, `pooler: random` or `pooler: trained` for a text tower"
    return "choose a complete checkpoint"
