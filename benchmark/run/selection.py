"""Which epoch's weights are tested: with `select: best`, those that did best on another split than the tested one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from vlpeft.benchmark import metrics
from vlpeft.benchmark.cells.records import Selected
from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.evaluation import predictions
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import Feed, TrainingState
from vlpeft.benchmark.tasks.base import Task


def selection_metrics(task: Task | type[Task], protocol: Protocol) -> dict[str, str]:
    """The values whose sum compares epochs, each with the metric that gives it. Raises UserError for an unknown one."""
    known = {
        value: metric
        for metric in (*task.metrics, *task.optional)
        for value in METRICS.load(metric).values
    }
    reported = protocol.metrics or task.metrics
    wanted = protocol.select_metric or METRICS.load(reported[0]).values[:1]
    for value in wanted:
        if value not in known:
            raise UserError(
                f"select_metric: {task.name} has no value '{value}'{did_you_mean(value, known)}"
            )
    return {value: known[value] for value in wanted}


@dataclass(frozen=True)
class Selection:
    """Compares the epochs of a cell; what it finds out is kept in the training state, and so in checkpoints."""

    inputs: Inputs
    feed: Feed
    batch: int
    progress: Callable[[int, int], None]
    ranks: Ranks = ALONE

    def check(self) -> None:
        """Raise UserError, before anything is trained, if a metric that compares epochs cannot run on this machine."""
        self.ranks.once(lambda: self._score([Prediction("0", "a red circle", ("a red circle",))]))

    def after_step(self, state: TrainingState) -> None:
        """At the end of an epoch, score its weights and keep them if they are the best so far, the earlier of equals.

        No random state moves: training goes on as it would without.
        """
        if state.step % self.feed.batches:
            return
        began = perf_counter()
        device = state.backbone.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = predictions(
                state.backbone,
                self.inputs,
                self.feed,
                self.inputs.selection,
                self.batch,
                self.progress,
                self.ranks,
            )
        state.backbone.train()
        score = self.ranks.once(lambda: self._score(found))
        if not math.isfinite(score):
            raise UserError(
                f"select_metric: the sum came out as {score} after epoch {state.step // self.feed.batches}"
            )
        if all(score > before for before in state.selection):
            state.best = {
                name: tensor.to("cpu", copy=True)
                for name, tensor in trained_tensors(state.backbone).items()
            }
        state.selection.append(score)
        state.selection_seconds.append(perf_counter() - began)

    def finish(self, state: TrainingState) -> Selected:
        """Put the best epoch's weights back, and say which they are."""
        load_trained(state.backbone, state.best)
        protocol, scores = self.feed.protocol, tuple(state.selection)
        values = tuple(selection_metrics(self.inputs.task, protocol))
        return Selected(scores.index(max(scores)) + 1, protocol.select_split, values, scores)

    def _score(self, found: list[Prediction]) -> float:
        tokenizer = self.feed.protocol.metric_tokenizer
        chosen = selection_metrics(self.inputs.task, self.feed.protocol)
        report, total = metrics.score(tuple(dict.fromkeys(chosen.values())), found, tokenizer), 0.0
        for value, metric in chosen.items():
            made = METRICS.load(metric)()
            given = report.values[made.value_names(tokenizer)[made.values.index(value)]]
            if isinstance(given, dict):
                raise UserError(
                    f"select_metric: {value} cannot compare epochs here: {given['absent']}"
                )
            total += given
        return total
