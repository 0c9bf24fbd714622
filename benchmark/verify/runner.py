"""Run the checks of some parts on a device; or compute the values that are committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from vlpeft.benchmark.backbones.weights import quiet
from vlpeft.benchmark.cells.verified import BACKBONES
from vlpeft.benchmark.verify import expected, formulas, images, metrics, models, tokenizers
from vlpeft.benchmark.verify.check import Check, Finding, NotRun, difference, shown

Source = Callable[[torch.device], Iterator[Check]]
SOURCES: Mapping[str, Source] = {
    "images": images.checks,
    "tokenizers": tokenizers.checks,
    "formulas": formulas.checks,
    "answers": metrics.answer_checks,
    "captions": metrics.caption_checks,
    **{name: partial(models.checks, name) for name in BACKBONES},
}


def run(parts: Sequence[str], device: torch.device) -> Iterator[Finding]:
    """Check after check. An error inside of one is a failure of it; the others still run."""
    with as_in_a_run(device):
        for part in parts:
            for check in SOURCES[part](device):
                yield run_check(part, check)


def run_check(part: str, check: Check) -> Finding:
    """One check."""
    try:
        found = check.measure()
        wanted = check.expected() if check.expected else expected.committed(part)[check.committed]
    except NotRun as reason:
        return Finding(part, check.name, "not run", reason=str(reason))
    except KeyError as error:
        return Finding(
            part,
            check.name,
            "FAILED",
            f"a value of {error}",
            "no such name; run `vlpeft verify --write`",
        )
    except Exception as error:  # of any library: that is what is looked for
        return Finding(
            part, check.name, "FAILED", "no error", f"{type(error).__name__}: {shown(str(error))}"
        )
    other = difference(wanted, found, check.tolerance)
    if other is None:
        return Finding(part, check.name, "ok")
    place = f"{other.place}: " if other.place else ""
    return Finding(part, check.name, "FAILED", f"{place}{other.expected}", f"{place}{other.found}")


def write(parts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Commit what this environment computes on its CPU; yields part, check and what has changed.

    Values that agree with the committed ones within their tolerance keep their digits.
    """
    device = torch.device("cpu")
    with as_in_a_run(device):
        for part in parts:
            values, before = dict[str, Any](), _before(part)
            for check in SOURCES[part](device):
                if check.writes:
                    values[check.name], change = _written(check, before)
                    yield part, check.name, change
            gone = sorted(before.keys() - values.keys())
            yield from ((part, name, "removed") for name in gone)
            expected.write(part, values)


def _written(check: Check, before: Mapping[str, Any]) -> tuple[Any, str]:
    found = expected.rounded(check.measure(), check.tolerance)
    if check.name not in before:
        return found, "new"
    other = difference(before[check.name], found, check.tolerance)
    if other is None:
        return before[check.name], ""
    return found, f"{other.place or 'value'}: {other.expected} -> {other.found}"


def _before(part: str) -> Mapping[str, Any]:
    path = expected.FOLDER / f"{part}.json"
    return expected.committed(part) if path.exists() else {}


@contextmanager
def as_in_a_run(device: torch.device) -> Iterator[None]:
    """Deterministic kernels on a CPU, as cells have them, and one thread: the towers are too small for more.

    The random state and the settings are as before afterwards.
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    rounded = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(), quiet():
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = rounded
        models.forget()
