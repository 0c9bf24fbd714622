"""Batches of pretraining text: the input ids, and the ids to predict."""

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

CAPTION_SHARE = 0.3  # share of the causal model's texts that are a caption only
MASK = ROBERTA_SPECIALS.index("<mask>")
# Share of infilling's texts that are two captions of one scene: one names what the other hides.
PAIR_SHARE = 0.4
SPAN_SHARE = 0.3  # share of the words of such a pair that are hidden
LONGEST_SPAN = 5  # words
PROMPT = "a picture of"  # BLIP's prompt before every caption
QUESTION_SHARE = 0.3  # share of BLIP's texts without an image that begin with a question


def make_masked_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int, answers_only: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch for masked words: all answers are masked, and 10 % of the other words.

    Args:
        tokenizer: RoBERTa's tokenizer.
        key: Determines the texts and the masks.
        size: The number of texts.
        answers_only: Mask the answers only.

    Returns:
        Ids with masks, ids to predict (IGNORED elsewhere), and whether an id is an answer; each
        has the shape (size, length).
    """
    texts = [sample_dialogue(Random(f"{key}/{i}")) for i in range(size)]
    labels = _encode(tokenizer, texts, pad=1)
    is_answer = _follows_question(tokenizer, labels)
    noise = torch.rand(labels.shape, generator=_generator(key))
    masked = is_answer
    if not answers_only:
        masked = is_answer | ((noise < 0.1) & (labels > MASK))  # the special tokens come first
    ids = labels.masked_fill(masked, MASK)
    return ids, labels.masked_fill(~masked, IGNORED), is_answer


def make_causal_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int
) -> tuple[Tensor, Tensor]:
    """Return ids and labels (size, length) for a causal model.

    Half of the texts begin with the special token, so the model learns prompts with and without it.
    """
    texts = []
    for i in range(size):
        rng = Random(f"{key}/{i}")
        text = _sample_text(rng)
        if rng.random() < 0.5:
            text = f"{tokenizer.bos_token}{text}"
        texts.append(f"{text}{tokenizer.eos_token}")
    ids = _encode(tokenizer, texts, pad=IGNORED)
    return ids.masked_fill(ids == IGNORED, int(tokenizer.eos_token_id)), ids


def _sample_text(rng: Random) -> str:
    if rng.random() < CAPTION_SHARE:
        return sample_caption(rng)
    return sample_dialogue(rng)


class Infilling(NamedTuple):
    """A batch of text infilling. All tensors but `sources` have the same positions."""

    sources: Tensor  # (batch, source length): each hidden span is one <mask>; padded with 1
    labels: Tensor  # (batch, length): the whole texts
    hidden: Tensor  # (batch, length): whether a mask hides the word
    answers: Tensor  # (batch, length): whether the word is an answer


def make_infilling_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int, answers_only: bool = False
) -> Infilling:
    """Return dialogues with all answers hidden, and pairs of captions with hidden spans.

    With `answers_only` all texts are dialogues.
    """
    rngs = [Random(f"{key}/{i}") for i in range(size)]
    paired, texts = [], []
    for rng in rngs:
        pair = not answers_only and rng.random() < PAIR_SHARE
        paired.append(pair)
        if pair:
            texts.append(sample_caption_pair(rng))
        else:
            texts.append(sample_dialogue(rng))
    labels = _encode(tokenizer, texts, IGNORED)
    answers = _follows_question(tokenizer, labels)
    hidden = answers.clone()
    for row, rng, pair in zip(hidden, rngs, paired, strict=True):
        if pair:
            _hide_spans(row, rng)
    hidden &= labels > MASK  # special tokens and padding stay
    rows = zip(labels.tolist(), hidden.tolist(), strict=True)
    sources = [_mask_spans(ids, mask) for ids, mask in rows]
    return Infilling(_pad_rows(sources, pad=1), labels, hidden, answers)


def _hide_spans(row: Tensor, rng: Random) -> None:
    """Hide spans of one to LONGEST_SPAN words until SPAN_SHARE of the row is hidden."""
    while row.float().mean() < SPAN_SHARE:
        start = below(rng, len(row))
        row[start : start + 1 + below(rng, LONGEST_SPAN)] = True


def _mask_spans(ids: list[int], hidden: list[bool]) -> list[int]:
    """Return the text that the encoder reads: one <mask> for a hidden span of any length."""
    source: list[int] = []
    for word, hide in zip(ids, hidden, strict=True):
        if word == IGNORED:  # padding
            continue
        if not hide:
            source.append(word)
        elif source[-1:] != [MASK]:
            source.append(MASK)
    return source


def make_caption_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, scenes: Sequence[Scene]
) -> tuple[Tensor, Tensor]:
    """Return ids `[DEC] a picture of CAPTION [SEP]`, and labels without the prompt.

    Both have the shape (scenes, length).
    """
    texts = []
    for i, scene in enumerate(scenes):
        caption = scene_caption(scene, Random(f"{key}/{i}"))
        texts.append(f"{PROMPT} {caption}")
    ids, labels = _frame(tokenizer, texts)
    labels[:, : 1 + len(tokenizer(PROMPT)["input_ids"])] = IGNORED
    return ids, labels


def make_blind_batch(
    tokenizer: PreTrainedTokenizerFast, key: str, size: int
) -> tuple[Tensor, Tensor]:
    """Return ids `[DEC] TEXT [SEP]` and labels (size, length), for a model without an image.

    The texts are dialogues, some of them without their description.
    """
    texts = []
    for i in range(size):
        rng = Random(f"{key}/{i}")
        if rng.random() < QUESTION_SHARE:
            texts.append(sample_questions(rng))
        else:
            texts.append(sample_dialogue(rng))
    return _frame(tokenizer, texts)


def _frame(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return ids and labels of the texts between BLIP's first and last token."""
    framed = [f"{tokenizer.bos_token}{text}{tokenizer.sep_token}" for text in texts]
    ids = _encode(tokenizer, framed, pad=IGNORED)
    return ids.masked_fill(ids == IGNORED, int(tokenizer.pad_token_id)), ids


def _follows_question(tokenizer: PreTrainedTokenizerFast, ids: Tensor) -> Tensor:
    """Return where the answers are: every answer is one token, after a question mark."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    found[:, 1:] = ids[:, :-1] == tokenizer.convert_tokens_to_ids("?")
    return found


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], pad: int) -> Tensor:
    rows = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return _pad_rows(rows, pad)


def _pad_rows(rows: list[list[int]], pad: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=pad
    )


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
