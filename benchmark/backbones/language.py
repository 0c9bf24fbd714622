"""What backbones with a language-model head share: which answers train, how token losses are averaged, ranking, decoding settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.libraries.transformers import generation_settings

IGNORED = -100  # label of a token that does not count


class Target(NamedTuple):
    """One sequence to train on: the question's place in the batch, the text, its weight."""

    question: int
    text: str
    weight: float


def training_targets(targets: Sequence[Mapping[str, float]], protocol: Protocol) -> list[Target]:
    """Sequences of a batch: every answer of each question, or one drawn by weight (`train_answers`); "" with weight 0 for none."""
    found = []
    for i, scores in enumerate(targets):
        answers = [(text, weight) for text, weight in scores.items() if weight > 0] or [("", 0.0)]
        if protocol.train_answers == "sampled" and len(answers) > 1:
            answers = [
                answers[int(torch.multinomial(torch.tensor([weight for _, weight in answers]), 1))]
            ]
        found += [Target(i, text, weight) for text, weight in answers]
    return found


def language_loss(
    states: Tensor,
    labels: Tensor,
    head: Callable[[Tensor], Tensor],
    weights: Sequence[float],
    questions: int,
    protocol: Protocol,
) -> tuple[Tensor, int]:
    """Summed loss and the number of its terms; the head runs only where a token counts.

    states (sequences, tokens, width): each predicts the label at its own place; labels (sequences, tokens), IGNORED where
    none counts; weights: one a sequence. `loss_mean: tokens` is the mean over all counted tokens, where a sequence of
    weight 0 has none and other weights make no difference;
    `sequences` sums each sequence's token mean x weight, `questions` each sequence's token sum x weight, and both divide
    by the number of questions.
    """
    weight = torch.tensor(weights)
    counted = (labels != IGNORED) & (weight > 0).to(labels.device)[:, None]
    logits = head(states[counted.to(states.device)]).float()
    goal = labels[counted].to(logits.device)
    losses = functional.cross_entropy(
        logits, goal, reduction="none", label_smoothing=protocol.label_smoothing
    )
    if protocol.loss_mean == "tokens":
        return losses.sum(), goal.numel()
    scale = weight
    if protocol.loss_mean == "sequences":
        scale = weight / counted.sum(1).clamp_min(1).cpu()
    each = scale[counted.nonzero()[:, 0].cpu()]
    return (losses * each.to(losses.device)).sum(), questions


def log_likelihood(logits: Tensor, labels: Tensor, protocol: Protocol) -> Tensor:
    """Label-smoothed log-likelihood of each sequence; logits (..., tokens, vocabulary), labels (..., tokens) to (...)."""
    flat = logits.float().flatten(0, -2)
    goal = labels.flatten()
    losses = functional.cross_entropy(
        flat, goal, reduction="none", ignore_index=IGNORED, label_smoothing=protocol.label_smoothing
    )
    return -losses.view(labels.shape).sum(-1)


class Candidates(NamedTuple):
    """Answers that passed the first stage of ranking, (questions, kept): their indices and log-likelihoods."""

    answers: Tensor
    scores: Tensor

    def best(self) -> list[int]:
        """Index of the likeliest answer of each question."""
        found: list[int] = (
            self.answers.gather(1, self.scores.argmax(1, keepdim=True)).squeeze(1).tolist()
        )
        return found

    def with_answers(self, answers: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Answers and their scores, the likeliest first, for each question."""
        order = self.scores.sort(dim=1, descending=True, stable=True).indices
        rows = zip(
            self.answers.gather(1, order).tolist(),
            self.scores.gather(1, order).tolist(),
            strict=True,
        )
        return [[(answers[i], score) for i, score in zip(*row, strict=True)] for row in rows]


def rank(
    first: Tensor, answers: Tensor, keep: int, score: Callable[[Tensor], Tensor]
) -> Candidates:
    """Score the likelier answers of each question, in two stages as BLIP ranks.

    first (questions, vocabulary): logits of an answer's first token; the `keep` answers whose first token is likeliest
    pass, earlier ones first where they tie. `score` takes their tokens (questions, keep, tokens), IGNORED behind the end,
    and returns log-likelihoods (questions, keep). answers (answers, tokens).
    """
    likely = (
        first[:, answers[:, 0]]
        .sort(dim=1, descending=True, stable=True)
        .indices[:, : min(keep, len(answers))]
    )
    tokens = answers[likely]
    longest = int(
        (tokens != IGNORED).sum(-1).max()
    )  # of those that passed: a list of thousands has far longer ones
    return Candidates(likely, score(tokens[..., :longest]))


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of token ids as one (rows, longest) tensor, filled up on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def generation(
    protocol: Protocol, start: int | None, end: int, pad: int, forced_end: int | None = None
) -> GenerationConfig:
    """Greedy or beam search as the protocol says, and nothing from the checkpoint's own settings."""
    return generation_settings(
        tokens=protocol.max_generated_tokens or protocol.max_output_tokens,
        least_tokens=protocol.min_generated_tokens or None,
        beams=protocol.beams,
        early_stopping=protocol.early_stopping if protocol.beams > 1 else False,
        length_penalty=protocol.length_penalty,
        no_repeat_ngram=protocol.no_repeat_ngram,
        start=start,
        end=end,
        pad=pad,
        forced_end=forced_end,
    )
