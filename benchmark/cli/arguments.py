"""The arguments of the `vlpeft` command. Imports next to nothing, so that help is there at once."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from vlpeft.benchmark.bench import names as bench_names
from vlpeft.benchmark.cli.parser import Parser

EPILOG = """examples:
  vlpeft sweep quickstart --root runs/quickstart      run everything that is not done, then print the table
  vlpeft sweep p_adapter/table1 --on slurm --profile my_cluster.yaml --root /shared/table1
  vlpeft plan my_sweep.yaml                           what would run, what is skipped and why
  vlpeft plan quickstart --explain 02f7               each setting of a cell and where it comes from
  vlpeft status quickstart --root runs/quickstart     where it stands
  vlpeft table quickstart --root runs/quickstart --format latex
  vlpeft report quickstart -o report/                 a page to open: report/index.html
  vlpeft export-adapter quickstart 02f7 -o my_adapter take what a cell trained along, with a model card
  vlpeft predict --adapter my_adapter --image cat.jpg --question "what is it?"
  vlpeft list methods                                 what can be named in a sweep
  vlpeft data check vqav2 --path /data/vqav2          are the files there, whole and the published ones
  vlpeft bench all                                    how fast and how lean it is, beside others and beside limits

SWEEP is a shipped sweep (`vlpeft list sweeps`) or the path of your own YAML file.

