"""Texts to token ids and back, by the tokenizers of the tiny towers, called as in the backbones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.plan.verify.check import Check, JSONValue

TOWERS = ("roberta", "gpt2", "bart", "blip")
TEXTS = (
    "is there a small triangle?",
    "Two shapes: a LARGE blue rectangle, and a brown circle!",
    "what's left of the café's 3 teal shapes?  ",
    "",
)
LIMIT = 8
# Towers whose tokenizer adds special tokens, pads and truncates. The backbones of the other towers
# do this themselves.
FRAMED = ("roberta", "bart")
SPECIAL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "cls_token_id",
    "sep_token_id",
    "unk_token_id",
)


def checks(device: torch.device) -> Iterator[Check]:
    """Yield the checks of all tokenizers. Ids and texts are exact."""
    for tower in TOWERS:
        for name, measure in MEASURES.items():
            if name != "padded" or tower in FRAMED:
                yield Check(f"{tower}: {name}", partial(measure, tower))


@cache
def tokenizer(tower: str) -> Any:
    """Return the tokenizer of a tiny tower."""
    return WeightSource.parse("tiny", tiny=tower).tokenizer()


def ids(tower: str) -> JSONValue:
    """Return ids, with the special tokens that the tokenizer adds by itself."""
    return tokenizer(tower)(list(TEXTS)).input_ids


def truncated_ids(tower: str) -> JSONValue:
    """Return at most LIMIT ids a text, special tokens included."""
    return tokenizer(tower)(list(TEXTS), truncation=True, max_length=LIMIT).input_ids


def plain_ids(tower: str) -> JSONValue:
    """Return ids without special tokens."""
    return tokenizer(tower)(list(TEXTS), add_special_tokens=False).input_ids


def padded_batch(tower: str) -> JSONValue:
    """Return ids and mask of a batch of tensors."""
    batch = tokenizer(tower)(
        list(TEXTS), padding=True, truncation=True, max_length=LIMIT, return_tensors="pt"
    )
    return {name: batch[name].tolist() for name in ("input_ids", "attention_mask")}


def decoded_texts(tower: str) -> JSONValue:
    """Return the texts that ids stand for, without special tokens."""
    return tokenizer(tower).batch_decode(ids(tower), skip_special_tokens=True)


def special_ids(tower: str) -> JSONValue:
    """Return the ids of special tokens."""
    return {name: getattr(tokenizer(tower), name) for name in SPECIAL}


MEASURES: dict[str, Callable[[str], JSONValue]] = {
    "ids": ids,
    "cut": truncated_ids,
    "without special tokens": plain_ids,
    "padded": padded_batch,
    "decoded": decoded_texts,
    "special ids": special_ids,
}
