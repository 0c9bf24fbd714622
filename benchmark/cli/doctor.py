"""`vlpeft doctor`: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from vlpeft.benchmark.cli.printing import print_json, print_line

if TYPE_CHECKING:
    from vlpeft.benchmark.launch.doctor import Finding


def doctor(options: argparse.Namespace) -> int:
    """Print a line for each finding. Return 1 if there is something to fix."""
    from vlpeft.benchmark.launch.doctor import examine

    found: list[Finding] = []
    for finding in examine(options.root):
        found.append(finding)
        if not options.json:
            print_line(_line(finding))
    if options.json:
        print_json([asdict(finding) for finding in found])
    else:
        print_line("`vlpeft verify` checks that this environment computes the expected values")
    return int(any(finding.state == "FIX" for finding in found))


def _line(finding: Finding) -> str:
    line = f"{finding.state:5} {finding.name + ':':13} {finding.found}"
    if finding.fix:
        return f"{line}; {finding.fix}"
    return line
