"""The commands that export trained cells and apply them: `export-adapter` and `predict`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vlpeft.benchmark.cli.printing import json_text, print_error, print_line
from vlpeft.benchmark.core.errors import UserError

if TYPE_CHECKING:
    from vlpeft.benchmark.export.predict import AskedQuestion
    from vlpeft.benchmark.tasks.base import Task

BATCH = 32  # questions that `predict` answers at once


def export_adapter(options: argparse.Namespace) -> int:
    """Write the trained weights of a finished cell to a folder."""
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.export.cards import describe_check
    from vlpeft.benchmark.export.write import export

    planned = options.handle.load_plan().find(options.cell)
    store = Store(options.root)
    if not store.has_record(planned.id):
        where = options.handle.as_typed()
        raise UserError(
            f"cell {planned.id} is not finished in {options.root}: "
            f"run it first (`vlpeft run {where} --cell {planned.id}`)"
        )
    adapter = export(planned, store, options.output, options.format)
    checked = describe_check(*adapter.reproduced)
    print_line(f"{options.output}: {adapter.method} of cell {adapter.id}; {checked}")
    return 0


def predict(options: argparse.Namespace) -> int:
    """Apply an exported adapter to images, and print its answers."""
    from vlpeft.benchmark.core.config import parse
    from vlpeft.benchmark.export.folder import read_adapter, rebuild
    from vlpeft.benchmark.export.predict import TOP, as_rows, predict, select_part
    from vlpeft.benchmark.run.plugins import load_plugins
    from vlpeft.benchmark.run.runtime import Runtime, prepare_torch
    from vlpeft.benchmark.tasks import TASKS

    load_plugins(options.plugin)
    adapter = read_adapter(options.adapter)
    part = select_part(adapter, options.task)
    asked = _read_questions(options, TASKS.load(adapter.cell.parts[part].task)())
    problems = _unreadable(asked, options)
    wanted = [question for question in asked if question not in problems]
    given = {"device": options.device, "threads": options.threads}
    device = prepare_torch(parse(Runtime, given, "options"))
    backbone = rebuild(adapter, options.adapter).to(device)
    kept = 0  # of the best answers; plain text has the best one alone
    if options.json:
        kept = TOP
    made = predict(adapter, backbone, part, wanted, BATCH, kept)
    rows = as_rows(wanted, made, backbone.score)
    for question in asked:
        if question in problems:
            row: dict[str, Any] = {"images": question.images, "error": problems[question]}
        else:
            row = next(rows)
        if options.json:
            print(json_text(row))
        else:
            print_line(row.get("prediction", ""))  # a line for each request
    sys.stdout.flush()
    return int(bool(problems))


def _unreadable(asked: list[AskedQuestion], options: argparse.Namespace) -> dict[Any, str]:
    """Return the requests of a file whose images cannot be read, and why; print each reason.

    Raises UserError for an image of the command line, and if no request can be answered.
    """
    from vlpeft.benchmark.export.predict import image_problem

    problems = {}
    for number, question in enumerate(asked, 1):
        if problem := image_problem(question):
            if options.rows is None:
                raise UserError(problem)
            problems[question] = problem
            print_error(f"{options.rows}: request {number}: {problem}")
    if len(problems) == len(set(asked)):
        raise UserError(f"{options.rows}: no request has an image that can be read")
    return problems


def _read_questions(options: argparse.Namespace, task: Task) -> list[AskedQuestion]:
    """Return the questions of a file, or the one of the command line.

    Raises UserError for a question that the task cannot answer.
    """
    from vlpeft.benchmark.export.predict import AskedQuestion, check, read_rows

    if options.rows is None:
        images = tuple(map(str, options.image or ()))
        question = AskedQuestion(images, options.question)
        check(question, task, "")
        return [question]
    if options.image or options.question:
        raise UserError("--from gives images and questions; leave out --image and --question")
    questions = read_rows(options.rows)
    for number, question in enumerate(questions, 1):
        check(question, task, f"{options.rows}: request {number}: ")
    return questions
