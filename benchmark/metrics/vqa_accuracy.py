"""VQA accuracy: the ten-answer rule of the official VQA v2 evaluator, with its text processing.

Source of the facts: Antol et al. 2015 and PythonEvaluationTools/vqaEvaluation/vqaEval.py of github.com/GT-Vision-Lab/VQA.
Its quirks are kept, because every published number has them; each is named where it is implemented.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer, score_by_mean

ENOUGH = 3  # an answer that three others gave is fully right
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
_THOUSANDS = re.compile(r"\d,\d")
# The original's guard against a digit before the point is misspelt and always true: "1." loses its point too.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = (
    32  # the original passes re.UNICODE, which is 32, where the number of replacements goes
)

# ending -> the words that take it. The original also lists forms of "I", which never match lower-cased text.
_CONTRACTED = {
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who you",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "'t": "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn oughtn shan shouldn wasn weren won wouldn",
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
    """All spellings of a contraction that lack exactly one of its apostrophes: the ones the evaluator mends."""
    return [form[:i] + form[i + 1 :] for i, letter in enumerate(form) if letter == "'"]


CONTRACTIONS = {
    wrong: stem + ending
    for ending, stems in _CONTRACTED.items()
    for stem in stems.split() or [""]
    for wrong in _without_one_apostrophe(stem + ending)
} | {"somebody'd": "somebodyd"}  # the wrong way round in the original


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Accuracy of one answer, in [0, 1]: the mean over annotators of min(1, matches among the *other* annotators / 3).

    Where all references are the same string, texts are compared as they are, without surrounding white space, case and
    punctuation counting; otherwise both sides go through `normalise` first. So it is in the original.

    The original knows ten references only. A single one counts as ten annotators who agree: 1 for the same string, else 0.
    Any other number n leaves one out of n, hence two or three references cannot give a full score (1/3 and 2/3 at best).
    Raises ValueError without references.
    """
    if not references:
        raise ValueError("VQA accuracy needs at least one reference answer")
    texts = [_tidy(text) for text in (answer, *references)]
    if len(set(texts[1:])) > 1:
        texts = [normalise(text) for text in texts]
    given, truth = texts[0], texts[1:]
    if len(truth) == 1:
        return float(given == truth[0])
    n, matches = len(truth), truth.count(given)
    # matches annotators see one match less among the others; integers keep the result free of rounding
    return (matches * min(ENOUGH, matches - 1) + (n - matches) * min(ENOUGH, matches)) / (
        ENOUGH * n
    )


def normalise(text: str) -> str:
    """The evaluator's text processing: punctuation, lower case, number words, articles, contractions."""
    words = (NUMBERS.get(word, word) for word in _strip_punctuation(_tidy(text)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _strip_punctuation(text: str) -> str:
    """Delete a mark that touches a space anywhere in the text, else put a space for it; "1,000" makes all marks be deleted."""
    delete_all = _THOUSANDS.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        delete = delete_all or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if delete else " ")
    return _PERIOD.sub("", out, count=_MAX_PERIODS)


@register("vqa_accuracy", values=("vqa_accuracy",))
class VQAAccuracy(Metric):
    """VQA accuracy by the ten-answer rule of the official evaluator, overall and by question type."""

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:  # noqa: ARG002
        """Score a split; `tokenizer` has no influence."""
        return score_by_mean(
            "vqa_accuracy",
            [100 * vqa_accuracy(p.text, p.references) for p in predictions],
            predictions,
        )
