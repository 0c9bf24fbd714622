"""The arguments of the commands that read results, and of those that use trained cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlpeft.benchmark.cli.options import (
    add_cell,
    add_command,
    add_device,
    add_json,
    add_mixed,
    add_plugin,
    add_results,
    add_root,
    add_scale,
    add_threads,
    count,
    path,
    points,
)

FORMATS = ("text", "md", "latex", "html", "csv", "json", "parquet")
SAME_FORMAT = {"markdown": "md", "tex": "latex"}  # also accepted


def add_result_commands(commands: Any) -> None:
    """Add `table`, `seeds`, `diff`, `keep`, `report`, `export-adapter` and `predict`."""
    _add_table(commands)
    _add_seeds(commands)
    _add_diff(commands)
    _add_keep(commands)
    _add_report(commands)
    _add_export(commands)
    _add_predict(commands)


def _add_table(commands: Any) -> None:
    table = add_command(
        commands,
        "table",
        "print mean and standard deviation over seeds, from the records",
        "Given the name of a published table, such as p_adapter/table1, it prints the published\n"
        "numbers next to the measured ones. If a cell failed or is missing, the table says so\n"
        "instead of a mean.",
        "  vlpeft table quickstart\n"
        "  vlpeft table quickstart --rows method --columns task\n"
        "  vlpeft table quickstart --tidy --format parquet -o scores.parquet\n",
    )
    add_results(table)
    _add_place(table)
    add_scale(table)
    _add_table_form(table)
    _add_table_content(table)
    add_mixed(table)
    table.add_argument(
        "-o", "--out", type=path, metavar="FILE", help="write to a file instead of printing"
    )


def _add_seeds(commands: Any) -> None:
    seeds = add_command(
        commands,
        "seeds",
        "say how many seeds would show a difference between each pair of methods",
        "It reads the scatter from results: over seeds, and over the images of the test split,\n"
        "which more seeds do not reduce. Results of a few seeds of the same task are enough;\n"
        "a file of evidence works, too.",
        "  vlpeft seeds quickstart --detect 2\n"
        "  vlpeft seeds quickstart --measured --detect 2 --json\n",
    )
    add_results(seeds)
    _add_place(seeds)
    add_scale(seeds)
    seeds.add_argument(
        "--detect",
        type=points,
        default=1.0,
        metavar="POINTS",
        help="the difference to find, in the unit of the tables (default: 1)",
    )
    add_mixed(seeds)
    add_json(seeds)


def _add_place(parser: Any) -> None:
    """Add where results are: in a folder, in a file, or shipped."""
    place = parser.add_mutually_exclusive_group()
    add_root(place)
    place.add_argument(
        "--measured",
        action="store_true",
        help="read the results that ship with vlpeft (results/measured)",
    )


def _add_table_form(table: Any) -> None:
    """Add the options for the format of a table."""
    form = table.add_mutually_exclusive_group()
    form.add_argument(
        "--format",
        type=lambda word: SAME_FORMAT.get(word, word),
        choices=FORMATS,
        default="text",
        help="file format (default: text); parquet only with --tidy",
    )
    form.add_argument(
        "--json",
        action="store_const",
        const="json",
        dest="format",
        help="the same as --format json",
    )


def _add_table_content(table: Any) -> None:
    """Add the options for what a table shows."""
    content = table.add_mutually_exclusive_group()
    content.add_argument(
        "--costs", action="store_true", help="show time, work and memory instead of scores"
    )
    content.add_argument("--details", action="store_true", help="also show scores by question type")
    content.add_argument(
        "--significance",
        action="store_true",
        help="compare the best of each column with the others: intervals, p-values, ranks",
    )
    content.add_argument(
        "--tidy",
        action="store_true",
        help="one row for each cell and metric, nothing averaged: csv, json or parquet",
    )
    table.add_argument(
        "--rows",
        metavar="SIDES",
        help="any of method,backbone,task,dataset,scale and of what the sweep varies; "
        "scores are averaged over the sides that neither --rows nor --columns names",
    )
    table.add_argument("--columns", metavar="SIDES", help="the same; metrics are always columns")
    table.add_argument(
        "--published",
        type=path,
        metavar="FILE",
        help="compare with published numbers of your own: a YAML file as in results/published",
    )
    table.add_argument(
        "--tuning",
        action="store_true",
        help="show the cells that compare settings (`tune:`) instead of those that test the best",
    )


def _add_diff(commands: Any) -> None:
    diff = add_command(
        commands,
        "diff",
        "compare two sets of results",
        "Versions come first, then cells, metrics and costs. As with diff(1), the exit code is 1\n"
        "if anything differs other than costs and versions.",
    )
    diff.add_argument("a", metavar="A", type=path, help="a result folder, or a file of evidence")
    diff.add_argument("b", metavar="B", type=path, help="the folder or file to compare with A")
    diff.add_argument(
        "name", metavar="SWEEP", nargs="?", help="compare only the cells of this sweep"
    )
    add_scale(diff)
    add_json(diff)


def _add_keep(commands: Any) -> None:
    keep = add_command(
        commands,
        "keep",
        "write a sweep's results into one file of evidence, which is never changed again",
    )
    add_results(keep)
    add_root(keep)
    add_scale(keep)
    add_mixed(keep)
    keep.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        default=Path("measured"),
        help="folder of the file (default: measured)",
    )


def _add_report(commands: Any) -> None:
    report = add_command(
        commands,
        "report",
        "write a page of tables, charts and predictions, which opens without a network",
        "For a result folder, the page shows all sweeps that were launched in it.",
    )
    add_results(report)
    add_root(report)
    add_scale(report)
    add_mixed(report)
    report.add_argument(
        "-o",
        "--out",
        type=path,
        default=Path("report"),
        metavar="DIR",
        help="folder of the page (default: report)",
    )
    report.add_argument(
        "--examples",
        type=count,
        default=48,
        metavar="N",
        help="predictions to show on a page (default: 48)",
    )


def _add_export(commands: Any) -> None:
    export = add_command(
        commands,
        "export-adapter",
        "write the trained weights of a finished cell to a folder, with a model card",
        "First, the trained model answers some test examples again. Nothing is written if\n"
        "most answers differ from those of the run.",
        "  vlpeft export-adapter quickstart 02f7 -o my_adapter\n",
    )
    add_results(export)
    add_cell(export)
    add_scale(export)
    add_root(export)
    export.add_argument(
        "-o", "--output", type=path, required=True, metavar="DIR", help="folder to create"
    )
    export.add_argument(
        "--format",
        choices=("vlpeft", "peft", "merged"),
        default="vlpeft",
        help="vlpeft: only what was trained (default); peft: LoRA for Hugging Face peft; "
        "merged: full weights, with LoRA added to them",
    )


def _add_predict(commands: Any) -> None:
    predict = add_command(
        commands,
        "predict",
        "apply an exported adapter to an image",
        examples='  vlpeft predict --adapter my_adapter --image cat.jpg --question "what is it?"\n'
        "  vlpeft predict --adapter my_adapter --from questions.jsonl --json\n",
    )
    predict.add_argument(
        "--adapter",
        type=path,
        required=True,
        metavar="DIR",
        help="a folder that `vlpeft export-adapter` has written",
    )
    predict.add_argument(
        "--image",
        type=path,
        action="append",
        metavar="FILE",
        help="the image; give it twice for nlvr2, left and right",
    )
    predict.add_argument(
        "--question",
        default="",
        metavar="TEXT",
        help="the question, hypothesis or statement; leave it out for captions",
    )
    _add_predict_options(predict)


def _add_predict_options(predict: Any) -> None:
    """Add the options of `predict` for many questions, joint adapters and the machine."""
    predict.add_argument(
        "--from",
        dest="rows",
        type=path,
        metavar="FILE",
        help='read requests from JSON lines: {"image": PATH, "question": TEXT} ("images" for two)',
    )
    predict.add_argument(
        "--task", default="", metavar="TASK", help="the task, if the adapter does several"
    )
    add_plugin(predict)
    add_device(predict)
    add_threads(predict)
    predict.add_argument(
        "--json",
        action="store_true",
        help="print a line of JSON for each answer, with the best answers and their scores",
    )
