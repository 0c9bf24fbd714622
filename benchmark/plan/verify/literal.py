"""Greedy search and ranking in their simplest form.

Each example is computed alone, every token by a full forward pass, without a cache. The backbones
must give the same texts and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from vlpeft.benchmark.contract.visual import single

# From the tokens so far to logits of the tokens that may follow the prompt and each of them:
# (1 + tokens, vocabulary).
Next = Callable[[Sequence[int]], Tensor]


def writer(backbone: Any, visual: Tensor, prompt: str) -> Next:
    """Return the function that gives logits after an image and a prompt.

    `visual` is (1, 1, tokens, width). Of several functions of one backbone, only the last is valid.
    """
    found: Next = WRITERS[backbone.name](backbone, visual, prompt)
    return found


@torch.inference_mode()
def greedy(backbone: Any, visual: Tensor, prompt: str) -> str:
    """Return the text that greedy search writes."""
    following, end = writer(backbone, visual, prompt), end_token(backbone)
    limit = backbone.protocol.max_output_tokens
    ids: list[int] = []
    while len(ids) < limit and end not in ids:
        # BART's generation config forces the end token at the limit.
        if backbone.name == "clip_bart" and len(ids) == limit - 1:
            ids.append(end)
        else:
            ids.append(int(following(ids)[-1].argmax()))
    text: str = backbone.tokenizer.decode(ids, skip_special_tokens=True)
    return text.replace("\n", " ").strip()


@torch.inference_mode()
def ranking(backbone: Any, visual: Tensor, prompt: str) -> list[tuple[str, float]]:
    """Return the answers whose first token is likeliest, each with its score, best first.

    The score is the log-likelihood of all tokens of the answer.
    """
    following = writer(backbone, visual, prompt)
    start = [backbone.text.config.bos_token_id] if backbone.name == "clip_bart" else []
    first = following(start)[-1]
    tokens = {answer: answer_tokens(backbone, answer) for answer in backbone.answers}
    likely = sorted(tokens, key=lambda answer: -float(first[tokens[answer][0]]))
    scores = []
    for answer in likely[: backbone.protocol.rank_candidates]:
        ids = tokens[answer]
        logits = following([*start, *ids[:-1]])[len(start) :]
        scores.append((answer, _score(logits, ids, backbone.protocol.label_smoothing)))
    return sorted(scores, key=lambda pair: -pair[1])


def answer_tokens(backbone: Any, answer: str) -> list[int]:
    """Return the tokens of an answer and the end token."""
    if backbone.name == "clip_bart":
        ids: list[int] = backbone.tokenizer(answer).input_ids[1:]
        return ids
    return [*backbone.tokenizer(answer, add_special_tokens=False).input_ids, end_token(backbone)]


def end_token(backbone: Any) -> int:
    """Return the token that ends a text."""
    # Only BART's text tower is one model with one config.
    if backbone.name == "clip_bart":
        end: int = backbone.text.config.eos_token_id
    else:
        end = backbone.end
    return end


def _score(logits: Tensor, ids: Sequence[int], smoothing: float) -> float:
    """Return the sum of the log-likelihoods of the tokens."""
    pairs = zip(logits, ids, strict=True)
    return sum(_likelihood(each, token, smoothing) for each, token in pairs)


def _likelihood(logits: Tensor, token: int, smoothing: float) -> float:
    """Return a log-likelihood, smoothed as the labels in training."""
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
        return _last(backbone.text.lm_head(out.last_hidden_state), len(ids))

    return following


def _blip(backbone: Any, visual: Tensor, prompt: str) -> Next:
    image = single(visual)
    memory = backbone.memory_of(image, [prompt])
    embeds, mask = backbone.embed_prefix([prompt])
    backbone.set_visual_context(image)

    def following(ids: Sequence[int]) -> Tensor:
        whole = torch.cat([embeds, backbone.embed_words(_row(ids, visual))], 1)
        seen = torch.cat([mask, mask.new_ones(1, len(ids))], 1)
        out = without_cache(backbone.decode(whole, seen, memory))
        return _last(backbone.decoder.cls(out.last_hidden_state), len(ids))

    return following


def _bart(backbone: Any, visual: Tensor, prompt: str) -> Next:
    states, mask = backbone.encode(backbone.embed(visual), [prompt])
    start = backbone.text.config.decoder_start_token_id

    def following(ids: Sequence[int]) -> Tensor:
        out = without_cache(backbone.decode(_row([start, *ids], visual), states, mask))
        return _last(backbone.token_logits(out.last_hidden_state), len(ids))

    return following


WRITERS = {"vit_gpt2": _gpt2, "blip": _blip, "clip_bart": _bart}


def without_cache(out: Any) -> Any:
    """Return a model's output.

    Raises:
        RuntimeError: it has a cache, under any name. Then the model may have read one.
    """
    if any(isinstance(each, Cache) for each in _values(out)):
        raise RuntimeError("the model has used a cache though none was asked for")
    return out


def _values(out: Any) -> Iterator[Any]:
    yield from out.values() if hasattr(out, "values") else out
    yield from vars(out).values() if hasattr(out, "__dict__") else ()


def _row(ids: Sequence[int], like: Tensor) -> Tensor:
    """Return ids as a batch of one."""
    return torch.tensor([list(ids)], dtype=torch.long, device=like.device)


def _last(logits: Tensor, tokens: int) -> Tensor:
    """Return the logits at the end of the prompt and at each of the tokens after it."""
    return logits[0, -1 - tokens :].float()
