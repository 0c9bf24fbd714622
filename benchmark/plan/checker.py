"""Check one planned cell after the other: settings, combination, data and parameters.

Models are built on torch's meta device: at full size, but without memory for their weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from vlpeft.benchmark.cells.cell import Cell, Part, Planned
from vlpeft.benchmark.core.errors import DataError, UserError, error_context
from vlpeft.benchmark.plan.compatibility import (
    check_names,
    check_recipe,
    reason_to_skip,
    without_optimizer,
)
from vlpeft.benchmark.plan.counts import count_parameters, describe_cut_texts
from vlpeft.benchmark.run.inputs import Inputs

UNREADABLE = "data: "  # the reason begins so if a cell is skipped because its data is unreadable
CHECKED = ("trainable", "head", "total", "data", "cut")  # what a check adds to a planned cell


def copy_check(source: Planned, target: Planned, names: Sequence[str]) -> Planned:
    """Return `target` with these results of the check of `source`."""
    return replace(target, **{name: getattr(source, name) for name in names})


class CellChecker:
    """Checks cells, and remembers the data, models and methods that many of them share."""

    def __init__(self, need_data: bool, where: str) -> None:
        self.need_data, self.where = need_data, where
        self.answers: dict[str, int | str] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.cut: dict[str, str] = {}
        self.data: dict[str, str] = {}
        self.last: Planned | None = None

    def check(self, planned: Planned) -> Planned:
        """Fill in the reason to skip a cell, or its parameter counts and data.

        The seed changes none of these, so a cell that differs from the last one only by its
        seed is not checked again.
        """
        last = self.last
        if last is not None and replace(planned.cell, seed=last.seed) == last.cell:
            return copy_check(last, planned, ("skipped", *CHECKED))
        self.last = self._check(planned)
        return self.last

    def _check(self, planned: Planned) -> Planned:
        cell = planned.cell
        reason = reason_to_skip(cell)
        if reason:
            return replace(planned, skipped=reason)
        place = (
            f"{self.where}: '{planned.row}' on '{planned.backbone}', "
            f"{planned.task}/{planned.dataset}"
        )
        with error_context(place):
            check_recipe(cell)
            for part in cell.parts:
                check_names(part)
        if planned.skipped:
            return planned  # it waits for other cells, and the tested split stays closed
        keys = [json.dumps(without_optimizer(part), sort_keys=True) for part in cell.parts]
        found = [self._answers(*each) for each in zip(keys, cell.parts, strict=True)]
        for answers in found:
            if isinstance(answers, str):
                # The data is unreadable. What cannot be built is an error nonetheless.
                with error_context(place):
                    self._count(cell, keys, cell.protocol.max_answers)
                return replace(planned, skipped=answers)
        with error_context(place):
            counts = self._count(cell, keys, int(found[0]))
            cut = self._cut(cell, keys)
        data = "+".join(self._data(part) for part in cell.parts)
        return replace(
            planned,
            trainable=counts["trainable"],
            head=counts["head"],
            total=counts["total"],
            data=data,
            cut=cut,
        )

    def _data(self, part: Part) -> str:
        """Return the fingerprint of a dataset as it is now."""
        key = json.dumps({**part.dataset.identity(), "root": part.dataset.root}, sort_keys=True)
        if key not in self.data:
            self.data[key] = part.dataset.open().fingerprint()
        return self.data[key]

    def _answers(self, key: str, part: Part) -> int | str:
        """Return the size of the answer list, or the reason why the data cannot be read."""
        if key not in self.answers:
            self.answers[key] = self._read_answers(part)
        return self.answers[key]

    def _read_answers(self, part: Part) -> int | str:
        try:
            inputs = Inputs.open(part)
            size = len(inputs.answers)
        except DataError as error:
            if self.need_data:
                raise
            return f"{UNREADABLE}{error}"
        selects = part.protocol.select == "best"
        if not inputs.training or not inputs.test or (selects and not inputs.selection):
            raise UserError(
                f"dataset '{part.dataset.name}': an empty split; "
                "check `train_split`, `eval_split`, `select_split` and the limits"
            )
        with error_context(self.where):
            inputs.check()
        return size

    def _count(self, cell: Cell, parts: Sequence[str], answers: int) -> dict[str, int]:
        """Return the parameter counts of a cell with an answer list of this size."""
        choices = [vars(cell.method), vars(cell.backbone)]
        key = json.dumps([choices, answers, *parts], sort_keys=True)
        if key not in self.counts:
            self.counts[key] = count_parameters(cell, answers)
        return self.counts[key]

    def _cut(self, cell: Cell, parts: Sequence[str]) -> str:
        """Return which training texts are cut; "" if none is, or no tokenizer is available."""
        key = json.dumps([vars(cell.backbone), *parts], sort_keys=True)
        if key not in self.cut:
            self.cut[key] = describe_cut_texts(cell)
        return self.cut[key]
