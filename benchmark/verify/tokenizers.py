"""Texts to token ids and back, for the tokenizer of each tiny tower, called as the backbones call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.verify.check import Check, Value

TOWERS = ("roberta", "gpt2", "bart", "blip")
TEXTS = (
    "is there a small triangle?",
    "Two shapes: a LARGE blue rectangle, and a brown circle!",
    "what's left of the café's 3 teal shapes?  ",
    "",
)
LIMIT = 8
FRAMED = (
    "roberta",
    "bart",
)  # towers whose tokenizer frames, pads and cuts; the others' backbones do that themselves
SPECIAL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "cls_token_id",
    "sep_token_id",
    "unk_token_id",
)


def checks(device: torch.device) -> Iterator[Check]:  # noqa: ARG001 - tokenizers run on the CPU
    """Exact ids and texts."""
    for tower in TOWERS:
        for name, measure in MEASURES.items():
            if name != "padded" or tower in FRAMED:
                yield Check(f"{tower}: {name}", partial(measure, tower))


@cache
def tokenizer(tower: str) -> Any:
    """The tokenizer of a tiny tower."""
    return WeightSource.parse("tiny", tiny=tower).tokenizer()


def ids(tower: str) -> Value:
    """With the special tokens that a tokenizer adds by itself."""
    return tokenizer(tower)(list(TEXTS)).input_ids


def cut(tower: str) -> Value:
    """At most so many, special tokens included."""
    return tokenizer(tower)(list(TEXTS), truncation=True, max_length=LIMIT).input_ids


def unframed(tower: str) -> Value:
    """Without special tokens."""
    return tokenizer(tower)(list(TEXTS), add_special_tokens=False).input_ids


def padded(tower: str) -> Value:
    """A batch of tensors: ids and mask."""
    batch = tokenizer(tower)(
        list(TEXTS), padding=True, truncation=True, max_length=LIMIT, return_tensors="pt"
    )
    return {name: batch[name].tolist() for name in ("input_ids", "attention_mask")}


def texts(tower: str) -> Value:
    """Ids to texts again, without special tokens."""
    framed = tokenizer(tower)(list(TEXTS)).input_ids
    return tokenizer(tower).batch_decode(framed, skip_special_tokens=True)


def special(tower: str) -> Value:
    """The ids of special tokens."""
    return {name: getattr(tokenizer(tower), name) for name in SPECIAL}


MEASURES: dict[str, Callable[[str], Value]] = {
    "ids": ids,
    "cut": cut,
    "without special tokens": unframed,
    "padded": padded,
    "decoded": texts,
    "special ids": special,
}
