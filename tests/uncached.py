"""Captions of GPT-2 without a cache: every step reads the whole text again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlpeft.benchmark.backbones.beam_search import beam_search, beam_settings


@torch.inference_mode()
def write_without_cache(backbone: Any, visual: Tensor) -> list[str]:
    """Write the captions of (images, 1, tokens, width), one image at a time.

    Use a protocol with `length_penalty: 0.0`. Then the length of a text has no influence, so the
    two rules of dividing by it are the same.
    """
    return [_write_one(backbone, visual[i : i + 1]) for i in range(len(visual))]


def _write_one(backbone: Any, visual: Tensor) -> str:
    protocol = backbone.protocol
    assert protocol.beams == 1 or protocol.length_penalty == 0
    texts = torch.zeros(protocol.beams, 0, dtype=torch.long)

    def read(ids: Tensor) -> Tensor:
        context = backbone.embed_context(visual).expand(len(ids), -1, -1)
        backbone.visual_context.repeat_rows(len(ids))
        embeds = torch.cat([context, backbone.token_embeddings(ids)], 1)
        logits: Tensor = backbone.text(inputs_embeds=embeds, use_cache=False).logits[:, -1]
        return logits

    def step(ids: Tensor, rows: Tensor) -> Tensor:
        nonlocal texts
        texts = torch.cat([texts[rows], ids[:, None]], 1)
        return read(texts)

    settings = beam_settings(protocol, backbone.end, backbone.end)
    (ids,) = beam_search(step, read(texts[:1]), [1], settings)
    return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).replace("\n", " ").strip()
