"""The `vlpeft` command.

It reads arguments, calls the library and prints. Heavy libraries such as torch are imported
only inside the commands that need them, so that help appears at once.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from vlpeft.benchmark.cli.adapters import export_adapter, predict
from vlpeft.benchmark.cli.arguments import parser
from vlpeft.benchmark.cli.bench import bench
from vlpeft.benchmark.cli.cells import how_to_continue, retry, run, sweep
from vlpeft.benchmark.cli.doctor import doctor
from vlpeft.benchmark.cli.naming import name_results
from vlpeft.benchmark.cli.planning import list_names, measure, params, plan, prefetch
from vlpeft.benchmark.cli.printing import print_error, print_note, print_text
from vlpeft.benchmark.cli.report import report
from vlpeft.benchmark.cli.tables import diff, keep, seeds, table
from vlpeft.benchmark.cli.verify import verify
from vlpeft.benchmark.cli.watching import cancel, logs, status
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.processes import (
    QuickExit,
    end_with_starter,
    interrupt_at_end_signals,
)
from vlpeft.benchmark.core.terminal import OutputError, discard, prepare_streams


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the command, and exit.

    Exit codes: 0 done; 1 some cells of a sweep failed, or results differ; 2 something that the
    user can fix; 130 interrupted, also by SIGTERM or a closed terminal.
    """
    prepare_streams()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser().print_help(sys.stderr)
        sys.exit(2)
    if not _in_a_folder():  # libraries would end without a message
        print_error("the current folder was deleted; change to another folder")
        sys.exit(2)
    sys.exit(_run(arguments))


def program() -> None:
    """Run `main` as a process of its own."""
    with QuickExit():
        main()


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command, and write what it printed. Trouble with stdout is one line and code 2."""
    try:
        try:
            options = parser().parse_args(arguments)
            end_with_starter()
            with interrupt_at_end_signals():
                code = _run_command(options)
        except SystemExit as end:  # of argparse: --help, --version, or a typo
            code = end.code if isinstance(end.code, int) else 2
        sys.stdout.flush()
    except (OutputError, BrokenPipeError) as error:
        discard(sys.stdout)
        if error.errno == errno.EPIPE:  # as in `vlpeft ... | head`
            return 0
        print_error(f"cannot write the output: {error.strerror}; free space for it")
        return 2
    return code


def _run_command(options: argparse.Namespace) -> int:
    """Run a command; turn the errors that a user can fix into one line and an exit code."""
    try:
        if "sweep" in options:
            name_results(options)
        code: int = COMMANDS[options.command](options)
    except UserError as error:
        print_error(error)
        return 2
    except OSError as error:
        if error.filename is None:  # one of stdout, or a fault of ours
            raise
        # Result folders are shared, and on disks that may fail: any file may be unreadable.
        print_error(
            f"{error.filename}: {error.strerror}; restore it, ask its owner, "
            "or choose another folder"
        )
        return 2
    except KeyboardInterrupt:
        print_note(f"interrupted{how_to_continue(options)}")
        return 130
    return code


def _in_a_folder() -> bool:
    """Return whether the current folder still exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


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

    towers = TOWERS
    if options.only is not None:
        towers = options.only.split(",")
    pretrain_tiny(options.out, options.seed, only=towers)
    return 0


def _completion(options: argparse.Namespace) -> int:
    import shtab

    print_text(shtab.complete(parser(), options.shell))
    return 0


COMMANDS = {
    "list": list_names,
    "plan": plan,
    "prefetch": prefetch,
    "params": params,
    "measure": measure,
    "run": run,
    "sweep": sweep,
    "retry": retry,
    "status": status,
    "cancel": cancel,
    "logs": logs,
    "table": table,
    "seeds": seeds,
    "report": report,
    "diff": diff,
    "keep": keep,
    "export-adapter": export_adapter,
    "predict": predict,
    "data check": _data_check,
    "data download": _data_download,
    "verify": verify,
    "bench": bench,
    "doctor": doctor,
    "completion": _completion,
    "pretrain": _pretrain,
}

if __name__ == "__main__":
    main()
