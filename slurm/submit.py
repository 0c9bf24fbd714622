"""Cells to SLURM: cut into jobs and arrays, submitted through submitit."""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmark.config import dump
from benchmark.errors import UserError
from slurm.cluster import SlurmSilent, jobs, max_array_size
from slurm.job import CellJob
from slurm.launcher import clear_failures
from slurm.ledger import Ledger, Submission
from slurm.profiles import Profile

T = TypeVar("T")


@dataclass(frozen=True)
class Submitter:
    """Submits cells of one result folder with one profile and one runtime."""

    ledger: Ledger
    profile: Profile
    runtime: Mapping[str, Any]
    name: str  # of the jobs, as squeue shows it

    @classmethod
    def make(cls, root: Path, profile: Profile, runtime: Any, name: str) -> Submitter:
        """With the profile's threads and device where the runtime leaves them open."""
        settings = dump(runtime)
        settings["ranks"] = profile.ranks
        settings["threads"] = settings["threads"] or profile.cpus // profile.ranks
        if profile.gpus and settings["device"] == "auto":
            settings["device"] = "cuda"  # a node whose GPU cannot be seen is an error, not a reason to take weeks on its CPU
        return cls(Ledger(root.resolve()), profile, settings, f"vlpeft-{name}")

    def submit(self, ids: Sequence[str], *, afresh: bool = False) -> int:
        """Submit those cells that are in no live job; returns how many. `afresh` forgets how they ended before.

        Raises UserError where SLURM refuses.
        """
        with self.ledger.lock():
            new = self._not_live(ids)
            if afresh:
                clear_failures(new, self.ledger.root)
            groups, done = list(chunks(new, self.profile.cells_per_job)), 0
            for array in chunks(groups, _array_size()) if groups else ():
                self._submit(array, f"; {done} of {len(new)} cells are submitted, the same command submits the rest" if done else "")
                done += sum(map(len, array))
        return len(new)

    def dry_run(self, ids: Sequence[str]) -> str:
        """The script of the first array, and what SLURM would say to it; nothing is submitted. Raises UserError if SLURM refuses."""
        if not ids:
            return "# nothing to submit: all cells are done\n"
        arrays = list(chunks(list(chunks(ids, self.profile.cells_per_job)), _array_size()))
        with tempfile.TemporaryDirectory() as folder:
            executor = self._executor(self.ledger.folder / "SUBMISSION")._executor
            if len(arrays[0]) > 1:
                executor.parameters["map_count"] = len(arrays[0])
            text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
            script = Path(folder) / "script.sh"
            script.write_text(text, encoding="utf-8")
            said = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True, check=False)
        answer = " ".join((said.stderr or said.stdout).split())
        if said.returncode:
            raise UserError(f"SLURM refuses this profile: {answer}")
        return f"{text}\n# {len(ids)} cells in {sum(map(len, arrays))} jobs, {len(arrays)} x sbatch\n# {answer}\n"

    def _not_live(self, ids: Sequence[str]) -> list[str]:
        try:
            known = jobs()
        except SlurmSilent as error:
            raise UserError(f"SLURM does not answer: {error}") from error
        live = {job for job, about in known.items() if about.live}
        sent = self.ledger.sent()
        return [cell for cell in ids if not any(each.job in live for each in sent.get(cell, ()))]

    def _submit(self, groups: Sequence[Sequence[str]], left: str) -> None:
        folder = self.ledger.new()
        executor = self._executor(folder)
        root, warning = str(self.ledger.root), self.profile.signal_seconds
        try:
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises, too
                made = [executor.submit(CellJob(tuple(ids), root, self.runtime, warning)) for ids in groups]
        except RuntimeError as error:  # of submitit, with what sbatch said
            raise UserError(f"SLURM refuses the jobs: {' '.join(str(error).split())}{left}") from error
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose a writable --root with free space{left}") from error
        self.ledger.write(folder, Submission(made[0].job_id.split("_")[0], tuple(map(tuple, groups))))

    def _executor(self, folder: Path) -> Any:
        import submitit

        python = self.profile.python or shlex.quote(sys.executable)
        started = f"{self.profile.container} {python}" if self.profile.container else python
        try:
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_python=started, slurm_max_num_timeout=self.profile.time_outs)
        except RuntimeError as error:
            raise UserError("there is no SLURM on this machine (no `srun`); use --on local, or go to the cluster's login node") from error
        executor.update_parameters(name=self.name, **self.profile.parameters())
        return executor


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _array_size() -> int:
    try:
        return max_array_size()
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error
