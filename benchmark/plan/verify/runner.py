"""Run the checks of some parts on a device, or compute the values that are committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from vlpeft.benchmark.backbones.weights import quiet
from vlpeft.benchmark.cells.verified import BACKBONES
from vlpeft.benchmark.plan.verify import (
    expected,
    formulas,
    images,
    metrics,
    model_checks,
    models,
    tokenizers,
)
from vlpeft.benchmark.plan.verify.check import Check, Finding, NotRun, difference, shorten

Source = Callable[[torch.device], Iterator[Check]]
SOURCES: Mapping[str, Source] = {
    "images": images.checks,
    "tokenizers": tokenizers.checks,
    "formulas": formulas.checks,
    "answers": metrics.answer_checks,
    "captions": metrics.caption_checks,
    **{name: partial(model_checks.checks, name) for name in BACKBONES},
}


def run(parts: Sequence[str], device: torch.device) -> Iterator[Finding]:
    """Yield a finding for each check. An error inside a check is its failure; others still run."""
    with as_in_a_run(device):
        for part in parts:
            for check in SOURCES[part](device):
                yield run_check(part, check)


def run_check(part: str, check: Check) -> Finding:
    """Run one check."""
    failed = partial(Finding, part, check.name, "FAILED")
    try:
        found = check.measure()
        wanted = _expected_value(part, check)
    except NotRun as reason:
        return Finding(part, check.name, "not run", reason=str(reason))
    except KeyError as error:
        return failed(f"a value of {error}", "no such name; run `vlpeft verify --write`")
    except Exception as error:
        # An error of any library is just what the checks look for.
        return failed("no error", f"{type(error).__name__}: {shorten(str(error))}")
    other = difference(wanted, found, check.tolerance)
    if other is None:
        return Finding(part, check.name, "ok")
    place = f"{other.place}: " if other.place else ""
    return failed(f"{place}{other.expected}", f"{place}{other.found}")


def _expected_value(part: str, check: Check) -> Any:
    if check.expected is not None:
        return check.expected()
    return expected.committed(part)[check.committed]


def write(parts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Commit what this environment computes on its CPU.

    Values that agree with the committed ones within their tolerance keep their digits.

    Yields:
        Part, name of the check, and what has changed ("" if nothing has).
    """
    device = torch.device("cpu")
    with as_in_a_run(device):
        for part in parts:
            values: dict[str, Any] = {}
            before = _before(part)
            for check in SOURCES[part](device):
                if check.writes:
                    values[check.name], change = _update(check, before)
                    yield part, check.name, change
            for name in sorted(before.keys() - values.keys()):
                yield part, name, "removed"
            expected.write(part, values)


def _update(check: Check, before: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the value to commit, and what has changed."""
    found = expected.rounded(check.measure(), check.tolerance)
    if check.name not in before:
        return found, "new"
    other = difference(before[check.name], found, check.tolerance)
    if other is None:
        return before[check.name], ""
    return found, f"{other.place or 'value'}: {other.expected} -> {other.found}"


def _before(part: str) -> Mapping[str, Any]:
    """Return the values that are committed now; none for a new part."""
    if not (expected.FOLDER / f"{part}.json").exists():
        return {}
    return expected.committed(part)


@contextmanager
def as_in_a_run(device: torch.device) -> Iterator[None]:
    """Set torch up as for a cell, and restore settings and random state afterwards.

    Kernels on a CPU are deterministic. One thread is enough, because the towers are tiny.
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(), quiet():
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32
        models.forget()
