"""Simulated changes of a library at each place that a backbone calls.

A keyword is renamed, a default changed, or another type returned. Each change ends in an error or
in a check that fails. Changes that change no value are listed with the reason.
"""

from functools import cache

import pytest
import torch
from PIL import Image
from transformers.generation import GenerationMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bart.modeling_bart import BartDecoder
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.vit.modeling_vit import ViTModel

from vlpeft.benchmark.backbones.blip_parts import TextAttention
from vlpeft.benchmark.cells.verified import BACKBONES
from vlpeft.benchmark.plan.verify import models, tokenizers
from vlpeft.benchmark.plan.verify.runner import SOURCES, as_in_a_run, run_check

CPU = torch.device("cpu")
TOWER = {"vit_roberta": "roberta", "vit_gpt2": "gpt2", "clip_bart": "bart", "blip": "blip"}
FIRST = {"attention": (), "generation": (), "images": ("images",), "tokenizer": ("tokenizers",)}


@pytest.fixture(scope="module", autouse=True)
def _built_once():
    with as_in_a_run(CPU):
        yield


def caught(backbone, area):
    """Return the first failing check of `vlpeft verify --backbone`, or "" if none fails."""
    for part in (*FIRST[area], backbone):
        for check in SOURCES[part](CPU):
            if concerns(check.name, backbone, area):
                finding = run_check(part, check)
                if finding.state == "FAILED":
                    return f"{check.name}: {finding.found}"
    return ""


def concerns(name, backbone, area):
    """Run only the checks of the area, to be fast; among the tokenizers only the backbone's own."""
    if area == "generation":
        return "greedy" in name or "beams" in name
    if area == "tokenizer" and name.split(":")[0] in tokenizers.TOWERS:
        return name.startswith(f"{TOWER[backbone]}:")
    return "bfloat16" not in name


def wrap(monkeypatch, owner, name, change):
    """Replace a method by `change(original)`."""
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))


# Attention.


def functions(monkeypatch, change):
    """Change both attention functions that the models of transformers call."""
    for name in ("sdpa", "vlpeft"):
        monkeypatch.setitem(
            ALL_ATTENTION_FUNCTIONS._global_mapping, name, change(ALL_ATTENTION_FUNCTIONS[name])
        )


def attention_keyword(monkeypatch, backbone):
    """Rename the keyword of the cache.

    The old one is ignored, as in BLIP with transformers 5.24.
    """
    if backbone == "blip":
        real = TextAttention.forward

        def forward(
            self, hidden_states, attention_mask=None, encoder_hidden_states=None, kv_cache=None, **_
        ):
            return real(self, hidden_states, attention_mask, encoder_hidden_states, kv_cache)

        monkeypatch.setattr(TextAttention, "forward", forward)
    elif backbone == "clip_bart":
        wrap(monkeypatch, BartDecoder, "forward", lambda real: without(real, "cache"))
    else:
        functions(monkeypatch, lambda real: renamed(real, "dropout", "dropout_p"))


def attention_default(monkeypatch, backbone):
    """Scale the scores by a factor that is a tenth larger."""

    def change(real):
        def function(module, query, *rest, **options):
            return real(module, query * 1.1, *rest, **options)

        return function

    if backbone == "blip":
        wrap(
            monkeypatch,
            TextAttention,
            "compute_attention",
            lambda real: lambda self, query, *rest: real(self, query * 1.1, *rest),
        )
    else:
        functions(monkeypatch, change)


def attention_type(monkeypatch, backbone):
    """Return three values instead of two."""
    if backbone == "blip":
        wrap(
            monkeypatch,
            TextAttention,
            "forward",
            lambda real: lambda *args, **options: real(*args, **options)[0],
        )
    else:
        functions(
            monkeypatch, lambda real: lambda *args, **options: (*real(*args, **options), None)
        )


# Generation.


def generation_keyword(monkeypatch, backbone):
    """Ignore the old name of the keyword for the preceding text."""
    name = "attention_mask" if backbone == "clip_bart" else "inputs_embeds"
    wrap(monkeypatch, GenerationMixin, "generate", lambda real: without(real, name))


def generation_default(monkeypatch, _backbone):
    """Add a repetition penalty if none is set."""

    def change(real):
        def generate(self, *args, **options):
            settings = options.pop("generation_config", None) or self.generation_config
            return real(self, *args, generation_config=settings, repetition_penalty=1.3, **options)

        return generate

    wrap(monkeypatch, GenerationMixin, "generate", change)


def generation_type(monkeypatch, _backbone):
    """Return an output with fields instead of a tensor."""
    wrap(
        monkeypatch,
        GenerationMixin,
        "generate",
        lambda real: with_default(real, return_dict_in_generate=True),
    )


