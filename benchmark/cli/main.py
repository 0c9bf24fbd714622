"""The `vlpeft` command. Thin: it reads arguments, calls the library and prints; torch is imported only by what needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlpeft.benchmark.cli.adapters import export_adapter, predict
from vlpeft.benchmark.cli.arguments import parser
from vlpeft.benchmark.cli.bench import bench
from vlpeft.benchmark.cli.cells import (
    cancel,
    how_to_go_on,
    logs,
    print_text,
    retry,
    run,
    status,
    sweep,
)
from vlpeft.benchmark.cli.report import report
from vlpeft.benchmark.cli.tables import diff, keep, table
from vlpeft.benchmark.cli.verify import verify
from vlpeft.benchmark.core.errors import UserError

if TYPE_CHECKING:
    from vlpeft.benchmark.cells.cell import Plan


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, exit: 0 done, 1 some cells of a sweep failed or two results differ, 2 something the user can mend, 130 interrupted."""
    if not (sys.argv[1:] if arguments is None else arguments):
        parser().print_help(sys.stderr)
        sys.exit(2)
    options = parser().parse_args(arguments)
    try:
        if "root" in options:
            options.root = _root(options)
        if "sweep" in options and options.command != "table":
            options.sweep = _planned(options.sweep)
        code: int = COMMANDS[options.command](options)
        sys.stdout.flush()
    except UserError as error:
        print(f"vlpeft: error: {error}", file=sys.stderr)
        code = 2
    except (
        PermissionError
    ) as error:  # result folders are shared: any file of one may be another user's
        print(
            f"vlpeft: error: {error.filename}: {error.strerror}; ask its owner, or choose another folder",
            file=sys.stderr,
        )
        code = 2
    except KeyboardInterrupt:
        print(f"vlpeft: interrupted{how_to_go_on(options)}", file=sys.stderr)
        code = 130
    except (
        BrokenPipeError
    ):  # `vlpeft ... | head`; what is still buffered must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _root(options: argparse.Namespace) -> Path | None:
    """The result folder: as given, or runs/ and the sweep's name; None where `plan` has none to look at."""
    from vlpeft.results.papers.published import sweep_name_of

    given: Path | None = options.root
    options.asked = given is not None or bool(options.scale)
    own = options.sweep.endswith((".yaml", ".yml"))
    name = Path(options.sweep).stem if own else sweep_name_of(options.sweep)
    default = Path("runs") / (f"{name}@{options.scale}" if options.scale else name)
    return given or (default if options.command != "plan" or default.exists() else None)


def _planned(name: str) -> str:
    """The sweep that a name stands for. Raises UserError for a published table that has none."""
    from vlpeft.benchmark.plan.sweep import sweep_names
    from vlpeft.results.papers.published import load_published, published_names, sweep_name_of

    sweep = sweep_name_of(name)
    if sweep in published_names() and sweep not in sweep_names():
        reasons = "; ".join(
            dict.fromkeys(
                number.why_impossible
                for number in load_published(sweep).numbers()
                if number.why_impossible
            )
        )
        raise UserError(
            f"{name} is a published table without a sweep, since nothing here can reproduce it ({reasons}): see `vlpeft table {name}`"
        )
    return sweep


def _list(options: argparse.Namespace) -> int:
    from vlpeft.results.tables.listing import listing, listing_text

    rows = listing(options.what)
    print(
        json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        if options.json
        else listing_text(rows),
        end="",
    )
    return 0


def _plan(options: argparse.Namespace) -> int:
    if options.explain is not None and options.cost:
        raise UserError("--explain, --cost: choose one of the two")
    if not options.cost and (
        options.batch or options.threads or options.compile or options.device != "auto"
    ):
        raise UserError(
            "--batch, --threads, --device, --compile: a plan measures nothing without --cost; add --cost, or leave them out"
        )
    if options.explain is not None:
        return _explain(options)
    from vlpeft.benchmark.plan.check import plan
    from vlpeft.results.tables.listing import plan_rows, plan_table

    if options.root is not None and not options.root.exists():
        raise UserError(
            f"--root {options.root}: no such folder; leave --root out, or run `vlpeft sweep {options.sweep} --root {options.root}`"
        )
    made = plan(options.sweep, need_data=False, scale=options.scale)
    if options.cost:
        return _cost(made, options)
    if options.json:
        print(json.dumps(plan_rows(made, options.root), indent=1, ensure_ascii=False))
    else:
        print_text(plan_table(made, options.root))
    return 0


