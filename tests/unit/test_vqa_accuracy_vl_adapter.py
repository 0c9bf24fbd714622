"""VL-Adapter's VQA accuracy equals a literal transcription of its evaluator."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from vlpeft.benchmark.metrics import Prediction, score
from vlpeft.benchmark.metrics.vqa_accuracy import CONTRACTIONS, vqa_accuracy
from vlpeft.benchmark.metrics.vqa_accuracy_vl_adapter import vl_adapter_accuracy

MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@"]
MARKS += ["`", ",", "?", "!"]
DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
DIGITS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}


def process_punctuation(text: str) -> str:
    out = text
    for mark in MARKS:
        if (mark + " " in text or " " + mark in text) or re.search(r"(\d)(\,)(\d)", text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    # The third argument is the number of replacements; the original passes re.UNICODE, 32.
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, 32)


def process_digit_article(text: str) -> str:
    words = []
    for word in text.lower().split():
        found = DIGITS.setdefault(word, word)
        if found not in ("a", "an", "the"):
            words.append(found)
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def evaluate_raw(answer: str, references: list[str]) -> float:
    """Score one question as the release does."""
    truth: list[dict[str, Any]] = [
        {"answer": text, "answer_id": i} for i, text in enumerate(references)
    ]
    given = answer.replace("\n", " ").replace("\t", " ").strip()
    given = process_digit_article(process_punctuation(given))
    if len({each["answer"] for each in truth}) > 1:
        for each in truth:
            each["answer"] = process_punctuation(each["answer"])
    scores = []
    for each in truth:
        others = [other for other in truth if other != each]
        matching = [other for other in others if other["answer"] == given]
        scores.append(min(1, float(len(matching)) / 3))
    return sum(scores) / len(scores)


WORDS = ("on the table", "table", "Table", "two", "2", "yes", "Yes.", "yes!", "no", "dont", "don't")
WORDS += ("1,000", "a cat", "cat", "T.V.", "red/blue", "red blue", "it's", "its", "", " cat ")


def test_thousand_pairs_equal_the_transcription() -> None:
    rng = random.Random(0)
    differ = 0
    for _ in range(1000):
        few = rng.sample(WORDS, rng.randint(1, 3))
        references = [rng.choice(few) for _ in range(10)]
        answer = rng.choice([*few, rng.choice(WORDS)])
        found = vl_adapter_accuracy(answer, references)
        assert found == pytest.approx(evaluate_raw(answer, references), abs=1e-12)
        differ += found != vqa_accuracy(answer, references)
    assert differ > 100  # the official rule is another one


def test_references_keep_their_articles() -> None:
    references = ["on the table"] * 9 + ["table"]
    assert vl_adapter_accuracy("on the table", references) == 0
    assert vqa_accuracy("on the table", references) == 1


def test_both_rules_stand_in_one_report() -> None:
    prediction = Prediction("0", "on the table", ("on the table",) * 9 + ("table",), "other")
    names = ("vqa_accuracy_vl_adapter", "vqa_accuracy")
    values = score(names, [prediction]).values
    assert (values["vqa_accuracy_vl_adapter"], values["vqa_accuracy"]) == (0, 100)
    assert values["vqa_accuracy_vl_adapter/other"] == 0