# Images.


def vision(backbone):
    return BlipVisionModel if backbone == "blip" else ViTModel


def images_keyword(monkeypatch, backbone):
    """Rename the keyword of the pixels; the old one is ignored."""
    wrap(monkeypatch, vision(backbone), "forward", lambda real: without(real, "pixel_values"))


def images_default(monkeypatch, _backbone):
    """Resize with another filter of Pillow."""
    wrap(
        monkeypatch,
        Image.Image,
        "resize",
        lambda real: lambda self, size, *_, **__: real(self, size, Image.Resampling.LANCZOS),
    )


def images_type(monkeypatch, backbone):
    """Return a tuple from the tower."""
    wrap(
        monkeypatch,
        vision(backbone),
        "forward",
        lambda real: lambda *args, **options: real(*args, **options).to_tuple(),
    )


# Tokenizers.


@cache
def tokenizer_class():
    return type(tokenizers.tokenizer("roberta"))


def tokenizer_keyword(monkeypatch, backbone):
    """Ignore the old name of a keyword: where texts are cut, or what is left out of them."""
    if backbone in ("vit_roberta", "clip_bart"):
        wrap(monkeypatch, tokenizer_class(), "__call__", lambda real: without(real, "max_length"))
    else:
        wrap(
            monkeypatch,
            tokenizer_class(),
            "batch_decode",
            lambda real: without(real, "skip_special_tokens"),
        )


def tokenizer_default(monkeypatch, backbone):
    """Drop the default special tokens; otherwise join the pieces of a text in another way."""
    if backbone in ("vit_roberta", "clip_bart"):
        wrap(
            monkeypatch,
            tokenizer_class(),
            "__call__",
            lambda real: with_default(real, add_special_tokens=False),
        )
    else:

        def spaced(real):
            def decode(*args, **options):
                return [text.replace("?", " ?") for text in real(*args, **options)]

            return decode

        wrap(monkeypatch, tokenizer_class(), "batch_decode", spaced)


def tokenizer_padding(monkeypatch, _backbone):
    """Pad on the other side."""
    wrap(
        monkeypatch,
        tokenizer_class(),
        "__call__",
        lambda real: with_default(real, padding_side="left"),
    )


def tokenizer_type(monkeypatch, backbone):
    """Return lists instead of tensors, and a plain dict instead of an encoding with attributes."""
    if backbone in ("vit_roberta", "clip_bart"):
        wrap(
            monkeypatch, tokenizer_class(), "__call__", lambda real: without(real, "return_tensors")
        )
    else:
        wrap(
            monkeypatch,
            tokenizer_class(),
            "__call__",
            lambda real: lambda *args, **options: dict(real(*args, **options)),
        )


def without(real, name):
    """Return a function that ignores a keyword."""

    def function(*args, **options):
        options.pop(name, None)
        return real(*args, **options)

    return function


def renamed(real, old, new):
    """Return a function whose caller uses another name for a keyword."""

    def function(*args, **options):
        if old in options:
            options[new] = options.pop(old)
        return real(*args, **options)

    return function


def with_default(real, **values):
    """Return a function with other defaults."""
    return lambda *args, **options: real(*args, **{**values, **options})


CHANGES = {
    "attention": (attention_keyword, attention_default, attention_type),
    "generation": (generation_keyword, generation_default, generation_type),
    "images": (images_keyword, images_default, images_type),
    "tokenizer": (tokenizer_keyword, tokenizer_default, tokenizer_type),
}
CASES = [
    pytest.param(backbone, area, change, id=f"{backbone}-{change.__name__}")
    for backbone in BACKBONES
    for area, changes in CHANGES.items()
    for change in changes
    if (backbone, area)
    != (
        "vit_roberta",
        "generation",
    )  # it chooses from a list by one forward pass, so nothing is generated
]


@pytest.mark.parametrize(("backbone", "area", "change"), CASES)
def test_a_change_of_a_library_is_caught(backbone, area, change, monkeypatch):
    for form in models.FORMS[backbone]:  # the backbones are built before the change
        for method in models.METHODS:
            models.built(form, method, "cpu")
    change(monkeypatch, backbone)
    assert caught(backbone, area)


@pytest.mark.parametrize("backbone", ["vit_roberta", "clip_bart"])
def test_padding_on_the_other_side_is_caught(backbone, monkeypatch):
    tokenizer_padding(monkeypatch, backbone)
    assert caught(backbone, "tokenizer")


def test_without_a_change_nothing_is_caught():
    assert caught("vit_roberta", "tokenizer") == ""
