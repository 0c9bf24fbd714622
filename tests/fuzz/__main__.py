"""The long form: `python -m tests.fuzz --inputs 100000 --processes 2`.

Each finding is printed with its kind and number; `--one KIND NUMBER` tries that input again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from tests.fuzz.engine import Campaign, run_campaign
from tests.fuzz.inputs import KINDS
from tests.fuzz.prepared import prepare

# Kinds that train or build a model cost much more than a second; they get a smaller share.
SHARES = {"caches": 0.2, "requests": 0.3, "adapter_folder": 0.3}


def spread(inputs: int, seed: int, kinds: list[str]) -> list[tuple[str, int]]:
    """Return (kind, seed) pairs: about `inputs` in all, spread over the kinds in turn."""
    total = sum(SHARES.get(kind, 1.0) for kind in kinds)
    numbers = {kind: round(inputs * SHARES.get(kind, 1.0) / total) for kind in kinds}
    pairs = [
        (number / numbers[kind], kind, seed * 10**9 + number)
        for kind in kinds
        for number in range(numbers[kind])
    ]
    return [(kind, which) for _, kind, which in sorted(pairs)]


def run() -> int:
    """Run the campaign, print the counts by kind, and return 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: all")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "NUMBER"), help="try one input again")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    options = parser.parse_args()
    campaign, start = Campaign(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        base = prepare(Path(folder))
        work = spread(options.inputs, options.seed, options.kinds.split(","))
        if options.one:
            work = [(options.one[0], int(options.one[1]))]
        with suppress(KeyboardInterrupt):  # the counts so far
            for verdict in run_campaign(work, base, Path(folder), options.processes):
                campaign.add(verdict)
                if verdict.problem:
                    print(f"{verdict.kind} {verdict.seed}: {verdict.problem}: {verdict.detail}")
                if time.monotonic() - start > options.minutes * 60:
                    break
    for kind, number in sorted(campaign.tried.items()):
        bad = sum(verdict.kind == kind for verdict in campaign.problems)
        print(f"{kind:16} {number:7,} inputs {bad:5} problems")
    print(f"{'all':16} {campaign.tried.total():7,} inputs {len(campaign.problems):5} problems")
    return int(bool(campaign.problems))


if __name__ == "__main__":
    sys.exit(run())
