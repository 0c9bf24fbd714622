"""Tiny finished cells and their test examples as a user has them.

Each cell belongs to its own sweep and runs when a test first needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.export.predict import AskedQuestion
from vlpeft.benchmark.export.write import FinishedCell, read_finished_cell
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.features import visual_inputs
from vlpeft.benchmark.run.runner import run_cell
from vlpeft.benchmark.run.runtime import Runtime

DATA = "format: shapes\nroot: ''\ntrain_scenes: 12\nval_scenes: 2\ntest_scenes: 6\n"
# The other metrics take longer than everything else.
CAPTIONS = DATA + "protocol: {metrics: [rouge_l]}\n"
PROTOCOL = """protocol: {lr: 1e-2, steps: 4, batch_size: 4, train_limit: 12, eval_limit: 5,
           max_input_tokens: 32, max_output_tokens: 8, metric_tokenizer: treebank}
"""
BACKBONE = {
    "vit_roberta": "{name: vit_roberta, text: tiny, vision: tiny, pooler: random}",
    "vit_gpt2": "{name: vit_gpt2, text: tiny, vision: tiny, prefix: projected}",
    "blip": "{name: blip, weights: tiny, image_size: 64, protocol: {answering: generate}}",
    "blip_vqa": "{name: blip, weights: tiny, image_size: 64, form: vqa}",
    "clip_bart": "{name: clip_bart, text: tiny, vision: tiny, grid: 4}",
}
TASK = {task: f"{{task: {task}, dataset: shapes.yaml}}" for task in ("vqa", "entailment", "nlvr2")}
TASK["captioning"] = "{task: captioning, dataset: captions.yaml}"
TASK["joint"] = f"{{joint: [{TASK['vqa']}, {TASK['captioning']}]}}"
METHOD = {  # next to the methods of the same name
    "all": "{name: lora, rank: 2, alpha: 3, targets: [query, value, output, up, down], "
    "also_train: [norms]}",
    "biased": "{name: lora, rank: 2, also_train: [target_biases]}",
    "per task": "{name: lora, rank: 2, per_task: true}",
    "vision": "{name: full_finetuning, vision: true}",
}


class Ran:
    """Finished cells in one result folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.store = folder, folder / "root", Store(folder / "root")
        self.cells: dict[tuple[str, str, str], Planned] = {}
        (folder / "shapes.yaml").write_text(DATA)
        (folder / "captions.yaml").write_text(CAPTIONS)

    def sweep(self, method: str, backbone: str, task: str) -> Path:
        """Write the sweep file of one cell."""
        path = self.folder / f"{method}-{backbone}-{task}.yaml".replace(" ", "_")
        lists = {
            "methods": METHOD.get(method, method),
            "backbones": BACKBONE[backbone],
            "tasks": TASK[task],
        }
        path.write_text(PROTOCOL + "".join(f"{key}: [{value}]\n" for key, value in lists.items()))
        return path

    def cell(self, method: str, backbone: str, task: str) -> Planned:
        """Return the cell, and run it first if necessary."""
        if (method, backbone, task) not in self.cells:
            self.cells[method, backbone, task] = self._run(method, backbone, task)
        return self.cells[method, backbone, task]

    def _run(self, method: str, backbone: str, task: str) -> Planned:
        made = plan(SweepHandle(str(self.sweep(method, backbone, task))), need_data=True)
        (cell,) = made.runnable()
        save_plan(made, self.root)
        run_cell(cell.id, self.root, Runtime(device="cpu", threads=1))
        return cell

    def read(self, cell: Planned) -> FinishedCell:
        """Read what an export needs from the cell."""
        return read_finished_cell(cell, self.store)

    def predictions(self, cell: Planned) -> list[str]:
        """Read the predictions of the run."""
        lines = (self.store.folder(cell.id) / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line)["prediction"] for line in lines]

    def asked(self, cell: Planned, folder: Path, part: int = 0) -> list[AskedQuestion]:
        """Write the test examples as image files and texts."""
        inputs = self.read(cell).inputs[part]
        found = []
        for example in inputs.test:
            paths = [folder / f"{image.replace('/', '_')}.png" for image in example.images]
            for path, image in zip(paths, example.images, strict=True):
                Image.fromarray(inputs.data.image(image)).save(path)
            found.append(AskedQuestion(tuple(map(str, paths)), example.question))
        return found

    def losses(self, backbone: Backbone, cell: Planned) -> torch.Tensor:
        """Return the loss of each test example."""
        (inputs,) = self.read(cell).inputs
        items = inputs.task.items(inputs.test, inputs.answers, cell.cell.protocol)[:5]
        images = [image for item in items for image in item.images]
        live = visual_inputs(
            backbone, inputs.data, images, zeroed=False, cache=self.root / "features"
        )
        with torch.no_grad():
            return torch.stack(
                [
                    backbone.loss(live([item.images]), [item.prompt], [item.targets])[0]
                    for item in items
                ]
            )


def fresh(cell: Planned, answers: tuple[str, ...], **other: Any) -> Backbone:
    """Build the backbone without its method; `other` settings replace its own."""
    settings = {**cell.cell.backbone.settings, **other}
    return (
        parse(BACKBONES.load(cell.cell.backbone.name), settings, cell.backbone)
        .build(answers, cell.cell.protocol)
        .eval()
    )
