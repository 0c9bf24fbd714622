"""Captions cut into words, as the COCO caption metrics want them: one string, words apart by spaces, punctuation gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from vlpeft.benchmark.libraries.nltk import treebank_tokens
from vlpeft.benchmark.libraries.pycocoevalcap import ptb_jar, punctuation
from vlpeft.benchmark.metrics.base import Prediction, Tokenizer
from vlpeft.benchmark.metrics.java import run_java

Captions = dict[int, list[str]]  # example's number -> its captions, the form pycocoevalcap works on


@lru_cache(maxsize=2)
def tokenised(
    predictions: tuple[Prediction, ...], tokenizer: Tokenizer
) -> tuple[Captions, Captions]:
    """References and candidates of a split, tokenised once for all metrics; callers must not change them.

    References and candidates go separately, as in the official evaluation: PTB's treatment of a full stop can depend on
    the next line, so one joint call would differ at the seam. Raises MetricUnavailable for `ptb` without Java.
    """
    references = _tokenise_groups([p.references for p in predictions], tokenizer)
    return references, _tokenise_groups([(p.text,) for p in predictions], tokenizer)


def _tokenise_groups(groups: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Captions:
    cut: Callable[[Sequence[str]], list[str]] = {"ptb": ptb, "treebank": treebank}[tokenizer]
    lines = iter(cut([_one_line(caption) for group in groups for caption in group]))
    return {number: [next(lines) for _ in group] for number, group in enumerate(groups)}


def ptb(captions: Sequence[str]) -> list[str]:
    """Tokenise captions of one line each with Stanford's PTBTokenizer: the official way, one run of Java for all.

    Raises MetricUnavailable if Java is missing or fails, RuntimeError if it does not give one line a caption.
    """
    program = ["-cp", str(ptb_jar()), "edu.stanford.nlp.process.PTBTokenizer"]
    output = run_java(
        [*program, "-preserveLines", "-lowerCase", "-encoding", "UTF-8"], "\n".join(captions)
    )
    lines = output.split("\n")
    if len(lines) != len(captions):
        raise RuntimeError(f"PTBTokenizer gave {len(lines)} lines for {len(captions)} captions")
    return [
        _without_punctuation(line.rstrip().split(" ")) for line in lines
    ]  # not split(): a fraction's token holds a hard space


def treebank(captions: Sequence[str]) -> list[str]:
    """Tokenise with nltk's rules for the Penn Treebank: near to `ptb`, not equal, and without Java."""
    # Lower case comes last, as in `ptb`: brackets become -lrb- and stay, since the list below has only -LRB-.
    return [
        _without_punctuation([token.lower() for token in tokens])
        for tokens in treebank_tokens(captions)
    ]


def _without_punctuation(tokens: Sequence[str]) -> str:
    removed = punctuation()
    return " ".join(token for token in tokens if token not in removed)


def _one_line(caption: str) -> str:
    """The official code replaces only newlines; every other line break would shift all captions after it."""
    return " ".join(caption.splitlines())
