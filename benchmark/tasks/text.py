"""Text processing by name, for protocols that ask for it."""

from __future__ import annotations

import re

BLIP_REMOVED = re.compile(r"[.!\"()*#:;~]")
QUESTION_WORDS, CAPTION_WORDS = 20, 30


def clean_question(text: str, how: str) -> str:
    """`blip`: lower-case, without `.!"()*#:;~` ("?" stays), at most 20 words. `sentence`: see there. `none`: as it is."""
    if how == "sentence":
        return _sentence(text)
    return _words(BLIP_REMOVED.sub("", text.lower()), QUESTION_WORDS) if how == "blip" else text


def clean_caption(text: str, how: str) -> str:
    """`blip`: lower-case, the same punctuation made blank, at most 30 words. `sentence`: see there. `none`: as it is."""
    if how == "sentence":
        return _sentence(text)
    return _words(BLIP_REMOVED.sub(" ", text.lower()), CAPTION_WORDS) if how == "blip" else text


def _sentence(text: str) -> str:
    """Lower-case, without the last full stop, as the p-Adapter reads hypotheses."""
    return text.strip().lower().removesuffix(".")


def _words(text: str, limit: int) -> str:
    return " ".join(text.split()[:limit])
