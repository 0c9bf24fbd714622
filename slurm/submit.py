"""Send cells to SLURM: cut into jobs and arrays, and submitted through submitit."""

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
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.launch.local import clear_failures
from vlpeft.slurm.cluster import (
    SlurmSilent,
    cancel,
    clean_environment,
    jobs,
    max_array_size,
    outside_of_a_job,
)
from vlpeft.slurm.job import CellJob
from vlpeft.slurm.ledger import Ledger, Submission
from vlpeft.slurm.profiles import Profile
from vlpeft.slurm.snapshot import Snapshot

T = TypeVar("T")


@dataclass(frozen=True)
class Submitter:
    """Submits cells of one result folder with one runtime and one version of the code.

    profile: of all cells that `own` does not have.
    settings: the runtime, as it was asked for.
    name: of the jobs, as squeue shows it.
    own: the profiles of cells that need other resources.
    """

    ledger: Ledger
    profile: Profile
    settings: Mapping[str, Any]
    name: str
    code: Snapshot
    own: Mapping[str, Profile]

    @classmethod
    def make(
        cls,
        root: Path,
        profile: Profile,
        runtime: Any,
        name: str,
        own: Mapping[str, Profile] | None = None,
    ) -> Submitter:
        """Make one. Raises UserError for a root that cannot be part of a log's name."""
        if any(sign in str(root.resolve()) for sign in "%\\\n"):
            raise UserError(
                f"--root {root}: % and \\ have a special meaning in the names of SLURM's "
                "logs; choose a path without them"
            )
        words = f"vlpeft-{' '.join(name.split())}"
        ledger = Ledger(root.resolve())
        return cls(ledger, profile, dump(runtime), words, Snapshot.take(), own or {})

    def submit(self, ids: Sequence[str], *, forget: bool = False) -> int:
        """Submit the cells that are in no live job. Returns how many.

        forget: Ignore how they ended before.

        Raises UserError where SLURM refuses.
        """
        with self.ledger.lock():
            new = self._without_job(ids)
            if forget:
                clear_failures(new, self.ledger.root)
            if new:
                self.code.write(self._copies)
                keep_diff(self.ledger.root)
                self._submit_all(new)
        return len(new)

    def dry_run(self, ids: Sequence[str]) -> str:
        """Return the script of the first array, and SLURM's answer to it, without submitting.

        Raises UserError if SLURM refuses.
        """
        if not ids:
            return "# nothing to submit: all cells are done\n"
        from vlpeft.benchmark.core.libraries.submitit import submission_script

        parts = []
        for profile, group in self._by_profile(ids):
            arrays = list(_arrays(group, profile))
            executor = self._executor(self.ledger.folder / "SUBMISSION", profile)
            text = submission_script(executor, len(arrays[0]))
            answer = _test_script(text)
            number = sum(map(len, arrays))
            summary = f"# {count_cells(len(group))} in {number} jobs, {len(arrays)} x sbatch"
            parts.append(f"{text}\n{summary}\n# {answer}\n")
        return "\n".join(parts)

    def _by_profile(self, ids: Sequence[str]) -> list[tuple[Profile, list[str]]]:
        """Group cells by their profiles, in the order of the first cell of each."""
        groups: list[tuple[Profile, list[str]]] = []
        for cell in ids:
            wanted = self.own.get(cell, self.profile)
            for profile, group in groups:
                if profile == wanted:
                    group.append(cell)
                    break
            else:
                groups.append((wanted, [cell]))
        return groups

    def _without_job(self, ids: Sequence[str]) -> list[str]:
        try:
            known = jobs()
        except SlurmSilent as error:
            raise UserError(f"SLURM does not answer: {error}") from error
        live = {job for job, about in known.items() if about.is_live}
        sent = self.ledger.submitted_jobs()
        return [cell for cell in ids if not any(each.job in live for each in sent.get(cell, ()))]

    def _submit_all(self, ids: Sequence[str]) -> None:
        done = 0
        for profile, group in self._by_profile(ids):
            for array in _arrays(group, profile):
                left = ""
                if done:
                    left = (
                        f"; {done} of {len(ids)} cells are submitted, "
                        "the same command submits the rest"
                    )
                self._submit_array(array, profile, left)
                done += sum(map(len, array))

    def _submit_array(self, groups: Sequence[Sequence[str]], profile: Profile, left: str) -> None:
        """Submit one array, a job for each group. `left` ends every error message."""
        folder = self.ledger.new()
        job = self._send(folder, groups, profile, left)
        try:
            self.ledger.write(folder, Submission(job, tuple(map(tuple, groups))))
        except UserError as error:  # a job that is not written down must not run
            cancel([job])
            raise UserError(f"{error}{left}") from error

    def _send(
        self, folder: Path, groups: Sequence[Sequence[str]], profile: Profile, left: str
    ) -> str:
        executor = self._executor(folder, profile)
        calls = [self._call(ids, profile) for ids in groups]
        silence = contextlib.redirect_stderr(io.StringIO())  # submitit also prints what it raises
        try:
            with silence, outside_of_a_job(), executor.batch():
                jobs_made = [executor.submit(call) for call in calls]
        except RuntimeError as error:  # raised by submitit, with the output of sbatch
            message = " ".join(str(error).split())
            raise UserError(f"SLURM refuses the jobs: {message}{left}") from error
        except OSError as error:
            raise UserError(
                f"cannot write {folder}: {error.strerror}; "
                f"choose a writable --root with free space{left}"
            ) from error
        first: str = jobs_made[0].job_id
        return first.partition("_")[0]

    def _call(self, ids: Sequence[str], profile: Profile) -> CellJob:
        return CellJob(
            tuple(ids),
            str(self.ledger.root),
            complete(self.settings, profile),
            profile.signal_seconds,
            profile.cells_at_once,
        )

    def _executor(self, folder: Path, profile: Profile) -> Any:
        python = profile.python or shlex.quote(sys.executable)
        if profile.container:
            python = f"{profile.container} {python}"
        # The profile's lines are in the middle. They may name another cache or allow the hub, but
        # they cannot make a job import other code.
        setup = ["export HF_HUB_OFFLINE=1", *profile.setup, *self.code.setup(self._copies)]
        parameters = {**profile.parameters(), "slurm_setup": setup}
        from vlpeft.benchmark.core.libraries.submitit import slurm_executor

        try:
            return slurm_executor(folder, python, profile.time_outs, self.name, parameters)
        except RuntimeError as error:
            raise UserError(
                "there is no SLURM on this machine (no `srun`); use --on local, "
                "or go to the cluster's login node"
            ) from error

    @property
    def _copies(self) -> Path:
        return self.ledger.folder / "code"


def complete(settings: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """Return a runtime's settings with the profile's where they are left open."""
    settings = dict(settings)
    settings["ranks"] = profile.ranks
    settings["threads"] = settings["threads"] or profile.threads
    settings["eval_batch"] = settings["eval_batch"] or profile.eval_batch
    if profile.gpus and settings["device"] == "auto":
        # On a node whose GPU does not work, the cell must fail, and not take weeks on its CPU.
        settings["device"] = "cuda"
    return settings


def _test_script(text: str) -> str:
    """Return what SLURM says about a script. Raises UserError if it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.sh"
        script.write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["sbatch", "--test-only", str(script)],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )
    answer = " ".join((done.stderr or done.stdout).split())
    if done.returncode:
        raise UserError(f"SLURM refuses this profile: {answer}")
    return answer


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _arrays(ids: Sequence[str], profile: Profile) -> Iterator[Sequence[Sequence[str]]]:
    """Yield arrays of at most as many jobs as the cluster allows; a job is a group of cells."""
    return chunks(list(chunks(ids, profile.cells_per_job)), _array_size())


def _array_size() -> int:
    try:
        return max_array_size()
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error
