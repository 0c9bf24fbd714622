"""What `vlpeft list` and `vlpeft plan` show: plain rows for scripts, text for people."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core import config
from vlpeft.benchmark.core.config import Protocol, dump
from vlpeft.benchmark.core.declared import parse_source
from vlpeft.benchmark.core.registry import Registry, fields_of
from vlpeft.benchmark.datasets import dataset_names, load_card
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.recipes import load_protocol, protocol_names
from vlpeft.benchmark.plan.sweep import load_sweep, sweep_names
from vlpeft.benchmark.tasks import TASKS
from vlpeft.results.papers.published import load_published, published_names
from vlpeft.results.status import status
from vlpeft.results.tables.table import Block, Footnotes, Table, Text, one_line

GLUE = "\N{NO-BREAK SPACE}"  # keeps a setting on one line
PLAIN = re.compile(
    r"(?!(?:true|false|null)$)[A-Za-z][\w./-]*"
)  # text that YAML takes without quotes
REGISTRIES: dict[str, Registry[Any]] = {
    "methods": METHODS,
    "backbones": BACKBONES,
    "tasks": TASKS,
    "metrics": METRICS,
}


def listing(what: str) -> list[dict[str, Any]]:
    """Name, summary and, where there are any, settings with their defaults. Imports no entry, so no torch."""
    if what == "datasets":
        cards = map(load_card, dataset_names())
        return [
            {
                "name": c.name,
                "tasks": list(c.tasks),
                "format": c.format,
                "licence": c.licence,
                "summary": c.summary,
            }
            for c in cards
        ]
    if what == "sweeps":
        return _sweeps()
    if what == "protocols":
        return _protocols()
    rows = []
    for entry in REGISTRIES[what].entries.values():
        options = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in entry.options.items()
        }
        rows.append(
            {
                "name": entry.name,
                **options,
                **_fields(entry.settings, entry.choices),
                "summary": entry.summary,
            }
        )
    return rows


def _sweeps() -> list[dict[str, Any]]:
    """Shipped sweeps, those of papers behind the others, and papers' tables that no sweep can reproduce."""
    names = sorted({*sweep_names(), *published_names()}, key=lambda name: ("/" in name, name))
    return [_sweep(name) if name in sweep_names() else _without_sweep(name) for name in names]


def _sweep(name: str) -> dict[str, Any]:
    sweep = load_sweep(name)
    return {"name": name, "title": sweep.title, "summary": sweep.summary}


def _without_sweep(name: str) -> dict[str, Any]:
    table = load_published(name)
    why = (
        f"numbers for the cells of {table.sweep}"
        if table.sweep
        else "no sweep: nothing here can reproduce it"
    )
    return {
        "name": name,
        "title": table.title,
        "summary": f"{table.table} ({why}; see `vlpeft table {name}`)",
    }


def _protocols() -> list[dict[str, Any]]:
    """The shipped recipes, then the keys of any recipe."""
    source = parse_source(Path(config.__file__))
    (node,) = (
        item
        for item in source.body
        if isinstance(item, ast.ClassDef) and item.name == Protocol.__name__
    )
    about = (
        "a recipe of your own in a sweep's `protocol:`; with `base: NAME` it changes a shipped one"
    )
    files = {name: load_protocol(name) for name in protocol_names()}
    shipped = [
        {"name": name, "covers": file.covers, "summary": file.summary}
        for name, file in files.items()
    ]
    return [
        *shipped,
        {"name": Protocol.name, **_fields(*fields_of(node, source)), "summary": about},
    ]


