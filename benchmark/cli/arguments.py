"""The arguments of the `vlpeft` command. Little is imported here, so that help appears at once."""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any

from vlpeft.benchmark.cli.options import (
    add_cell,
    add_command,
    add_compile,
    add_device,
    add_json,
    add_launcher,
    add_mixed,
    add_plugin,
    add_results,
    add_root,
    add_runtime,
    add_scale,
    add_sweep,
    add_threads,
    path,
    positive,
)
from vlpeft.benchmark.cli.parser import Parser, ShowVersion
from vlpeft.benchmark.cli.result_arguments import add_result_commands
from vlpeft.benchmark.cli.tool_arguments import add_tool_commands

DESCRIPTION = """Benchmark parameter-efficient adaptation of vision-language models.

A sweep crosses methods with backbones, tasks and seeds. Each combination is a cell: one
training run, which leaves one record. Tables and reports are made from the records."""
EPILOG = """first steps:
  vlpeft list sweeps                                  what can be run out of the box
  vlpeft plan quickstart                              what would run, what is skipped, and why
  vlpeft sweep quickstart                             run it, then print the tables
  vlpeft table quickstart --format latex              print the scores again, for a paper
  vlpeft report quickstart -o report/                 write a page to open: report/index.html

more examples:
  vlpeft plan quickstart --explain 02f7               each setting of a cell, and its origin
  vlpeft run quickstart --cell 02f7                   run one cell alone
  vlpeft status quickstart --watch                    follow a sweep that runs elsewhere
  vlpeft sweep p_adapter/table1 --on slurm --profile my_cluster.yaml --root /shared/table1
  vlpeft export-adapter quickstart 02f7 -o my_adapter
  vlpeft predict --adapter my_adapter --image cat.jpg --question "what is it?"
  vlpeft data check vqav2 --path /data/vqav2          are the files complete and unchanged?
  vlpeft bench all                                    how fast and how lean is it?

SWEEP is the name of a shipped sweep (`vlpeft list sweeps`), or the path of your own YAML file.
Once it was launched, its result folder says as much: `vlpeft table ROOT`.
`vlpeft COMMAND --help` lists the options of a command.

exit codes:
  0    done
  1    some cells of a sweep failed, results differ, `verify` failed, `doctor` found something to
       fix, `predict --from` could not read an image, or a bench fell short
  2    the command could not run, or files are missing or wrong; each line says what to fix
  130  interrupted
"""
LISTS = ("methods", "backbones", "tasks", "datasets", "metrics", "protocols", "sweeps")


