"""NLVR2: is a statement about two images true?"""

from __future__ import annotations

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.tasks.labelled import Labelled


@register("nlvr2", needs=("choose", "pair"), metrics=("accuracy",))
class NLVR2Task(Labelled):
    """Say whether a statement about a left and a right image is true; scored by accuracy."""

    labels = ("true", "false")
    images = 2
