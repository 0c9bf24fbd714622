"""VQA accuracy: the ten-answer rule of the official VQA v2 evaluator, with its text processing.

Sources: Antol et al. 2015, and PythonEvaluationTools/vqaEvaluation/vqaEval.py of
github.com/GT-Vision-Lab/VQA. The quirks of that code are kept, because every published number has
them. Each is named where it is implemented.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer, score_by_mean

ENOUGH = 3  # an answer that three other annotators gave is fully right
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
_THOUSANDS = re.compile(r"\d,\d")
# The original's guard against a digit before the point is misspelt and always true. So "1." loses
# its point, too.
_PERIOD = re.compile(r"\.(?!\d)")
# The original passes re.UNICODE, which is 32, in place of the number of replacements.
_MAX_PERIODS = 32

# From an ending to the words that take it. The original also lists forms of "I", which never match
# text in lower case.
_CONTRACTED = {
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who you",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "'t": "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn oughtn"
    " shan shouldn wasn weren won wouldn",
    "'t've": "couldn hadn mightn shouldn wouldn",
    "'ve": "could might must not should they we what where who would you",
    "'all": "y",
    "'all'd've": "y",
    "'all'll": "y",
    "'am": "ma",
    "'clock": "o",
    "'ow's'at": "",
    "'twas": "",
}


def _without_one_apostrophe(form: str) -> list[str]:
    """Return the spellings of a contraction that lack one of its apostrophes.

    These are the spellings that the evaluator repairs.
    """
    return [form[:i] + form[i + 1 :] for i, letter in enumerate(form) if letter == "'"]


def _contractions() -> dict[str, str]:
    """Return the table from wrong to right spellings."""
    found: dict[str, str] = {}
    for ending, stems in _CONTRACTED.items():
        for stem in stems.split() or [""]:
            right = stem + ending
            found |= dict.fromkeys(_without_one_apostrophe(right), right)
    found["somebody'd"] = "somebodyd"  # the wrong way round in the original
    return found


CONTRACTIONS = _contractions()


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the accuracy of one answer, in [0, 1].

    It is the mean over annotators of min(1, matches among the *other* annotators / 3).

    If all references are the same string, texts are compared without surrounding white space but
    otherwise unchanged: case and punctuation count. If not, both sides go through `normalise`
    first. The original does the same.

    The original knows only ten references. Here, a single reference counts as ten annotators who
    agree: 1 for the same string, else 0. Any other number n leaves one out of n. So two or three
    references cannot give a full score (at most 1/3 and 2/3).

    Raises:
        ValueError: there are no references.
    """
    if not references:
        raise ValueError("VQA accuracy needs at least one reference answer")
    texts = [_tidy(text) for text in (answer, *references)]
    if len(set(texts[1:])) > 1:
        texts = [normalise(text) for text in texts]
    return share_of_annotators(texts[0], texts[1:])


def share_of_annotators(given: str, truth: Sequence[str]) -> float:
    """Return the mean over annotators of min(1, matches among the *other* annotators / 3).

    Texts are compared as they are. A single annotator counts as ten who agree.
    """
    if len(truth) == 1:
        return float(given == truth[0])
    n, matches = len(truth), list(truth).count(given)
    # An annotator who gave this answer sees one match fewer among the others. With integers the
    # result has a single rounding.
    agreeing = matches * min(ENOUGH, matches - 1)
    others = (n - matches) * min(ENOUGH, matches)
    return (agreeing + others) / (ENOUGH * n)


@lru_cache(2**16)  # a dataset has the same few answers again and again
def normalise(text: str) -> str:
    """Apply the evaluator's text processing.

    It handles punctuation, lower case, number words, articles and contractions, in this order.
    """
    words = []
    for word in strip_punctuation(_tidy(text)).lower().split():
        number = NUMBERS.get(word, word)
        if number not in ARTICLES:
            words.append(CONTRACTIONS.get(number, number))
    return " ".join(words)


def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Delete each mark that touches a space anywhere in the text; others become a space.

    If the text has a number such as "1,000", all marks are deleted.
    """
    delete_all = _THOUSANDS.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        delete = delete_all or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if delete else " ")
    return _PERIOD.sub("", out, count=_MAX_PERIODS)


@register("vqa_accuracy", values=("vqa_accuracy",))
class VQAAccuracy(Metric):
    """VQA accuracy by the official ten-answer rule, overall and by question type."""

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split; `tokenizer` has no influence."""
        per_example = [100 * vqa_accuracy(p.text, p.references) for p in predictions]
        return score_by_mean("vqa_accuracy", per_example, predictions)
