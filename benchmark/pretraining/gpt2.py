"""GPT-2's tower, pretrained by predicting the next word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vlpeft.benchmark.pretraining.batches import make_causal_batch
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


def pretrain_gpt2(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    """Pretrain the tower, write it and its tokenizer to `folder`, and return its scores."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(_config(tokenizer))

    def loss(step: int) -> Tensor:
        ids, labels = make_causal_batch(tokenizer, f"gpt2/{seed}/{step}", plan.batch)
        logits = model(input_ids=ids).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())

    train("gpt2", model, loss, plan.gpt2_steps, plan.gpt2_lr)
    save(model, folder)
    tokenizer.save_pretrained(folder)
    return _score(load_tower(GPT2LMHeadModel, folder), tokenizer, seed, plan)


def _config(tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    end = tokenizer.eos_token_id
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_LENGTH,
        n_embd=WIDTH,
        n_layer=3,
        n_head=HEADS,
        initializer_range=INIT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )


@torch.no_grad()
def _score(
    model: Any, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    ids, labels = make_causal_batch(tokenizer, f"gpt2/{seed}/held-out", plan.held_out)
    logits = model(input_ids=ids).logits[:, :-1]
    target = labels[:, 1:]
    answers = (ids[:, :-1] == tokenizer.convert_tokens_to_ids("?")) & (target != IGNORED)
    return {
        "answer_accuracy": (logits.argmax(-1) == target)[answers].float().mean().item(),
        "perplexity": math.exp(F.cross_entropy(logits.flatten(0, 1), target.flatten()).item()),
    }
