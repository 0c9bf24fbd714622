"""The size of a finished cell's weights, compared with the whole model.

Only what was trained is kept. Methods: LoRA and routing of the routing paper, rank 128.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

from vlpeft.benchmark.bench._models import TowerSettings, adapt_backbone, protocol
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.run.checkpoint import save_trained

BENCH = "checkpoint"
METHODS: Mapping[str, TowerSettings] = {
    "lora": {"rank": 128, "alpha": 128},
    "routing_lora": {"rank": 128, "alpha": 128, "function": "mul"},
}
ANSWERS = 3129  # VQAv2's


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Compare the sizes of the two files."""
    for method, full in METHODS.items():
        settings = {**full, "rank": 4} if setting.quick else full
        answers = [str(i) for i in range(10 if setting.quick else ANSWERS)]
        backbone = adapt_backbone(
            "vit_roberta", method, settings, protocol(1), quick=setting.quick, answers=answers
        )
        with TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.safetensors"
            save_file(
                {name: p.detach().contiguous() for name, p in backbone.named_parameters()}, whole
            )
            pair = (
                save_trained(Path(folder) / "trained.safetensors", backbone),
                whole.stat().st_size,
            )
        yield row(BENCH, f"{method}, vit_roberta", "bytes", [pair], "at least", 15.0)
