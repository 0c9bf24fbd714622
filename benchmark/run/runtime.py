"""How a cell runs: device, threads, batches, ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlpeft.benchmark.core.config import NonNegativeFloat, Positive
from vlpeft.benchmark.core.cores import check_number
from vlpeft.benchmark.run.devices import select_device

EVAL_BATCH = 128


@dataclass(frozen=True)
class Runtime:
    """Settings that say how a cell runs. They are not part of its identity."""

    device: str = "auto"
    # None leaves the choice to torch.
    threads: Positive | None = None
    # Examples in a forward pass; gradients accumulate up to the protocol's batch size.
    micro_batch: Positive | None = None
    # Examples of a batch in evaluation; None: EVAL_BATCH.
    eval_batch: Positive | None = None
    checkpoint_seconds: NonNegativeFloat = 60.0
    # Compile the layers of the towers for training steps; see benchmark/run/compile.py.
    compile: bool = False
    # `vlpeft verify` has passed in this environment.
    verified: bool = False
    # Processes of one machine that train a cell together, each on its own GPU if there are GPUs.
    ranks: Positive = 1

    @property
    def examples_at_once(self) -> int:
        """Examples of a batch in evaluation. Results do not depend on it."""
        return self.eval_batch or EVAL_BATCH

    def torch_device(self, rank: int = 0) -> torch.device:
        """Return the device that a rank runs on.

        Raises:
            UserError: the device does not exist here.
        """
        return select_device(self.device, rank, self.ranks)


def prepare_torch(runtime: Runtime, rank: int = 0) -> torch.device:
    """Set threads, denormals and determinism, and return the device of a rank.

    On a CPU the same cell then gives the same bits for the same number of threads.
    """
    if runtime.threads is not None:
        torch.set_num_threads(check_number(runtime.threads, "threads"))
    # Denormal numbers make backward passes on CPUs up to 15 times slower.
    torch.set_flush_denormal(True)
    device = runtime.torch_device(rank)
    if device.index is not None:
        torch.cuda.set_device(device)
    # By default, cuDNN computes convolutions of float32 with 10 bits of each number.
    torch.backends.cudnn.allow_tf32 = False
    # Some CUDA kernels have no deterministic version, so GPUs are exempt.
    torch.use_deterministic_algorithms(device.type == "cpu")
    return device
