"""Before cells run: verify what they use, once for each environment, and refuse where a check fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.verify.parts import SECONDS, parts_of_cells
from vlpeft.benchmark.verify.stamp import Environment, alone, missing, remember

FIX = (
    "install the locked versions (`uv pip install -c constraints.txt vlpeft`), look at `vlpeft verify`, "
    "or go on with --unverified, which the records will say"
)
Say = Callable[[str], None]


class EnvironmentFailed(UserError):
    """This environment computes something else than it should."""


def tell(line: str) -> None:
    """A line on stderr."""
    print(f"vlpeft: {line}", file=sys.stderr, flush=True)


def require(cells: Iterable[Cell], device: str, say: Say = tell) -> None:
    """Verify what the cells use on a device ("cpu" or "cuda"), unless that has passed before.

    Raises EnvironmentFailed with the first check that fails.
    """
    parts = parts_of_cells(cells)
    environment = Environment.here(device)
    if not missing(environment, parts):
        return
    with alone(environment):
        left = missing(environment, parts)  # another process may have verified them meanwhile
        if left:
            _verify(environment, left, device, say)


def _verify(environment: Environment, parts: Sequence[str], device: str, say: Say) -> None:
    import torch

    from vlpeft.benchmark.verify.runner import run

    seconds = sum(SECONDS[part] for part in parts)
    say(f"verifying this environment (once, about {seconds:.0f} s): {', '.join(parts)}")
    for finding in run(parts, torch.device(device)):
        if finding.state == "FAILED":
            raise EnvironmentFailed(
                f"this environment does not compute what it should: {finding.part}: {finding.name}: expected "
                f"{finding.expected}, found {finding.found} ({environment.versions}; {environment.device}); {FIX}"
            )
    if problem := remember(environment, parts):
        say(
            f"cannot remember that this environment passed ({problem}); the next command verifies it again"
        )


class Gate:
    """`require` for a process that runs many cells: it remembers what failed, too."""

    def __init__(self, device: Callable[[], str], say: Say = tell) -> None:
        self.device, self.say = device, say
        self._known: dict[tuple[str, ...], str] = {}

    def problem(self, cell: Cell) -> str:
        """Why a cell must not run here; "" where it may."""
        parts = parts_of_cells([cell])
        if parts not in self._known:
            self._known[parts] = self._ask(cell)
        return self._known[parts]

    def _ask(self, cell: Cell) -> str:
        try:
            device = self.device()
        except UserError:  # a GPU that cannot be seen: the cell itself says so
            return ""
        try:
            require([cell], device, self.say)
        except EnvironmentFailed as error:
            return str(error)
        return ""
