"""Run one cell: build, inject, train, evaluate, write the record.

A caller needs only the id of a cell and its result folder. All settings are in cell.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from filelock import Timeout

from vlpeft.benchmark.cells.attempts import ReportProgress, reporter, unwatched
from vlpeft.benchmark.cells.code import code, keep_diff
from vlpeft.benchmark.cells.failures import describe_failure
from vlpeft.benchmark.cells.records import Record, Selected, Store
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import remove
from vlpeft.benchmark.core.locks import hold
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import load_checkpoint, save_checkpoint, trained_tensors
from vlpeft.benchmark.run.compile import compile_errors, compile_layers
from vlpeft.benchmark.run.cost import Meter, merge_readings
from vlpeft.benchmark.run.distributed import ALONE, Ranks, join
from vlpeft.benchmark.run.evaluation import predictions
from vlpeft.benchmark.run.features import training_views, visual_inputs
from vlpeft.benchmark.run.finite import check_trained
from vlpeft.benchmark.run.fitting import train_in_memory
from vlpeft.benchmark.run.flops import first_step
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import TrainingState, start
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.plugins import read_cell
from vlpeft.benchmark.run.ranks import Link, run_ranks
from vlpeft.benchmark.run.result import (
    PREDICTIONS,
    TRAINED,
    Readings,
    TaskResult,
    check_places,
    describe_origin,
    make_record,
    score_task,
    total_cost,
    write_files,
)
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch
from vlpeft.benchmark.run.selection import Selection
from vlpeft.benchmark.run.sources import cell_code
from vlpeft.benchmark.run.texts import CutTexts, cut_texts

Outcome = Literal["done", "already done", "running elsewhere", "left alone"]
StopRequested = Callable[[], bool]  # whether the cell was asked to stop
Begin = Callable[[], bool]  # called once this process holds the cell; False leaves the cell alone
# Status commands take a lock for a moment to see whether it is held. This outlasts them.
LOCK_SECONDS = 0.5


class Stopped(BaseException):
    """The cell stopped because it was asked to. It continues from its checkpoint another time.

    A BaseException, because it is not an error: no `except Exception` may swallow it.
    """


def _never() -> bool:
    """Never ask a cell to stop."""
    return False


def run_cell(
    cell_id: str,
    root: Path,
    runtime: Runtime,
    progress: ReportProgress = unwatched,
    asked: StopRequested = _never,
    begin: Begin = lambda: True,
) -> Outcome:
    """Run a cell unless it is done or another process holds it.

    Args:
        cell_id: its folder, ROOT/cells/ID, holds cell.json.
        root: the result folder.
        runtime: how to run.
        progress: called with phase, step and total.
        asked: called after every step and between other pieces of work. Once it returns True, the
            cell is saved and Stopped is raised.
        begin: called once this process holds the cell; the cell is left alone if it returns False.

    Raises:
        Stopped: `asked` returned True.
        BaseException: the cell failed. The cause is in failure.json.
    """
    store = Store(root)
    folder = store.folder(cell_id)
    try:
        # The kernel frees this lock when its holder dies, so a lock is never stale.
        with hold(folder / "lock", LOCK_SECONDS):
            # Asked under the lock: the last holder may have published the record meanwhile.
            if store.has_record(cell_id):
                return "already done"
            if not begin():
                return "left alone"
            check_places(folder)
            _run_held(store, cell_id, runtime, progress, asked)
    except Timeout:
        return "running elsewhere"
    return "done"


def _run_held(
    store: Store, cell_id: str, runtime: Runtime, progress: ReportProgress, asked: StopRequested
) -> None:
    """Run a cell whose lock is held. A failure is written to failure.json and raised."""
    folder = store.folder(cell_id)
    remove(folder / "failure.json")
    try:
        report = reporter(folder, progress)
        if runtime.ranks == 1:
            _Attempt(store, cell_id, runtime, report, asked, ALONE).run()
        else:
            _run_in_ranks(store.root, cell_id, runtime, report, asked)
    except Stopped:
        raise
    except BaseException as error:
        # These files are worthless now. On a full disk, removing them makes room for the cause.
        for name in ("progress.json", PREDICTIONS, TRAINED):
            remove(folder / name)
        store.write_failure(cell_id, dump(describe_failure(error)))
        raise
    finally:
        remove(folder / "progress.json")
    # Only now, when the record exists: a kill before it must not lose the training.
    remove(folder / "checkpoint.pt")


def _run_in_ranks(
    root: Path, cell_id: str, runtime: Runtime, report: ReportProgress, asked: StopRequested
) -> None:
    """Run the cell in new processes. This process holds the lock and listens."""
    # Imports may initialise CUDA, which a forked process could not use afterwards.
    fresh = runtime.torch_device().type == "cuda"
    work = partial(_be_rank, root, cell_id, runtime)
    finished = run_ranks(work, runtime.ranks, fresh, report, asked)
    # A stop is not a failure, so ranks return it as a value and do not send it as an error.
    if not finished:
        raise Stopped


def _be_rank(root: Path, cell_id: str, runtime: Runtime, link: Link) -> bool:
    """Run a cell as one of its ranks; return False if it was asked to stop.

    Only the first rank reports progress and hears that the cell is asked to stop.
    """
    ranks = join(link.rank, link.world, link.meeting, runtime.torch_device(link.rank))
    report: ReportProgress = unwatched
    asked: StopRequested = _never
    if ranks.first:
        report, asked = link.report, link.stop_requested
    try:
        _Attempt(Store(root), cell_id, runtime, report, asked, ranks).run()
    except Stopped:
        return False
    return True


class _Attempt:
    """One attempt at a cell, or a rank's part of it."""

    def __init__(
        self,
        store: Store,
        cell_id: str,
        runtime: Runtime,
        report: ReportProgress,
        asked: StopRequested,
        ranks: Ranks,
    ) -> None:
        self.store = store
        self.runtime = runtime
        self.report = report
        self.asked = asked
        self.ranks = ranks
        self.folder = store.folder(cell_id)
        self.cell = read_cell(self.folder)
        self.device = prepare_torch(runtime, ranks.rank)
        # Read now: files that are edited during the run are not what runs.
        self.code, self.sources = code(), cell_code(self.cell)
        self.checkpoint = self.folder / "checkpoint.pt"

    def progress(self, phase: str, step: int, total: int) -> None:
        """Report progress, and raise Stopped if the cell was asked to stop.

        Training is not stopped here: `_after_step` saves it first.
        """
        self.report(phase, step, total)
        if phase != "train" and self.asked():
            raise Stopped

    def run(self) -> None:
        """Train, evaluate, and publish the record."""
        self.progress("load data", 0, 1)
        # Before building: the head and the modules of the method are drawn from this seed.
        torch.manual_seed(self.cell.seed)
        inputs = [Inputs.open(part) for part in self.cell.parts]
        for each in inputs:
            each.check()
        self.data = "+".join(each.data.fingerprint() for each in inputs)
        self.images = "+".join(each.image_fingerprint() for each in inputs)
        backbone = build(self.cell, inputs[0].answers).to(self.device)
        if self.runtime.compile:
            compile_layers(backbone)
        self.cut = self._count_cut(inputs, backbone)
        feeds = [self._feed(task, each, backbone) for task, each in enumerate(inputs)]
        # Building draws initial weights, as many as the method has. Seeding again gives all methods
        # the same dropout masks.
        torch.manual_seed(self.cell.seed)
        meter = Meter(self.device)
        state, selected = self._train(backbone, inputs[0], feeds)
        training = merge_readings(self.ranks.gather(meter.read()))
        meter = Meter(self.device)
        pairs = zip(inputs, feeds, strict=True)
        results = [self._evaluate(backbone, each, feed) for each, feed in pairs]
        evaluation = merge_readings(self.ranks.gather(meter.read()))
        if self.ranks.first:
            delta_bytes = self._write_files(state, results)
            cost = self._cost(state, feeds, Readings(training, evaluation), delta_bytes)
            self.store.publish(self._record(state, selected, results, cost))

    def _count_cut(self, inputs: Sequence[Inputs], backbone: Backbone) -> dict[str, CutTexts]:
        """Return how many training texts of each task are cut."""
        found = {}
        for task, each in enumerate(inputs):
            backbone.follow(each.part.protocol, each.answers, task)
            found[each.part.name] = cut_texts(backbone, each)
        backbone.follow(self.cell.protocol, inputs[0].answers)
        return found

    def _feed(self, task: int, inputs: Inputs, backbone: Backbone) -> Feed:
        """Return what a task trains on. This fills the cache of visual features."""
        recipe, cache = inputs.part.protocol, self.store.root / "features"
        zeroed, kept = recipe.images == "zeroed", recipe.cached_features
        visual = visual_inputs(backbone, inputs.data, inputs.images, zeroed, cache, kept)
        images = [image for item in inputs.items for image in item.images]
        views = training_views(backbone, inputs.data, images, recipe, cache)
        return Feed(inputs.items, visual, recipe, inputs.answers, task, views)

    def _train(
        self, backbone: Backbone, inputs: Inputs, feeds: Sequence[Feed]
    ) -> tuple[TrainingState, Selected | None]:
        """Train from the checkpoint, or from the start if there is none.

        `inputs` are those of the first task. Joint cells do not select epochs.
        """
        state = start(backbone, self.cell.protocol, sum(feed.batches for feed in feeds))
        if os.path.lexists(self.checkpoint):
            load_checkpoint(self.checkpoint, state, self._origin())
        self.ranks.check_equal(trained_tensors(backbone))
        selection = self._selection(inputs, feeds[0])
        self.saved = time.monotonic()
        after_step = partial(self._after_step, selection)
        seed, micro_batch = self.cell.seed, self.runtime.micro_batch
        try:
            with compile_errors():
                train_in_memory(state, feeds, seed, micro_batch, after_step, self.ranks)
            check_trained(state, feeds)
        except UserError as error:
            # A signal that asks a group of processes to stop also kills the compiler, which is one
            # of them. This is a stop, not a failure.
            if self.runtime.compile and self.asked():
                raise Stopped from error
            raise
        if selection is None:
            return state, None
        return state, selection.finish(state)

    def _origin(self) -> dict[str, str]:
        """Return what a checkpoint must belong to, so that training can continue from it."""
        return {"cell": self.cell.id, "data": self.data}

    def _selection(self, inputs: Inputs, feed: Feed) -> Selection | None:
        """Return the comparison of epochs, or None if the last weights are tested."""
        if feed.protocol.select == "last":
            return None
        progress = partial(self.progress, "select")
        selection = Selection(inputs, feed, self.runtime.examples_at_once, progress, self.ranks)
        selection.check()
        return selection

    def _after_step(self, selection: Selection | None, state: TrainingState) -> None:
        """Report, compare epochs, save a checkpoint when it is due, and stop when asked to."""
        self.progress("train", state.step, state.total)
        if selection is not None:
            selection.after_step(state)
        asked = self.asked()
        waited = time.monotonic() - self.saved
        due = waited >= self.runtime.checkpoint_seconds and state.step < state.total
        # All ranks have the same state, so one of them saves it.
        if self.ranks.first and (asked or due):
            save_checkpoint(self.checkpoint, state, self._origin())
            self.saved = time.monotonic()
        if asked:
            raise Stopped

    def _evaluate(self, backbone: Backbone, inputs: Inputs, feed: Feed) -> TaskResult:
        """Predict and score the test split of one task."""
        progress = partial(self.progress, "evaluate")
        batch = self.runtime.examples_at_once
        made = predictions(backbone, inputs, feed, inputs.test, batch, progress, self.ranks)
        return score_task(self.cell, inputs, made, self.ranks)

    def _write_files(self, state: TrainingState, results: Sequence[TaskResult]) -> int:
        """Write the files next to the record; return the size of the trained tensors in bytes."""
        keep_diff(self.store.root)
        return write_files(self.folder, state.backbone, results)

    def _cost(
        self, state: TrainingState, feeds: Sequence[Feed], readings: Readings, delta_bytes: int
    ) -> dict[str, float]:
        """Count the work of a step, and return the cost of the cell."""
        work = first_step(state, feeds, self.cell.seed, self.runtime.micro_batch, self.ranks)
        return total_cost(state, work, readings, self.device, self.ranks, delta_bytes)

    def _record(
        self,
        state: TrainingState,
        selected: Selected | None,
        results: Sequence[TaskResult],
        cost: dict[str, float],
    ) -> Record:
        """Return the record of the cell, whose files are written."""
        origin = describe_origin(
            self.cell,
            self.runtime,
            self.device,
            self.code,
            self.sources,
            self.data,
            self.images,
            self.ranks,
        )
        return make_record(self.cell, self.folder, state, selected, results, cost, origin, self.cut)
