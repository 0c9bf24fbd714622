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

from vlpeft.benchmark.cells.code import keep_diff
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.local import clear_failures
from vlpeft.slurm.cluster import SlurmSilent, cancel, jobs, max_array_size
from vlpeft.slurm.job import CellJob
from vlpeft.slurm.ledger import Ledger, Submission
from vlpeft.slurm.profiles import Profile
from vlpeft.slurm.snapshot import Snapshot

T = TypeVar("T")


@dataclass(frozen=True)
class Submitter:
    """Submits cells of one result folder with one profile, one runtime and the code of one moment."""

    ledger: Ledger
    profile: Profile
    runtime: Mapping[str, Any]
    name: str  # of the jobs, as squeue shows it
    code: Snapshot

    @classmethod
    def make(cls, root: Path, profile: Profile, runtime: Any, name: str) -> Submitter:
        """With the profile's threads and device where the runtime leaves them open. Raises UserError for a root that cannot name a log."""
        if any(sign in str(root.resolve()) for sign in "%\\\n"):
            raise UserError(
                f"--root {root}: SLURM reads % and \\ in the names of logs as signs of its own; choose a path without them"
            )
        settings = dump(runtime)
        settings["ranks"] = profile.ranks
        settings["threads"] = settings["threads"] or profile.threads
        if profile.gpus and settings["device"] == "auto":
            settings["device"] = (
                "cuda"  # a node whose GPU cannot be seen is an error, not a reason to take weeks on its CPU
            )
        return cls(
            Ledger(root.resolve()),
            profile,
            settings,
            f"vlpeft-{' '.join(name.split())}",
            Snapshot.take(),
        )

    def submit(self, ids: Sequence[str], *, afresh: bool = False) -> int:
        """Submit those cells that are in no live job; returns how many. `afresh` forgets how they ended before.

        Raises UserError where SLURM refuses.
        """
        with self.ledger.lock():
            new = self._not_live(ids)
            if afresh:
                clear_failures(new, self.ledger.root)
            if new:
                self.code.write(self._copies)
                keep_diff(self.ledger.root)
            groups, done = list(chunks(new, self.profile.cells_per_job)), 0
            for array in chunks(groups, _array_size()) if groups else ():
                self._submit(
                    array,
                    f"; {done} of {len(new)} cells are submitted, the same command submits the rest"
                    if done
                    else "",
                )
                done += sum(map(len, array))
        return len(new)

    def dry_run(self, ids: Sequence[str]) -> str:
        """The script of the first array, and what SLURM would say to it; nothing is submitted. Raises UserError if SLURM refuses."""
        if not ids:
            return "# nothing to submit: all cells are done\n"
        arrays = list(chunks(list(chunks(ids, self.profile.cells_per_job)), _array_size()))
        from vlpeft.benchmark.libraries.submitit import submission_script

        with tempfile.TemporaryDirectory() as folder:
            text = submission_script(
                self._executor(self.ledger.folder / "SUBMISSION"), len(arrays[0])
            )
            script = Path(folder) / "script.sh"
            script.write_text(text, encoding="utf-8")
            said = subprocess.run(
                ["sbatch", "--test-only", str(script)], capture_output=True, text=True, check=False
            )
        answer = " ".join((said.stderr or said.stdout).split())
        if said.returncode:
            raise UserError(f"SLURM refuses this profile: {answer}")
        return f"{text}\n# {len(ids)} cells in {sum(map(len, arrays))} jobs, {len(arrays)} x sbatch\n# {answer}\n"

    def _not_live(self, ids: Sequence[str]) -> list[str]:
        try:
            known = jobs()
        except SlurmSilent as error:
            raise UserError(f"SLURM does not answer: {error}") from error
        live = {job for job, about in known.items() if about.is_live}
        sent = self.ledger.submitted_jobs()
        return [cell for cell in ids if not any(each.job in live for each in sent.get(cell, ()))]

    def _submit(self, groups: Sequence[Sequence[str]], left: str) -> None:
        folder = self.ledger.new()
        executor = self._executor(folder)
        root, warning, at_once = (
            str(self.ledger.root),
            self.profile.signal_seconds,
            self.profile.cells_at_once,
        )
        try:
            with (
                contextlib.redirect_stderr(io.StringIO()),
                executor.batch(),
            ):  # submitit prints what it raises, too
                made = [
                    executor.submit(CellJob(tuple(ids), root, self.runtime, warning, at_once))
                    for ids in groups
                ]
        except RuntimeError as error:  # of submitit, with what sbatch said
            raise UserError(
                f"SLURM refuses the jobs: {' '.join(str(error).split())}{left}"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write {folder}: {error.strerror}; choose a writable --root with free space{left}"
            ) from error
        job = made[0].job_id.split("_")[0]
        try:
            self.ledger.write(folder, Submission(job, tuple(map(tuple, groups))))
        except UserError as error:  # a job that nobody knows of must not run
            cancel([job])
            raise UserError(f"{error}{left}") from error

    def _executor(self, folder: Path) -> Any:
        from vlpeft.benchmark.libraries.submitit import slurm_executor

        python = self.profile.python or shlex.quote(sys.executable)
        started = f"{self.profile.container} {python}" if self.profile.container else python
        # The profile's lines are in the middle: they may point to another cache or allow the hub, but never to other code.
        setup = ["export HF_HUB_OFFLINE=1", *self.profile.setup, *self.code.setup(self._copies)]
        parameters = {**self.profile.parameters(), "slurm_setup": setup}
        try:
            return slurm_executor(folder, started, self.profile.time_outs, self.name, parameters)
        except RuntimeError as error:
            raise UserError(
                "there is no SLURM on this machine (no `srun`); use --on local, or go to the cluster's login node"
            ) from error

    @property
    def _copies(self) -> Path:
        return self.ledger.folder / "code"


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _array_size() -> int:
    try:
        return max_array_size()
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error
