"""The commands that take trained cells out and ask them: `export-adapter` and `predict`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from vlpeft.benchmark.core.errors import UserError

if TYPE_CHECKING:
    from vlpeft.benchmark.export.predict import AskedQuestion
    from vlpeft.benchmark.tasks.base import Task

BATCH = 32


def export_adapter(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.export.write import export
    from vlpeft.benchmark.plan.sweep import as_typed, load_plan

    planned, store = (
        load_plan(options.sweep, options.root, options.scale).find(options.cell),
        Store(options.root),
    )
    if not store.has_record(planned.id):
        again = (
            f"vlpeft run {as_typed(options.sweep, options.root, options.scale)} --cell {planned.id}"
        )
        raise UserError(
            f"cell {planned.id} is not finished in {options.root}: run it first (`{again}`)"
        )
    adapter = export(planned, store, options.output, options.format)
    same, tried = adapter.reproduced
    print(
        f"{options.output}: {adapter.method} of cell {adapter.id}; {same} of {tried} test examples answered as in the run"
    )
    return 0


def predict(options: argparse.Namespace) -> int:
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.export.folder import read_adapter, rebuild
    from vlpeft.benchmark.export.predict import TOP, as_rows, predict, select_part
    from vlpeft.benchmark.run.runtime import Runtime, prepare_torch
    from vlpeft.benchmark.tasks import TASKS

    adapter = read_adapter(options.adapter)
    part = select_part(adapter, options.task)
    wanted = _wanted(options, TASKS.load(adapter.cell.parts[part].task)())
    device = prepare_torch(
        parse(Runtime, {"device": options.device, "threads": options.threads}, "options")
    )
    backbone = rebuild(adapter, options.adapter).to(device)
    made = predict(adapter, backbone, part, wanted, BATCH, TOP if options.json else 0)
    for row in as_rows(wanted, made, backbone.score):
        print(json.dumps(row, ensure_ascii=False) if options.json else row["prediction"])
    sys.stdout.flush()
    return 0


def _wanted(options: argparse.Namespace, task: Task) -> list[AskedQuestion]:
    """What is asked: the lines of a file, or one image with its question."""
    from vlpeft.benchmark.export.predict import AskedQuestion, check, read_rows

    if options.rows is None:
        asked = [AskedQuestion(tuple(map(str, options.image or ())), options.question)]
    elif options.image or options.question:
        raise UserError("--from gives images and questions; leave out --image and --question")
    else:
        asked = read_rows(options.rows)
    for number, each in enumerate(asked, 1):
        check(each, task, "" if options.rows is None else f"{options.rows}: request {number}: ")
    return asked
