"""The recipes of all shipped sweeps of papers as readable text, to see what a change alters.

`python -m tests.golden.recipes` rewrites tests/golden/recipes/. Each file lists the cells of one
sweep, then every setting of each method, backbone, dataset and protocol with its origin.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vlpeft.benchmark.core.config import dump, load_yaml
from vlpeft.benchmark.plan import recipes as protocols
from vlpeft.benchmark.plan.crossing import Crossed
from vlpeft.benchmark.plan.grid import cross_layers
from vlpeft.benchmark.plan.recipes import protocol_names
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import sweep_names
from vlpeft.results.papers.published import load_published, published_names
from vlpeft.results.tables.explain import SettingsSection, sections
from vlpeft.results.tables.listing import flow

FOLDER = Path(__file__).with_name("recipes")
PUBLISHED = Path(__file__).with_name("published.txt")
COVERS = Path(__file__).with_name("covers.txt")
PAPERS = tuple(name for name in sweep_names() if "/" in name)


def render(sweep: str) -> str:
    """Return all resolved settings of a sweep, each recipe once."""
    written: dict[str, str] = {}  # text -> its name, such as "protocol p_adapter #2"
    cells: dict[str, list[int]] = {}
    for cell in cross_layers(SweepHandle(sweep)):
        names = [_name(section, written) for section in sections(cell)]
        cells.setdefault(_describe(cell, names), []).append(cell.planned.seed)
    lines = [f"{text}\n    seeds {', '.join(map(str, seeds))}" for text, seeds in cells.items()]
    return "\n".join([f"# {sweep}", "", *lines, "", *written, ""])


def _name(section: SettingsSection, written: dict[str, str]) -> str:
    """Return the name of a block of settings, which is written once for equal settings."""
    body = "\n".join(
        f"    {key}: {flow(value)}    ({section.origins[key]})"
        for key, value in section.values.items()
        if key != "root"  # depends on the machine
    )
    for text, name in written.items():
        title, _, known = text.partition("\n")
        if title.rpartition(" #")[0] == section.title and known == body:
            return name
    number = 1 + sum(name.rpartition(" #")[0] == section.title for name in written.values())
    name = f"{section.title} #{number}"
    written[f"{name}\n{body}"] = name
    return name


def _describe(cell: Crossed, names: list[str]) -> str:
    planned = cell.planned
    task = f"{planned.task}/{planned.dataset}"
    return "\n".join([f"{planned.row} | {planned.backbone} | {task}", *(f"    {n}" for n in names)])


def summarise_table(name: str) -> str:
    """Return one line about a published table: a checksum of its numbers, and who read them."""
    table = load_published(name)
    values: list[object] = [name, [dump(column) for column in table.columns]]
    count = 0
    for each in table.numbers():
        row = {key: value for key, value in dump(each.row).items() if key not in ("values", "std")}
        values.append([each.group.name, each.group.backbone, row, each.column.name])
        values.append([each.value, each.std, each.source.url])
        count += 1
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    sources = "; ".join(
        f"{key} ({'primary' if source.primary else 'secondary'}): {source.read}"
        for key, source in table.sources.items()
    )
    return f"{name}: {count} numbers, {checksum}, {sources}"


def summarise_published() -> str:
    """Return a line for each published table."""
    return "\n".join([*map(summarise_table, published_names()), ""])


def summarise_protocols() -> str:
    """Return which tasks each protocol covers, on which backbones."""
    lines = []
    for name in protocol_names():
        covers = load_yaml(protocols.FOLDER / f"{name}.yaml")["covers"]
        lines.append(f"{name}: {json.dumps(covers, sort_keys=True)}")
    return "\n".join([*lines, ""])


def golden_file(sweep: str) -> Path:
    """Return the file of a sweep."""
    return FOLDER / f"{sweep.replace('/', '-')}.txt"


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for sweep in PAPERS:
        golden_file(sweep).write_text(render(sweep), encoding="utf-8")
    PUBLISHED.write_text(summarise_published(), encoding="utf-8")
    COVERS.write_text(summarise_protocols(), encoding="utf-8")


if __name__ == "__main__":
    main()
