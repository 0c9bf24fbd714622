"""`vlpeft report`: of one sweep, or of all that were launched in a result folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmark.errors import UserError


def report(options: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from benchmark.sweep import load_plan, sweep_names
    from results.report.page import write_report

    folder = Path(options.sweep)
    if folder.is_dir() and options.sweep not in sweep_names() and not options.asked:
        plans, root = plans_in(folder), folder
    else:
        plans, root = [load_plan(options.sweep, options.root, options.scale)], options.root
    for path in write_report(plans, root, options.out, options.examples):
        print(path)
    return 0


def plans_in(root: Path) -> list[Any]:
    """The plans of a result folder, by name. What was launched there counts, whatever has become of the sweep's file since."""
    found = [_read(path) for path in sorted((root / "sweeps").rglob("*.json"))]
    if not found:
        raise UserError(f"{root} holds no launched sweep; give a folder that `vlpeft sweep --root` has filled, or a sweep's name")
    return found


def _read(path: Path) -> Any:
    from benchmark.cell import Plan
    from benchmark.config import parse

    try:
        return parse(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); run its sweep again with --root, which writes it anew") from error
