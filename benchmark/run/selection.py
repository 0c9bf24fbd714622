"""Selection of the epoch whose weights are tested.

With `select: best` that is the epoch with the best score on a split other than the tested one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from vlpeft.benchmark import metrics
from vlpeft.benchmark.cells.records import Selected
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.evaluation import predictions
from vlpeft.benchmark.run.finite import check_trained
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import TrainingState
from vlpeft.benchmark.tasks.base import Task

TRIAL = 8  # examples that are scored before training


def selection_metrics(task: Task | type[Task], protocol: Protocol) -> dict[str, str]:
    """Return the values whose sum compares epochs, each with the metric that computes it.

    By default this is the first value of the first metric that the cell reports.

    Raises:
        UserError: the task has no such value.
    """
    known: dict[str, str] = {}
    for metric in (*task.metrics, *task.optional):
        known |= dict.fromkeys(METRICS.load(metric).values, metric)
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
    """The comparison of a cell's epochs.

    Scores and best weights are kept in the training state, and so in every checkpoint.
    """

    inputs: Inputs
    feed: Feed
    batch: int
    progress: Callable[[int, int], None]
    ranks: Ranks = ALONE

    def check(self) -> None:
        """Check before training that the metrics can compare epochs here, by scoring references.

        Raises:
            UserError: a metric is unavailable, for instance because there is no Java, or because
                the split has one image and CIDEr needs several.
        """
        trial = self._trial()
        self.ranks.once(lambda: self._score(trial))

    def _trial(self) -> list[Prediction]:
        """Return a few examples of the split as if they were predicted perfectly.

        Their references differ if any in the split do, because CIDEr weighs differences.
        """
        found: dict[frozenset[str], Prediction] = {}
        for example in self.inputs.selection:
            references = tuple(self.inputs.task.references(example, self.feed.protocol))
            made = Prediction(example.id, references[0], references, example.kind)
            found.setdefault(frozenset(references), made)
            if len(found) == TRIAL:
                break
        return list(found.values())

    def after_step(self, state: TrainingState) -> None:
        """At the end of an epoch, score its weights, and keep them if they are the best so far.

        Of epochs with equal scores the earlier one is kept. The random state does not change, so
        training continues as it would without selection.

        Raises:
            UserError: the score or a trained weight is not finite.
        """
        if state.step % self.feed.batches:
            return
        began = perf_counter()
        check_trained(state, [self.feed])
        found = self._predict(state)
        score = self.ranks.once(lambda: self._score(found))
        if not math.isfinite(score):
            epoch = state.step // self.feed.batches
            raise UserError(f"select_metric: the sum is {score} after epoch {epoch}")
        if all(score > before for before in state.selection):
            # Copies, because training continues; on the CPU, to leave the GPU its memory.
            tensors = trained_tensors(state.backbone)
            state.best = {name: each.to("cpu", copy=True) for name, each in tensors.items()}
        state.selection.append(score)
        state.selection_seconds.append(perf_counter() - began)

    def finish(self, state: TrainingState) -> Selected:
        """Load the best epoch's weights, and return which epoch it is."""
        load_trained(state.backbone, state.best)
        protocol, scores = self.feed.protocol, tuple(state.selection)
        values = tuple(selection_metrics(self.inputs.task, protocol))
        # `index` finds the first of equal scores, whose weights were kept.
        epoch = scores.index(max(scores)) + 1
        return Selected(epoch, protocol.select_split, values, scores)

    def _predict(self, state: TrainingState) -> list[Prediction]:
        """Predict the selection split; afterwards the model is in training mode again."""
        backbone = state.backbone
        devices = [backbone.device] if backbone.device.type == "cuda" else []
        # Draws in prediction must not move the stream that training continues with.
        with torch.random.fork_rng(devices):
            found = predictions(
                backbone,
                self.inputs,
                self.feed,
                self.inputs.selection,
                self.batch,
                self.progress,
                self.ranks,
            )
        backbone.train()
        return found

    def _score(self, found: list[Prediction]) -> float:
        """Return the sum of the values that compare epochs."""
        tokenizer = self.feed.protocol.metric_tokenizer
        chosen = selection_metrics(self.inputs.task, self.feed.protocol)
        names = tuple(dict.fromkeys(chosen.values()))  # each metric once
        report = metrics.score(names, found, tokenizer)
        # For captions, the p-Adapter release adds CIDEr and BLEU-4, both as shares of 1.
        total = 0.0
        for value, metric in chosen.items():
            made = METRICS.load(metric)()
            # A report names values with their tokenizer, as in "CIDEr (treebank)".
            name = made.value_names(tokenizer)[made.values.index(value)]
            scored = report.values[name]
            if isinstance(scored, dict):
                reason = scored["absent"]
                raise UserError(f"select_metric: {value} cannot compare epochs here: {reason}")
            total += scored
        return total
