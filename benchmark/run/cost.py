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
    """trainable (task head included), head, vision (the tower), and total (both towers and what the method added)."""
    return {
        "trainable": count(p for p in backbone.parameters() if p.requires_grad),
        "head": count(backbone.head_parameters()),
        "vision": count(backbone.vision.parameters()),
        "total": count(backbone.parameters()),
    }


@dataclass
class Meter:
    """Wall seconds, CPU seconds and peak memory from its making to `read`."""

    device: torch.device

    def __post_init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        reset_peak_memory(self.device)

    def read(self) -> dict[str, float]:
        """seconds, cpu_seconds, peak_memory_mb (allocated on a GPU; resident set of the process on a CPU)."""
        return {
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": time.process_time() - self.cpu,
            "peak_memory_mb": peak_memory(self.device) / MIB,
        }


def merge_readings(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the ranks of a cell took: the seconds of the slowest, the CPU seconds of all, the peak of the one that had the highest."""
    return {
        "seconds": max(each["seconds"] for each in readings),
        "cpu_seconds": sum(each["cpu_seconds"] for each in readings),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in readings),
    }


def gpu_hours(device: torch.device, seconds: float, ranks: int) -> float:
    """Hours of GPUs, of which each rank has one; none where there is no GPU."""
    return seconds * ranks / 3600 if device.type == "cuda" else 0.0


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin with what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text(
            "5", encoding="ascii"
        )  # Linux: sets the high-water mark to the present size


def peak_memory(device: torch.device) -> float:
    """Bytes. Where the high-water mark cannot be reset (not Linux), it is the process's since its start."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        line = next(
            line
            for line in status.read_text(encoding="ascii").splitlines()
            if line.startswith("VmHWM")
        )
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
