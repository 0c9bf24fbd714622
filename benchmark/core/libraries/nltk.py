"""nltk: the tokenizer of the Penn Treebank, imported when it is needed."""

from __future__ import annotations

from collections.abc import Sequence

LIBRARY = "nltk"
TRIED = ("3.10.4",)


def treebank_tokens(texts: Sequence[str]) -> list[list[str]]:
    """Return the tokens of each text by the rules of the Penn Treebank.

    Brackets become -LRB- and the like.
    """
    from nltk.tokenize import TreebankWordTokenizer

    tokenizer = TreebankWordTokenizer()
    return [
        list(tokenizer.tokenize(text, convert_parentheses=True, return_str=False)) for text in texts
    ]
