"""`vlpeft verify`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from vlpeft.benchmark.core.errors import UserError


def verify(options: argparse.Namespace) -> int:
    """A line for each check, then the versions; 1 if a check fails."""
    from vlpeft.benchmark.verify.parts import PARTS, parts_of_backbone

    parts = parts_of_backbone(options.backbone) if options.backbone else PARTS
    return _write(parts, options) if options.write else _check(parts, options)


def _check(parts: Any, options: argparse.Namespace) -> int:
    from dataclasses import asdict
    from time import perf_counter

    from vlpeft.benchmark.run.runtime import Runtime
    from vlpeft.benchmark.verify.runner import run
    from vlpeft.benchmark.verify.stamp import Environment, remember

    began, findings = perf_counter(), list[Any]()
    device = Runtime(device=options.device).torch_device()
    environment = Environment.here(device.type)
    stream = sys.stderr if options.json else sys.stdout
    for finding in run(parts, device):
        findings.append(finding)
        print(_line(finding), file=stream, flush=True)
    failed = {each.part for each in findings if each.state == "FAILED"}
    remember(environment, [part for part in parts if part not in failed])
    seconds = perf_counter() - began
    if options.json:
        values = {
            "environment": asdict(environment),
            "seconds": seconds,
            "checks": [*map(asdict, findings)],
        }
        print(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        print(_summary(findings, environment, seconds))
    return 1 if failed else 0


def _line(finding: Any) -> str:
    line = f"{finding.state:7} {finding.part}: {finding.name}"
    if finding.state == "FAILED":
        return f"{line}: expected {finding.expected}, found {finding.found}"
    return f"{line}: {finding.reason}" if finding.reason else line


def _summary(findings: Any, environment: Any, seconds: float) -> str:
    states = [each.state for each in findings]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("ok", "FAILED", "not run") if state in states
    )
    return f"{counts} in {seconds:.1f} s\n{environment.versions}\n{environment.device}"


def _write(parts: Any, options: argparse.Namespace) -> int:
    from vlpeft.benchmark.verify.runner import write

    if options.json or options.device not in ("auto", "cpu"):
        raise UserError(
            "--write: values are computed on the CPU and changes are printed as text; leave out --json and --device"
        )
    changes = 0
    for part, name, change in write(parts):
        if change:
            changes += 1
            print(f"{part}: {name}: {change}", flush=True)
    print(f"{changes} values changed")
    return 0
