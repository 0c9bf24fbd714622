"""Functions for notebooks and scripts. Import them from `vlpeft`.

An error that the user can fix is a `vlpeft.benchmark.core.errors.UserError`, with the fix in its
message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vlpeft.arguments import check_answers, python_arguments, require_type
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.fit import check_fit
from vlpeft.benchmark.contract.method import Method, apply
from vlpeft.benchmark.core.config import JSON, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.export.folder import AdapterFolder

BATCH = 32
Named = str | Mapping[str, JSON]  # "lora", or {"name": "lora", "rank": 16} as in a sweep


class SweepResults(NamedTuple):
    """A sweep's plan, and where the records of its cells are."""

    plan: Plan
    store: Results


@dataclass(frozen=True)
class LoadedAdapter:
    """An exported adapter: its description, and the model with its weights, ready to predict."""

    folder: AdapterFolder
    backbone: Backbone


def plan(sweep: str | Path, *, scale: str = "") -> Plan:
    """Expand and check a sweep, without running anything.

    Args:
        sweep: the name of a shipped sweep, or the path of a YAML file.
        scale: a shipped scale, such as "tiny"; "" for the sweep's own sizes.

    Returns:
        The plan: every cell, runnable or skipped with the reason.

    Raises:
        UserError: for settings that cannot work.
    """
    from vlpeft.benchmark.plan.check import plan as check
    from vlpeft.benchmark.plan.sweep import SweepHandle

    return check(SweepHandle(str(sweep), scale), need_data=False)


def run(
    sweep: str | Path,
    root: str | Path | None = None,
    *,
    scale: str = "",
    device: str = "auto",
    threads: int | None = None,
    unverified: bool = False,
) -> pd.DataFrame:
    """Run the unfinished cells of a sweep in this process, with a progress bar.

    Args:
        sweep: the name of a shipped sweep, or the path of a YAML file.
        root: the result folder; None: `runs/` and the sweep's name, as for the command.
        scale: as for `plan`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads; None: all cores.
        unverified: run in an environment that fails `vlpeft verify`; records say so.

    Returns:
        The leaderboard (see `leaderboard`).

    Raises:
        UserError: for settings that cannot work, missing data, an environment that fails
            verification, and, after the last cell, if a cell failed.
    """
    from vlpeft.benchmark.launch.failed import count_failures, group_by_cause
    from vlpeft.benchmark.launch.launch import launch_sweep
    from vlpeft.benchmark.launch.ways import Inline
    from vlpeft.benchmark.plan.sweep import SweepHandle
    from vlpeft.benchmark.run.runtime import Runtime

    handle = SweepHandle(str(sweep), scale)
    folder = Path("runs") / handle.name if root is None else Path(root)
    with python_arguments():
        runtime = parse(Runtime, {"device": device, "threads": threads}, "run")
        runtime.torch_device()
    made, count, failed = launch_sweep(Inline(runtime), handle, folder, unverified=unverified)
    if failed:
        lines = (*group_by_cause(failed), count_failures(failed, count))
        raise UserError("; ".join(lines))
    return leaderboard(SweepResults(made, Store(folder)))


def open_results(root: str | Path, sweep: str = "", *, scale: str = "") -> SweepResults:
    """Open a result folder, or a file of evidence.

    Args:
        root: the folder that `run` or `vlpeft sweep` has filled, or the file.
        sweep: which sweep of the folder; "" if there is only one.
        scale: the scale that it was run at.

    Raises:
        UserError: if the folder holds no sweep, or several and none is named.
    """
    from vlpeft.benchmark.plan.plan_files import launched_plans
    from vlpeft.benchmark.plan.sweep import SweepHandle
    from vlpeft.results.evidence import SUFFIX, read_evidence
    from vlpeft.results.evidence import open_results as open_sweep

    folder = Path(root)
    if sweep:
        return SweepResults(*open_sweep(SweepHandle(sweep, scale, folder)))
    if folder.suffix == SUFFIX:
        evidence = read_evidence(folder)
        return SweepResults(evidence.plan, evidence)
    plans = launched_plans(folder)
    if not plans:
        raise UserError(f"{folder} holds no sweep; run `vlpeft sweep SWEEP --root {folder}`")
    if len(plans) > 1:
        names = ", ".join(each.sweep for each in plans)
        raise UserError(f"{folder} holds {names}; name one: open_results(root, sweep)")
    return SweepResults(plans[0], Store(folder))


