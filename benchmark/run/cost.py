"""What a cell costs: parameters, time, memory."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.sites import count

MIB = 1024 * 1024


def parameters(backbone: Backbone) -> dict[str, int]:
    """Return numbers of parameters.

    trainable: all that train, the task head included.
    head: the task head alone. Papers differ in whether they count it.
    vision: the vision tower.
    total: both towers and what the method added.
    """
    return {
        "trainable": count(p for p in backbone.parameters() if p.requires_grad),
        "head": count(backbone.head_parameters()),
        "vision": count(backbone.vision.parameters()),
        "total": count(backbone.parameters()),
    }


@dataclass
class Meter:
    """Wall seconds, CPU seconds and peak memory since the meter was made."""

    device: torch.device

    def __post_init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        reset_peak_memory(self.device)

    def read(self) -> dict[str, float]:
        """Return seconds, cpu_seconds and peak_memory_mb.

        Memory is what torch allocated on a GPU, or the resident set of the process on a CPU.
        """
        return {
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": time.process_time() - self.cpu,
            "peak_memory_mb": peak_memory(self.device) / MIB,
        }


def merge_readings(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Merge the readings of all ranks: the slowest, the sum of CPU seconds, the highest peak."""
    return {
        "seconds": max(each["seconds"] for each in readings),
        "cpu_seconds": sum(each["cpu_seconds"] for each in readings),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in readings),
    }


def gpu_hours(device: torch.device, seconds: float, ranks: int) -> float:
    """Return the hours of all GPUs, one for each rank; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    return seconds * ranks / 3600


def reset_peak_memory(device: torch.device) -> None:
    """Make `peak_memory` start from the memory that is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        # Linux: "5" sets the high-water mark of the resident set to its present size.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> float:
    """Return the peak in bytes since `reset_peak_memory`.

    On systems other than Linux the peak cannot be reset; it counts from the start of the process.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
