"""rich: a column of remaining time that knows how much was done in an earlier run."""

from __future__ import annotations

from rich.progress import Task, TimeRemainingColumn
from rich.text import Text

LIBRARY = "rich"
TRIED = ("15.0.0",)

UNKNOWN = "-:--:--"


class TimeLeft(TimeRemainingColumn):
    """The time left of a task; with a field `before`, at the average pace since its start.

    rich itself forgets progress that is older than half a minute.
    """

    def render(self, task: Task) -> Text:
        """Return the time left; -:--:-- until something is done."""
        if "before" not in task.fields:
            return super().render(task)
        done = task.completed - task.fields["before"]
        if not done or task.total is None:
            return Text(UNKNOWN, style="progress.remaining")
        seconds = int((task.elapsed or 0.0) * (task.total - task.completed) / done)
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return Text(clock, style="progress.remaining")
