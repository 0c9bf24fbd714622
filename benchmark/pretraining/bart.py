"""BART's tower, pretrained by text infilling (Lewis et al. 2020, section 2.2).

Spans are hidden from the encoder, and the decoder writes the whole text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from vlpeft.benchmark.pretraining.batches import Infilling, make_infilling_batch
from vlpeft.benchmark.pretraining.common import (
    HEADS,
    INIT,
    WIDTH,
    Scalars,
    TrainingSchedule,
    load_tower,
    save,
    train,
)
from vlpeft.benchmark.pretraining.images import IGNORED
from vlpeft.benchmark.pretraining.tokenizer import MAX_LENGTH

LAYERS = 2  # layers of the encoder, and of the decoder


def pretrain_bart(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    """Pretrain the tower, write it and its tokenizer to `folder`, and return its scores."""
    torch.manual_seed(seed)
    model = BartForConditionalGeneration(_config(len(tokenizer)))

    def loss(step: int) -> Tensor:
        batch = make_infilling_batch(tokenizer, f"bart/{seed}/{step}", plan.batch)
        logits = _logits(model, batch)
        # The whole text, as in BART, and once more the hidden words, which are few but hard.
        whole = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        return whole + F.cross_entropy(logits[batch.hidden], batch.labels[batch.hidden])

    train("bart", model, loss, plan.bart_steps, plan.bart_lr)
    save(model, folder)
    tokenizer.save_pretrained(folder)
    return _score(load_tower(BartForConditionalGeneration, folder), tokenizer, seed, plan)


def _config(vocabulary: int) -> BartConfig:
    return BartConfig(
        vocab_size=vocabulary,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=MAX_LENGTH,
        init_std=INIT,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )


def _logits(model: Any, batch: Infilling) -> Tensor:
    """Return logits (batch, length, vocabulary).

    For each word, the decoder reads `</s>` (2) and the text before the word; padding is 1.
    """
    start = torch.full_like(batch.labels[:, :1], 2)
    shifted = torch.cat([start, batch.labels[:, :-1]], 1)
    shifted = shifted.masked_fill(shifted == IGNORED, 1)
    logits: Tensor = model(
        input_ids=batch.sources,
        attention_mask=(batch.sources != 1).long(),
        decoder_input_ids=shifted,
    ).logits
    return logits


@torch.no_grad()
def _score(
    model: Any, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    dialogues = make_infilling_batch(
        tokenizer, f"bart/{seed}/held-out", plan.held_out, answers_only=True
    )
    found = _logits(model, dialogues).argmax(-1) == dialogues.labels
    mixed = make_infilling_batch(tokenizer, f"bart/{seed}/held-out-pairs", plan.held_out)
    filled = _logits(model, mixed).argmax(-1) == mixed.labels
    in_pairs = ~mixed.answers.any(1, keepdim=True)  # only dialogues have answers
    copied = ~mixed.hidden & (mixed.labels != IGNORED)
    return {
        "answer_accuracy": found[dialogues.answers].float().mean().item(),
        "hidden_word_accuracy": filled[mixed.hidden & in_pairs].float().mean().item(),
        "copied_word_accuracy": filled[copied].float().mean().item(),
    }
