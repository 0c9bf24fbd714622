"""Sweeps of any number of tiny cells, and made-up records of them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.files import to_json, write_atomically
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle

RANKS, BACKBONE = (
    20,
    {
        "name": "vit_roberta",
        "text": "tiny",
        "vision": "tiny",
        "embed_text_twice": False,
        "pooler": "checkpoint",
    },
)


def write_sweep(folder: Path, cells: int, **protocol: Any) -> Path:
    """Write a sweep file with this many cells: LoRA of up to 20 ranks, and seeds. JSON is YAML."""
    ranks = next(n for n in range(min(RANKS, cells), 0, -1) if cells % n == 0)
    sweep = {
        "title": "bench",
        "protocol": {
            "base": "quickstart",
            "steps": 20,
            "train_limit": 64,
            "eval_limit": 32,
            **protocol,
        },
        "seeds": list(range(cells // ranks)),
        "tasks": ["vqa/shapes"],
        "backbones": [BACKBONE],
        "methods": [
            {"name": "lora", "label": f"rank {rank}", "rank": rank} for rank in range(1, ranks + 1)
        ],
    }
    path = folder / f"bench{cells}.yaml"
    path.write_text(json.dumps(sweep), encoding="utf-8")
    return path


def records(root: Path, sweep: Path) -> Path:
    """Write a plan and a record of each cell to a new result folder; all scores are made up."""
    made, store = plan(SweepHandle(str(sweep)), need_data=True), Store(root)
    write_atomically(plan_file(root, made.sweep), to_json(dump(made)))
    kinds = [f"vqa_accuracy/{a}_{b}" for a, b in product("abc", repeat=2)]
    for number, cell in enumerate(made.runnable()):
        values: dict[str, float | dict[str, str]] = {
            name: float((7 * number + i) % 100) for i, name in enumerate(["vqa_accuracy", *kinds])
        }
        cost = {
            "trainable": cell.trainable,
            "head": cell.head,
            "total": cell.total,
            "train_seconds": 1.0,
            "step_ms": 9.0,
        }
        record = Record(
            cell.id,
            {},
            values,
            cost,
            [(i, 1.0) for i in range(50)],
            {"data": cell.data, "science": 1},
        )
        path = (
            store.folder(cell.id) / "record.json"
        )  # without the syncs of Store.publish, which ten thousand times take long
        path.parent.mkdir(parents=True)
        path.write_bytes(to_json(dump(record)))
    return root
