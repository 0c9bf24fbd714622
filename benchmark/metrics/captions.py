"""The COCO caption metrics, computed by pycocoevalcap: BLEU, METEOR, ROUGE-L, CIDEr and SPICE.

Numbers of a tokenizer other than the official `ptb` carry its name, as in "CIDEr (treebank)". They
must not be mixed with official numbers.

All numbers are in percent, CIDEr included: the package's 1.2 is 120, the form that papers print.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from vlpeft.benchmark.core.errors import MetricUnavailable
from vlpeft.benchmark.core.libraries.pycocoevalcap import (
    bleu,
    cider,
    meteor_jar,
    rouge_l,
    spice_folder,
)
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer
from vlpeft.benchmark.metrics.caption_tokens import CaptionsByImage, tokenise_split
from vlpeft.benchmark.metrics.java import run_java, talk_to_java

CIDER_LONGEST = 4  # words of an n-gram
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
# SPICE's serialisation library uses reflection on these packages. Java 16 and newer refuse this
# unless the packages are opened. Java 8 ignores the variable.
_OPENED = (
    "java.base/java.lang",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.math",
    "java.base/java.net",
    "java.base/java.text",
    "java.sql/java.sql",
)
_OPTIONS = " ".join(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED)
SPICE_OPTIONS = {"JDK_JAVA_OPTIONS": _OPTIONS}


class CaptionMetric(Metric):
    """A metric over tokenised captions. An empty caption is allowed: it matches nothing."""

    # Set by @register: whether the value is a mean over examples, which paired tests can use.
    averaged: ClassVar[bool]

    def value_names(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """Return the names of `values`, with the tokenizer's name if it is not the official one."""
        if tokenizer == "ptb":
            return self.values
        return tuple(f"{name} ({tokenizer})" for name in self.values)

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split.

        Raises:
            MetricUnavailable: the Java or the models that it needs are missing, or the references
                are such that even perfect captions would score 0.
        """
        self.require()
        names = self.value_names(tokenizer)
        references, candidates = tokenise_split(tuple(predictions), tokenizer)
        self.check_references(references)
        values, per_example = self.compute(references, candidates)
        percent = {name: 100 * float(value) for name, value in zip(names, values, strict=True)}
        if not self.averaged:
            return Scores(percent)
        return Scores(percent, {names[0]: tuple(100 * float(score) for score in per_example)})

    def require(self) -> None:
        """Raise MetricUnavailable if something that the metric needs is missing.

        This is called before any work is done.
        """
        return

    def check_references(self, references: CaptionsByImage) -> None:
        """Raise MetricUnavailable if no caption could score above 0 with these references."""
        if not any(map(any, references.values())):
            raise MetricUnavailable("no reference caption has a word left after tokenisation")

    @abstractmethod
    def compute(
        self, references: CaptionsByImage, candidates: CaptionsByImage
    ) -> tuple[Sequence[float], Iterable[float]]:
        """Return the package's own values, and its scores by example.

        There is one value for each name in `values`. The scores are ignored unless `averaged`.
        """


@register("bleu", values=("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), averaged=False)
class Bleu(CaptionMetric):
    """Corpus BLEU-1 to BLEU-4 against the reference of closest length (Papineni et al. 2002)."""

    def compute(
        self, references: CaptionsByImage, candidates: CaptionsByImage
    ) -> tuple[Sequence[float], Iterable[float]]:
        """Return BLEU of n-grams up to 1, 2, 3 and 4."""
        return bleu(references, candidates, longest=4), ()


@register("rouge_l", values=("ROUGE-L",), averaged=True)
class RougeL(CaptionMetric):
    """ROUGE-L, F-measure of the longest common subsequence with beta 1.2 (Lin 2004)."""

    def compute(
        self, references: CaptionsByImage, candidates: CaptionsByImage
    ) -> tuple[Sequence[float], Iterable[float]]:
        """Return the mean over examples."""
        value, per_example = rouge_l(references, candidates)
        return [value], per_example


@register("cider", values=("CIDEr",), unit="x 100", averaged=True)
class Cider(CaptionMetric):
    """CIDEr-D, n-gram weights from the references of the split itself (Vedantam et al. 2015)."""

    def check_references(self, references: CaptionsByImage) -> None:
        """Raise MetricUnavailable also if all n-grams have weight 0.

        The weight of an n-gram is log(examples / examples whose references contain it). It is 0
        everywhere if there is one example, or if the references of all examples are equal.
        """
        super().check_references(references)
        if len({_ngrams(captions) for captions in references.values()}) > 1:
            return
        found = "the split has one example"
        if len(references) > 1:
            found = f"the references of all {len(references)} examples have the same n-grams"
        raise MetricUnavailable(
            "CIDEr weighs n-grams by how few examples have them in their references, and here "
            f"every weight is 0: {found}"
        )

    def compute(
        self, references: CaptionsByImage, candidates: CaptionsByImage
    ) -> tuple[Sequence[float], Iterable[float]]:
        """Return the mean over examples."""
        value, per_example = cider(references, candidates)
        return [value], per_example


def _ngrams(captions: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """Return the n-grams that CIDEr counts in the captions of an example."""
    found: set[tuple[str, ...]] = set()
    for words in map(str.split, captions):
        for n in range(1, CIDER_LONGEST + 1):
            found.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return frozenset(found)


@register("meteor", values=("METEOR",), averaged=False)
class Meteor(CaptionMetric):
    """METEOR 1.5 over the whole split (Denkowski and Lavie 2014).

    Its Java program takes about 15 s to start.
    """

    def compute(
        self, references: CaptionsByImage, candidates: CaptionsByImage
    ) -> tuple[Sequence[float], Iterable[float]]:
        """Return the program's aggregate: it scores the summed statistics of all captions."""
        command = ["-Xmx2G", "-jar", str(meteor_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
        questions = [_meteor_question(references[i], candidates[i]) for i in candidates]
        with talk_to_java(command) as program:
            statistics = [program.ask(question) for question in questions]
            program.ask(" ||| ".join(["EVAL", *statistics]))
            # The program prints one line for each caption, and the aggregate last.
            answers = [program.read_line() for _ in statistics]
        return [float(answers[-1])], ()


def _meteor_question(references: Sequence[str], candidates: Sequence[str]) -> str:
    """Return one line for METEOR. `|||` separates its fields, so it is removed from the texts."""
    fields = [text.replace("|||", "").replace("  ", " ") for text in (*references, *candidates)]
    return " ||| ".join(["SCORE", *fields])


@register("spice", values=("SPICE",), averaged=True)
class Spice(CaptionMetric):
    """SPICE, the F-score over scene graphs (Anderson et al. 2016).

    It needs the models of Stanford's CoreNLP 3.6.0, a download of 0.5 GB.
    """

    def require(self) -> None:
        """Raise MetricUnavailable with the missing model files. Nothing is downloaded."""
        library = spice_folder() / "lib"
        missing = [name for name in SPICE_MODELS if not (library / name).is_file()]
        if missing:
            source = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
            raise MetricUnavailable(
                f"SPICE needs {' and '.join(missing)} in {library}; both are in {source}"
            )

    def compute(
        self, references: CaptionsByImage, candidates: CaptionsByImage
    ) -> tuple[Sequence[float], Iterable[float]]:
        """Return the mean over examples of the F-score over all tuples."""
        rows = [
            {"image_id": i, "test": candidates[i][0], "refs": references[i]} for i in candidates
        ]
        found = _run_spice(rows)
        scores = {row["image_id"]: float(row["scores"]["All"]["f"]) for row in found}
        if not all(map(math.isfinite, scores.values())):
            raise MetricUnavailable("SPICE gave no number for at least one example")
        per_example = [scores[i] for i in candidates]
        return [fmean(per_example)], per_example


def _run_spice(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the Java program, which reads and writes files."""
    with TemporaryDirectory(prefix="vlpeft-spice-") as folder:
        question, answer = Path(folder) / "in.json", Path(folder) / "out.json"
        question.write_text(json.dumps(rows), encoding="utf-8")
        program = ["-Xmx8G", "-jar", str(spice_folder() / "spice-1.0.jar"), str(question)]
        run_java([*program, "-out", str(answer), "-subset", "-silent"], variables=SPICE_OPTIONS)
        found: list[dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))
    return found
