"""Text processing by name, for protocols that ask for it."""

from __future__ import annotations

import re

BLIP_REMOVED = re.compile(r"[.!\"()*#:;~]")
QUESTION_WORDS, CAPTION_WORDS = 20, 30


def clean_question(text: str, how: str) -> str:
    """Return a question or another prompt text after cleaning.

    `blip`: lower case, without `.!"()*#:;~` ("?" stays), at most 20 words.
    `sentence`: lower case, without the last full stop, as the p-Adapter reads hypotheses.
    `none`: unchanged.
    """
    if how == "sentence":
        return _sentence(text)
    if how == "blip":
        return _words(BLIP_REMOVED.sub("", text.lower()), QUESTION_WORDS)
    return text


def clean_caption(text: str, how: str) -> str:
    """Return a caption after cleaning.

    `blip`: lower case, a space in place of each of `.!"()*#:;~`, at most 30 words.
    `sentence` and `none`: as for questions.
    """
    if how == "sentence":
        return _sentence(text)
    if how == "blip":
        return _words(BLIP_REMOVED.sub(" ", text.lower()), CAPTION_WORDS)
    return text


def _sentence(text: str) -> str:
    return text.strip().lower().removesuffix(".")


def _words(text: str, limit: int) -> str:
    """Return the first words, with single spaces between them."""
    return " ".join(text.split()[:limit])
