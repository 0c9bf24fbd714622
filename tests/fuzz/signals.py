"""End a local sweep at random moments, again and again, and compare its table.

Run it by hand, from the top of a checkout:

    python -m tests.fuzz.signals --seed 0 --moments 10

For each way to end a launcher (SIGTERM, SIGTERM to its process group, SIGHUP, a closed terminal,
SIGKILL), a sweep is started and ended that many times at random moments. 15 seconds later no
process of it may be left. At the end the sweep runs undisturbed, and its table must equal that of
a sweep that was never disturbed. It takes about a minute for each ten moments, and prints counts.
The exit code is 1 if something was wrong. `--tuned` takes a sweep with `tune:`, which compares
settings in its first stage and tests the best ones in its second.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.end_to_end.conftest import OFFLINE, write_sweep, write_tuned
from tests.processes import Started

KINDS = ("SIGTERM", "group SIGTERM", "SIGHUP", "terminal", "SIGKILL")
LEFT_SECONDS = 15.0
VLPEFT = (sys.executable, "-m", "vlpeft")
RUN = ("--device", "cpu", "--threads", "1", "--workers", "2", "--checkpoint-seconds", "1")


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tuned", action="store_true", help="a sweep with `tune:`")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vlpeft-signals-") as folder:
        return _campaign(Path(folder), options)


def _campaign(folder: Path, options: argparse.Namespace) -> int:
    write = write_tuned if options.tuned else write_sweep
    sweep = write(folder, steps=options.steps)
    began = time.monotonic()
    wanted = _table(sweep, folder / "undisturbed")
    seconds = time.monotonic() - began
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    wrong = 0
    for kind in options.kinds.split(","):
        draw = random.Random(f"{options.seed} {kind}")
        root = folder / kind.replace(" ", "-")
        ended = [
            _disturb(sweep, root, kind, draw.uniform(0, seconds)) for _ in range(options.moments)
        ]
        same = _table(sweep, root) == wanted
        left = sum(not each for each in ended)
        print(
            f"{kind}: {len(ended)} moments, {left} left processes, same table: {same}", flush=True
        )
        wrong += left + (not same)
    return int(bool(wrong))


def _disturb(sweep: Path, root: Path, kind: str, seconds: float) -> bool:
    """End a sweep after a time; return whether no process was left."""
    command = (*VLPEFT, "sweep", str(sweep), "--root", str(root), *RUN)
    log = root.with_suffix(".log")
    started = Started(command, log, OFFLINE, terminal=kind == "terminal")
    try:
        time.sleep(seconds)
        started.end(kind)
        gone = started.is_gone_within(LEFT_SECONDS)
        if not gone:
            for process in started.left():
                print(f"  left: {process.pid} {' '.join(process.cmdline())[:200]}", flush=True)
        return gone
    finally:
        started.clean_up()


def _table(sweep: Path, root: Path) -> str:
    """Finish a sweep, and return its table."""
    where = (str(sweep), "--root", str(root))
    subprocess.run([*VLPEFT, "sweep", *where, *RUN], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [*VLPEFT, "table", *where, "--format", "csv"], check=True, capture_output=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