exit codes: 0 done; 1 some cells of a sweep failed, results differ or a bench fell short; 2 something to mend (one line says what and
how); 130 interrupted
"""
PLAN = """Every cell of a sweep: id, runnable or skipped and why, trainable parameters, state.
Settings, names and data files are checked; the weights of ids whose architecture is known (roberta-base and the like) are
not opened: `vlpeft prefetch SWEEP --dry-run` says whether they are here."""
PREFETCH = """Fetch what a sweep needs from the net and is not here: weights, into the hub's cache, and the files of datasets that have
addresses. Ends with 0 once all is here; else with 2, and a line for each thing that is missing. Again: only what is missing."""
KEPT = Path(__file__).resolve().parents[2] / "results" / "measured" / "bench"
VERIFIED = ("vit_roberta", "vit_gpt2", "clip_bart", "blip")  # backbones with expected values
LISTS = ("methods", "backbones", "tasks", "datasets", "metrics", "protocols", "sweeps")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` is the name of the chosen one."""
    parser = Parser(
        prog="vlpeft",
        description="Benchmark parameter-efficient methods on vision-language backbones: methods x backbones x tasks, one record a cell.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _looking_ahead(commands)
    _running(commands)
    _looking_back(commands)
    _adapters(commands)
    _data(commands)
    _tools(commands)
    return parser


def _looking_ahead(commands: Any) -> None:
    listing = _command(commands, "list", f"what can be named: {', '.join(LISTS)}")
    listing.add_argument("what", choices=LISTS)
    _json_flag(listing)
    plan = _command(
        commands,
        "plan",
        "every cell of a sweep: id, runnable or skipped and why, trainable parameters, state",
    )
    plan.description = PLAN
    _sweep_argument(plan)
    _scale_flag(plan)
    plan.add_argument(
        "--root",
        type=Path,
        help="result folder whose state to show (default: runs/ and the sweep's name, if there is one)",
    )
    plan.add_argument(
        "--explain",
        metavar="CELL",
        help="every setting of one cell and where it comes from; CELL is a beginning of its id",
    )
    plan.add_argument(
        "--cost",
        action="store_true",
        help="measure a few steps of each kind of cell, and say how long training all takes",
    )
    plan.add_argument(
        "--batch",
        type=_positive,
        help="--cost: examples in a measured step (default: the protocol's batch)",
    )
    plan.add_argument(
        "--device", default="auto", help="--cost: auto, cpu, cuda or cuda:N (default: auto)"
    )
    plan.add_argument(
        "--threads", type=_positive, help="--cost: CPU threads (default: torch's choice)"
    )
    _compile_flag(plan, "--cost: ")
    _json_flag(plan)
    prefetch = _command(
        commands,
        "prefetch",
        "fetch the weights and data of a sweep that are not here, for nodes without a network",
    )
    prefetch.description = PREFETCH
    _sweep_argument(prefetch)
    _scale_flag(prefetch)
    prefetch.add_argument(
        "--dry-run", action="store_true", help="say what is missing, fetch nothing"
    )
    prefetch.add_argument("--yes", action="store_true", help="accept the licences of the datasets")
    _json_flag(prefetch)
    params = _command(
        commands, "params", "what each method trains at full size, beside what papers say"
    )
    _sweep_argument(params)
    _json_flag(params)
    measure = _command(
        commands,
        "measure",
        "one training step of each method at full size, from random weights: seconds and peak memory",
    )
    _sweep_argument(measure)
    measure.add_argument(
        "--batch", type=_positive, default=1, help="examples in the step (default: 1)"
    )
    measure.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    measure.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")
    _json_flag(measure)


def _running(commands: Any) -> None:
    run = _command(commands, "run", "run one cell here and now")
    _sweep_argument(run)
    _scale_flag(run)
    run.add_argument(
        "--cell",
        required=True,
        metavar="ID",
        help="cell id, as `vlpeft plan` prints it (a unique beginning will do)",
    )
    _run_flags(run)
    sweep = _command(
        commands,
        "sweep",
        "run all cells that are not done, then print the tables; again: only what is missing",
    )
    _sweep_argument(sweep)
    _scale_flag(sweep)
    _launch_flags(sweep)
    retry = _command(
        commands, "retry", "run failed cells of a launched sweep again, all or those of one cause"
    )
    _sweep_argument(retry)
    _scale_flag(retry)
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("--failed", action="store_true", help="all that failed")
    words = "those whose cause holds these words, such as cancelled; oom, timeout, node and disk stand for the usual ones"
    which.add_argument("--cause", metavar="WORDS", help=words)
    _launch_flags(retry)
    retry.set_defaults(dry_run=False)
    _run_flags(retry)
    sweep.add_argument(
        "--dry-run",
        action="store_true",
        help="slurm: print the script and what SLURM says to it, submit nothing",
    )
    _run_flags(sweep)


def _looking_back(commands: Any) -> None:
    status = _command(commands, "status", "where each cell stands")
    _sweep_argument(status)
    _scale_flag(status)
    _root_flag(status)
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON for scripts")
    form.add_argument(
        "--watch", action="store_true", help="again and again, until every cell has ended"
    )
    cancel = _command(
        commands, "cancel", "stop what runs a sweep: its jobs on a cluster, its local workers"
    )
    _sweep_argument(cancel)
    _scale_flag(cancel)
    _root_flag(cancel)
    logs = _command(commands, "logs", "what a cell's attempts have printed")
    _sweep_argument(logs)
    logs.add_argument(
        "cell",
        metavar="CELL",
        help="cell id, as `vlpeft status` prints it (a unique beginning will do)",
    )
    _scale_flag(logs)
    _root_flag(logs)
    _tables(commands)


def _tables(commands: Any) -> None:
    table = _command(commands, "table", "mean and standard deviation over seeds, from the records")
    _sweep_argument(table)
    place, form, content = (table.add_mutually_exclusive_group() for _ in range(3))
    _root_flag(place)
    place.add_argument(
        "--measured",
        action="store_true",
        help="read the results that ship with vlpeft (results/measured)",
    )
    _scale_flag(table)
    form.add_argument(
        "--format",
        choices=("text", "md", "latex", "html", "csv", "json", "parquet"),
        default="text",
    )
    form.add_argument(
        "--json",
        action="store_const",
        const="json",
        dest="format",
        help="the same as --format json",
    )
    content.add_argument(
        "--costs", action="store_true", help="time, work and memory instead of scores"
    )
    content.add_argument("--details", action="store_true", help="with scores by question type")
    content.add_argument(
        "--significance",
        action="store_true",
        help="the best of each column beside the others: intervals, p, ranks",
    )
    content.add_argument(
        "--tidy",
        action="store_true",
        help="one row a cell and metric, nothing averaged: csv, json or parquet",
    )
    table.add_argument(
        "--rows",
        metavar="SIDES",
        help="any of method,backbone,task,dataset,scale; what no side names is averaged over",
    )
    table.add_argument(
        "--columns", metavar="SIDES", help="the same; metrics always stand in columns"
    )
    _mixed_flag(table)
    table.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="write there instead of printing"
    )
    diff = _command(
        commands,
        "diff",
        "what differs between two sets of results; exit code 1 if anything does but costs and versions",
    )
    diff.add_argument("a", metavar="A", type=Path, help="result folder, or file of evidence")
    diff.add_argument("b", metavar="B", type=Path, help="the other one")
    diff.add_argument("name", metavar="SWEEP", nargs="?", help="the cells of this sweep only")
    _scale_flag(diff)
    _json_flag(diff)
    keep = _command(
        commands,
        "keep",
        "write a sweep's results into one file, as evidence that is never changed again",
    )
    _sweep_argument(keep)
    _root_flag(keep)
    _scale_flag(keep)
    _mixed_flag(keep)
    keep.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the file (default: results/measured of this checkout)",
    )
    _report(commands)


