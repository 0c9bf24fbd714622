"""How to run, as opposed to what: device, threads, batches, ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlpeft.benchmark.core.config import NonNegativeFloat, Positive
from vlpeft.benchmark.run.devices import select_device


@dataclass(frozen=True)
class Runtime:
    """How to run, as opposed to what: no part of a cell's identity."""

    device: str = "auto"
    threads: Positive | None = None  # None leaves torch's choice
    micro_batch: Positive | None = (
        None  # examples a forward; gradients accumulate to the protocol's batch
    )
    eval_batch: Positive = 128
    checkpoint_seconds: NonNegativeFloat = 60.0
    compile: bool = False  # the towers' layers, for training steps; see benchmark/run/compile.py
    verified: bool = False  # the environment computes what it should (`vlpeft verify`)
    ranks: Positive = 1  # processes of one machine that train a cell together, each on a GPU of its own if there are GPUs

    def torch_device(self, rank: int = 0) -> torch.device:
        """The device that a rank runs on. Raises UserError for a GPU that is not there."""
        return select_device(self.device, rank, self.ranks)


def prepare_torch(runtime: Runtime, rank: int = 0) -> torch.device:
    """Threads, denormals and determinism: on a CPU the same cell gives the same bits for the same number of threads."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    torch.set_flush_denormal(True)  # denormals cost up to 15 x in backward passes on CPUs
    device = runtime.torch_device(rank)
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    return device
