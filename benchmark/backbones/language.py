"""Parts that backbones with a language-model head share.

The choice of training answers, the mean of token losses, ranking, and the settings of decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from vlpeft.benchmark.core.errors import WeightsError
from vlpeft.benchmark.core.libraries.transformers import generation_settings
from vlpeft.benchmark.core.protocol import Protocol

# The label of a token that does not count; the default of torch's cross-entropy.
IGNORED = -100


class Target(NamedTuple):
    """One sequence to train on: the question's place in the batch, the text and its weight."""

    question: int
    text: str
    weight: float


def training_targets(targets: Sequence[Mapping[str, float]], protocol: Protocol) -> list[Target]:
    """Return the sequences of a batch to train on.

    `train_answers` chooses every answer of each question, or one that is drawn by its weight. A
    question without answers gives "" with weight 0, so that shapes do not depend on the data.
    """
    chosen = []
    for i, scores in enumerate(targets):
        answers = [(text, weight) for text, weight in scores.items() if weight > 0]
        if not answers:
            answers = [("", 0.0)]
        if protocol.train_answers == "sampled" and len(answers) > 1:
            answers = [_draw_answer(answers)]
        chosen += [Target(i, text, weight) for text, weight in answers]
    return chosen


def _draw_answer(answers: Sequence[tuple[str, float]]) -> tuple[str, float]:
    # VL-Adapter draws one answer of VQA by its soft score each time that an item is read.
    weights = torch.tensor([weight for _, weight in answers])
    return answers[int(torch.multinomial(weights, 1))]


def language_loss(
    states: Tensor,
    labels: Tensor,
    head: Callable[[Tensor], Tensor],
    weights: Sequence[float],
    questions: int,
    protocol: Protocol,
) -> tuple[Tensor, int]:
    """Return the summed loss of a batch and the number of its terms.

    states is (sequences, tokens, width); each state predicts the label at its own place. labels is
    (sequences, tokens), IGNORED where no token counts. weights has one number per sequence.

    `loss_mean: tokens` is the mean over all counted tokens. A sequence of weight 0 has none; other
    weights make no difference. `sequences` sums each sequence's token mean x weight. `questions`
    sums each sequence's token sum x weight. Both divide by the number of questions.
    """
    # The papers' means differ: VL-Adapter's captions use `tokens`, its other tasks `sequences`,
    # and BLIP's VQA uses `questions`. A learning rate belongs to one of them.
    weight = torch.tensor(weights)
    counted = (labels != IGNORED) & (weight > 0).to(labels.device)[:, None]
    # The head is the largest product of the model, so it runs only where a token counts.
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
    per_token = scale[counted.nonzero()[:, 0].cpu()]
    return (losses * per_token.to(losses.device)).sum(), questions


def log_likelihood(logits: Tensor, labels: Tensor, protocol: Protocol) -> Tensor:
    """Return the label-smoothed log-likelihood of each sequence, in nats.

    logits (..., tokens, vocabulary) and labels (..., tokens) give a result of shape (...). BLIP
    ranks with the training loss, label smoothing included.
    """
    flat = logits.float().flatten(0, -2)
    goal = labels.flatten()
    losses = functional.cross_entropy(
        flat, goal, reduction="none", ignore_index=IGNORED, label_smoothing=protocol.label_smoothing
    )
    return -losses.view(labels.shape).sum(-1)


class Candidates(NamedTuple):
    """The answers that passed the first stage of ranking, (questions, kept).

    `answers` are their numbers in the answer list, `scores` their log-likelihoods in nats.
    """

    answers: Tensor
    scores: Tensor

    def best(self) -> list[int]:
        """Return the number of the likeliest answer of each question."""
        best = self.scores.argmax(1, keepdim=True)
        numbers: list[int] = self.answers.gather(1, best).squeeze(1).tolist()
        return numbers

    def with_answers(self, answers: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the answers of each question with their scores, the likeliest first."""
        order = self.scores.sort(dim=1, descending=True, stable=True).indices
        numbers = self.answers.gather(1, order).tolist()
        scores = self.scores.gather(1, order).tolist()
        result = []
        for row, values in zip(numbers, scores, strict=True):
            texts = [answers[i] for i in row]
            result.append(list(zip(texts, values, strict=True)))
        return result


def rank(
    first: Tensor, answers: Tensor, keep: int, score: Callable[[Tensor], Tensor]
) -> Candidates:
    """Score the likelier answers of each question, in two stages as BLIP does.

    first is (questions, vocabulary): the logits of an answer's first token. answers is
    (answers, tokens). The `keep` answers with the likeliest first token pass; ties keep the order
    of the list. `score` maps their tokens (questions, keep, tokens), IGNORED behind the end, to
    log-likelihoods (questions, keep).
    """
    # Many answers share their first word-piece, so ties are common: the sort must be stable.
    scores = first[:, answers[:, 0]]
    order = scores.sort(dim=1, descending=True, stable=True).indices
    likely = order[:, : min(keep, len(answers))]
    tokens = answers[likely]
    # The longest of those that passed: a list of thousands has far longer answers.
    longest = int((tokens != IGNORED).sum(-1).max())
    return Candidates(likely, score(tokens[..., :longest]))


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of token ids as one tensor, (rows, longest), padded on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def token_id(tokenizer: Any, names: Sequence[str], fallback: object, source: str) -> int:
    """Return the id of a special token: the first of these names that the tokenizer has.

    The tokenizer makes the ids that the model reads, so its own ids count. A plan without the
    tokenizer takes that of the configuration, `fallback`.

    Args:
        tokenizer: The tokenizer; None if it is not on this machine.
        names: Names of its attributes, such as `eos_token`.
        fallback: The id in the configuration of the model.
        source: The weights, for messages.

    Raises:
        WeightsError: There is no such token.
    """
    found = fallback
    if tokenizer is not None:
        ids = [getattr(tokenizer, f"{name}_id", None) for name in names]
        found = next((each for each in ids if each is not None), None)
    if isinstance(found, int):
        return found
    raise WeightsError(
        f"{source}: its tokenizer has no {names[0]}; set it in its tokenizer_config.json"
    )


def generation(
    protocol: Protocol, start: int | None, end: int, pad: int, forced_end: int | None = None
) -> GenerationConfig:
    """Return the settings of greedy or beam search in the protocol.

    Nothing comes from the checkpoint's own settings. `start`, `end` and `pad` are token ids.
    `forced_end` is the id that the last token must have, if any.
    """
    # With one beam transformers warns of this setting, which then has no effect.
    early_stopping = protocol.beams > 1 and protocol.early_stopping
    return generation_settings(
        tokens=protocol.max_generated_tokens or protocol.max_output_tokens,
        least_tokens=protocol.min_generated_tokens or None,
        beams=protocol.beams,
        early_stopping=early_stopping,
        length_penalty=protocol.length_penalty,
        no_repeat_ngram=protocol.no_repeat_ngram,
        start=start,
        end=end,
        pad=pad,
        forced_end=forced_end,
    )
