"""RoBERTa's tower, pretrained by naming masked words."""

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
    save,
    store_tower,
    train,
)
from vlpeft.benchmark.pretraining.images import IGNORED
from vlpeft.benchmark.pretraining.tokenizer import MAX_LENGTH


def pretrain_roberta(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=MAX_LENGTH + 2,  # RoBERTa counts from the padding id on
        type_vocab_size=1,
        initializer_range=INIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = RobertaForMaskedLM(config)

    def loss(step: int) -> Tensor:
        return _masked_loss(
            model, *make_masked_batch(tokenizer, f"roberta/{seed}/{step}", plan.batch)
        )

    train("roberta", model, loss, plan.roberta_steps, plan.roberta_lr)
    tower = RobertaModel(config)  # its pooler stays as drawn: RoBERTa's pretraining has none either
    tower.load_state_dict(model.roberta.state_dict(), strict=False)
    save(tower, folder)
    tokenizer.save_pretrained(folder)
    model.roberta.load_state_dict(store_tower(RobertaModel, folder).state_dict(), strict=False)
    with torch.no_grad():
        ids, labels, is_answer = make_masked_batch(
            tokenizer, f"roberta/{seed}/held-out", plan.held_out, answers_only=True
        )
        logits = model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    right = logits.argmax(-1) == labels
    return {"masked_answer_accuracy": right[is_answer].float().mean().item()}


def _masked_loss(model: Any, ids: Tensor, labels: Tensor, _: Tensor) -> Tensor:
    hidden = model.roberta(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
    chosen = labels != IGNORED
    return F.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen])
