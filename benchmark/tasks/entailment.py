"""Visual entailment (SNLI-VE): does the image entail the hypothesis?"""

from __future__ import annotations

from benchmark.registry import register
from benchmark.tasks.labelled import Labelled


@register("entailment", metrics=("accuracy",))
class Entailment(Labelled):
    """Say whether a hypothesis follows from an image, contradicts it, or neither; scored by accuracy."""

    labels = ("entailment", "neutral", "contradiction")