def leaderboard(results: SweepResults, *, mixed_environments: bool = False) -> pd.DataFrame:
    """Return one row for each cell, task and metric.

    Args:
        results: what `open_results` returns.
        mixed_environments: accept unverified cells from environments that differ.

    Returns:
        The columns of `vlpeft.results.leaderboard`, then the settings of each cell: `method.rank`,
        `backbone.text`, `protocol.lr`, ...

    Raises:
        UserError: for records that cannot be compared; the message names them.
    """
    from vlpeft.results.leaderboard import leaderboard as build
    from vlpeft.results.tables.tidy import cell_settings

    require_type("results", results, SweepResults, "open_results(ROOT)")
    frame = build(*results, mixed=mixed_environments).frame
    cells = {each.id: each.cell for each in results.plan.cells}
    settings = {cell_id: cell_settings(cell) for cell_id, cell in cells.items()}
    return frame.join(pd.DataFrame.from_dict(settings, orient="index"), on="id")


def report(results: SweepResults, folder: str | Path, *, mixed_environments: bool = False) -> Path:
    """Write the HTML report of a sweep.

    Args:
        results: what `open_results` returns.
        folder: where to write `index.html`.
        mixed_environments: as for `leaderboard`.

    Returns:
        The page's path.

    Raises:
        UserError: for what `leaderboard` refuses, and if the folder cannot be written.
    """
    from vlpeft.results.report.page import write_report

    require_type("results", results, SweepResults, "open_results(ROOT)")
    return write_report([results], Path(folder), mixed=mixed_environments)[0]


def adapt(
    backbone: Named,
    method: Named | Method,
    *,
    answers: Sequence[str] = (),
    protocol: Protocol | None = None,
) -> Backbone:
    """Build a backbone and apply a method to it.

    Args:
        backbone: a name, or a name with settings, as in a sweep.
        method: the same, or an instance of a method, such as one defined in a notebook.
        answers: the closed list of answers. A backbone with a classifier needs at least one.
        protocol: what a backbone reads from the recipe, such as lengths of texts; None: defaults.

    Returns:
        The model. Parameters that the method trains have `requires_grad`; all others are frozen.

    Raises:
        UserError: for unknown names and settings, and if the method does not fit the backbone.
    """
    name, settings = _split(backbone)
    config = parse(BACKBONES.load(name), settings, f"backbone {name}")
    given = check_answers(answers, config)
    # Nothing is trained here, but a protocol has no default for the rate and number of steps.
    recipe = protocol or Protocol(lr=1e-3, steps=1)
    model: Backbone = config.build(given, recipe)
    apply(_make_method(method), model)
    check_fit(model)
    return model


def _make_method(method: Named | Method) -> Method:
    if isinstance(method, Method):
        return method
    name, settings = _split(method)
    made: Method = parse(METHODS.load(name), settings, f"method {name}")
    return made


def _split(named: Named) -> tuple[str, dict[str, JSON]]:
    if isinstance(named, str):
        return named, {}
    if not isinstance(named, Mapping):
        raise UserError(
            f"{named!r}: not a name; write 'lora', {{'name': 'lora', 'rank': 16}} "
            "or, for a method, an instance of its class"
        )
    settings = dict(named)
    if "name" not in settings:
        raise UserError(f"{settings}: `name` is missing; write for example {{'name': 'lora'}}")
    return str(settings.pop("name")), settings


def load_adapter(folder: str | Path, *, device: str = "auto") -> LoadedAdapter:
    """Build the model of an exported adapter, with its weights.

    Args:
        folder: what `vlpeft export-adapter` wrote.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: if files are missing or were changed, or the base weights are not available.
    """
    from vlpeft.benchmark.export.folder import read_adapter, rebuild
    from vlpeft.benchmark.run.runtime import Runtime

    adapter = read_adapter(Path(folder))
    with python_arguments():
        place = parse(Runtime, {"device": device}, "load_adapter").torch_device()
    return LoadedAdapter(adapter, rebuild(adapter, Path(folder)).to(place))


def predict(
    adapter: LoadedAdapter, rows: Sequence[Mapping[str, Any]], *, task: str = "", top: int = 0
) -> list[dict[str, Any]]:
    """Predict what a trained adapter answers.

    Args:
        adapter: what `load_adapter` returns.
        rows: {"images": [PATH, ...], "question": TEXT}; the question is left out for captions.
        task: which task of a joint adapter; "" if there is only one.
        top: how many of the best answers to return with their scores, where answers are ranked.

    Returns:
        Each row with its "prediction".

    Raises:
        UserError: for rows that the task cannot take.
    """
    from vlpeft.benchmark.export import predict as library
    from vlpeft.benchmark.tasks import TASKS

    require_type("adapter", adapter, LoadedAdapter, "load_adapter(FOLDER)")
    with python_arguments():
        part = library.select_part(adapter.folder, task)
        asked = [library.parse_question(row, f"row {i}") for i, row in enumerate(rows, 1)]
        kind = TASKS.load(adapter.folder.cell.parts[part].task)()
        for number, each in enumerate(asked, 1):
            library.check(each, kind, f"row {number}: ")
            if problem := library.image_problem(each):
                raise UserError(f"row {number}: {problem}")
    answers = library.predict(adapter.folder, adapter.backbone, part, asked, BATCH, top)
    return list(library.as_rows(asked, answers, adapter.backbone.score))
