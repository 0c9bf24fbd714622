"""The two rules for a beam's length, on drawn images with the tiny BLIP.

Each rule is compared with scores that transformers' own model gives without a cache.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration

from tests.unit.test_beam_search import transcription
from tests.unit.test_blip import build, port
from vlpeft.benchmark.backbones.beam_search import beam_settings
from vlpeft.benchmark.backbones.blip import BLIPModel
from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.datasets.shapes import Shapes

# BERT drops the space at the end of the released prompt; the tiny tokenizer would keep it.
PROMPT = "a picture of"
IMAGES = 24
RECIPE = {"beams": 3, "max_output_tokens": 36, "min_generated_tokens": 1}


def caption(rule: str, images: Tensor) -> list[str]:
    backbone = build((), None, {**RECIPE, "beam_length": rule})
    return backbone.predict(backbone.vision(images)[:, None], [PROMPT] * len(images))


@pytest.fixture(scope="module")
def images() -> Tensor:
    data, backbone = Shapes(root=""), build()
    examples = list(data.examples("captioning", "test"))[:IMAGES]
    drawn = [transform(data.image(example.images[0]), backbone.vision) for example in examples]
    return torch.stack(drawn)


@pytest.fixture(scope="module")
def captions(images) -> dict[str, list[str]]:
    return {rule: caption(rule, images) for rule in ("generated", "whole")}


@pytest.fixture(scope="module")
def backbone() -> BLIPModel:
    return build((), None, {**RECIPE, "beam_length": "whole"})


def encode(backbone: BLIPModel, text: str) -> list[int]:
    return backbone.tokenizer(text, add_special_tokens=False).input_ids


@torch.no_grad()
def next_logits(image: Tensor) -> Callable[[list[int]], Tensor]:
    """Return a model of one image: transformers' own, which reads all ids each time."""
    model = port(BlipForConditionalGeneration)
    states = model.vision_model(image[None]).last_hidden_state

    @torch.no_grad()
    def read(ids: list[int]) -> Tensor:
        decoder = model.text_decoder
        out = decoder(torch.tensor([ids]), encoder_hidden_states=states, use_cache=False)
        return out.logits[0, -1]

    return read


def log_likelihood(model: Callable[[list[int]], Tensor], ids: list[int], start: int) -> float:
    """Sum the log-probabilities of the tokens from `start` on."""
    scores = [torch.log_softmax(model(ids[:i]), -1)[ids[i]].item() for i in range(start, len(ids))]
    return sum(scores)


def choose(sums: dict[str, float], words: dict[str, int], added: int) -> str:
    """Return the rule whose caption has the higher score, if a length is its words + `added`."""
    return max(sums, key=lambda rule: sums[rule] / (words[rule] + added))


def test_the_rules_differ_and_each_choice_wins_by_its_own_rule(images, captions, backbone) -> None:
    prompt = [backbone.start, *encode(backbone, PROMPT)]
    differ = [i for i in range(IMAGES) if captions["generated"][i] != captions["whole"][i]]
    assert differ
    for i in differ:
        model = next_logits(images[i])
        sums, words = {}, {}
        for rule, texts in captions.items():
            text = encode(backbone, f" {texts[i]}")
            words[rule] = len(text)
            sums[rule] = log_likelihood(model, [*prompt, *text, backbone.end], len(prompt))
        # transformers counts the words and the end; 4.15 the words and the prompt.
        assert choose(sums, words, 1) == "generated"
        assert choose(sums, words, len(prompt)) == "whole"


def test_captions_equal_the_transcription(images, captions, backbone) -> None:
    prompt = [backbone.start, *encode(backbone, PROMPT)]
    settings = beam_settings(backbone.protocol, backbone.end, backbone.pad)
    differ = [i for i in range(IMAGES) if captions["generated"][i] != captions["whole"][i]]
    for i in [*differ, 0, 1]:
        found = transcription(next_logits(images[i]), prompt, settings)
        assert list(found) == encode(backbone, f" {captions['whole'][i]}")
