"""How many threads and processes a machine can be asked for."""

from __future__ import annotations

import os

from vlpeft.benchmark.core.errors import UserError

# More than the cores is allowed: the same number of threads as on a larger machine gives the
# same bits. A million would exhaust the memory.
LEAST_LIMIT = 64
PER_CORE = 4


def check_number(number: int, option: str) -> int:
    """Return a number of threads or processes. Raises UserError if it is out of bounds."""
    cores = os.cpu_count() or 1
    limit = max(LEAST_LIMIT, PER_CORE * cores)
    if number < 1:
        raise UserError(f"{option}: {number} is not enough; use 1 or more")
    if number > limit:
        raise UserError(
            f"{option}: {number} is too many for this machine, which has {cores} cores; "
            f"use at most {limit}"
        )
    return number
