"""The number of answers that a classifier chooses from, which is the width of its head."""

from __future__ import annotations

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.tasks import TASKS


def count_answers(part: Part) -> tuple[int, str]:
    """Return the size of a task's answer list, and where that number is from.

    A plan counts the same where the data is on this machine. Without data, the labels of the task
    are known, and else the most that the recipe allows.
    """
    task = TASKS.load(part.task)()
    if labels := task.answers((), part.protocol):
        return len(labels), "the labels of the task"
    if "choose" not in task.needs:
        return 0, "none: its texts are written"
    try:
        inputs = Inputs.open(part)
    except DataError:
        return part.protocol.max_answers, "`max_answers`, because the data is not on this machine"
    return len(inputs.answers), "the data"
