"""Visual entailment (SNLI-VE): does the image entail the hypothesis?"""

from __future__ import annotations

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.tasks.labelled import Labelled


@register("entailment", needs=("choose",), metrics=("accuracy",))
class Entailment(Labelled):
    """Say whether an image entails a hypothesis, contradicts it, or neither; scored by accuracy."""

    labels = ("entailment", "neutral", "contradiction")
