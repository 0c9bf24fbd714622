"""A small random BLIP for tests of checkpoint layouts."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, BlipConfig, BlipForQuestionAnswering

from vlpeft.benchmark.contract.backbone import TINY

SIZE = 64


def random_model(heads: int, vocabulary: int) -> BlipForQuestionAnswering:
    """Return a random BLIP whose output depends on the image.

    With Hugging Face's own initial values the towers would nearly ignore the image.
    """
    shared = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": heads}
    vision = {**shared, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": 8}
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    ids = {"bos_token_id": vocabulary - 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    text = {
        **shared,
        **rates,
        **ids,
        "num_hidden_layers": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128,
    }
    model = BlipForQuestionAnswering(BlipConfig(vision_config=vision, text_config=text)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.05)
            elif name.endswith("bias"):
                parameter.normal_(std=0.02)
    return model


def save(model: BlipForQuestionAnswering, folder: Path) -> None:
    """Write the weights and a tokenizer."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY / "roberta").save_pretrained(folder)
