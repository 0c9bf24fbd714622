"""What `vlpeft list` and `vlpeft plan` print: plain rows for scripts, text for people."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core import protocol
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.declared import parse_source
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import Registry, RegistryEntry, fields_of
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.datasets import dataset_names, load_card
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.recipes import load_protocol, protocol_names
from vlpeft.benchmark.plan.sweep import load_sweep
from vlpeft.benchmark.plan.sweep_files import sweep_names
from vlpeft.benchmark.tasks import TASKS, tasks_for
from vlpeft.results.papers.published import load_published, published_names
from vlpeft.results.status import CellStatus, status
from vlpeft.results.tables.blocks import Block, Footnotes, Table, Text, one_line, text_row

GLUE = "\N{NO-BREAK SPACE}"  # keeps a setting on one line
# Text that YAML reads as a string without quotes.
PLAIN = re.compile(r"(?!(?:true|false|null)$)[A-Za-z][\w./-]*")
REGISTRIES: dict[str, Registry[Any]] = {
    "methods": METHODS,
    "backbones": BACKBONES,
    "tasks": TASKS,
    "metrics": METRICS,
}
OWN_PROTOCOL = (
    "a recipe of your own in a sweep's `protocol:`; with `base: NAME` it changes a shipped one"
)


def listing(what: str) -> list[dict[str, Any]]:
    """Return name, summary and settings of all entries of one kind.

    Imports no entry of this repository, so it needs no torch. To list the tasks of a backbone, it
    imports the tasks of other packages.

    what: "datasets", "sweeps", "protocols" or a name in REGISTRIES.
    """
    if what == "datasets":
        return [_dataset(name) for name in dataset_names()]
    if what == "sweeps":
        return _sweeps()
    if what == "protocols":
        return _protocols()
    return list(_entries(REGISTRIES[what]))


def _dataset(name: str) -> dict[str, Any]:
    card = load_card(name)
    return {
        "name": card.name,
        "tasks": list(card.tasks),
        "format": card.format,
        "licence": card.licence,
        "summary": card.summary,
    }


def _entries(registry: Registry[Any]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a registry, as declared in their source files."""
    for entry in registry.entries.values():
        options = _options(registry, entry)
        fields = _fields(entry.settings, entry.choices)
        yield {"name": entry.name, **options, **fields, "summary": entry.summary}


def _options(registry: Registry[Any], entry: RegistryEntry) -> dict[str, Any]:
    """Return what a decorator declares, with the tasks of a backbone in place of its abilities.

    Abilities only match backbones with tasks. Readers want the result, and see it once.
    """
    options: dict[str, Any] = {}
    for key, value in entry.options.items():
        if registry is BACKBONES and key == "abilities":
            options["tasks"] = list(tasks_for(value))
        elif registry is TASKS and key == "needs":
            continue
        elif isinstance(value, tuple):
            options[key] = list(value)
        else:
            options[key] = value
    return options


def _sweeps() -> list[dict[str, Any]]:
    """Return the shipped sweeps, and the tables of papers that no sweep can reproduce.

    Sweeps of papers, which have a slash in their names, follow the others.
    """
    names = sorted({*sweep_names(), *published_names()}, key=lambda name: ("/" in name, name))
    return [_sweep(name) for name in names]


def _sweep(name: str) -> dict[str, Any]:
    if name not in sweep_names():
        return _published_alone(name)
    sweep = load_sweep(name)
    return {"name": name, "title": sweep.title, "summary": sweep.summary}


def _published_alone(name: str) -> dict[str, Any]:
    """Return the row of a published table without a sweep of its name."""
    table = load_published(name)
    why = "no sweep: nothing here can reproduce it"
    if table.sweep:
        why = f"numbers for the cells of {table.sweep}"
    summary = f"{table.table} ({why}; see `vlpeft table {name}`)"
    return {"name": name, "title": table.title, "summary": summary}


def _protocols() -> list[dict[str, Any]]:
    """Return the shipped recipes, then the keys of any recipe."""
    rows = []
    for name in protocol_names():
        file = load_protocol(name)
        rows.append({"name": name, "covers": file.covers, "summary": file.summary})
    source = parse_source(Path(protocol.__file__))
    classes = (node for node in source.body if isinstance(node, ast.ClassDef))
    (node,) = (node for node in classes if node.name == Protocol.__name__)
    fields = _fields(*fields_of(node, source))
    rows.append({"name": Protocol.name, **fields, "summary": OWN_PROTOCOL})
    return rows


