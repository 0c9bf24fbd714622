"""Text processing by name, for protocols that ask for it."""

from __future__ import annotations

import re

BLIP_REMOVED = re.compile(r"[.!\"()*#:;~]")
QUESTION_WORDS, CAPTION_WORDS = 20, 30


def clean_question(text: str, how: str) -> str:
    """Return a question or another prompt text after cleaning.

    `blip`: lower case, without `.!"()*#:;~` ("?" stays). Of a question of more than 20 words, the
    first 20 and " ? ", as in `pre_question` of BLIP's and the p-Adapter's data/utils.py.
    `sentence`: lower case, without the last full stop, as the p-Adapter reads hypotheses.
    `strip`: without white space at both ends.
    `none`: unchanged.
    """
    if how == "strip":
        return text.strip()
    if how == "sentence":
        return _sentence(text)
    if how == "blip":
        return _cut_question(BLIP_REMOVED.sub("", text.lower()).rstrip(" "))
    return text


def clean_caption(text: str, how: str) -> str:
    """Return a caption after cleaning.

    `blip`: lower case, a space in place of each of `.!"()*#:;~`, at most 30 words.
    `sentence`, `strip` and `none`: as for questions.
    """
    if how == "strip":
        return text.strip()
    if how == "sentence":
        return _sentence(text)
    if how == "blip":
        return _words(BLIP_REMOVED.sub(" ", text.lower()), CAPTION_WORDS)
    return text


def _sentence(text: str) -> str:
    return text.strip().lower().removesuffix(".")


def _cut_question(text: str) -> str:
    words = text.split(" ")
    if len(words) <= QUESTION_WORDS:
        return text
    return " ".join(words[:QUESTION_WORDS]) + " ? "


def _words(text: str, limit: int) -> str:
    """Return the first words, with single spaces between them."""
    return " ".join(text.split()[:limit])
