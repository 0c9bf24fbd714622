"""What `vlpeft list` and `vlpeft plan` show, as plain rows for scripts and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmark.backbones import BACKBONES
from benchmark.datasets import dataset_names, load_card
from benchmark.grid import METHODS, Plan, load_sweep, sweep_names
from benchmark.metrics import METRICS
from benchmark.records import Store
from benchmark.registry import Registry
from benchmark.tasks import TASKS
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


def listing_table(what: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Name, what it is, and how to set it."""
    body = [(row["name"], _about(row), _settings(row)) for row in rows]
    return _grid(what, ("name", "summary", "settings = defaults" if any(r[2] for r in body) else ""), body, rows)


def plan_rows(plan: Plan, root: Path | None) -> list[dict[str, Any]]:
    """One row a cell, for scripts: everything of the plan, resolved settings included, and the state."""
    from benchmark.config import dump

    return [{**dump(cell), "state": _state(cell.id, cell.skipped, root)} for cell in plan.cells]


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
            _state(cell.id, cell.skipped, root),
        )
        for cell in plan.cells
    ]
    header = ("id", "method", "backbone", "task", "seed", "trainable", "%", "state")
    skipped = sum(bool(cell.skipped) for cell in plan.cells)
    title = f"{plan.title}: {len(plan.cells)} cells, {len(plan.cells) - skipped} runnable, {skipped} skipped"
    return _grid(title, header, body, plan_rows(plan, root), right=(4, 5, 6))


def _state(cell_id: str, skipped: str, root: Path | None) -> str:
    if skipped:
        return f"skipped: {skipped}"
    return "done" if root is not None and Store(root).has_record(cell_id) else "runnable"


def _about(row: dict[str, Any]) -> str:
    if row.get("paper"):
        return f"{row['summary']} ({row['paper']})"
    text = str(row.get("summary") or row.get("title") or "")
    return f"[{', '.join(row['tasks'])}] {text}" if row.get("tasks") else text


def _settings(row: dict[str, Any]) -> str:
    return ", ".join(f"{key}={default or '?'}" for key, default in row.get("settings", {}).items())


def _grid(
    title: str, header: tuple[str, ...], body: Iterable[Sequence[str]], data: Sequence[dict[str, Any]], right: tuple[int, ...] = ()
) -> Table:
    keep = [i for i, name in enumerate(header) if name]
    align = "".join("r" if i in right else "l" for i in keep)
    rows = tuple(tuple(Text(one_line(row[i])) for i in keep) for row in body)
    return Table(one_line(title), (), (Block("", align, (tuple(header[i] for i in keep),), rows),), tuple(data))
