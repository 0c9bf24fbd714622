"""Greedy search and ranking written out: each example alone, every token through a full forward pass, no cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

# The tokens so far -> logits of the token behind the prompt and behind each of them, (1 + tokens, vocabulary).
Next = Callable[[Sequence[int]], Tensor]


def writer(backbone: Any, visual: Tensor, prompt: str) -> Next:
    """What gives logits behind an image (1, 1, tokens, width) and a prompt. Of a backbone only the last one made is valid."""
    found: Next = WRITERS[backbone.name](backbone, visual, prompt)
    return found


@torch.inference_mode()
def greedy(backbone: Any, visual: Tensor, prompt: str) -> str:
    """What greedy search writes."""
    following, end, limit = (
        writer(backbone, visual, prompt),
        end_token(backbone),
        backbone.protocol.max_output_tokens,
    )
    ids: list[int] = []
    while len(ids) < limit and end not in ids:
        forced = backbone.name == "clip_bart" and len(ids) == limit - 1
        ids.append(end if forced else int(following(ids)[-1].argmax()))
    text: str = backbone.tokenizer.decode(ids, skip_special_tokens=True)
    return text.replace("\n", " ").strip()


@torch.inference_mode()
def ranking(backbone: Any, visual: Tensor, prompt: str) -> list[tuple[str, float]]:
    """The answers whose first token is likeliest, and the log-likelihood of all their tokens, best first."""
    following, smoothing = writer(backbone, visual, prompt), backbone.protocol.label_smoothing
    start = [backbone.text.config.bos_token_id] if backbone.name == "clip_bart" else []
    first = following(start)[-1]
    tokens = {answer: answer_tokens(backbone, answer) for answer in backbone.answers}
    likely = sorted(tokens, key=lambda answer: -float(first[tokens[answer][0]]))
    scores = []
    for answer in likely[: backbone.protocol.rank_candidates]:
        ids = tokens[answer]
        logits = following([*start, *ids[:-1]])[len(start) :]
        scores.append(
            (
                answer,
                sum(
                    _likelihood(each, token, smoothing)
                    for each, token in zip(logits, ids, strict=True)
                ),
            )
        )
    return sorted(scores, key=lambda pair: -pair[1])


def answer_tokens(backbone: Any, answer: str) -> list[int]:
    """The tokens of an answer and its end."""
    if backbone.name == "clip_bart":
        ids: list[int] = backbone.tokenizer(answer).input_ids[1:]
        return ids
    return [*backbone.tokenizer(answer, add_special_tokens=False).input_ids, end_token(backbone)]


def end_token(backbone: Any) -> int:
    """The token that ends a text."""
    end: int = backbone.text.config.eos_token_id if backbone.name == "clip_bart" else backbone.end
    return end


def _likelihood(logits: Tensor, token: int, smoothing: float) -> float:
    logs = logits.double().log_softmax(-1)
    return float((1 - smoothing) * logs[token] + smoothing * logs.mean())


def _gpt2(backbone: Any, visual: Tensor, _prompt: str) -> Next:
    context = backbone.embed_context(visual)

    def following(ids: Sequence[int]) -> Tensor:
        embeds = torch.cat([context, backbone.token_embeddings(_row(ids, visual))], 1)
        mask = embeds.new_ones(embeds.shape[:2], dtype=torch.long)
        out = without_cache(
            backbone.text.transformer(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        )
        return _after(backbone.text.lm_head(out.last_hidden_state), len(ids))

    return following


def _blip(backbone: Any, visual: Tensor, prompt: str) -> Next:
    memory = backbone.memory_of(visual[:, 0], [prompt])
    embeds, mask = backbone.embed_prefix([prompt])
    backbone.set_visual_context(visual[:, 0])

    def following(ids: Sequence[int]) -> Tensor:
        whole = torch.cat([embeds, backbone.embed_words(_row(ids, visual))], 1)
        seen = torch.cat([mask, mask.new_ones(1, len(ids))], 1)
        out = without_cache(backbone.decode(whole, seen, memory))
        return _after(backbone.decoder.cls(out.last_hidden_state), len(ids))

    return following


def _bart(backbone: Any, visual: Tensor, prompt: str) -> Next:
    states, mask = backbone.encode(backbone.embed(visual), [prompt])
    start = backbone.text.config.decoder_start_token_id

    def following(ids: Sequence[int]) -> Tensor:
        out = without_cache(backbone.decode(_row([start, *ids], visual), states, mask))
        return _after(backbone.token_logits(out.last_hidden_state), len(ids))

    return following


WRITERS = {"vit_gpt2": _gpt2, "blip": _blip, "clip_bart": _bart}


def without_cache(out: Any) -> Any:
    """A model's output; raises RuntimeError where it comes with a cache, under any name."""
    if any(isinstance(each, Cache) for each in _values(out)):
        raise RuntimeError("the model has used a cache though none was asked for")
    return out


def _values(out: Any) -> Iterator[Any]:
    yield from out.values() if hasattr(out, "values") else out
    yield from vars(out).values() if hasattr(out, "__dict__") else ()


def _row(ids: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor([list(ids)], dtype=torch.long, device=like.device)


def _after(scores: Tensor, tokens: int) -> Tensor:
    """The scores behind the prompt and behind each of so many tokens."""
    return scores[0, -1 - tokens :].float()
