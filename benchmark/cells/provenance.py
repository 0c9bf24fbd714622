"""The environment in which a number was made."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.code import Code

# Libraries that can change a cell's numbers. Two are left out on purpose: scipy computes
# intervals of tables, which no record holds, and scikit-learn only tests our metrics.
PACKAGES = (
    *("torch", "torchvision", "transformers", "tokenizers", "safetensors", "timm"),
    *("open_clip_torch", "numpy", "pillow", "h5py", "nltk", "pycocoevalcap", "evaluate"),
)


def provenance(device: str, code: Code) -> dict[str, Any]:
    """Return versions, code state, hardware and time, all as JSON values.

    `instructions` are the processor's vector instructions that torch computes with, such as
    AVX2 or AVX512: each adds in a different order, so the last digits differ.
    """
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
    packages = {package: version(package) for package in PACKAGES}
    made: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {"vlpeft": code.version, **packages},
        "git": code.git(),
    }
    if code.snapshot:
        made["snapshot"] = code.snapshot
    made |= {
        "host": platform.node(),
        "system": platform.platform(),
        "device": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "flush_denormal": True,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return made


def describe_scored(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was scored for each task of a cell that was not scored on its whole split.

    Records of earlier versions do not say what was scored.
    """
    for task, about in provenance.get("scored", {}).items():
        if about["examples"] < about["of"]:
            yield (
                f"{task}, the first {about['examples']:,} of {about['of']:,} examples of "
                f"'{about['split']}' ({about['images']:,} images)"
            )


def processor() -> str:
    """Return the name of the CPU."""
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
