"""Exact match and macro-F1 through the library `evaluate`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from vlpeft.benchmark.core.registry import REPOSITORY
from vlpeft.benchmark.metrics import Prediction, score
from vlpeft.benchmark.metrics.modules import answer_match as module

LABELS = st.sampled_from(["yes", "no", "maybe"])


def predictions_of(pairs: list[tuple[str, str]]) -> list[Prediction]:
    return [Prediction(str(i), text, (label,)) for i, (text, label) in enumerate(pairs)]


def test_known_values() -> None:
    """By hand: yes 2*1/(2+1), no 2*1/(1+2), and no class for the free text."""
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("a dog, perhaps", "maybe")]
    report = score(["answer_match"], predictions_of(pairs))
    assert report.values == pytest.approx(
        {"exact_match": 50.0, "macro_f1": 100 * (2 / 3 + 2 / 3 + 0) / 3}
    )
    assert report.per_example == {"exact_match": (100.0, 0.0, 100.0, 0.0)}


def test_several_references() -> None:
    """Any reference counts for exact match; the most frequent one is the label for F1."""
    rows = [
        Prediction("1", "cat ", ("dog", "cat", "dog"), "animal"),
        Prediction("2", "Dog", ("dog",), "animal"),
    ]
    report = score(["answer_match"], rows)
    assert report.values == {"exact_match": 50.0, "exact_match/animal": 50.0, "macro_f1": 0.0}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.one_of(LABELS, st.just("?")), LABELS), min_size=1, max_size=30))
def test_macro_f1_equals_sklearn(pairs: list[tuple[str, str]]) -> None:
    given_texts, labels = [list(column) for column in zip(*pairs, strict=True)]
    expected = f1_score(
        labels, given_texts, labels=sorted(set(labels)), average="macro", zero_division=0
    )
    assert module.macro_f1(given_texts, labels) == pytest.approx(expected)


SCORE = """
import evaluate, sys
from vlpeft.benchmark.metrics import Prediction, score
predictions = [Prediction("1", "yes", ("yes",)), Prediction("2", "no", ("yes",))]
print(score(["answer_match"], predictions).values["exact_match"])
"""
LOAD = """
metric = evaluate.load(sys.argv[1], keep_in_memory=True)
print(metric.compute(predictions=["yes"], references=[["yes"]])["exact_match"])
"""


def start(code: str, home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process with an empty cache of its own and no network."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_simultaneous_processes_and_loading_by_path(tmp_path: Path) -> None:
    """They are quiet and offline on one cache, and the module can be loaded by its path."""
    processes = [start(SCORE, tmp_path), start(SCORE + LOAD, tmp_path, str(module.__file__))]
    answers = [process.communicate(timeout=120) for process in processes]
    assert answers == [("50.0\n", ""), ("50.0\n1.0\n", "")]
    assert not list(tmp_path.rglob("*.arrow"))
