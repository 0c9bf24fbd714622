"""An argument parser that reports typos like every other error: one line with the fix, code 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vlpeft.benchmark.core.errors import did_you_mean
from vlpeft.benchmark.core.terminal import print_message

# Messages of argparse, and what replaces them: words that say what to do.
WORDS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"one of the arguments (.*) is required",
        lambda found: f"add {' or '.join(found[1].split())}",
    ),
    (
        r"the following arguments are required: what",
        lambda _: "say what to list, such as `methods`",
    ),
    (
        r"the following arguments are required: (.*)",
        lambda found: f"{found[1]} must be given",
    ),
    (
        r"argument (.*): not allowed with argument (.*)",
        lambda found: f"{found[1]} and {found[2]} exclude each other: leave one out",
    ),
)


class ShowVersion(argparse.Action):
    """Print the version, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Print the version. Its import takes 10 ms, which other commands need not wait for."""
        from importlib.metadata import version

        sys.stdout.write(f"vlpeft {version('vlpeft')}\n")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """The parser of the command and, through argparse, of each of its subcommands."""

    def error(self, message: str) -> NoReturn:
        """Print the message on one line, and exit with code 2."""
        for pattern, words in WORDS:
            message = re.sub(pattern, words, message)
        if not message.endswith("?"):  # it does not suggest a word already
            message = f"{message}; see `{self.prog} --help`"
        print_message(f"{self.prog}: error: {message}")
        sys.exit(2)

    def print_help(self, file: Any = None) -> None:
        """Print the help. Unlike argparse, do not hide that stdout cannot be written."""
        (file or sys.stdout).write(self.format_help())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and let a subcommand report its unknown arguments itself.

        Only the subcommand knows which of its options a misspelled one resembles.
        """
        found, extra = super().parse_known_args(args, namespace)
        if extra and self._subparsers is None:
            self.error(f"unknown argument '{extra[0]}'{self._suggest(extra[0])}")
        return found, extra

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise ArgumentError for a value that is not among the choices, with the nearest one."""
        choices = action.choices
        if choices is None or value in choices:
            return
        hint = did_you_mean(str(value), map(str, choices))
        if isinstance(choices, dict):  # the names of subcommands
            kind = str(action.metavar).lower()
            raise argparse.ArgumentError(None, f"unknown {kind} '{value}'{hint}")
        raise argparse.ArgumentError(action, f"unknown value '{value}'{hint}")

    def _suggest(self, word: str) -> str:
        """Return the option that a misspelled one resembles, as a hint; "" if there is none."""
        if not word.startswith("--"):
            return ""
        option = word.split("=", maxsplit=1)[0]
        hint = did_you_mean(option, _long_options(self._actions))
        if "did you mean" in hint:
            return hint
        return ""


def _long_options(actions: Sequence[argparse.Action]) -> list[str]:
    """Return the options that begin with two dashes."""
    return [
        option for action in actions for option in action.option_strings if option.startswith("--")
    ]