def _cost(made: Plan, options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.plan.forecast import forecasts
    from vlpeft.benchmark.run.runtime import Runtime
    from vlpeft.results.tables.steps import forecast_table

    runtime = parse(
        Runtime,
        {"device": options.device, "threads": options.threads, "compile": options.compile},
        "options",
    )
    found = []
    for each in forecasts(made, options.batch, runtime):
        found.append(each)
        said = each.failed or f"{each.step_seconds:.3g} s a step, {each.hours:.3g} hours"
        print(
            f"{each.backbone}, {each.method}, {each.task}/{each.dataset}: {said}", file=sys.stderr
        )
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=1, ensure_ascii=False))
    else:
        print_text(forecast_table(options.sweep, runtime.torch_device().type, found))
    return int(any(each.failed for each in found))


def _explain(options: argparse.Namespace) -> int:
    from vlpeft.results.tables.explain import explain_rows, explain_table, find

    cell = find(options.sweep, options.explain, options.scale)
    if options.json:
        print(json.dumps(explain_rows(cell), indent=1, ensure_ascii=False))
    else:
        print_text(explain_table(cell))
    return 0


def _prefetch(options: argparse.Namespace) -> int:
    """A line for each thing; why it stays missing, and the fix, on stderr."""
    from dataclasses import asdict

    from vlpeft.benchmark.plan.prefetch import prefetch

    found = []
    for each in prefetch(
        options.sweep, options.scale, fetch=not options.dry_run, accepted=options.yes
    ):
        found.append(each)
        print(
            f"{each.kind} {each.name}: {each.message}",
            file=sys.stderr if options.json else sys.stdout,
            flush=True,
        )
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=1, ensure_ascii=False))
    for each in found:
        if each.problem and each.state != "to fetch":
            print(f"vlpeft: error: {each.problem}", file=sys.stderr)
    return 2 if any(each.problem for each in found) else 0


def _params(options: argparse.Namespace) -> int:
    from vlpeft.results.tables.parameters import parameter_rows, parameter_table

    rows = parameter_rows(options.sweep)
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print_text(parameter_table(options.sweep, rows))
    return 0


def _measure(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.plan.measure import measure
    from vlpeft.benchmark.run.runtime import Runtime
    from vlpeft.results.tables.steps import step_table

    runtime = parse(Runtime, {"device": options.device, "threads": options.threads}, "options")
    steps = []
    for step in measure(options.sweep, options.batch, runtime):
        steps.append(step)
        print(
            f"{step.backbone}, {step.method}: {step.failed or f'{step.step_seconds:.1f} s'}",
            file=sys.stderr,
        )
    if options.json:
        print(json.dumps([asdict(step) for step in steps], indent=1, ensure_ascii=False))
    else:
        print_text(step_table(options.sweep, options.batch, steps))
    return int(any(step.failed for step in steps))


def _data_check(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.cli.data import check_files

    return check_files(
        options.name, options.path, options.split, images=options.images, as_json=options.json
    )


def _data_download(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.cli.data import download_files

    return download_files(options.name, options.path, accepted=options.yes)


def _pretrain(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.pretraining.towers import TOWERS, pretrain_tiny

    pretrain_tiny(
        options.out, options.seed, only=options.only.split(",") if options.only else TOWERS
    )
    return 0


COMMANDS = {
    "list": _list,
    "plan": _plan,
    "prefetch": _prefetch,
    "params": _params,
    "measure": _measure,
    "run": run,
    "sweep": sweep,
    "retry": retry,
    "status": status,
    "cancel": cancel,
    "logs": logs,
    "table": table,
    "report": report,
    "diff": diff,
    "keep": keep,
    "export-adapter": export_adapter,
    "predict": predict,
    "data check": _data_check,
    "data download": _data_download,
    "verify": verify,
    "bench": bench,
    "pretrain": _pretrain,
}

if __name__ == "__main__":
    main()
