"""Try mutants: `python -m tests.mutation --mutants 200 --seed 0`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

from tests.mutation.campaign import (
    Verdict,
    copy_repository,
    find_mutants,
    import_libraries,
    room_of,
    run_campaign,
    sample_mutants,
)
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.operators import Mutant
from tests.mutation.targets import ROOMS


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--mutants", type=int, default=200, help="how many, over all rooms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--under", nargs="+", choices=ROOMS, default=ROOMS, metavar="ROOM")
    parser.add_argument("--json", type=Path, help="write the verdicts to this file")
    parser.add_argument("--again", type=Path, help="try what survived in this file again")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    return parser.parse_args()


def choose_mutants(options: argparse.Namespace) -> list[Mutant]:
    """Return a sample, or the survivors of a campaign before, without the equivalent ones."""
    if not options.again:
        return sample_mutants(options.under, options.mutants, options.seed)
    verdicts = json.loads(options.again.read_text(encoding="utf-8"))
    survivors = [each for each in verdicts if each["outcome"] != "killed"]
    keys = {(each["path"], each["line"], each["change"]) for each in survivors}
    return [mutant for mutant in find_mutants(options.under) if mutant.key in keys]


def run() -> int:
    """Try the mutants, print a table by room, and return 1 if one survives."""
    options, start, verdicts = parse_options(), time.monotonic(), list[Verdict]()
    mutants = [mutant for mutant in choose_mutants(options) if mutant.key not in EQUIVALENT]
    import_libraries()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for verdict in run_campaign(mutants, copy_repository(Path(folder))):
            verdicts.append(verdict)
            print_verdict(f"{len(verdicts)}/{len(mutants)}", verdict)
            if options.json:
                write_verdicts(options.json, verdicts)
            if time.monotonic() - start > options.minutes * 60:
                break
    print_table(verdicts)
    return int(any(verdict.outcome == "survived" for verdict in verdicts))


def print_verdict(count: str, verdict: Verdict) -> None:
    """Print one line."""
    mutant = verdict.mutant
    place = f"{mutant.path}:{mutant.number}"
    print(f"{count} {verdict.outcome} {verdict.seconds:.0f} s {place}: {mutant.change}", flush=True)


def print_table(verdicts: list[Verdict]) -> None:
    """Print how many mutants of each room were killed."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for room in (room_of(verdict.mutant), "all"):
            counts[room][verdict.outcome] += 1
    print(f"{'room':22} {'mutants':>9} {'killed':>9} {'timed out':>9} {'survived':>9}")
    for room, count in counts.items():
        numbers = (count.total(), count["killed"], count["timed out"], count["survived"])
        print(f"{room:22} " + " ".join(f"{number:9}" for number in numbers))


def write_verdicts(path: Path, verdicts: list[Verdict]) -> None:
    """Write the verdicts as JSON, for `--again`."""
    rows = []
    for verdict in verdicts:
        row = {**asdict(verdict.mutant), "outcome": verdict.outcome}
        rows.append({key: row[key] for key in ("path", "number", "line", "change", "outcome")})
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run())
