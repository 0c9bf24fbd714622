"""A parser of arguments that tells a slip as the rest of the command does: one line with the fix, exit code 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vlpeft.benchmark.core.errors import did_you_mean

WORDS = (  # argparse's, and ours, which say what to do
    (
        r"one of the arguments (.*) is required",
        lambda found: f"add {' or '.join(found[1].split())}",
    ),
    (r"the following arguments are required: (.*)", lambda found: f"{found[1]} must be given"),
    (
        r"argument (.*): not allowed with argument (.*)",
        lambda found: f"{found[1]} and {found[2]} exclude each other: leave one out",
    ),
)


class Parser(argparse.ArgumentParser):
    """Its subparsers are of this class, too."""

    def error(self, message: str) -> NoReturn:
        """Print it on one line, and end."""
        for pattern, ours in WORDS:
            message = re.sub(pattern, ours, message)
        print(
            f"{self.prog}: error: {message}{'' if message.endswith('?') else f'; see `{self.prog} --help`'}",
            file=sys.stderr,
        )
        sys.exit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, but a command knows which of its own options the unknown one is like."""
        found, extra = super().parse_known_args(args, namespace)
        if extra and self._subparsers is None:
            self.error(f"unknown argument '{extra[0]}'{self._near(extra[0])}")
        return found, extra

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is not None and value not in choices:
            hint = did_you_mean(str(value), map(str, choices))
            if isinstance(choices, dict):  # the names of subparsers
                raise argparse.ArgumentError(
                    None, f"unknown {str(action.metavar).lower()} '{value}'{hint}"
                )
            raise argparse.ArgumentError(action, f"unknown value '{value}'{hint}")

    def _near(self, word: str) -> str:
        near = (
            did_you_mean(word.split("=", maxsplit=1)[0], _options(self._actions))
            if word.startswith("--")
            else ""
        )
        return near if "did you mean" in near else ""


def _options(actions: Sequence[argparse.Action]) -> list[str]:
    return [
        option for action in actions for option in action.option_strings if option.startswith("--")
    ]
