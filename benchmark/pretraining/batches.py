"""Batches of pretraining text: what goes in, and what has to be predicted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vlpeft.benchmark.datasets.drawing import Scene, below
from vlpeft.benchmark.pretraining.images import IGNORED
from vlpeft.benchmark.pretraining.text import (
    sample_caption,
    sample_caption_pair,
    sample_dialogue,
    sample_questions,
    scene_caption,
)
from vlpeft.benchmark.pretraining.tokenizer import MAX_LENGTH, ROBERTA_SPECIALS

CAPTION_SHARE = 0.3  # of the causal model's texts are captions alone
MASK = ROBERTA_SPECIALS.index("<mask>")
PAIR_SHARE = 0.4  # of infilling's texts are two captions of one scene, so that one tells what the other hides
SPAN_SHARE = 0.3  # of their words are hidden
LONGEST_SPAN = 5
PROMPT = "a picture of"  # BLIP's, before every caption
QUESTION_SHARE = 0.3  # of BLIP's texts begin with a question


def make_masked_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int, answers_only: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids with masks, the ids to predict, and where the answers are. Every answer is masked, and 10 % of the rest."""
    texts = [sample_dialogue(Random(f"{key}/{i}")) for i in range(size)]
    labels = _encode(tokenizer, texts, pad=1)
    is_answer = _after_question(tokenizer, labels)
    noise = torch.rand(labels.shape, generator=_generator(key))
    chosen = is_answer | ((noise < 0.1) & (labels > 4) & (not answers_only))
    ids = labels.masked_fill(chosen, MASK)
    return ids, labels.masked_fill(~chosen, IGNORED), is_answer


def causal_batch(tokenizer: PreTrainedTokenizerFast, key: str, size: int) -> tuple[Tensor, Tensor]:
    """Ids and labels. Half the texts begin with the special token, so that both ways of prompting are known."""
    texts = []
    for i in range(size):
        rng = Random(f"{key}/{i}")
        text = sample_caption(rng) if rng.random() < CAPTION_SHARE else sample_dialogue(rng)
        texts.append(
            f"{tokenizer.bos_token if rng.random() < 0.5 else ''}{text}{tokenizer.eos_token}"
        )
    ids = _encode(tokenizer, texts, pad=IGNORED)
    return ids.masked_fill(ids == IGNORED, int(tokenizer.eos_token_id)), ids


class Infilling(NamedTuple):
    """A batch of text infilling. All but `sources` are aligned."""

    sources: Tensor  # (batch, source length): each hidden span is one <mask>; padded with 1
    labels: Tensor  # (batch, length): the whole texts
    hidden: Tensor  # (batch, length): which of them a mask hides
    answers: Tensor  # (batch, length): which of them are answers


def make_infilling_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int, answers_only: bool = False
) -> Infilling:
    """Dialogues with every answer hidden, and pairs of captions with spans hidden; `answers_only` draws dialogues alone."""
    rngs = [Random(f"{key}/{i}") for i in range(size)]
    paired = [not answers_only and rng.random() < PAIR_SHARE for rng in rngs]
    labels = _encode(
        tokenizer,
        [
            sample_caption_pair(rng) if two else sample_dialogue(rng)
            for rng, two in zip(rngs, paired, strict=True)
        ],
        IGNORED,
    )
    answers = _after_question(tokenizer, labels)
    hidden = answers.clone()
    for row, rng, two in zip(hidden, rngs, paired, strict=True):
        if two:
            _hide_spans(row, rng)
    hidden &= labels > MASK
    sources = [
        _collapsed(ids, mask) for ids, mask in zip(labels.tolist(), hidden.tolist(), strict=True)
    ]
    return Infilling(_padded(sources, pad=1), labels, hidden, answers)


def _hide_spans(row: Tensor, rng: Random) -> None:
    """Hide spans of one to LONGEST_SPAN words until SPAN_SHARE of the row is."""
    while row.float().mean() < SPAN_SHARE:
        start = below(rng, len(row))
        row[start : start + 1 + below(rng, LONGEST_SPAN)] = True


def _collapsed(ids: list[int], hidden: list[bool]) -> list[int]:
    """The text as the encoder gets it: one <mask> for a hidden span, however long."""
    kept = [
        (MASK if hide else word) for word, hide in zip(ids, hidden, strict=True) if word != IGNORED
    ]
    return [word for k, word in enumerate(kept) if not (word == MASK and k and kept[k - 1] == MASK)]


def make_caption_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, scenes: Sequence[Scene]
) -> tuple[Tensor, Tensor]:
    """Ids `[DEC] a picture of CAPTION [SEP]` and labels, which leave the prompt out."""
    texts = [
        f"{PROMPT} {scene_caption(scene, Random(f'{key}/{i}'))}" for i, scene in enumerate(scenes)
    ]
    ids, labels = _framed(tokenizer, texts)
    labels[:, : 1 + len(tokenizer(PROMPT)["input_ids"])] = IGNORED
    return ids, labels


def make_blind_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int
) -> tuple[Tensor, Tensor]:
    """Ids `[DEC] TEXT [SEP]` and labels, for a model that is given no image: dialogues, some without their description."""
    rngs = [Random(f"{key}/{i}") for i in range(size)]
    return _framed(
        tokenizer,
        [
            sample_questions(rng) if rng.random() < QUESTION_SHARE else sample_dialogue(rng)
            for rng in rngs
        ],
    )


def _framed(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[Tensor, Tensor]:
    ids = _encode(
        tokenizer,
        [f"{tokenizer.bos_token}{text}{tokenizer.sep_token}" for text in texts],
        pad=IGNORED,
    )
    return ids.masked_fill(ids == IGNORED, int(tokenizer.pad_token_id)), ids


def _after_question(tokenizer: PreTrainedTokenizerFast, ids: Tensor) -> Tensor:
    """Where the answers are: every answer is one token, behind a question mark."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    found[:, 1:] = ids[:, :-1] == tokenizer.convert_tokens_to_ids("?")
    return found


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], pad: int) -> Tensor:
    return _padded(tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"], pad)


def _padded(rows: list[list[int]], pad: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=pad
    )


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
