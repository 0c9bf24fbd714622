"""The arguments of `data`, `verify`, `bench`, `pretrain`, `doctor` and `completion`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlpeft.benchmark.bench import names as bench_names
from vlpeft.benchmark.cli.options import add_command, add_device, add_json, path, positive

KEPT = Path(__file__).resolve().parents[2] / "results" / "measured" / "bench"
SHELLS = ("bash", "zsh", "tcsh")
VERIFIED = ("vit_roberta", "vit_gpt2", "clip_bart", "blip")  # backbones with expected values


def add_tool_commands(commands: Any) -> None:
    """Add `data`, `verify`, `bench`, `pretrain`, `doctor` and `completion`."""
    data = add_command(commands, "data", "check or fetch the files of a dataset")
    actions = data.add_subparsers(metavar="ACTION", required=True)
    _add_data_check(actions)
    _add_data_download(actions)
    _add_verify(commands)
    _add_bench(commands)
    _add_pretrain(commands)
    _add_doctor(commands)
    _add_completion(commands)


def _add_doctor(commands: Any) -> None:
    doctor = add_command(
        commands,
        "doctor",
        "look at what this machine has, and say what to do about what it lacks",
        "Each line is ok; a note, for what only some sweeps need; or FIX. The exit code is 1 if\n"
        "there is a FIX.",
    )
    doctor.add_argument(
        "--root",
        type=path,
        default=Path(),
        metavar="DIR",
        help="a folder on the disk for results (default: the current folder)",
    )
    add_json(doctor)


def _add_completion(commands: Any) -> None:
    completion = add_command(
        commands,
        "completion",
        "print a script that completes commands and options in your shell",
        examples="  vlpeft completion bash > ~/.local/share/bash-completion/completions/vlpeft\n"
        "  vlpeft completion zsh > ~/.zfunc/_vlpeft\n",
    )
    completion.add_argument("shell", choices=SHELLS, help="one of bash, zsh, tcsh")


def _add_data_check(actions: Any) -> None:
    check = add_command(
        actions,
        "check",
        "check the counts, ids, images and checksums of a dataset's files",
        "It also says where to get what is missing. The exit code is 2 if there is a problem.",
    )
    check.set_defaults(command="data check")
    _add_dataset(check)
    check.add_argument("--split", metavar="SPLIT", help="check only this split (default: all)")
    check.add_argument(
        "--images",
        action="store_true",
        help="also decode every image (default: only check that it exists)",
    )
    add_json(check)


def _add_data_download(actions: Any) -> None:
    fetch = add_command(
        actions,
        "download",
        "fetch the missing files of a dataset",
        "Run it again to continue an interrupted download.",
    )
    fetch.set_defaults(command="data download")
    _add_dataset(fetch)
    fetch.add_argument("--yes", action="store_true", help="accept the licence without being asked")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add NAME and --path."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a shipped dataset (`vlpeft list datasets`), or the path of a YAML file",
    )
    parser.add_argument(
        "--path",
        type=path,
        metavar="DIR",
        help="folder of its files (default: $VLPEFT_DATA/NAME, or the `root` of the YAML file)",
    )


def _add_verify(commands: Any) -> None:
    verify = add_command(
        commands,
        "verify",
        "check that this environment computes the expected values",
        "Pixels, tokens, losses, gradients and metrics are compared with expected values. A sweep\n"
        "does this by itself, once for each environment.",
    )
    verify.add_argument(
        "--backbone",
        choices=VERIFIED,
        help="check only what cells of this backbone use (default: everything)",
    )
    add_device(verify)
    verify.add_argument(
        "--write",
        action="store_true",
        help="for developers: write what this CPU computes as the expected values, and print "
        "what changed",
    )
    add_json(verify)


def _add_bench(commands: Any) -> None:
    bench = add_command(
        commands,
        "bench",
        "compare time and memory with other implementations and with limits",
        "Two sides take turns on this machine. The median of the turns' ratios is compared with\n"
        "a required ratio. The exit code is 1 if a ratio falls short. docs/speed.md explains the\n"
        "rows.",
        "  vlpeft bench lora p_laplacian\n  vlpeft bench all --keep\n  vlpeft bench all --kept\n",
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
        help="only see that it runs: the smallest sizes, in one process; the numbers mean nothing",
    )
    bench.add_argument(
        "--turns",
        type=positive,
        default=5,
        metavar="N",
        help="timed turns of each side (default: 5)",
    )
    add_device(bench)
    _add_bench_output(bench)


def _add_bench_output(bench: Any) -> None:
    """Add the options for what happens with the rows of a bench."""
    kept = bench.add_mutually_exclusive_group()
    kept.add_argument(
        "--keep",
        nargs="?",
        type=path,
        const=KEPT,
        metavar="DIR",
        help="also write the rows to a new file in DIR (default: results/measured/bench)",
    )
    kept.add_argument(
        "--kept",
        nargs="?",
        type=path,
        const=KEPT,
        metavar="DIR",
        help="measure nothing; show the newest rows that were kept in DIR (same default)",
    )
    bench.add_argument(
        "--plot", type=path, metavar="FILE", help="draw the curves of `growth` to an SVG file"
    )
    form = bench.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    add_json(form)


def _add_pretrain(commands: Any) -> None:
    pretrain = add_command(commands, "pretrain", "train the shipped tiny towers again, from a seed")
    pretrain.add_argument("what", choices=("tiny",), help="the towers to train: tiny")
    pretrain.add_argument(
        "--out",
        type=path,
        required=True,
        metavar="DIR",
        help="folder for the towers and manifest.json",
    )
    pretrain.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")
    pretrain.add_argument(
        "--only",
        metavar="TOWERS",
        help="train only these towers, such as blip,bart, and keep the others (default: all)",
    )
