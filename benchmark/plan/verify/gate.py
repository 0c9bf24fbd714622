"""Verify what cells use before they run, once for each environment. Refuse if a check fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.verify.parts import SECONDS, parts_of_cells
from vlpeft.benchmark.plan.verify.stamp import Environment, alone, missing, remember

FIX = (
    "install the locked versions (`uv pip install -c constraints.txt vlpeft`), "
    "look at `vlpeft verify`, or go on with --unverified, which the records will say"
)
Say = Callable[[str], None]


class EnvironmentFailed(UserError):
    """This environment does not compute what it should."""


def print_line(line: str) -> None:
    """Print a line on stderr."""
    print(f"vlpeft: {line}", file=sys.stderr, flush=True)


def require(cells: Iterable[Cell], device: str, say: Say = print_line) -> None:
    """Verify what the cells use on a device, unless it has passed before.

    Args:
        cells: they decide which parts are verified.
        device: "cpu" or "cuda".
        say: called with a line for the user.

    Raises:
        EnvironmentFailed: the message has the first check that fails.
    """
    parts = parts_of_cells(cells)
    environment = Environment.here(device)
    if not missing(environment, parts):
        return
    with alone(environment):
        # Another process may have verified them while this one waited.
        left = missing(environment, parts)
        if left:
            _verify(environment, left, device, say)


def _verify(environment: Environment, parts: Sequence[str], device: str, say: Say) -> None:
    # Imported here: a verified environment must not wait for torch.
    import torch

    from vlpeft.benchmark.plan.verify.runner import run

    seconds = sum(SECONDS[part] for part in parts)
    say(f"verifying this environment (once, about {seconds:.0f} s): {', '.join(parts)}")
    for finding in run(parts, torch.device(device)):
        if finding.state == "FAILED":
            raise EnvironmentFailed(
                f"this environment does not compute what it should: {finding.part}: "
                f"{finding.name}: expected {finding.expected}, found {finding.found} "
                f"({environment.versions}; {environment.device}); {FIX}"
            )
    if problem := remember(environment, parts):
        say(
            f"cannot remember that this environment passed ({problem}); "
            "the next command verifies it again"
        )


class EnvironmentGate:
    """`require` for a process that runs many cells. It also remembers what failed."""

    def __init__(self, device: Callable[[], str], say: Say = print_line) -> None:
        self.device, self.say = device, say
        self._known: dict[tuple[str, ...], str] = {}

    def problem(self, cell: Cell) -> str:
        """Return why a cell must not run here, or "" if it may."""
        parts = parts_of_cells([cell])
        if parts not in self._known:
            self._known[parts] = self._find_problem(cell)
        return self._known[parts]

    def _find_problem(self, cell: Cell) -> str:
        try:
            device = self.device()
        except UserError:
            # There is no such GPU. The cell itself fails with that reason.
            return ""
        try:
            require([cell], device, self.say)
        except EnvironmentFailed as error:
            return str(error)
        return ""