@cache  # to build it takes 20 ms, and programs such as the tests run many commands
def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it stores the name of the chosen one as `command`."""
    parser = Parser(
        prog="vlpeft",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=ShowVersion, help="print the version, and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_list(commands)
    _add_plan(commands)
    _add_prefetch(commands)
    _add_params(commands)
    _add_measure(commands)
    _add_run(commands)
    _add_sweep(commands)
    _add_retry(commands)
    _add_status(commands)
    _add_cancel(commands)
    _add_logs(commands)
    add_result_commands(commands)
    add_tool_commands(commands)
    return parser


def _add_list(commands: Any) -> None:
    listing = add_command(
        commands,
        "list",
        f"list what a sweep can name: {', '.join(LISTS)}",
        "Settings are listed with their defaults and allowed values. Entries of installed\n"
        "packages are included.",
        "  vlpeft list methods\n  vlpeft list methods --fits blip\n  vlpeft list datasets --json\n",
    )
    listing.add_argument("what", choices=LISTS, help=f"one of {', '.join(LISTS)}")
    listing.add_argument(
        "--fits",
        metavar="BACKBONE",
        help="only what works with this backbone, with its default settings",
    )
    add_plugin(listing)
    add_json(listing)


def _add_plan(commands: Any) -> None:
    plan = add_command(
        commands,
        "plan",
        "list every cell of a sweep: id, runnable or skipped, trainable parameters, state",
        "A cell is skipped if its backbone cannot do the task, or lacks what the method needs;\n"
        "the table says why. Settings, names and data files are checked, and every model is built\n"
        "without its weights, so that mistakes show up before anything runs. The plan does not\n"
        "look for weights from the hub; `vlpeft prefetch SWEEP --dry-run` does.",
        "  vlpeft plan quickstart\n"
        "  vlpeft plan quickstart --explain 02f7\n"
        "  vlpeft plan p_adapter/table1 --cost --device cuda\n"
        "  vlpeft plan quickstart --commands | parallel -j 4\n",
    )
    add_sweep(plan)
    add_scale(plan)
    _add_plan_views(plan)
    _add_plan_cost(plan)
    add_json(plan)


def _add_plan_views(plan: argparse.ArgumentParser) -> None:
    """Add what `plan` shows in place of the list, or next to it."""
    plan.add_argument(
        "--root",
        type=path,
        metavar="DIR",
        help="result folder whose states to show (default: runs/SWEEP, if it exists)",
    )
    plan.add_argument(
        "--explain",
        metavar="CELL",
        help="show every setting of one cell and its origin; CELL is the beginning of its id",
    )
    plan.add_argument(
        "--widen",
        action="store_true",
        help="name the next value for each number that was best at the edge of its `tune:` list",
    )
    plan.add_argument(
        "--commands",
        action="store_true",
        help="print a shell line for each cell that is not done, for a scheduler of your own",
    )


def _add_plan_cost(plan: argparse.ArgumentParser) -> None:
    """Add `--cost` and how it measures."""
    plan.add_argument(
        "--cost",
        action="store_true",
        help="measure a few training steps of each kind of cell, and estimate the hours of all",
    )
    plan.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="--cost: examples in a measured step (default: the protocol's batch)",
    )
    add_device(plan, "--cost: ")
    add_threads(plan, "--cost: ")
    add_compile(plan, "--cost: ")


def _add_prefetch(commands: Any) -> None:
    prefetch = add_command(
        commands,
        "prefetch",
        "fetch the missing weights and data of a sweep, for nodes without a network",
        "Weights go into the cache of the Hugging Face hub, and files of datasets into their\n"
        "folders. Running it again fetches only what is still missing. The exit code is 0 if\n"
        "nothing is missing; otherwise it is 2, with one line for each missing item.",
    )
    add_sweep(prefetch)
    add_scale(prefetch)
    prefetch.add_argument(
        "--dry-run", action="store_true", help="list what is missing, and fetch nothing"
    )
    prefetch.add_argument("--yes", action="store_true", help="accept the licences of the datasets")
    add_json(prefetch)


def _add_params(commands: Any) -> None:
    params = add_command(
        commands,
        "params",
        "count the trainable parameters of each method at full size, next to published counts",
        "Needs neither weights nor data.",
    )
    add_sweep(params)
    add_json(params)


def _add_measure(commands: Any) -> None:
    measure = add_command(
        commands,
        "measure",
        "measure one full-size training step of each method: seconds and peak memory",
        "Models have random weights, so nothing is downloaded. Each step runs in its own process.",
    )
    add_sweep(measure)
    measure.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="N",
        help="examples in the step (default: 1)",
    )
    add_device(measure)
    add_threads(measure)
    add_json(measure)


def _add_run(commands: Any) -> None:
    run = add_command(
        commands,
        "run",
        "run one cell in this process, and print its metrics as JSON",
        "Only this cell is checked and written to the result folder. `vlpeft status`, `table` and\n"
        "`sweep` work with the same folder. A cell that is already done is not run again.",
        "  vlpeft run quickstart --cell 02f7\n",
    )
    add_sweep(run)
    add_scale(run)
    run.add_argument(
        "--cell",
        required=True,
        metavar="ID",
        help="cell id, as `vlpeft plan` prints it; any unique beginning is enough",
    )
    add_runtime(run)


def _add_sweep(commands: Any) -> None:
    sweep = add_command(
        commands,
        "sweep",
        "run all cells that are not done, then print the tables",
        "Run the same command again to continue: finished cells are kept, and cells in training\n"
        "continue from their last checkpoint. It also picks up changes in the sweep file.",
        "  vlpeft sweep quickstart --workers 4\n"
        "  vlpeft sweep my_sweep.yaml --scale tiny\n"
        "  vlpeft sweep p_adapter/table1 --on slurm --profile my_cluster.yaml --detach\n",
    )
    add_sweep(sweep)
    add_scale(sweep)
    add_launcher(sweep)
    add_mixed(sweep)
    sweep.add_argument(
        "--dry-run",
        action="store_true",
        help="slurm: print the script and SLURM's answer to it, and submit nothing",
    )
    sweep.add_argument(
        "--prune",
        action="store_true",
        help="first list the cells of the result folder that no sweep there has any more, and "
        "cancel their jobs; not while the sweep runs",
    )
    sweep.add_argument(
        "--delete", action="store_true", help="--prune: delete the results of these cells"
    )
    add_runtime(sweep)


def _add_retry(commands: Any) -> None:
    retry = add_command(
        commands,
        "retry",
        "run failed cells of a launched sweep again: all of them, or those with one cause",
        examples="  vlpeft retry quickstart --failed\n"
        "  vlpeft retry quickstart --cause oom --micro-batch 8\n",
    )
    add_sweep(retry)
    add_scale(retry)
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("--failed", action="store_true", help="all cells that failed")
    which.add_argument(
        "--cause",
        metavar="WORDS",
        help="cells whose cause of failure contains these words, such as cancelled; "
        "oom, timeout, node and disk are short for the usual causes",
    )
    add_launcher(retry)
    add_mixed(retry)
    retry.set_defaults(dry_run=False)
    add_runtime(retry)


def _add_status(commands: Any) -> None:
    status = add_command(
        commands,
        "status",
        "show the state of each cell",
        "States: done; running, with its step and the time left; failed, with the cause;\n"
        "preempted by a cluster; pending in a queue; missing, which the next `vlpeft sweep` runs;\n"
        "stale, from settings that the sweep no longer has; skipped.",
    )
    add_results(status)
    add_scale(status)
    add_root(status)
    form = status.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument(
        "--watch", action="store_true", help="update the states until every cell has ended"
    )


def _add_cancel(commands: Any) -> None:
    cancel = add_command(
        commands,
        "cancel",
        "stop a running sweep: its cluster jobs and its local workers",
        "Finished cells are kept. `vlpeft sweep` runs the others.",
    )
    add_results(cancel)
    add_scale(cancel)
    add_root(cancel)


def _add_logs(commands: Any) -> None:
    logs = add_command(commands, "logs", "print the output of all attempts at a cell")
    add_results(logs)
    add_cell(logs)
    add_scale(logs)
    add_root(logs)