def _fields(settings: Mapping[str, str], choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return defaults as values (None without one), required settings, and allowed values."""
    return {
        "settings": {key: _value(source) for key, source in settings.items()},
        "required": [key for key, source in settings.items() if not source],
        "choices": {key: list(values) for key, values in choices.items()},
    }


def _value(source: str) -> Any:
    """Evaluate the source of a default. An expression stays as it is written."""
    if not source:
        return None
    try:
        return ast.literal_eval(source)
    except ValueError:
        return source


def listing_text(rows: Sequence[dict[str, Any]], width: int = 110) -> str:
    """Return the rows for people: one wrapped paragraph an entry.

    width: columns of the text.
    """
    indent = 2 + max((len(row["name"]) for row in rows), default=0)
    margin = " " * indent
    lines: list[str] = []
    for row, before in zip(rows, [*rows[:1], *rows], strict=False):
        if _folder(row["name"]) != _folder(before["name"]):
            lines.append("")
        first = row["name"].ljust(indent)
        wrap = TextWrapper(width, initial_indent=first, subsequent_indent=margin)
        lines += wrap.wrap(_about(row))
        if row.get("settings"):
            wrap = TextWrapper(width, initial_indent=margin, subsequent_indent=margin)
            lines += (line.replace(GLUE, " ") for line in wrap.wrap(_settings(row)))
    return "\n".join(lines) + "\n"


def _folder(name: str) -> str:
    """Return the part before a slash. Only names of sweeps have one."""
    return name.rpartition("/")[0]


def plan_rows(plan: Plan, root: Path | None) -> list[dict[str, Any]]:
    """Return one row per cell for scripts: the plan with resolved settings, and the state."""
    states = _states(plan, root)
    return [{**dump(cell), "state": state} for cell, state in zip(plan.cells, states, strict=True)]


def plan_table(plan: Plan, root: Path | None) -> Table:
    """Return one row per cell: its id, what trains, and whether it will run.

    Footnotes say why cells are skipped, once for all cells of a reason.
    """
    footnotes = Footnotes()
    states = _states(plan, root)
    rows = [
        _plan_row(cell, state, footnotes) for cell, state in zip(plan.cells, states, strict=True)
    ]
    header = ("id", "method", "backbone", "task", "seed", "trainable", "%", "state")
    pairs = zip(plan.cells, states, strict=True)
    skipped = sum(bool(cell.skipped) and state != "done" for cell, state in pairs)
    cells, runnable = count_cells(len(plan.cells)), len(plan.cells) - skipped
    title = f"{plan.title}: {cells}, {runnable} runnable, {skipped} skipped"
    block = Block("", "llllrrrl", (header,), tuple(rows))
    data = tuple(plan_rows(plan, root))
    notes = tuple(map(one_line, _cut_notes(plan)))
    return Table(one_line(title), (), (block,), data, footnotes.list_notes(), notes)


def _cut_notes(plan: Plan) -> Iterator[str]:
    """Yield a note for each backbone and task whose training texts are cut."""
    notes = {(cell.backbone, cell.cut) for cell in plan.cells if cell.cut}
    for backbone, cut in sorted(notes):
        yield f"{backbone}, {cut} (in the first examples)"


def _plan_row(cell: Planned, state: str, footnotes: Footnotes) -> tuple[Text, ...]:
    about = (cell.id, cell.row, cell.backbone, f"{cell.task}/{cell.dataset}", str(cell.seed))
    if cell.skipped and state != "done":
        last = Text("skipped", (footnotes.mark(cell.skipped),))
        return (*text_row((*about, "", "")), last)
    counted = ("", "")  # of a done cell whose data has gone
    if cell.total:
        counted = (f"{cell.trainable:,}", f"{100 * cell.trainable / cell.total:.2f}")
    return text_row((*about, *counted, state))


def _states(plan: Plan, root: Path | None) -> list[str]:
    """Return the state of each cell, with details from the result folder if there is one."""
    if root is None:
        return [f"skipped: {cell.skipped}" if cell.skipped else "runnable" for cell in plan.cells]
    return [_state(cell) for cell in status(plan, Store(root))]


def _state(cell: CellStatus) -> str:
    """Return state and detail. A cell without results is runnable."""
    state = "runnable" if cell.state == "missing" else cell.state
    if cell.detail:
        return f"{state}: {cell.detail}"
    return state


def _about(row: dict[str, Any]) -> str:
    """Return what an entry is: its tasks, if it has any, and its summary."""
    if row.get("paper"):
        return f"{row['summary']} ({row['paper']})"
    text = str(row.get("summary") or row.get("title") or "")
    if row.get("covers"):
        covers = row["covers"].items()
        served = "; ".join(f"{backbone}: {', '.join(tasks)}" for backbone, tasks in covers)
    else:
        served = ", ".join(row.get("tasks", []))
    if served:
        return f"[{served}] {text}"
    return text


def _settings(row: dict[str, Any]) -> str:
    settings = [_setting(row, key, default) for key, default in row["settings"].items()]
    return "settings: " + ", ".join(text.replace(" ", GLUE) for text in settings)


def _setting(row: dict[str, Any], key: str, default: Any) -> str:
    """Return a setting like `function: add|mul = add`, as a sweep would write the default."""
    allowed = "|".join(map(flow, row["choices"].get(key, ())))
    if allowed and isinstance(default, Sequence) and not isinstance(default, str):
        allowed = f"[{allowed}]"  # a list of these values
    name = f"{key}: {allowed}" if allowed else key
    if key in row["required"]:
        return f"{name} (required)"
    return f"{name} = {flow(default)}"


def flow(value: Any) -> str:
    """Write a value in YAML flow style."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
