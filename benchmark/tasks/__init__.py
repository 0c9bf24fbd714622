"""Tasks by name. Importing this package imports no model."""

from collections.abc import Sequence

from vlpeft.benchmark.contract.abilities import check_abilities
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.tasks.base import Task

TASKS: Registry[Task] = Registry("task", "vlpeft/benchmark/tasks")
# The order in which lists and messages name the tasks of a backbone. Others follow, by name.
USUAL_ORDER = ("vqa", "captioning", "entailment", "nlvr2")


def metric_names(task: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics of a task: those that a protocol has `chosen`, or the task's own."""
    if chosen is not None:
        return tuple(chosen)
    return _declared(task, "metrics")


def tasks_for(abilities: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that a backbone with these abilities can do.

    Args:
        abilities: What the backbone declares; see `Ability`.

    Raises:
        UserError: If the backbone or a task names an unknown ability.
    """
    check_abilities(abilities, "abilities of a backbone")
    found = []
    for task in sorted(TASKS.entries, key=_place):
        needs = _declared(task, "needs")
        check_abilities(needs, f"needs of task '{task}'")
        if set(needs) <= set(abilities):
            found.append(task)
    return tuple(found)


def _place(task: str) -> tuple[int, str]:
    """Return the sort key of a task among the tasks of a backbone."""
    if task in USUAL_ORDER:
        return USUAL_ORDER.index(task), task
    return len(USUAL_ORDER), task


def _declared(task: str, option: str) -> tuple[str, ...]:
    """Return an option of a task's `@register(...)`, without an import where possible."""
    entry = TASKS.entry(task)
    if option in entry.options:
        return tuple(entry.options[option])
    # A task of another package is known only after it is imported.
    return tuple(getattr(entry.load(), option))
