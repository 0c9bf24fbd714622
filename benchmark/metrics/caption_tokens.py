"""Captions cut into words, in the form of the COCO caption metrics.

A tokenised caption is one string of words, with spaces between them and without punctuation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from vlpeft.benchmark.core.libraries.nltk import treebank_tokens
from vlpeft.benchmark.core.libraries.pycocoevalcap import ptb_jar, punctuation
from vlpeft.benchmark.metrics.base import Prediction, Tokenizer
from vlpeft.benchmark.metrics.java import run_java

# From the number of an example to its captions: the form that pycocoevalcap works on.
CaptionsByImage = dict[int, list[str]]


@lru_cache(maxsize=2)
def tokenise_split(
    predictions: tuple[Prediction, ...], tokenizer: Tokenizer
) -> tuple[CaptionsByImage, CaptionsByImage]:
    """Return references and candidates of a split. Callers must not change them.

    The result is cached, so all metrics share one run of the tokenizer.

    References and candidates are tokenised apart, as in the official evaluation. PTB's treatment of
    a full stop can depend on the next line, so one joint call would differ where they meet.

    Raises:
        MetricUnavailable: `ptb` without Java.
    """
    references = _tokenise_groups([p.references for p in predictions], tokenizer)
    return references, _tokenise_groups([(p.text,) for p in predictions], tokenizer)


def _tokenise_groups(groups: Sequence[Sequence[str]], tokenizer: Tokenizer) -> CaptionsByImage:
    """Tokenise all captions in one call, and give each group its own."""
    tokenise: Callable[[Sequence[str]], list[str]] = {"ptb": ptb, "treebank": treebank}[tokenizer]
    lines = iter(tokenise([_one_line(caption) for group in groups for caption in group]))
    return {number: [next(lines) for _ in group] for number, group in enumerate(groups)}


def ptb(captions: Sequence[str]) -> list[str]:
    """Tokenise captions of one line each with Stanford's PTBTokenizer, the official way.

    Java is started once for all captions.

    Raises:
        MetricUnavailable: Java is missing or fails.
        RuntimeError: Java does not return one line for each caption.
    """
    program = ["-cp", str(ptb_jar()), "edu.stanford.nlp.process.PTBTokenizer"]
    options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    lines = run_java([*program, *options], "\n".join(captions)).split("\n")
    if len(lines) != len(captions):
        raise RuntimeError(f"PTBTokenizer gave {len(lines)} lines for {len(captions)} captions")
    # Not `split()`: the token of a fraction contains a non-breaking space.
    return [_without_punctuation(line.rstrip().split(" ")) for line in lines]


def treebank(captions: Sequence[str]) -> list[str]:
    """Tokenise captions with nltk's rules for the Penn Treebank.

    The result is close to that of `ptb` but not equal. It needs no Java.
    """
    return [_lower(tokens) for tokens in treebank_tokens(captions)]


def _lower(tokens: Sequence[str]) -> str:
    """Join tokens in lower case.

    Lower case comes last, as in `ptb`. So brackets become -lrb- and stay, because the list of
    punctuation has only -LRB-.
    """
    return _without_punctuation([token.lower() for token in tokens])


def _without_punctuation(tokens: Sequence[str]) -> str:
    removed = punctuation()
    return " ".join(token for token in tokens if token not in removed)


def _one_line(caption: str) -> str:
    """Replace line breaks, since one would shift all captions after it.

    The official code replaces only newlines. Unicode has more line breaks.
    """
    return " ".join(caption.splitlines())
