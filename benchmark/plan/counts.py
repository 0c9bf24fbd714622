"""What a plan counts of a cell: parameters, and texts that are cut. No weights are loaded."""

from __future__ import annotations

from dataclasses import replace

import torch

from vlpeft.benchmark.cells.cell import Cell, Choice
from vlpeft.benchmark.contract.fit import check_fit
from vlpeft.benchmark.run.cost import parameters
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.texts import cut_texts, describe_cut

# Training examples whose texts are measured; all of them would take minutes.
MEASURED_EXAMPLES = 1000


def describe_cut_texts(cell: Cell) -> str:
    """Return which of the first training texts of a cell are cut, in words; "" if none is."""
    found = []
    with torch.device("meta"):
        inputs = [Inputs.open(part) for part in cell.parts]
        backbone = build(replace(cell, method=Choice("full_finetuning", {})), inputs[0].answers)
        for task, each in enumerate(inputs):
            backbone.follow(each.part.protocol, each.answers, task)
            cut = describe_cut(cut_texts(backbone, each, MEASURED_EXAMPLES))
            if cut:
                found.append(f"{each.part.name}: {cut}")
    return "; ".join(found)


def count_parameters(cell: Cell, answers: int) -> dict[str, int]:
    """Count the parameters of a cell's adapted model, built at full size without weights.

    Args:
        cell: The cell.
        answers: The size of its answer list, which is the width of a classifier.

    Returns:
        The counts of `vlpeft.benchmark.run.cost.parameters`.
    """
    names = [str(i) for i in range(answers)]
    with torch.device("meta"):
        backbone = build(cell, names)
        # What the later tasks of a joint cell ask for must fit the backbone, too.
        for task, part in enumerate(cell.parts):
            backbone.follow(part.protocol, names, task)
            check_fit(backbone)
        return parameters(backbone)
