"""Tasks by name. Importing this package imports no model."""

from benchmark.registry import Registry
from benchmark.tasks.base import Task

TASKS: Registry[Task] = Registry("task", "benchmark/tasks")
