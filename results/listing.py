"""What `vlpeft list` and `vlpeft plan` show: plain rows for scripts, text for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from benchmark.backbones import BACKBONES
from benchmark.cell import Plan
from benchmark.datasets import dataset_names, load_card
from benchmark.grid import METHODS, load_sweep, sweep_names
from benchmark.metrics import METRICS
from benchmark.records import Store
from benchmark.registry import Registry
from benchmark.tasks import TASKS
from results.status import status
from results.tables import Block, Table, Text, one_line

REGISTRIES: dict[str, Registry[Any]] = {"methods": METHODS, "backbones": BACKBONES, "tasks": TASKS, "metrics": METRICS}


def listing(what: str) -> list[dict[str, Any]]:
    """Name, summary and, where there are any, settings with their defaults. Imports no entry, so no torch."""
    if what == "datasets":
        cards = map(load_card, dataset_names())
        return [{"name": c.name, "tasks": list(c.tasks), "format": c.format, "licence": c.licence, "summary": c.summary} for c in cards]
    if what == "sweeps":
        return [{"name": name, "title": load_sweep(name).title, "summary": load_sweep(name).summary} for name in sweep_names()]
    rows = []
    for entry in REGISTRIES[what].entries.values():
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in entry.options.items()}
        rows.append({"name": entry.name, **options, "settings": dict(entry.settings), "summary": entry.summary})
    return rows


def listing_text(rows: Sequence[dict[str, Any]], width: int = 110) -> str:
    """For people: one entry a paragraph, what it is and how to set it, wrapped."""
    indent = 2 + max(len(row["name"]) for row in rows)
    lines: list[str] = []
    for row in rows:
        wrap = TextWrapper(width, initial_indent=row["name"].ljust(indent), subsequent_indent=" " * indent)
        lines += wrap.wrap(_about(row))
        if row.get("settings"):
            lines += TextWrapper(width, initial_indent=" " * indent, subsequent_indent=" " * indent).wrap(_settings(row))
    return "\n".join(lines) + "\n"


def plan_rows(plan: Plan, root: Path | None) -> list[dict[str, Any]]:
    """One row a cell, for scripts: everything of the plan, resolved settings included, and the state."""
    from benchmark.config import dump

    return [{**dump(cell), "state": state} for cell, state in zip(plan.cells, _states(plan, root), strict=True)]


def plan_table(plan: Plan, root: Path | None) -> Table:
    """One row a cell: id, what it is, what trains, and whether it will run."""
    body = [
        (
            cell.id,
            cell.row,
            cell.backbone,
            f"{cell.task}/{cell.dataset}",
            str(cell.seed),
            "" if cell.skipped else f"{cell.trainable:,}",
            "" if cell.skipped else f"{100 * cell.trainable / cell.total:.2f}",
            state,
        )
        for cell, state in zip(plan.cells, _states(plan, root), strict=True)
    ]
    header = ("id", "method", "backbone", "task", "seed", "trainable", "%", "state")
    skipped = sum(bool(cell.skipped) for cell in plan.cells)
    title = f"{plan.title}: {len(plan.cells)} cells, {len(plan.cells) - skipped} runnable, {skipped} skipped"
    rows = tuple(tuple(Text(one_line(text)) for text in row) for row in body)
    return Table(one_line(title), (), (Block("", "llllrrrl", (header,), rows),), tuple(plan_rows(plan, root)))


def _states(plan: Plan, root: Path | None) -> list[str]:
    """State and detail of each cell; what waits is runnable."""
    if root is None:
        return [f"skipped: {cell.skipped}" if cell.skipped else "runnable" for cell in plan.cells]
    found = [("runnable" if cell.state == "pending" else cell.state, cell.detail) for cell in status(plan, Store(root))]
    return [f"{state}: {detail}" if detail else state for state, detail in found]


def _about(row: dict[str, Any]) -> str:
    if row.get("paper"):
        return f"{row['summary']} ({row['paper']})"
    text = str(row.get("summary") or row.get("title") or "")
    return f"[{', '.join(row['tasks'])}] {text}" if row.get("tasks") else text


def _settings(row: dict[str, Any]) -> str:
    return "settings: " + ", ".join(f"{key}={default or '?'}" for key, default in row.get("settings", {}).items())
