"""`vlpeft report`: of one sweep, or of all that were launched in a result folder."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

from benchmark.errors import UserError


def report(options: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from results.report.page import write_report

    gc.disable()  # many small objects and no cycles among them: to look for some takes a third of the time
    for path in write_report(_sweeps(options), options.out, options.examples):
        print(path)
    return 0


def _sweeps(options: argparse.Namespace) -> list[Any]:
    """Plans and results of what was named: a result folder, a file of evidence, or a sweep."""
    from benchmark.records import Store
    from benchmark.sweep import sweep_names
    from results.evidence import SUFFIX, opened, read_evidence

    named = Path(options.sweep)
    if options.asked or options.sweep in sweep_names():
        return [opened(options.sweep, options.root, options.scale)]
    if named.is_dir():
        return [(plan, Store(named)) for plan in launched(named)]
    if named.suffix == SUFFIX:
        evidence = read_evidence(named)
        return [(evidence.plan, evidence)]
    return [opened(options.sweep, options.root, options.scale)]


def launched(root: Path) -> list[Any]:
    """The plans of a result folder, by name. What was launched there counts, whatever has become of the sweep's file since."""
    found = [_read(path) for path in sorted((root / "sweeps").rglob("*.json"))]
    if not found:
        raise UserError(f"{root} holds no launched sweep; give a folder that `vlpeft sweep --root` has filled, or a sweep's name")
    return found


def _read(path: Path) -> Any:
    from benchmark.cell import Plan
    from benchmark.config import parse, parse_text

    try:
        text = path.read_bytes()
        return parse_text(Plan, text) or parse(Plan, json.loads(text), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); run its sweep again with --root, which writes it anew") from error