def _fields(settings: Mapping[str, str], choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Defaults as values, None where there is none; what is required and what is allowed, apart."""
    return {
        "settings": {key: _value(written) for key, written in settings.items()},
        "required": [key for key, written in settings.items() if not written],
        "choices": {key: list(values) for key, values in choices.items()},
    }


def _value(written: str) -> Any:
    try:
        return ast.literal_eval(written) if written else None
    except ValueError:
        return written  # an expression


def listing_text(rows: Sequence[dict[str, Any]], width: int = 110) -> str:
    """For people: one entry a paragraph, what it is and how to set it, wrapped."""
    indent = 2 + max(len(row["name"]) for row in rows)
    lines: list[str] = []
    for row, before in zip(rows, [*rows[:1], *rows], strict=False):
        if _folder(row["name"]) != _folder(before["name"]):
            lines.append("")
        wrap = TextWrapper(
            width, initial_indent=row["name"].ljust(indent), subsequent_indent=" " * indent
        )
        lines += wrap.wrap(_about(row))
        if row.get("settings"):
            wrap = TextWrapper(width, initial_indent=" " * indent, subsequent_indent=" " * indent)
            lines += (line.replace(GLUE, " ") for line in wrap.wrap(_settings(row)))
    return "\n".join(lines) + "\n"


def _folder(name: str) -> str:
    """The part before a slash; names of sweeps alone have one."""
    return name.rpartition("/")[0]


def plan_rows(plan: Plan, root: Path | None) -> list[dict[str, Any]]:
    """One row a cell, for scripts: everything of the plan, resolved settings included, and the state."""
    return [
        {**dump(cell), "state": state}
        for cell, state in zip(plan.cells, _states(plan, root), strict=True)
    ]


def plan_table(plan: Plan, root: Path | None) -> Table:
    """One row a cell: id, what it is, what trains, and whether it will run; why not stands below, once for all its cells."""
    footnotes = Footnotes()
    rows = tuple(
        _plan_row(cell, state, footnotes)
        for cell, state in zip(plan.cells, _states(plan, root), strict=True)
    )
    header = ("id", "method", "backbone", "task", "seed", "trainable", "%", "state")
    skipped = sum(bool(cell.skipped) for cell in plan.cells)
    title = f"{plan.title}: {len(plan.cells)} cells, {len(plan.cells) - skipped} runnable, {skipped} skipped"
    data = tuple(plan_rows(plan, root))
    return Table(
        one_line(title), (), (Block("", "llllrrrl", (header,), rows),), data, footnotes.list_notes()
    )


def _plan_row(cell: Planned, state: str, footnotes: Footnotes) -> tuple[Text, ...]:
    about = (cell.id, cell.row, cell.backbone, f"{cell.task}/{cell.dataset}", str(cell.seed))
    if cell.skipped:
        texts, last = (*about, "", ""), Text("skipped", (footnotes.mark(cell.skipped),))
    else:
        texts, last = (
            (*about, f"{cell.trainable:,}", f"{100 * cell.trainable / cell.total:.2f}"),
            Text(one_line(state)),
        )
    return (*(Text(one_line(text)) for text in texts), last)


def _states(plan: Plan, root: Path | None) -> list[str]:
    """State and detail of each cell; what waits is runnable."""
    if root is None:
        return [f"skipped: {cell.skipped}" if cell.skipped else "runnable" for cell in plan.cells]
    found = [
        ("runnable" if cell.state == "missing" else cell.state, cell.detail)
        for cell in status(plan, Store(root))
    ]
    return [f"{state}: {detail}" if detail else state for state, detail in found]


def _about(row: dict[str, Any]) -> str:
    if row.get("paper"):
        return f"{row['summary']} ({row['paper']})"
    text = str(row.get("summary") or row.get("title") or "")
    served = [
        f"{backbone}: {', '.join(tasks)}" for backbone, tasks in row.get("covers", {}).items()
    ] or row.get("tasks", [])
    return f"[{(', ', '; ')['covers' in row].join(served)}] {text}" if served else text


def _settings(row: dict[str, Any]) -> str:
    return "settings: " + ", ".join(
        _setting(row, key, default).replace(" ", GLUE) for key, default in row["settings"].items()
    )


def _setting(row: dict[str, Any], key: str, default: Any) -> str:
    """`function: add|mul = add`, as a sweep would write the default."""
    allowed = "|".join(map(flow, row["choices"].get(key, ())))
    kind = (
        f": [{allowed}]"
        if allowed and isinstance(default, Sequence) and not isinstance(default, str)
        else f": {allowed}"
        if allowed
        else ""
    )
    return f"{key}{kind} {'(required)' if key in row['required'] else f'= {flow(default)}'}"


def flow(value: Any) -> str:
    """YAML flow style."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
