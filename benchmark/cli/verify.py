"""`vlpeft verify`: check that this environment computes the expected values."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.terminal import print_message


def verify(options: argparse.Namespace) -> int:
    """Print a line for each check, then the versions. Return 1 if a check fails."""
    from vlpeft.benchmark.plan.verify.parts import PARTS, parts_of_backbone

    parts: Any = PARTS
    if options.backbone:
        parts = parts_of_backbone(options.backbone)
    if options.write:
        return _write(parts, options)
    return _check(parts, options)


def _check(parts: Any, options: argparse.Namespace) -> int:
    """Run checks, and remember the parts that passed for later sweeps."""
    from time import perf_counter

    from vlpeft.benchmark.plan.verify.runner import run
    from vlpeft.benchmark.plan.verify.stamp import Environment, remember
    from vlpeft.benchmark.run.runtime import Runtime

    began = perf_counter()
    findings: list[Any] = []
    device = Runtime(device=options.device).torch_device()
    environment = Environment.here(device.type)
    stream = sys.stdout
    if options.json:
        stream = sys.stderr
    for finding in run(parts, device):
        findings.append(finding)
        print(_line(finding), file=stream, flush=True)
    failed = {each.part for each in findings if each.state == "FAILED"}
    if problem := remember(environment, [part for part in parts if part not in failed]):
        print_message(f"cannot remember what passed ({problem}); the next sweep verifies it again")
    seconds = perf_counter() - began
    if options.json:
        _print_json(findings, environment, seconds)
    else:
        print(_summary(findings, environment, seconds))
    return int(bool(failed))


def _print_json(findings: list[Any], environment: Any, seconds: float) -> None:
    """Print the checks and the environment as JSON."""
    from dataclasses import asdict

    from vlpeft.benchmark.cli.printing import print_json

    checks = [asdict(finding) for finding in findings]
    print_json({"environment": asdict(environment), "seconds": seconds, "checks": checks})


def _line(finding: Any) -> str:
    """Return a check's line: its state, its name, and why it failed or did not run."""
    line = f"{finding.state:7} {finding.part}: {finding.name}"
    if finding.state == "FAILED":
        return f"{line}: expected {finding.expected}, found {finding.found}"
    if finding.reason:
        return f"{line}: {finding.reason}"
    return line


def _summary(findings: Any, environment: Any, seconds: float) -> str:
    """Return how many checks passed, how long they took, and the versions."""
    states = [each.state for each in findings]
    present = [state for state in ("ok", "FAILED", "not run") if state in states]
    counts = [f"{states.count(state)} {state}" for state in present]
    line = f"{', '.join(counts)} in {seconds:.1f} s"
    return f"{line}\n{environment.versions}\n{environment.device}"


def _write(parts: Any, options: argparse.Namespace) -> int:
    """Write what this CPU computes as the expected values, and print the changes."""
    from vlpeft.benchmark.plan.verify.runner import write

    if options.json or options.device not in ("auto", "cpu"):
        raise UserError(
            "--write: values are computed on the CPU and changes are printed as text; "
            "leave out --json and --device"
        )
    changes = 0
    for part, name, change in write(parts):
        if change:
            changes += 1
            print(f"{part}: {name}: {change}", flush=True)
    print(f"{changes} values changed")
    return 0
