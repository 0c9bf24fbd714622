"""What SWEEP means in a command line: a sweep, or the results of one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.paths import YAML

# These read results, so a result folder says all that they need.
READERS = frozenset(
    ("status", "cancel", "logs", "table", "seeds", "keep", "report", "export-adapter")
)
EVIDENCE_READERS = frozenset(("table", "seeds", "report"))


def name_results(options: argparse.Namespace) -> None:
    """Set `handle` to what SWEEP names, and `sweep`, `scale` and `root` to match.

    SWEEP is the name of a sweep or of a published table, the path of a sweep's file, or a place
    with results: a result folder, a plan in it, or a file of evidence. Of a place, `handle` is a
    LaunchedSweep or a KeptSweep. Commands that need the sweep itself get the SweepHandle of the
    file that was launched. `asked` becomes true if the user asked for certain results.

    Raises UserError for an unknown name, and for options that contradict the place.
    """
    place = _place(options.sweep)
    if place is None:
        _name_sweep(options)
        return
    _refuse_second_place(options)
    options.asked = True
    options.place = place
    if options.command == "report" and place.is_dir() and not options.scale:
        options.root = place
        options.handle = None  # a page shows all sweeps of a folder
        return
    if place.suffix == ".jsonl":
        options.handle = _kept(options, place)
    else:
        options.handle = _launched(options, place)
        options.scale = options.handle.scale
    options.root = options.handle.root
    options.sweep = options.handle.name.partition("@")[0]


def _place(named: str) -> Path | None:
    """Return where results are, if that is what SWEEP names."""
    from vlpeft.benchmark.plan.sweep_files import sweep_names
    from vlpeft.results.papers.published import published_names

    if named.endswith(YAML) or named in sweep_names() or named in published_names():
        return None
    place = Path(named)
    if place.is_dir() or (place.suffix in (".json", ".jsonl") and place.is_file()):
        return place
    return None


def _refuse_second_place(options: argparse.Namespace) -> None:
    given = vars(options)
    for name in ("root", "measured"):
        if given.get(name):
            raise UserError(f"{options.sweep} says where the results are; leave out --{name}")


def _kept(options: argparse.Namespace, place: Path) -> Any:
    from vlpeft.results.evidence import KeptSweep

    if options.command not in EVIDENCE_READERS:
        raise UserError(
            f"{place}: a file of evidence keeps records and scores only; "
            f"`vlpeft {options.command}` needs a result folder"
        )
    return KeptSweep(place)


def _launched(options: argparse.Namespace, place: Path) -> Any:
    """Return the launched sweep of a folder; for commands that run cells, the sweep itself."""
    from vlpeft.benchmark.cli.printing import print_note
    from vlpeft.benchmark.plan.launched import choose_launched

    launched = choose_launched(place, vars(options).get("scale") or "")
    if options.command not in READERS:
        return launched.sweep_handle()
    if options.command != "status":  # it says so itself
        changed = launched.reason_outdated(launched.plan)
        if changed:
            print_note(f"{changed}; this is what was launched")
    return launched


def _name_sweep(options: argparse.Namespace) -> None:
    """Set `handle` to a sweep by its name or file, with its result folder."""
    from vlpeft.benchmark.plan.sweep import SweepHandle

    options.place = None
    if "root" in options:
        options.root = _root(options)
    if options.command != "table":
        options.sweep = _sweep_of(options.sweep)
    given = vars(options)
    scale, root = given.get("scale") or "", given.get("root") or Path()
    options.handle = SweepHandle(options.sweep, scale, root)


def _root(options: argparse.Namespace) -> Path | None:
    """Return the result folder: the given one, or runs/ and the sweep's name.

    Return None if `plan` has no default folder to look at.
    """
    from vlpeft.benchmark.plan.plan_files import scaled_name
    from vlpeft.benchmark.plan.sweep import default_root
    from vlpeft.results.papers.published import sweep_name_of

    given: Path | None = options.root
    if given is not None and given.is_file() and given.suffix != ".jsonl":
        raise UserError(
            f"--root {given}: is a file; give a result folder that `vlpeft sweep` has filled, "
            "or a new one"
        )
    options.asked = given is not None or bool(options.scale)
    if given:
        return given
    name = sweep_name_of(options.sweep)
    if options.sweep.endswith(YAML):
        name = Path(options.sweep).stem
    default = default_root(scaled_name(name, options.scale))
    if options.command == "plan" and not options.commands and not default.exists():
        return None
    return default


def _sweep_of(name: str) -> str:
    """Return the name of a sweep, which may be given as the name of its published table.

    Raises UserError for a published table that no sweep can reproduce.
    """
    from vlpeft.benchmark.plan.sweep_files import sweep_names
    from vlpeft.results.papers.published import load_published, published_names, sweep_name_of

    sweep = sweep_name_of(name)
    if sweep not in published_names() or sweep in sweep_names():
        return sweep
    reasons: dict[str, None] = {}  # a set that keeps the order
    for number in load_published(sweep).numbers():
        if number.why_impossible:
            reasons[number.why_impossible] = None
    raise UserError(
        f"{name} is a published table without a sweep, because nothing here can reproduce it "
        f"({'; '.join(reasons)}): see `vlpeft table {name}`"
    )
