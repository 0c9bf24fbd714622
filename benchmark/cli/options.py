"""Arguments that several commands share, and the function that adds a command."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.cores import check_number
from vlpeft.benchmark.core.errors import UserError

DEVICE = "auto, cpu, cuda or cuda:N (default: auto, which takes a GPU if there is one)"


def add_command(
    commands: Any, name: str, summary: str, details: str = "", examples: str = ""
) -> argparse.ArgumentParser:
    """Add a command to the parser.

    Args:
        commands: The subparsers.
        name: The name of the command.
        summary: What it does, as a phrase for the list of commands.
        details: More sentences for its own help, broken into lines.
        examples: Example commands for the end of its help, one per line.
    """
    description = f"{summary[0].upper()}{summary[1:]}."
    if details:
        description = f"{description}\n\n{details}"
    epilog = None
    if examples:
        epilog = f"examples:\n{examples}"
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=name)
    return made


def _at_least(least: int, text: str) -> int:
    """Read a whole number that must not be smaller than `least`."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}")
    return number


def path(text: str) -> Path:
    """Read a path. An empty one would stand for the current folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("is an empty path; name one, or leave the option out")
    return Path(text)


def _in_bounds(text: str) -> int:
    """Read a number of threads or processes that this machine can run."""
    try:
        return check_number(_at_least(1, text), "it")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("it: ")) from None


def points(text: str) -> float:
    """Read a difference of scores, in points."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


positive = partial(_at_least, 1)
count = partial(_at_least, 0)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add SWEEP."""
    parser.add_argument(
        "sweep",
        metavar="SWEEP",
        help="the name of a shipped sweep (`vlpeft list sweeps`), the path of a YAML file, or a "
        "result folder",
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add SWEEP to a command that reads results."""
    parser.add_argument(
        "sweep",
        metavar="SWEEP",
        help="the name of a sweep, the path of its YAML file, or where its results are: a folder, "
        "a plan in it (ROOT/sweeps/NAME.json), or a file of evidence",
    )


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Add --plugin."""
    parser.add_argument(
        "--plugin",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with methods, backbones or others of your own, as in a sweep's "
        "`plugins:`; may be given several times",
    )


def add_cell(parser: argparse.ArgumentParser) -> None:
    """Add CELL."""
    parser.add_argument(
        "cell",
        metavar="CELL",
        help="cell id, as `vlpeft status` prints it; any unique beginning is enough",
    )


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Add --scale."""
    parser.add_argument(
        "--scale",
        default="",
        metavar="NAME",
        help="the scale of the sweep; `tiny` is the sweep with tiny towers and drawn data "
        "(default: full size)",
    )


def add_root(parser: Any) -> None:
    """Add --root."""
    parser.add_argument(
        "--root", type=path, metavar="DIR", help="result folder (default: runs/SWEEP)"
    )


def add_device(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", help=f"{prefix}{DEVICE}")


def add_threads(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --threads."""
    parser.add_argument(
        "--threads",
        type=_in_bounds,
        metavar="N",
        help=f"{prefix}CPU threads (default: torch's choice)",
    )


def add_compile(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --compile."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help=f"{prefix}train through torch.compile (docs/speed.md says when it helps)",
    )


def add_mixed(parser: argparse.ArgumentParser) -> None:
    """Add --mixed-environments."""
    parser.add_argument(
        "--mixed-environments",
        action="store_true",
        help="accept cells from environments that differ in libraries and are not verified, and "
        "seeds of different code; the caption says so",
    )


def add_json(parser: Any) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where cells run."""
    parser.add_argument(
        "--on",
        choices=("inline", "local", "slurm"),
        default="local",
        help="inline: in this process; local: in worker processes (default); "
        "slurm: in jobs of a cluster",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="local: number of workers (default: 1 on a GPU, else the number of cores, at most 8, "
        "divided by --ranks)",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="slurm: the resources to request; a shipped profile (see slurm/profiles), "
        "or the path of a YAML file",
    )
    parser.add_argument("--detach", action="store_true", help="slurm: do not wait for the jobs")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a cell runs. None of them is part of the cell's id."""
    add_root(parser)
    add_device(parser)
    _add_processes(parser)
    _add_batches(parser)
    add_compile(parser)
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="run even if the environment fails `vlpeft verify`; the records say so",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="time between two checkpoints of a cell (default: 60)",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """Add `--threads` and `--ranks`."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of a cell, for each of its ranks "
        "(default: all cores, shared among the workers)",
    )
    parser.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="processes that train a cell together, each on its own GPU (default: 1)",
    )


def _add_batches(parser: argparse.ArgumentParser) -> None:
    """Add `--micro-batch` and `--eval-batch`."""
    parser.add_argument(
        "--micro-batch",
        type=int,
        metavar="N",
        help="examples in a forward pass; gradients add up to the protocol's batch. "
        "Lower it if memory runs out (default: the whole batch)",
    )
    parser.add_argument(
        "--eval-batch",
        type=int,
        metavar="N",
        help="examples at once in evaluation; halved by itself if memory runs out "
        "(default: 128, or the profile's)",
    )
