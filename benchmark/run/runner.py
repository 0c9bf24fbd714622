"""Run one cell: build, inject, train, evaluate, write the record. Only an id and a folder are needed to call it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from filelock import FileLock, Timeout

from vlpeft.benchmark import metrics
from vlpeft.benchmark.cells import scores
from vlpeft.benchmark.cells.cell import SCIENCE, Cell
from vlpeft.benchmark.cells.code import code, keep_diff
from vlpeft.benchmark.cells.failures import describe_failure
from vlpeft.benchmark.cells.provenance import provenance
from vlpeft.benchmark.cells.records import (
    Record,
    Selected,
    Store,
    read_json,
    sha256,
    write_atomically,
)
from vlpeft.benchmark.cells.scores import ImageScores
from vlpeft.benchmark.cells.verified import is_covered
from vlpeft.benchmark.cells.whereabouts import ReportProgress, reporter, unwatched
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.run.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    save_trained,
    trained_tensors,
)
from vlpeft.benchmark.run.compile import compile_errors, compile_layers
from vlpeft.benchmark.run.cost import Meter, gpu_hours, merge_readings, parameters
from vlpeft.benchmark.run.distributed import ALONE, Ranks, join
from vlpeft.benchmark.run.evaluation import predictions
from vlpeft.benchmark.run.features import training_views, visual_inputs
from vlpeft.benchmark.run.flops import first_step
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import Feed, TrainingState, start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.ranks import Link, run_ranks
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch
from vlpeft.benchmark.run.selection import Selection

Outcome = Literal["done", "already done", "running elsewhere", "left alone"]
StopRequested = Callable[[], bool]  # has the cell been asked to stop
Begin = Callable[[], bool]  # called once the cell is this process's; False: leave it alone
LOCK_SECONDS = 0.5


class Stopped(BaseException):
    """The cell has stopped because it was asked to; it goes on from its checkpoint another time."""


def run_cell(
    cell_id: str,
    root: Path,
    runtime: Runtime,
    progress: ReportProgress = unwatched,
    asked: StopRequested = lambda: False,
    begin: Begin = lambda: True,
) -> Outcome:
    """Run a cell unless it is done or another process holds it. A failure leaves failure.json and raises.

    `asked` is asked after every step, and now and then besides: once it is true, the cell is saved and Stopped is raised.
    """
    store = Store(root)
    folder = store.folder(cell_id)
    try:
        # Freed by the kernel when its holder dies. The short wait outlasts those who only look whether it is held.
        with FileLock(folder / "lock", timeout=LOCK_SECONDS):
            if store.has_record(cell_id):
                return "already done"
            if not begin():
                return "left alone"
            _attempt(store, cell_id, runtime, progress, asked)
    except Timeout:
        return "running elsewhere"
    return "done"


def _attempt(
    store: Store, cell_id: str, runtime: Runtime, progress: ReportProgress, asked: StopRequested
) -> None:
    folder = store.folder(cell_id)
    (folder / "failure.json").unlink(missing_ok=True)
    try:
        report = reporter(folder, progress)
        if runtime.ranks == 1:
            _Run(store, cell_id, runtime, report, asked, ALONE).run()
        else:
            _run_in_ranks(store.root, cell_id, runtime, report, asked)
    except Stopped:
        raise
    except BaseException as error:
        for name in (
            "progress.json",
            "predictions.jsonl",
            "trained.safetensors",
        ):  # worthless now; on a full disk this makes room
            (folder / name).unlink(missing_ok=True)
        store.write_failure(cell_id, describe_failure(error))
        raise
    finally:
        (folder / "progress.json").unlink(missing_ok=True)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def _run_in_ranks(
    root: Path, cell_id: str, runtime: Runtime, report: ReportProgress, asked: StopRequested
) -> None:
    """Have new processes run the cell together; this one holds its lock and listens."""
    fresh = (
        runtime.torch_device().type == "cuda"
    )  # an import may touch CUDA, which no forked process can use then
    finished = run_ranks(
        partial(_be_rank, root, cell_id, runtime), runtime.ranks, fresh, report, asked
    )
    if not finished:
        raise Stopped


def _be_rank(root: Path, cell_id: str, runtime: Runtime, link: Link) -> bool:
    """Run a cell as one of its ranks; False if it was asked to stop. Only the first one reports, and hears that."""
    ranks = join(link.rank, link.world, link.meeting, runtime.torch_device(link.rank))
    report, stop_requested = (
        (link.report, link.stop_requested) if ranks.first else (unwatched, lambda: False)
    )
    try:
        _Run(Store(root), cell_id, runtime, report, stop_requested, ranks).run()
    except Stopped:
        return False
    return True


class _Run:
    """One attempt at a cell, or a rank's part in it."""

    def __init__(
        self,
        store: Store,
        cell_id: str,
        runtime: Runtime,
        report: ReportProgress,
        asked: StopRequested,
        ranks: Ranks,
    ) -> None:
        self.store, self.runtime, self.report, self.asked, self.ranks = (
            store,
            runtime,
            report,
            asked,
            ranks,
        )
        self.folder = store.folder(cell_id)
        self.cell = parse(
            Cell, read_json(self.folder / "cell.json") or {}, str(self.folder / "cell.json")
        )
        self.device = prepare_torch(runtime, ranks.rank)
        self.code = code()

    def progress(self, phase: str, step: int, total: int) -> None:
        """Say where the cell is. Between steps of training it stops elsewhere, where it can be saved."""
        self.report(phase, step, total)
        if phase != "train" and self.asked():
            raise Stopped

    def run(self) -> None:
        """Train, evaluate, publish the record."""
        self.progress("load data", 0, 1)
        torch.manual_seed(self.cell.seed)
        inputs = [Inputs.open(part) for part in self.cell.parts]
        self.data = "+".join(each.data.fingerprint() for each in inputs)
        backbone = build(self.cell, inputs[0].answers).to(self.device)
        if self.runtime.compile:
            compile_layers(backbone)
        feeds = [self._feed(task, each, backbone) for task, each in enumerate(inputs)]
        torch.manual_seed(
            self.cell.seed
        )  # what building drew must not reach dropout: a method's size would change it
        meter = Meter(self.device)
        state, selected = self._train(backbone, inputs, feeds)
        spent = merge_readings(self.ranks.gather(meter.read()))
        meter = Meter(self.device)
        reports = [
            self._evaluate(backbone, each, feed) for each, feed in zip(inputs, feeds, strict=True)
        ]
        evaluated = merge_readings(self.ranks.gather(meter.read()))
        if self.ranks.first:
            self.store.publish(
                self._record(backbone, feeds, state, selected, reports, spent, evaluated)
            )

    def _record(
        self,
        backbone: Backbone,
        feeds: Sequence[Feed],
        state: TrainingState,
        selected: Selected | None,
        reports: Sequence[tuple[Mapping[str, float | dict[str, str]], str, ImageScores]],
        spent: Mapping[str, float],
        evaluated: Mapping[str, float],
    ) -> Record:
        """The record, once the files beside it are written."""
        keep_diff(self.store.root)
        write_atomically(
            self.folder / "predictions.jsonl", "".join(lines for _, lines, _ in reports).encode()
        )
        write_atomically(
            self.folder / scores.NAME, scores.to_bytes([by_image for _, _, by_image in reports])
        )
        work = first_step(state, feeds, self.cell.seed, self.runtime.micro_batch, self.ranks)
        seconds = (
            sum(state.step_seconds) + sum(state.selection_seconds) + evaluated["seconds"]
        )  # those of earlier attempts, too
        cost = {
            **parameters(backbone),
            **work.per_second(median(state.step_seconds)),
            "flops_per_step": work.flops,
            "gpu_hours": gpu_hours(self.device, seconds, self.ranks.world),
            "steps": state.total,
            "train_seconds": sum(state.step_seconds),
            "eval_seconds": evaluated["seconds"],
            "cpu_seconds": spent["cpu_seconds"] + evaluated["cpu_seconds"],
            "step_ms": 1000 * median(state.step_seconds),
            "peak_memory_mb": spent["peak_memory_mb"],
            "delta_bytes": save_trained(self.folder / "trained.safetensors", backbone),
        }
        return Record(
            id=self.cell.id,
            cell=dump(self.cell),
            metrics={
                self.cell.metric_prefix(i) + name: value
                for i, (found, _, _) in enumerate(reports)
                for name, value in found.items()
            },
            cost={key: float(value) for key, value in cost.items()},
            curve=state.curve,
            scalars=state.scalars,
            selection=selected,
            provenance=provenance(str(self.device), self.code)
            | {
                "data": self.data,
                "science": SCIENCE,
                "ranks": self.ranks.world,
                "compile": self.runtime.compile,
            }
            | {"verified": self.runtime.verified and is_covered(self.cell)},
            files={
                name: sha256(self.folder / name)
                for name in ("predictions.jsonl", scores.NAME, "trained.safetensors")
            },
        )

    def _feed(self, task: int, inputs: Inputs, backbone: Backbone) -> Feed:
        recipe, cache = inputs.part.protocol, self.store.root / "features"
        visual = visual_inputs(
            backbone,
            inputs.data,
            inputs.images,
            recipe.images == "zeroed",
            cache,
            recipe.cached_features,
        )
        images = [image for item in inputs.items for image in item.images]
        seen = training_views(backbone, inputs.data, images, recipe, cache)
        return Feed(inputs.items, visual, recipe, inputs.answers, task, seen)

    def _train(
        self, backbone: Backbone, inputs: Sequence[Inputs], feeds: Sequence[Feed]
    ) -> tuple[TrainingState, Selected | None]:
        state = start(backbone, self.cell.protocol, sum(feed.batches for feed in feeds))
        checkpoint = self.folder / "checkpoint.pt"
        origin = {"cell": self.cell.id, "data": self.data}
        if checkpoint.exists():
            load_checkpoint(checkpoint, state, origin)
        self.ranks.check_equal(trained_tensors(backbone))
        selection = self._selection(inputs[0], feeds[0])
        saved = time.monotonic()

        def after_step(state: TrainingState) -> None:
            nonlocal saved
            self.progress("train", state.step, state.total)
            if selection is not None:
                selection.after_step(state)
            asked = self.asked()
            due = (
                time.monotonic() - saved >= self.runtime.checkpoint_seconds
                and state.step < state.total
            )
            if self.ranks.first and (asked or due):  # all ranks have the same state
                save_checkpoint(checkpoint, state, origin)
                saved = time.monotonic()
            if asked:
                raise Stopped

        try:
            with compile_errors():
                train(
                    state, feeds, self.cell.seed, self.runtime.micro_batch, after_step, self.ranks
                )
        except UserError as error:
            if (
                self.runtime.compile and self.asked()
            ):  # a signal that asks a group of processes to stop kills the compiler at once
                raise Stopped from error
            raise
        return state, selection.finish(state) if selection is not None else None

    def _selection(self, inputs: Inputs, feed: Feed) -> Selection | None:
        if feed.protocol.select == "last":
            return None
        selection = Selection(
            inputs, feed, self.runtime.eval_batch, partial(self.progress, "select"), self.ranks
        )
        selection.check()
        return selection

    def _evaluate(
        self, backbone: Backbone, inputs: Inputs, feed: Feed
    ) -> tuple[dict[str, float | dict[str, str]], str, ImageScores]:
        """The metrics of one task, the lines of its predictions, and its scores by image."""
        protocol, examples = inputs.part.protocol, inputs.test
        made = predictions(
            backbone,
            inputs,
            feed,
            examples,
            self.runtime.eval_batch,
            partial(self.progress, "evaluate"),
            self.ranks,
        )
        names = inputs.task.metrics if protocol.metrics is None else protocol.metrics
        report = self.ranks.once(lambda: metrics.score(names, made, protocol.metric_tokenizer))
        broken = [
            name
            for name, value in report.values.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if broken:
            raise UserError(
                f"metric {broken[0]} came out as {report.values[broken[0]]}; see the predictions of cell {self.cell.id}"
            )
        about = {"task": inputs.part.name} if self.cell.also else {}
        values = {
            name: {"absent": v["absent"]} if isinstance(v, dict) else v
            for name, v in report.values.items()
        }
        by_image = scores.by_image(
            inputs.part.name, [example.images for example in examples], report.per_example
        )
        return values, _lines(made, report, about), by_image


def _lines(
    predictions: Sequence[Prediction], report: metrics.MetricReport, about: dict[str, str]
) -> str:
    rows = []
    for i, p in enumerate(predictions):
        each = {name: values[i] for name, values in report.per_example.items()}
        row = {
            **about,
            "id": p.id,
            "kind": p.kind,
            "prediction": p.text,
            "references": list(p.references),
            "scores": each,
        }
        rows.append(json.dumps(row, sort_keys=True, ensure_ascii=False))
    return "\n".join(rows) + "\n"
