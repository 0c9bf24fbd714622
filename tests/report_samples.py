"""A small result folder with everything that a report shows.

It has finished, failed, missing and skipped cells, curves, p and mu, and predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Cell, Choice, Plan, Planned
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.files import to_json, write_atomically
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan.plan_files import plan_file

DATA = DatasetSpec(
    "small", "shapes", {"seed": 0, "train_scenes": 24, "val_scenes": 4, "test_scenes": 12}, ""
)
RECIPE = Protocol(lr=1.0, steps=20, eval_split="test", metrics=("vqa_accuracy",))
NASTY = "</script><img src=https://evil.example/x.png onerror=alert(1)>"
METHODS = ("lora", "p_adapter", "bitfit", f"odd {NASTY}")


def planned(row: str, backbone: str, seed: int, **more: Any) -> Planned:
    """Plan a cell of visual questions about the small drawn scenes."""
    cell = Cell(Choice(row, {}), Choice(backbone, {"weights": "tiny"}), "vqa", DATA, RECIPE, seed)
    counts = {"trainable": 1000 * (1 + METHODS.index(row)), "head": 0, "total": 100_000}
    return Planned(cell.id, row, backbone, "vqa", DATA.name, seed, cell, **counts | more)


def plan(**more: Any) -> Plan:
    """Plan two backbones, four methods and two seeds.

    One method does not fit the second backbone.
    """
    cells = [
        planned(row, backbone, seed)
        for backbone in ("blip", "gpt2")
        for row in METHODS
        for seed in (0, 1)
    ]
    kept = [
        replace(c, skipped="gpt2 has no bias") if (c.row, c.backbone) == ("bitfit", "gpt2") else c
        for c in cells
    ]
    return Plan(
        **{
            "sweep": "made",
            "title": "A made sweep",
            "notes": "It says nothing.",
            "source": "s",
            "cells": tuple(kept),
        }
        | more
    )


def record(cell: Planned) -> Record:
    """Return the record of a finished cell; later methods in METHODS score better."""
    level = 50.0 + 10 * METHODS.index(cell.row) + cell.seed
    sites = ("decoder.0.self", "encoder.10.self", "encoder.9.cross", "encoder.9.self")
    ways = {
        f"{site}.{what}": [(s, 1.5 + s / 100 + cell.seed) for s in range(1, 21)]
        for site in sites
        for what in ("mu", "p")
    }
    return Record(
        cell.id,
        dump(cell.cell),
        {"vqa_accuracy": level, "vqa_accuracy/color": level - 5, "vqa_accuracy/exist": level + 5},
        {
            "trainable": cell.trainable,
            "total": cell.total,
            "train_seconds": 12.0,
            "step_ms": 3.0,
            "peak_memory_mb": 900.0,
        },
        [(step, 2.0 / step) for step in range(1, 201)],
        {
            "data": DATA.open().fingerprint(),
            "science": 1,
            "git": {"sha": "abc"},
            "finished": "2026-01-02T03:04:05+00:00",
        },
        scalars=ways if cell.row == "p_adapter" else {},
    )


def predictions(cell: Planned) -> list[Mapping[str, Any]]:
    """Predict every example of the split; later methods in METHODS are right more often.

    One answer needs escaping.
    """
    lines = []
    for i, example in enumerate(DATA.open().examples("vqa", "test")):
        right = i % 5 <= METHODS.index(cell.row)
        text = example.answers[0] if right else NASTY if i % 2 else "wrong"
        scores = {"vqa_accuracy": 100.0 * right}
        lines.append(
            {
                "id": example.id,
                "kind": example.kind,
                "prediction": text,
                "references": list(example.answers),
                "scores": scores,
            }
        )
    return lines


def fill(root: Path, made: Plan) -> Plan:
    """Write the records of all cells except for lora on gpt2.

    One of its seeds failed and one is missing.
    """
    store = Store(root)
    for cell in made.runnable():
        if (cell.row, cell.backbone) != ("lora", "gpt2"):
            lines = "".join(json.dumps(line) + "\n" for line in predictions(cell))
            write_atomically(store.folder(cell.id) / "predictions.jsonl", lines.encode())
            assert store.publish(record(cell))
        elif cell.seed == 0:
            failed = {"cause": "out of memory", "message": f"wanted 3 GB {NASTY}", "user": False}
            write_atomically(store.folder(cell.id) / "failure.json", to_json(failed))
    write_atomically(plan_file(root, made.sweep), to_json(dump(made)))
    return made
