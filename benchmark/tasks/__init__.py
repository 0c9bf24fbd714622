"""Tasks by name. Importing this package imports no model."""

from collections.abc import Sequence

from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.tasks.base import Task

TASKS: Registry[Task] = Registry("task", "vlpeft/benchmark/tasks")


def metric_names(task: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics of a task: those that a protocol has `chosen`, or the task's own."""
    if chosen is not None:
        return tuple(chosen)
    entry = TASKS.entry(task)
    if "metrics" in entry.options:
        return tuple(entry.options["metrics"])
    # A task of another package is known only after it is imported.
    return tuple(entry.load().metrics)
