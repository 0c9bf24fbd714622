"""The `vlpeft` command. Thin: it reads arguments, calls the library and prints; torch is imported only by what needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.bench import names as bench_names
from benchmark.errors import UserError

EXAMPLES = """examples:
  vlpeft sweep quickstart --root runs/quickstart      run everything that is not done, then print the table
  vlpeft plan my_sweep.yaml                           what would run, what is skipped and why
  vlpeft status quickstart --root runs/quickstart     where it stands
  vlpeft table quickstart --root runs/quickstart --format latex
  vlpeft list methods                                 what can be named in a sweep
  vlpeft bench lora                                   how fast our LoRA is beside Hugging Face peft's

SWEEP is a shipped sweep (`vlpeft list sweeps`) or the path of your own YAML file.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, exit: 0 done, 1 some cells failed, 2 something the user can mend."""
    options = _parser().parse_args(arguments)
    if "root" in options and options.root is None and options.run is not _plan:
        options.root = Path("runs") / Path(options.sweep).stem
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except UserError as error:
        print(f"vlpeft: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("vlpeft: interrupted; the same command goes on where it stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `vlpeft ... | head`; what is still buffered must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlpeft",
        description="Benchmark parameter-efficient methods on vision-language backbones: methods x backbones x tasks, one record a cell.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = _command(commands, "list", _list, "what can be named: methods, backbones, tasks, datasets, metrics, sweeps")
    listing.add_argument("what", choices=("methods", "backbones", "tasks", "datasets", "metrics", "sweeps"))
    _json_flag(listing)
    plan = _command(commands, "plan", _plan, "every cell of a sweep: id, runnable or skipped and why, trainable parameters, state")
    _sweep_argument(plan)
    plan.add_argument("--root", type=Path, help="result folder whose state to show beside each cell")
    _json_flag(plan)
    params = _command(commands, "params", _params, "what each method trains at full size, beside what papers say")
    _sweep_argument(params)
    _json_flag(params)
    measured = _command(commands, "measure", _measure, "one training step of each method at full size: seconds and peak memory")
    _sweep_argument(measured)
    measured.add_argument("--batch", type=_positive, default=1, help="examples in the step (default: 1)")
    measured.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    measured.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")
    _json_flag(measured)
    run = _command(commands, "run", _run, "run one cell here and now")
    _sweep_argument(run)
    run.add_argument("--cell", required=True, metavar="ID", help="cell id, as `vlpeft plan` prints it (a unique beginning will do)")
    _run_flags(run)
    sweep = _command(commands, "sweep", _sweep, "run all cells that are not done, then print the tables; again: only what is missing")
    _sweep_argument(sweep)
    sweep.add_argument(
        "--on", choices=("inline", "local"), default="local", help="inline: in this process; local: in worker processes (default)"
    )
    sweep.add_argument("--workers", type=int, help="local workers (default: one a core, at most 8)")
    _run_flags(sweep)
    status = _command(commands, "status", _status, "where each cell stands")
    _sweep_argument(status)
    _root_flag(status)
    _json_flag(status)
    table = _command(commands, "table", _table, "mean and standard deviation over seeds, from the records")
    _sweep_argument(table)
    _root_flag(table)
    table.add_argument("--format", choices=("text", "md", "latex", "csv", "json"), default="text")
    table.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    table.add_argument("--costs", action="store_true", help="seconds and memory instead of scores")
    table.add_argument("--details", action="store_true", help="with scores by question type")
    bench = _command(commands, "bench", _bench, "time our code beside others', turn by turn on this machine")
    bench.description = "Times our code beside others', turn by turn on this machine; a ratio below 1 means that ours is faster."
    bench.add_argument("name", choices=bench_names(), help="lora: a training step of our LoRA beside Hugging Face peft's")
    bench.add_argument("--tiny", action="store_true", help="the shipped tiny tower instead of one of the usual size")
    bench.add_argument("--repeats", type=_positive, default=9, help="timed repeats of each side (default: 9)")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    _json_flag(bench)
    pretrain = _command(commands, "pretrain", _pretrain, "make the shipped tiny towers again, from a seed")
    pretrain.add_argument("what", choices=("tiny",))
    pretrain.add_argument("--out", type=Path, required=True, help="folder for the towers and manifest.json")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--only", metavar="TOWERS", help="make these and keep the others, such as blip,bart (default: all)")
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _sweep_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="a shipped sweep's name, or the path of a YAML file")


def _root_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="result folder (default: runs/ and the sweep's name)")


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _root_flag(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads of one cell (default: the cores, shared among workers)")
    parser.add_argument("--micro-batch", type=int, help="examples a forward pass; gradients accumulate to the protocol's batch")


def _list(options: argparse.Namespace) -> int:
    from results.listing import listing, listing_text

    rows = listing(options.what)
    print(json.dumps(rows, indent=1, ensure_ascii=False) + "\n" if options.json else listing_text(rows), end="")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from benchmark.planning import plan
    from results.listing import plan_rows, plan_table

    made = plan(options.sweep, need_data=False)
    if options.json:
        print(json.dumps(plan_rows(made, options.root), indent=1, ensure_ascii=False))
    else:
        _print_text(plan_table(made, options.root))
    return 0


def _params(options: argparse.Namespace) -> int:
    from results.parameters import parameter_rows, parameter_table

    rows = parameter_rows(options.sweep)
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        _print_text(parameter_table(options.sweep, rows))
    return 0


def _measure(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from benchmark.config import parse
    from benchmark.measure import measure
    from benchmark.runner import Runtime
    from results.listing import step_table

    runtime = parse(Runtime, {"device": options.device, "threads": options.threads}, "options")
    steps = []
    for step in measure(options.sweep, options.batch, runtime):
        steps.append(step)
        print(f"{step.backbone}, {step.method}: {step.failed or f'{step.step_seconds:.1f} s'}", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(step) for step in steps], indent=1, ensure_ascii=False))
    else:
        _print_text(step_table(options.sweep, options.batch, steps))
    return int(any(step.failed for step in steps))


def _run(options: argparse.Namespace) -> int:
    from benchmark.planning import plan, save_plan
    from benchmark.progress import CellProgress
    from benchmark.records import Store
    from benchmark.runner import run_cell

    runtime = _runtime(options)
    made = plan(options.sweep, need_data=True)
    cell = made.find(options.cell)
    save_plan(made, options.root)
    with CellProgress(cell) as progress:
        outcome = run_cell(cell.id, options.root, runtime, progress)
    if outcome == "running elsewhere":
        raise UserError(f"cell {cell.id} is being run by another process (see `vlpeft status {options.sweep} --root {options.root}`)")
    print(json.dumps({"id": cell.id, "outcome": outcome, "metrics": Store(options.root).record(cell.id).metrics}, indent=1))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from benchmark.planning import plan, save_plan
    from benchmark.progress import SweepProgress
    from slurm.launcher import (
        check_workers,
        clear_failures,
        default_workers,
        failures,
        launch_inline,
        launch_local,
        unfinished,
        wait_for_others,
    )

    runtime, workers = _runtime(options), check_workers(options.workers) if options.workers is not None else default_workers()
    made = plan(options.sweep, need_data=True)
    save_plan(made, options.root)
    cells = unfinished(made, options.root)
    clear_failures(cells, options.root)
    with SweepProgress(made, cells, options.root) as progress:
        if cells and options.on == "inline":
            launch_inline(cells, options.root, runtime, progress.watch_cell, progress.watch)
        elif cells:
            launch_local(cells, options.root, runtime, workers, progress.watch)
        wait_for_others(cells, options.root, progress.watch)
    _print_tables(options, made)
    failed = list(failures(cells, options.root))
    for cell, failure in failed:
        print(f"vlpeft: failed: {cell.id} {cell.row} on {cell.backbone}, {cell.task}/{cell.dataset}, seed {cell.seed}: "
              f"{failure['cause']}: {failure['message']}", file=sys.stderr)  # fmt: skip
    if failed:
        print(f"vlpeft: {len(failed)} of {len(cells)} cells failed; mend the cause and run the same command again", file=sys.stderr)
    return 0 if not failed else 2 if all(failure["user"] for _, failure in failed) else 1


def _status(options: argparse.Namespace) -> int:
    from benchmark.grid import load_plan
    from benchmark.records import Store
    from results.status import as_dicts, status, status_table

    made = load_plan(options.sweep, options.root)
    cells = status(made, Store(options.root))
    if options.json:
        print(json.dumps(as_dicts(cells), indent=1, ensure_ascii=False))
    else:
        _print_text(status_table(made.title, cells))
    return 0


def _table(options: argparse.Namespace) -> int:
    from benchmark.grid import load_plan
    from benchmark.records import Store
    from results.leaderboard import leaderboard
    from results.render import render
    from results.tables import cost_table, score_table

    board = leaderboard(load_plan(options.sweep, options.root), Store(options.root))
    table = cost_table(board) if options.costs else score_table(board, details=options.details)
    form = {"md": "markdown"}.get(options.format, options.format)
    print(render(table, form, colour=sys.stdout.isatty()), end="")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from benchmark import bench
    from benchmark.runner import Runtime

    rows = bench.run(options.name, options.tiny, str(Runtime(device=options.device).torch_device()), options.repeats)
    print(json.dumps([asdict(row) for row in rows], indent=1) + "\n" if options.json else bench.text(rows), end="")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from benchmark.pretraining.towers import TOWERS, pretrain_tiny

    pretrain_tiny(options.out, options.seed, only=options.only.split(",") if options.only else TOWERS)
    return 0


def _print_tables(options: argparse.Namespace, made: Any) -> None:
    from benchmark.records import Store
    from results.leaderboard import leaderboard
    from results.tables import cost_table, score_table

    board = leaderboard(made, Store(options.root))
    _print_text(score_table(board))
    print()
    _print_text(cost_table(board))


def _print_text(table: Any) -> None:
    from results.render import render

    print(render(table, "text", colour=sys.stdout.isatty()), end="")


def _runtime(options: argparse.Namespace) -> Any:
    from benchmark.config import parse
    from benchmark.runner import Runtime

    given = {"device": options.device, "threads": options.threads, "micro_batch": options.micro_batch}
    runtime = parse(Runtime, given, "options")
    runtime.torch_device()  # a missing GPU is found before anything starts
    return runtime


if __name__ == "__main__":
    main()
