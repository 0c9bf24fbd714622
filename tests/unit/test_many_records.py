"""Ten thousand records: tables and report fit into a laptop's memory and parse each record once."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

from tests.synthetic import make_plan, planned, record
from vlpeft.benchmark.cells.scores import NAME, ImageScores, to_bytes
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.files import to_json

SEEDS, METHODS, BACKBONES, TASKS = (
    range(25),
    [f"method {i}" for i in range(50)],
    ("blip", "gpt2", "clip", "vit"),
    (("vqa", "a"), ("vqa", "b")),
)
WORK = """
import json, re, sys
from collections import Counter
from pathlib import Path
from vlpeft.benchmark.cells import records
from vlpeft.benchmark.plan.plan_files import launched_plans
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.tables.pivot import pivot_table
from vlpeft.results.tables.render import FORMATS, render
from vlpeft.results.report.page import write_report
from vlpeft.results.statistics.significance import significance
from vlpeft.results.tables.table import cost_table, score_table
read, parse = Counter(), records.read_record
records.read_record = lambda path: (read.update([path.parent.name]), parse(path))[1]
root, out = map(Path, sys.argv[1:])
(plan,), store = launched_plans(root), records.Store(root)
board = leaderboard(plan, store)
tests = significance(board, store)
tables = [score_table(board, tests, details=True), cost_table(board)]
tables.append(significance_table(board, tests))
tables.append(pivot_table(board, ("method",), ("task",)))
size = sum(len(render(table, form)) for table in tables for form in FORMATS)
write_report([(plan, store)], out)
# getrusage would count the process that forked this one.
status = Path("/proc/self/status").read_text()
peak = 1024 * int(re.search(r"^VmHWM:\\s+(\\d+) kB", status, re.MULTILINE)[1])
reads, columns = sorted(set(read.values())), len(tests.columns)
print(json.dumps({"reads": reads, "records": len(read), "size": size, "columns": columns,
                  "peak": peak}))
"""


def test_tables_and_report(tmp_path: Path) -> None:
    root = tmp_path / "root"
    cells = [
        planned(m, b, t, d, s) for b, (t, d), m, s in product(BACKBONES, TASKS, METHODS, SEEDS)
    ]
    (root / "sweeps").mkdir(parents=True)
    (root / "sweeps" / "sweep.json").write_bytes(to_json(dump(make_plan(*cells)), indent=None))
    for number, cell in enumerate(cells):
        folder = root / "cells" / cell.id
        folder.mkdir(parents=True)
        level = 40.0 + number % 50
        made = record(cell, {"vqa_accuracy": level, "vqa_accuracy/exist": level}, data=cell.dataset)
        (folder / "record.json").write_bytes(
            to_json({**dump(made), "curve": [[step, 2.0 / step] for step in range(1, 41)]})
        )
        images = tuple(f"{i}" for i in range(20))
        part = ImageScores(
            f"{cell.task}/{cell.dataset}", images, (1,) * 20, {"vqa_accuracy": (level,) * 20}
        )
        (folder / NAME).write_bytes(to_bytes([part]))
    done = subprocess.run(
        [sys.executable, "-c", WORK, root, tmp_path / "page"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["records"], found["reads"], found["columns"]) == (
        10_000,
        [2],
        8,
    )  # once for the tables, once for the page
    assert found["size"] > 100_000
    assert found["peak"] < 2**30
    assert (tmp_path / "page" / "index.html").stat().st_size < 2**24
