"""Beam search with whole lengths equals a literal transcription of transformers 4.15."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.unit.test_blip import FORMS, METHODS, QUESTIONS, build, pixels
from vlpeft.benchmark.backbones.beam_search import BeamSettings, beam_search
from vlpeft.benchmark.core.errors import UserError

END, PAD, WORDS = 2, 0, 7


class Hypotheses:
    """`BeamHypotheses` of generation_beam_search.py, line by line.

    It keeps whole sequences of ids, with the prompt and without the end token.
    """

    def __init__(self, num_beams: int, length_penalty: float, early_stopping: bool) -> None:
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        self.num_beams, self.beams, self.worst_score = num_beams, [], 1e9

    def add(self, hyp: list[int], sum_logprobs: float) -> None:
        score = sum_logprobs / (len(hyp) ** self.length_penalty)
        if len(self.beams) < self.num_beams or score > self.worst_score:
            self.beams.append((score, hyp))
            if len(self.beams) > self.num_beams:
                order = sorted((s, index) for index, (s, _) in enumerate(self.beams))
                del self.beams[order[0][1]]
                self.worst_score = order[1][0]
            else:
                self.worst_score = min(score, self.worst_score)

    def is_done(self, best_sum_logprobs: float, cur_len: int) -> bool:
        if len(self.beams) < self.num_beams:
            return False
        if self.early_stopping:
            return True
        return self.worst_score >= best_sum_logprobs / cur_len**self.length_penalty


def transcription(
    next_logits: Callable[[list[int]], Tensor], prompt: list[int], settings: BeamSettings
) -> tuple[int, ...]:
    """Search one image as `beam_search`, `process` and `finalize` of 4.15 do together.

    `next_logits` maps the ids so far to the logits of the next token.
    """
    beams = settings.beams
    hypotheses = Hypotheses(beams, settings.penalty, settings.early)
    input_ids = [list(prompt) for _ in range(beams)]
    beam_scores = torch.tensor([0.0] + [-1e9] * (beams - 1))
    max_length, min_length = len(prompt) + settings.tokens, len(prompt) + settings.least
    done = False
    while True:
        cur_len = len(input_ids[0])
        next_scores = torch.log_softmax(torch.stack([*map(next_logits, input_ids)]), dim=-1)
        words = next_scores.shape[-1]
        if cur_len < min_length:
            next_scores[:, settings.end] = -float("inf")
        next_scores = (next_scores + beam_scores[:, None]).view(-1)
        next_scores, next_tokens = torch.topk(next_scores, 2 * beams)
        chosen: list[tuple[float, int, int]] = []
        for rank, (score, place) in enumerate(
            zip(next_scores.tolist(), next_tokens.tolist(), strict=True)
        ):
            beam, token = divmod(place, words)
            if token == settings.end:
                if rank >= beams:
                    continue
                hypotheses.add(list(input_ids[beam]), score)
            else:
                chosen.append((score, token, beam))
            if len(chosen) == beams:
                break
        done = done or hypotheses.is_done(max(next_scores.tolist()), cur_len)
        input_ids = [[*input_ids[beam], token] for _, token, beam in chosen]
        beam_scores = torch.tensor([score for score, _, _ in chosen])
        if done or len(input_ids[0]) >= max_length:
            break
    if not done:
        for ids, score in zip(input_ids, beam_scores.tolist(), strict=True):
            hypotheses.add(ids, score)
    best = sorted(hypotheses.beams, key=lambda pair: pair[0]).pop()[1]
    return tuple(best[len(prompt) :])


def read_table(model: Tensor, start: int) -> Callable[[list[int]], Tensor]:
    """Return a "model" whose next logits depend on the last token and the length only."""
    return lambda ids: model[len(ids) - start, ids[-1]]


def table_search(model: Tensor, prompts: list[list[int]], settings: BeamSettings):
    """Search a batch in our way; each image has its own table."""
    beams, length = settings.beams, 0
    tables = torch.arange(len(prompts)).repeat_interleave(beams)
    texts = torch.zeros(len(tables), 0, dtype=torch.long)

    def step(ids: Tensor, rows: Tensor) -> Tensor:
        nonlocal length, texts
        length += 1
        texts = torch.cat([texts[rows], ids[:, None]], 1)  # as a cache would follow the beams
        assert (texts[:, -1] == ids).all()
        return model[tables, length, ids]

    first = torch.stack([model[i, 0, prompt[-1]] for i, prompt in enumerate(prompts)])
    return beam_search(step, first, [len(prompt) for prompt in prompts], settings)


@pytest.mark.parametrize("seed", range(60))
def test_search_equals_the_transcription(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=random))

    settings = BeamSettings(
        beams=draw(2, 4),
        tokens=draw(1, 9),
        least=draw(0, 3),
        penalty=(0.0, 0.6, 1.0, 2.0)[draw(0, 4)],
        early=bool(draw(0, 2)),
        end=END,
        pad=PAD,
    )
    prompts = [[3] * draw(1, 6) for _ in range(4)]
    model = torch.randn(4, 10, WORDS, WORDS, generator=random) * 2
    want = [
        transcription(read_table(model[i], len(prompt)), prompt, settings)
        for i, prompt in enumerate(prompts)
    ]
    assert table_search(model, prompts, settings) == want


def test_the_length_of_the_prompt_changes_the_choice() -> None:
    """Behind a long prompt, two more tokens change the divisor less."""
    model = torch.full((1, 10, WORDS, WORDS), -9.0)
    model[0, 0, 3, END] = 1.0
    model[0, 0, 3, 4] = 0.9
    model[0, 1, 4, END] = 4.0
    settings = BeamSettings(2, 4, 0, 1.0, early=False, end=END, pad=PAD)
    short = table_search(model, [[3]], settings)
    long = table_search(model, [[3] * 40], settings)
    assert (short, long) == ([(4,)], [()])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_search_equals_generate_where_the_length_has_no_influence(form: str, method) -> None:
    recipe = {"answering": "generate", "beams": 3, "length_penalty": 0.0}
    found = []
    for rule in ("generated", "whole"):
        backbone = build((), method, {**recipe, "beam_length": rule}, form=form)
        found.append(backbone.predict(backbone.vision(pixels())[:, None], QUESTIONS))
    assert found[0] == found[1]
    assert len(set(found[0])) > 1


def test_a_rule_that_the_search_does_not_have_is_refused() -> None:
    with pytest.raises((UserError, ValueError), match="no_repeat_ngram"):
        build((), None, {"beams": 3, "beam_length": "whole", "no_repeat_ngram": 2})