def _report(commands: Any) -> None:
    report = _command(
        commands,
        "report",
        "a page of tables, charts and predictions, which opens in any browser without a network",
    )
    report.add_argument(
        "sweep",
        metavar="SWEEP|ROOT",
        help="a sweep, as elsewhere; or a result folder: all sweeps launched in it",
    )
    _root_flag(report)
    _scale_flag(report)
    _mixed_flag(report)
    report.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="folder of the page (default: report)",
    )
    report.add_argument(
        "--examples",
        type=_count,
        default=48,
        metavar="N",
        help="predictions shown on a page (default: 48)",
    )


def _adapters(commands: Any) -> None:
    export = _command(
        commands,
        "export-adapter",
        "take a finished cell's trained weights out: a folder with a model card",
    )
    _sweep_argument(export)
    export.add_argument(
        "cell",
        metavar="CELL",
        help="cell id, as `vlpeft status` prints it (a unique beginning will do)",
    )
    _scale_flag(export)
    _root_flag(export)
    export.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to make"
    )
    forms = "vlpeft: what was trained, alone (default); peft: LoRA for Hugging Face peft; merged: full weights with it folded in"
    export.add_argument(
        "--format", choices=("vlpeft", "peft", "merged"), default="vlpeft", help=forms
    )
    predict = _command(commands, "predict", "what an exported adapter says of an image")
    predict.add_argument(
        "--adapter",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder of `vlpeft export-adapter`",
    )
    predict.add_argument(
        "--image",
        type=Path,
        action="append",
        metavar="FILE",
        help="the image; twice, left and right, for nlvr2",
    )
    predict.add_argument(
        "--question",
        default="",
        metavar="TEXT",
        help="the question, hypothesis or statement; none for captions",
    )
    predict.add_argument(
        "--from",
        dest="rows",
        type=Path,
        metavar="FILE",
        help='JSON lines of {"image": PATH, "question": TEXT} ("images" for two)',
    )
    predict.add_argument(
        "--task", default="", metavar="TASK", help="which task, where the adapter does several"
    )
    predict.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    predict.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")
    predict.add_argument(
        "--json",
        action="store_true",
        help="a line of JSON each, with the best answers and their scores",
    )


def _data(commands: Any) -> None:
    actions = _command(commands, "data", "check a dataset's files, or fetch them").add_subparsers(
        metavar="ACTION", required=True
    )
    check = _command(
        actions,
        "check",
        "counts, ids, images and checksums of a dataset's files, and where to get what is missing",
    )
    check.set_defaults(command="data check")
    _dataset_arguments(check)
    check.add_argument("--split", metavar="SPLIT", help="this split only (default: all)")
    check.add_argument(
        "--images",
        action="store_true",
        help="decode every image too (default: only see that each is there)",
    )
    _json_flag(check)
    fetch = _command(
        actions, "download", "fetch what is missing of a dataset; again: go on where it was cut"
    )
    fetch.set_defaults(command="data download")
    _dataset_arguments(fetch)
    fetch.add_argument("--yes", action="store_true", help="accept the licence without being asked")


def _dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a shipped dataset (`vlpeft list datasets`), or the path of a YAML file",
    )
    parser.add_argument(
        "--path",
        type=Path,
        metavar="DIR",
        help="folder of its files (default: $VLPEFT_DATA/NAME, or the YAML's `root`)",
    )


