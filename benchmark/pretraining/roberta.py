"""RoBERTa's tower, pretrained by predicting masked words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM, RobertaModel

from vlpeft.benchmark.pretraining.batches import make_masked_batch
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


def pretrain_roberta(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    """Pretrain the tower, write it and its tokenizer to `folder`, and return its scores."""
    torch.manual_seed(seed)
    config = _config(tokenizer)
    model = RobertaForMaskedLM(config)

    def loss(step: int) -> Tensor:
        ids, labels, _ = make_masked_batch(tokenizer, f"roberta/{seed}/{step}", plan.batch)
        return _masked_loss(model, ids, labels)

    train("roberta", model, loss, plan.roberta_steps, plan.roberta_lr)
    # The pooler keeps its initial values: RoBERTa's own pretraining does not train it either.
    tower = RobertaModel(config)
    tower.load_state_dict(model.roberta.state_dict(), strict=False)
    save(tower, folder)
    tokenizer.save_pretrained(folder)
    model.roberta.load_state_dict(load_tower(RobertaModel, folder).state_dict(), strict=False)
    return _score(model, tokenizer, seed, plan)


def _config(tokenizer: PreTrainedTokenizerFast) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=MAX_LENGTH + 2,  # RoBERTa counts positions from 2 on
        type_vocab_size=1,
        initializer_range=INIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


def _masked_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the masked words; only their logits are computed."""
    hidden = model.roberta(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
    masked = labels != IGNORED
    return F.cross_entropy(model.lm_head(hidden[masked]), labels[masked])


@torch.no_grad()
def _score(
    model: Any, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    ids, labels, is_answer = make_masked_batch(
        tokenizer, f"roberta/{seed}/held-out", plan.held_out, answers_only=True
    )
    logits = model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    right = logits.argmax(-1) == labels
    return {"masked_answer_accuracy": right[is_answer].float().mean().item()}
