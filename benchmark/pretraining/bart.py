"""BART's tower, pretrained by text infilling: spans are hidden from the encoder, the decoder writes the whole text."""

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
    save,
    store_tower,
    train,
)
from vlpeft.benchmark.pretraining.images import IGNORED
from vlpeft.benchmark.pretraining.tokenizer import MAX_LENGTH

LAYERS = 2  # of the encoder, and of the decoder


def pretrain_bart(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    """Write the tower and its tokenizer to `folder`."""
    torch.manual_seed(seed)
    model = BartForConditionalGeneration(_config(len(tokenizer)))

    def loss(step: int) -> Tensor:
        batch = make_infilling_batch(tokenizer, f"bart/{seed}/{step}", plan.batch)
        logits = _logits(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()) + F.cross_entropy(
            logits[batch.hidden], batch.labels[batch.hidden]
        )

    train("bart", model, loss, plan.bart_steps, plan.bart_lr)
    save(model, folder)
    tokenizer.save_pretrained(folder)
    return _score(store_tower(BartForConditionalGeneration, folder), tokenizer, seed, plan)


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
    """(batch, length, vocabulary): the decoder reads `</s>` and the text up to each word."""
    start = torch.full_like(batch.labels[:, :1], 2)
    told = torch.cat([start, batch.labels[:, :-1]], 1)
    told = told.masked_fill(told == IGNORED, 1)
    logits: Tensor = model(
        input_ids=batch.sources, attention_mask=(batch.sources != 1).long(), decoder_input_ids=told
    ).logits
    return logits


@torch.no_grad()
def _score(
    model: Any, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    asked = make_infilling_batch(
        tokenizer, f"bart/{seed}/held-out", plan.held_out, answers_only=True
    )
    told = make_infilling_batch(tokenizer, f"bart/{seed}/held-out-pairs", plan.held_out)
    found, filled = (_logits(model, batch).argmax(-1) == batch.labels for batch in (asked, told))
    paired = ~told.answers.any(1, keepdim=True)
    return {
        "answer_accuracy": found[asked.answers].float().mean().item(),
        "hidden_word_accuracy": filled[told.hidden & paired].float().mean().item(),
        "copied_word_accuracy": filled[~told.hidden & (told.labels != IGNORED)]
        .float()
        .mean()
        .item(),
    }
