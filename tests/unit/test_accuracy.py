"""Accuracy: exact membership in the labels of the example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpeft.benchmark.metrics import Prediction, score

WORDS = st.sampled_from(["yes", "Yes", " yes", "no", "left", "on the left", ""])
ROWS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=20)


@given(ROWS)
def test_membership_equals_the_reference_code(rows: list[tuple[str, list[str]]]) -> None:
    """As in VL-T5's GQA evaluator: `score += answer in label`, divided by the questions."""
    labels = [dict.fromkeys(references, 1.0) for _, references in rows]
    expected = sum(int(text in label) for (text, _), label in zip(rows, labels, strict=True)) / len(
        rows
    )
    predictions = [
        Prediction(str(i), text, tuple(references)) for i, (text, references) in enumerate(rows)
    ]
    assert score(["accuracy"], predictions).values == {"accuracy": pytest.approx(100 * expected)}


def test_by_kind() -> None:
    rows = [
        Prediction("1", "true", ("true",), "side"),
        Prediction("2", "false", ("true",), "side"),
        Prediction("3", "false", ("false",), "one"),
    ]
    assert score(["accuracy"], rows).values == pytest.approx(
        {"accuracy": 200 / 3, "accuracy/one": 100.0, "accuracy/side": 50.0}
    )
