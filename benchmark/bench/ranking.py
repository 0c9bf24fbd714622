"""VQA by ranking: BLIP-base, 224 px, 32 candidates.

It is compared with the released code, which encodes prompt and image again for each answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlpeft.benchmark.backbones.language import log_likelihood, rank
from vlpeft.benchmark.bench._models import adapt_backbone, items, protocol
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import TimedStep, time_row, turns
from vlpeft.benchmark.contract.visual import single
from vlpeft.benchmark.plan.measure import cached_pixels

BENCH = "ranking"
WORDS = (  # one token each of the tiny tokenizer; most answers of VQAv2 are one token of BERT's
    "yes no two three four many red blue green black brown yellow gray teal light there color "
    "size left right large small above below circle circles triangle triangles rectangle "
    "rectangles shape shapes man image background"
)
ANSWERS = (
    *WORDS.split(),
    "large circle",
    "red shape",
    "not present",
    "there are two large yellow triangles on the left of the image",
)


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Compare the time to answer questions from a list."""
    questions, keep = (2, 3) if setting.quick else (2, 32)
    sides = [partial(step, questions, keep, again, setting.quick) for again in (False, True)]
    yield time_row(
        BENCH,
        f"{questions} questions, {keep} candidates each",
        turns(sides[0], sides[1], setting),
        setting,
        "at least",
        10.0,
    )


def step(questions: int, keep: int, again: bool, quick: bool, device: torch.device) -> TimedStep:
    """Return a step that answers the questions, and returns a checksum of the answers."""
    recipe = protocol(questions, rank_candidates=keep)
    backbone: Any = (
        adapt_backbone("blip", "lora", {}, recipe, quick=quick, answers=ANSWERS).to(device).eval()
    )
    visual = cached_pixels(backbone, questions)([[str(i)] for i in range(questions)])
    prompts = [item.prompt for item in items(questions)]
    answer = partial(rank_by_encoding_again, backbone) if again else backbone.predict

    def rank_answers() -> int:
        with torch.inference_mode():
            return sum(
                ANSWERS.index(text) * (1 + i) for i, text in enumerate(answer(visual, prompts))
            )

    return rank_answers


def rank_by_encoding_again(backbone: Any, visual: Tensor, prompts: Sequence[str]) -> list[str]:
    """Rank in the same two stages, with the prompt and image encoded again for each candidate."""
    image = single(visual)
    memory = backbone.memory_of(image, prompts)
    embeds, mask = backbone.embed_prefix(prompts)
    backbone.set_visual_context(image)
    first = backbone.decoder.cls(backbone.decode(embeds, mask, memory).last_hidden_state[:, -1])

    def score(tokens: Tensor) -> Tensor:
        rows = torch.arange(len(tokens), device=tokens.device).repeat_interleave(tokens.shape[1])
        labels = tokens.flatten(0, 1)
        backbone.set_visual_context(image.rows(rows))
        logits = backbone.decoder.cls(
            backbone._states(embeds[rows], mask[rows], labels, memory.rows(rows))
        )
        return log_likelihood(logits, labels, backbone.protocol).view(tokens.shape[:2])

    targets = backbone._targets(backbone.answers).to(visual.device)
    best = rank(first, targets, backbone.protocol.rank_candidates, score)
    return [backbone.answers[i] for i in best.best()]