def _tools(commands: Any) -> None:
    _verify(commands)
    bench = _command(
        commands,
        "bench",
        "our code beside others' and beside limits, turn by turn on this machine: ratios of time and memory",
    )
    bench.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        choices=(*bench_names(), "all"),
        help=f"all, or some of: {', '.join(bench_names())}",
    )
    bench.add_argument(
        "--quick",
        action="store_true",
        help="the smallest sizes in one process: to see that it runs; numbers mean nothing",
    )
    bench.add_argument(
        "--turns", type=_positive, default=5, help="timed turns of each side (default: 5)"
    )
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    kept = bench.add_mutually_exclusive_group()
    kept.add_argument(
        "--keep",
        nargs="?",
        type=Path,
        const=KEPT,
        metavar="DIR",
        help="keep the rows in a new file of this folder (default: results/measured/bench of vlpeft)",
    )
    kept.add_argument(
        "--kept",
        nargs="?",
        type=Path,
        const=KEPT,
        metavar="DIR",
        help="measure nothing; show the rows that were kept there last (default: the same)",
    )
    bench.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curves of `growth` there, as SVG"
    )
    form = bench.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--json", action="store_true", help="print JSON for scripts")
    pretrain = _command(commands, "pretrain", "make the shipped tiny towers again, from a seed")
    pretrain.add_argument("what", choices=("tiny",))
    pretrain.add_argument(
        "--out", type=Path, required=True, help="folder for the towers and manifest.json"
    )
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument(
        "--only",
        metavar="TOWERS",
        help="make these and keep the others, such as blip,bart (default: all)",
    )


def _verify(commands: Any) -> None:
    verify = _command(
        commands,
        "verify",
        "does this environment compute what it should, to the pixel, the token and the gradient",
    )
    verify.add_argument(
        "--backbone", choices=VERIFIED, help="what cells of this backbone use (default: all)"
    )
    verify.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    verify.add_argument(
        "--write",
        action="store_true",
        help="commit what this CPU computes as the expected values; prints what changed",
    )
    _json_flag(verify)


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    made.set_defaults(command=name)
    return made


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}")
    return number


_positive, _count = partial(_at_least, 1), partial(_at_least, 0)


def _sweep_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep", metavar="SWEEP", help="a shipped sweep's name, or the path of a YAML file"
    )


def _scale_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale",
        default="",
        metavar="NAME",
        help="the cells at another size; tiny: tiny towers, drawn data, minutes",
    )


def _root_flag(parser: Any) -> None:
    parser.add_argument(
        "--root", type=Path, help="result folder (default: runs/ and the sweep's name)"
    )


def _compile_flag(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    parser.add_argument(
        "--compile",
        action="store_true",
        help=f"{prefix}train through torch.compile (see docs/speed.md for where it pays)",
    )


def _mixed_flag(parser: argparse.ArgumentParser) -> None:
    text = "accept cells of environments that differ in libraries and are not verified; the caption notes it"
    parser.add_argument("--mixed-environments", action="store_true", help=text)


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def _launch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on",
        choices=("inline", "local", "slurm"),
        default="local",
        help="inline: in this process; local: in worker processes (default); slurm: in jobs of a cluster",
    )
    parser.add_argument(
        "--workers", type=int, help="local: workers (default: one a core, at most 8)"
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="slurm: what to ask the cluster for; a shipped profile, or the path of a YAML file",
    )
    parser.add_argument("--detach", action="store_true", help="slurm: do not wait for the jobs")


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _root_flag(parser)
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads of a cell, of each of its ranks (default: the cores, shared among workers)",
    )
    parser.add_argument(
        "--ranks",
        type=int,
        help="processes that train a cell together, each on a GPU of its own (default: 1)",
    )
    parser.add_argument(
        "--micro-batch",
        type=int,
        help="examples a forward pass; gradients accumulate to the protocol's batch",
    )
    _compile_flag(parser)
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="run in an environment that fails `vlpeft verify`; records say so",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        help="time between two checkpoints of a cell (default: 60)",
    )
