"""pycocoevalcap: its scorers, and the Java programs and lists in its modules.

Nothing is imported before it is needed, because reading the registry of metrics must stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARY = "pycocoevalcap"
TRIED = ("1.2",)

Captions = Mapping[int, list[str]]


def ptb_jar() -> Path:
    """Return the path of Stanford's CoreNLP, which contains the PTB tokenizer."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    return Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)


def punctuation() -> Sequence[str]:
    """Return the tokens that the official evaluation removes."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    found: list[str] = PUNCTUATIONS
    return found


def meteor_jar() -> Path:
    """Return the path of the METEOR program."""
    from pycocoevalcap.meteor import meteor

    return Path(meteor.__file__).with_name(meteor.METEOR_JAR)


def spice_folder() -> Path:
    """Return the folder of SPICE.

    Its own modules are not imported, because an import starts a download.
    """
    from pycocoevalcap.meteor import meteor

    return Path(meteor.__file__).parent.parent / "spice"


def bleu(references: Captions, candidates: Captions, longest: int) -> Sequence[float]:
    """Return corpus BLEU of n-grams up to 1, 2, ... `longest`.

    The brevity penalty uses the reference of the closest length.
    """
    from pycocoevalcap.bleu.bleu import Bleu

    values: Sequence[float] = Bleu(n=longest).compute_score(references, candidates, verbose=0)[0]
    return values


def rouge_l(references: Captions, candidates: Captions) -> tuple[float, Any]:
    """Return ROUGE-L with beta 1.2: the mean, and one value per example."""
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    scorer.beta = 1.2
    value, per_example = scorer.compute_score(references, candidates)
    return value, per_example


def cider(references: Captions, candidates: Captions) -> tuple[float, Any]:
    """Return CIDEr-D of n-grams up to 4 with sigma 6: the mean, and one value per example."""
    from pycocoevalcap.cider.cider import Cider

    scorer = Cider(test=None, refs=None, n=4, sigma=6.0)
    value, per_example = scorer.compute_score(references, candidates)
    return value, per_example
