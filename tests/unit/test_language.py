"""The code that language-model heads share, against the same sums written out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlpeft.benchmark.backbones.language import (
    IGNORED,
    Candidates,
    language_loss,
    log_likelihood,
    pad_rows,
    rank,
    training_targets,
)
from vlpeft.benchmark.core.protocol import Protocol

LABELS = torch.tensor([[1, 2, IGNORED], [3, 0, 4], [2, IGNORED, IGNORED], [1, 4, IGNORED]])
WEIGHTS = (1.0, 0.3, 0.6, 0.0)  # of the answers of three questions; the last has no answer


def recipe(**changed: Any) -> Protocol:
    return Protocol(lr=1.0, steps=1, **changed)


def smoothed(logits: Tensor, label: int, smoothing: float) -> float:
    """Return the cross-entropy with a share of the target spread over the whole vocabulary."""
    logs = logits.detach().double().log_softmax(0)
    return float(-(1 - smoothing) * logs[label] - smoothing * logs.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mean", ["tokens", "sequences", "questions"])
def test_the_loss_is_its_sum_written_out(mean: str, smoothing: float) -> None:
    torch.manual_seed(0)
    states, head = torch.randn(4, 3, 6), nn.Linear(6, 5)
    each = [
        [
            smoothed(head(states[i, j]), int(label), smoothing)
            for j, label in enumerate(row)
            if label != IGNORED
        ]
        for i, row in enumerate(LABELS)
    ]
    expected = {
        "tokens": (sum(sum(row) for row in each[:3]), 6),
        "sequences": (sum(w * sum(r) / len(r) for w, r in zip(WEIGHTS, each, strict=True)), 3),
        "questions": (sum(w * sum(r) for w, r in zip(WEIGHTS, each, strict=True)), 3),
    }[mean]
    protocol = recipe(loss_mean=mean, label_smoothing=smoothing)
    total, terms = language_loss(states, LABELS, head, WEIGHTS, 3, protocol)
    assert (total.item(), terms) == (pytest.approx(expected[0], rel=1e-5), expected[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_likelihood_of_a_sequence_is_a_sum_over_its_tokens(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 5)
    found = log_likelihood(logits, LABELS, recipe(label_smoothing=smoothing))
    for one, row, labels in zip(found, logits, LABELS, strict=True):
        each = [
            smoothed(at, int(label), smoothing)
            for at, label in zip(row, labels, strict=True)
            if label != IGNORED
        ]
        assert one.item() == pytest.approx(-sum(each), rel=1e-5)


def test_the_answers_to_train_on() -> None:
    targets = [{"a": 0.3, "b": 1.0, "c": 0.0}, {}, {"d": 0.6}]
    assert training_targets(targets, recipe(train_answers="all")) == [
        (0, "a", 0.3),
        (0, "b", 1.0),
        (1, "", 0.0),
        (2, "d", 0.6),
    ]
    torch.manual_seed(0)
    drawn = Counter()
    for _ in range(400):
        first, *others = training_targets(targets, recipe(train_answers="sampled"))
        assert others == [(1, "", 0.0), (2, "d", 0.6)]
        drawn[first] += 1
    assert set(drawn) == {(0, "a", 0.3), (0, "b", 1.0)}
    assert drawn[0, "a", 0.3] == pytest.approx(400 * 0.3 / 1.3, rel=0.25)


def test_candidates_are_as_long_as_the_longest_that_passed() -> None:
    """A long answer that is dropped in the first stage costs nothing; one that stays is whole."""
    answers = torch.tensor([[3, 4, IGNORED, IGNORED], [5, 4, IGNORED, IGNORED], [6, 7, 8, 4]])
    first = torch.tensor([[0, 0, 0, 3.0, 0, 2.0, 1.0], [0, 0, 0, 2.0, 0, 1.0, 0.0]])
    widths = []

    def score(tokens: Tensor) -> Tensor:
        widths.append(tokens.shape)
        return (tokens == 5).sum(-1).float()

    assert rank(first, answers, 2, score).best() == [1, 1]
    assert rank(first, answers, 3, score).best() == [1, 1]
    assert widths == [(2, 2, 2), (2, 3, 4)]


def test_answers_with_the_same_first_token_pass_in_the_order_of_the_list() -> None:
    answers = torch.tensor([[1, i] for i in range(2, 40)] + [[0, 2]])
    first = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = rank(first, answers, 5, lambda tokens: -tokens[..., 1].float())
    assert found.answers.tolist() == [[0, 1, 2, 3, 4], [38, 0, 1, 2, 3]]
    assert found.scores.tolist() == [[-2, -3, -4, -5, -6], [-2, -2, -3, -4, -5]]
    assert found.best() == [0, 38]


def test_candidates_are_listed_from_the_likeliest_and_ties_keep_their_order() -> None:
    found = Candidates(torch.tensor([[2, 0, 1]]), torch.tensor([[-3.0, -1.0, -3.0]]))
    assert found.best() == [0]
    assert found.with_answers(["x", "y", "z"]) == [[("x", -1.0), ("z", -3.0), ("y", -3.0)]]


def test_rows_are_padded_on_the_right() -> None:
    assert pad_rows([[1], [2, 3, 4], []], 9).tolist() == [[1, 9, 9], [2, 3, 4], [9, 9, 9]]
