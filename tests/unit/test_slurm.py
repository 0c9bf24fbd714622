"""Submission, supervision and giving up, with scripts on PATH instead of SLURM's commands."""

import itertools
import os
import pickle
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.conftest import edit_json
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json
from vlpeft.benchmark.launch import worker
from vlpeft.benchmark.launch.presence import Launcher, launchers, show_presence
from vlpeft.benchmark.launch.tries import (
    LIMIT,
    begin,
    forget,
    give_up,
    last_if_exhausted,
    note,
    tail,
    tries,
)
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.slurm import cluster, supervise
from vlpeft.slurm.cluster import Job, jobs, read_accounting
from vlpeft.slurm.control import cancel, sections
from vlpeft.slurm.job import CellJob
from vlpeft.slurm.ledger import Ledger, Submission
from vlpeft.slurm.profiles import Profile
from vlpeft.slurm.states import notes
from vlpeft.slurm.submit import Submitter, complete
from vlpeft.slurm.supervise import Supervisor, verdict

PROFILE = parse(Profile, {"time": 10, "mem_gb": 2, "cells_per_job": 2}, "test")
COMMANDS = {
    "srun": "",
    "sbatch": """echo "$@" >> {folder}/sbatch.log
        [ -e {folder}/refusal ] && {{ cat {folder}/refusal >&2; exit 1; }}
        echo Submitted batch job $((1000 + $(wc -l < {folder}/sbatch.log)))""",
    "squeue": "cat {folder}/queue",
    "sacct": "cat {folder}/accounts",
    "scontrol": "echo 'MaxArraySize            = 3'",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Return a folder whose files `queue` and `accounts` are the output of squeue and sacct.

    sbatch.log has a line for each call of sbatch.
    """
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, body in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body.format(folder=folder)}\n")
        (folder / name).chmod(0o755)
    for name in ("queue", "accounts"):
        (folder / name).write_text("")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def submitter(slurm, tmp_path) -> Submitter:
    return Submitter.make(tmp_path / "root", PROFILE, Runtime(), "test")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "root")


def calls(slurm: Path) -> int:
    log = slurm / "sbatch.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def ids(number: int) -> list[str]:
    return [f"{i:012x}" for i in range(number)]


def finish(store: Store, *cells: str) -> None:
    for cell in cells:
        store.folder(cell).mkdir(parents=True, exist_ok=True)
        (store.folder(cell) / "record.json").write_text("{}")


def test_arrays_are_cut_at_the_limit_of_the_cluster(slurm, submitter) -> None:
    assert (
        submitter.submit(ids(15)) == 15
    )  # 8 jobs of two cells, the last of one; arrays of 3, 3 and 2 jobs
    assert calls(slurm) == 3
    sent = submitter.ledger.submitted_jobs()
    assert [sent[cell][-1].job for cell in ids(15)] == [
        f"100{1 + job // 3}_{job % 3}" for job in range(8) for _ in range(2)
    ][:15]
    scripts = sorted(submitter.ledger.folder.glob("*/*_submission.sh"))
    assert [
        line for script in scripts for line in script.read_text().splitlines() if "--array" in line
    ] == [
        "#SBATCH --array=0-2%3",
        "#SBATCH --array=0-2%3",
        "#SBATCH --array=0-1%2",
    ]


def test_one_job_is_not_an_array(slurm, submitter) -> None:
    submitter.submit(ids(2))
    assert {each.job for sent in submitter.ledger.submitted_jobs().values() for each in sent} == {
        "1001"
    }
    assert submitter.ledger.submitted_jobs()[ids(1)[0]][0].log.name == "1001_0_log.out"


OF_A_JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOBID": "77",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_MEM_PER_CPU": "4000",
    "SLURM_MEM_PER_NODE": "4000",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_TRES_PER_TASK": "cpu=1",
    "SLURM_NTASKS": "4",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_ARRAY_TASK_ID": "3",
    "SRUN_CPUS_PER_TASK": "1",
    "PMIX_RANK": "0",
    "SQUEUE_PARTITION": "elsewhere",
    "SCANCEL_INTERACTIVE": "1",
    "SACCT_FEDERATION": "1",
    "ZE_AFFINITY_MASK": "0",
    "CUDA_VISIBLE_DEVICES": "1",
    "SBATCH_SIGNAL": "USR1@10",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_MEM_PER_CPU": "4000",
}
KEPT = {
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_CLUSTERS": "one",
    "SBATCH_ACCOUNT": "mine",
    "SBATCH_PARTITION": "gpu",
    "MINE": "1",
}


def test_a_surrounding_job_does_not_reach_the_commands(slurm, submitter, monkeypatch) -> None:
    """Every command of SLURM is called; the environment of this process is the same afterwards."""
    for name in ("sbatch", "squeue", "scontrol", "scancel", "sacct"):
        script = slurm / name
        body = script.read_text() if script.exists() else "#!/bin/bash\n"
        script.write_text(body.replace("\n", f"\nenv > {slurm}/{name}.env\n", 1))
        script.chmod(0o755)
    for key, value in {**OF_A_JOB, **KEPT}.items():
        monkeypatch.setenv(key, value)
    submitter.submit(ids(4))
    cancel(submitter.ledger.root, "sweep", ids(4))
    cluster.cancel(["1"])
    read_accounting(["1"])
    found = sorted(slurm.glob("*.env"))
    assert len(found) == 5
    (slurm / "sbatch.env").rename(slurm / "sbatch.first")
    submitter.dry_run(ids(4))
    for path in (*found[1:], slurm / "sbatch.first", slurm / "sbatch.env"):
        lines = path.read_text().splitlines()
        seen = dict(line.split("=", 1) for line in lines if "=" in line)
        assert not OF_A_JOB.keys() & seen.keys(), path
        assert {key: seen.get(key) for key in KEPT} == KEPT, path
    assert {key: os.environ.get(key) for key in OF_A_JOB} == OF_A_JOB


def test_outside_of_a_job_gpus_may_be_chosen(monkeypatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cluster.clean_environment()["CUDA_VISIBLE_DEVICES"] == "1"


def test_pickles_hold_ids_and_paths_only(submitter) -> None:
    submitter.submit(ids(6))
    pickles = list(submitter.ledger.folder.glob("*/*_submitted.pkl"))
    assert len(pickles) == 3
    assert all(path.stat().st_size < 1000 for path in pickles)
    (job,) = [pickle.loads(path.read_bytes()).function for path in pickles if "_0_" in path.name]
    assert (job.ids, job.root) == (tuple(ids(2)), str(submitter.ledger.root))


def test_queued_cells_are_not_submitted_again(slurm, submitter) -> None:
    submitter.submit(ids(4))
    (slurm / "queue").write_text(
        "1001|0|PENDING|Priority\n1001|1|CANCELLED|None\n77|N/A|RUNNING|None\n"
    )
    assert submitter.submit(ids(6)) == 4  # not the two cells of 1001_0
    assert submitter.ledger.submitted_jobs()[ids(1)[0]][-1].job == "1001_0"
    assert submitter.ledger.submitted_jobs()[ids(3)[2]][-1].job == "1002_0"


def test_a_launch_forgets_failures_of_submitted_cells_only(slurm, submitter, store) -> None:
    submitter.submit(ids(4))
    for cell in ids(4):
        give_up(store, cell, "killed", "by the test", "")
    (slurm / "queue").write_text("1001|0|RUNNING|None\n")
    submitter.submit(ids(4), forget=True)
    assert [(store.folder(cell) / "failure.json").exists() for cell in ids(4)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_refusal_is_one_line_and_leaves_no_record(slurm, submitter, capsys) -> None:
    (slurm / "refusal").write_text("sbatch: error: invalid partition specified: nowhere\n")
    with pytest.raises(
        UserError, match=r"^SLURM refuses the jobs: .*invalid partition specified: nowhere$"
    ):
        submitter.submit(ids(4))
    with pytest.raises(UserError, match=r"SLURM refuses this profile: .*nowhere"):
        submitter.dry_run(ids(4))
    assert submitter.ledger.submitted_jobs() == {}
    assert capsys.readouterr().err == ""


def test_paths_that_slurm_would_misread_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"--root .*/100%: % and .* have a special meaning"):
        Submitter.make(tmp_path / "100%", PROFILE, Runtime(), "test")
    assert (
        Submitter.make(tmp_path / "it's mine", PROFILE, Runtime(), "two\nlines").name
        == "vlpeft-two lines"
    )


def test_a_failed_write_of_a_submission_is_reported(tmp_path) -> None:
    (tmp_path / "slurm").write_text("no folder")
    with pytest.raises(
        UserError, match=r"cannot write .*: Not a directory; choose a writable --root"
    ):
        Ledger(tmp_path).new()


def test_a_dry_run_leaves_nothing(slurm, submitter) -> None:
    text = submitter.dry_run(ids(15))
    assert "#SBATCH --time=10" in text
    assert "#SBATCH --array=0-2%3" in text
    assert "# 15 cells in 8 jobs, 3 x sbatch" in text
    assert not submitter.ledger.root.exists()
    assert "--test-only" in (slurm / "sbatch.log").read_text()


def test_without_slurm(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="`squeue` is not on this machine"):
        Submitter.make(tmp_path / "root", PROFILE, Runtime(), "test").submit(ids(1))


def test_a_gpu_profile_does_not_run_on_the_cpu() -> None:
    gpu = replace(PROFILE, gpus=1, cpus=6)
    assert complete(dump(Runtime()), gpu)["device"] == "cuda"
    assert complete(dump(Runtime(device="cpu")), gpu)["device"] == "cpu"
    assert complete(dump(Runtime()), PROFILE)["device"] == "auto"
    assert complete(dump(Runtime()), gpu)["threads"] == 6
    assert complete(dump(Runtime(compile=True)), gpu)["compile"] is True
    assert complete(dump(Runtime(threads=1)), gpu)["threads"] == 1
    shared = replace(gpu, cells_per_job=4, cells_at_once=2)
    assert complete(dump(Runtime()), shared)["threads"] == 3


def test_ranks_share_the_cpus() -> None:
    made = complete(dump(Runtime()), replace(PROFILE, gpus=2, ranks=2, cpus=7))
    assert (made["ranks"], made["threads"], made["device"]) == (2, 3, "cuda")


def test_cells_that_need_more_are_submitted_apart(slurm, tmp_path) -> None:
    """With their own profile, threads and device; in the order of the first cell of each kind."""
    large = PROFILE.with_resources({"gpus": 2, "cpus": 8, "mem_gb": 200.0, "time": 600}, "here")
    own = {ids(7)[1]: large, ids(7)[4]: large}
    made = Submitter.make(tmp_path / "root", PROFILE, Runtime(), "test", own)
    text = made.dry_run(ids(7))
    assert text.count("# 5 cells in 3 jobs, 1 x sbatch") == 1
    assert text.count("# 2 cells in 1 jobs, 1 x sbatch") == 1
    assert made.submit(ids(7)) == 7
    found = {}
    for script in sorted(made.ledger.folder.glob("*/*_submission.sh")):
        lines = script.read_text().splitlines()
        found[script.parent] = [
            line.removeprefix("#SBATCH --")
            for line in lines
            if line.startswith(("#SBATCH --time", "#SBATCH --mem", "#SBATCH --gpus", "#SBATCH --c"))
        ]
    small, big = found.values()
    assert small == ["cpus-per-task=1", "mem=2GB", "time=10"]
    assert big == ["cpus-per-task=8", "gpus-per-node=2", "mem=200GB", "time=600"]
    (pickled,) = list(found)[1].glob("*submitted.pkl")
    job = pickle.loads(pickled.read_bytes()).function
    assert job.ids == (ids(7)[1], ids(7)[4])
    assert (job.runtime["ranks"], job.runtime["threads"], job.runtime["device"]) == (2, 4, "cuda")


def test_resources_that_do_not_fit_the_profile_are_refused() -> None:
    with pytest.raises(UserError, match="here: cpus: 1 is less than one for each of the 4 process"):
        PROFILE.with_resources({"gpus": 4}, "here")
    assert PROFILE.with_resources({}, "here") is PROFILE
    assert PROFILE.with_resources({"gpus": 0}, "here").ranks == 1
    assert replace(PROFILE, ranks=4, cpus=8).with_resources({"gpus": 0}, "here").ranks == 4


def test_squeue_and_sacct_are_read(slurm) -> None:
    (slurm / "queue").write_text(
        "12|N/A|RUNNING|None\n13|2|PENDING|Resources\n13|1|COMPLETED|None\n"
    )
    assert jobs() == {
        "12": Job("RUNNING"),
        "13_2": Job("PENDING", "Resources"),
        "13_1": Job("COMPLETED"),
    }
    assert [job.is_live for job in jobs().values()] == [True, True, False]
    (slurm / "accounts").write_text(
        "12|CANCELLED by 0|0:15\n13_1|FAILED|2:0\n13_[2-5]|PENDING|0:0\n"
    )
    assert read_accounting(["12", "13_1"])["12"] == Job("CANCELLED", "", 0, 15)
    assert read_accounting(["12", "13_1"])["13_1"] == Job("FAILED", "", 2, 0)
    (slurm / "sacct").write_text(
        "#!/bin/bash\nexit 1\n"
    )  # without accounting nothing is known, and that is not an error
    assert read_accounting(["12"]) == {}


@pytest.mark.parametrize(
    ("job", "count", "cause"),
    [
        (Job("CANCELLED"), 1, "cancelled"),
        (
            Job("FAILED", "", 2, 0),
            1,
            "job failed",
        ),  # setup or Python fail, and would fail next time
        (Job("FAILED", "", worker.STOPPED, 0), 1, ""),
        (Job("FAILED", "", 0, 9), 1, ""),
        (Job("FAILED", "", 9, 0), 1, ""),  # the state that srun gives a killed task
        (Job("FAILED", "", 137, 0), 1, ""),
        (Job("FAILED", "", 12, 0), 1, ""),  # SIGUSR2 before Python listened
        (Job("FAILED", "", 9, 0), LIMIT, "killed"),
        (Job("FAILED"), LIMIT - 1, ""),
        (Job("NODE_FAIL"), 1, ""),
        (Job("NODE_FAIL"), LIMIT, "node failure"),
        (Job("OUT_OF_MEMORY"), LIMIT - 1, ""),
        (Job("OUT_OF_MEMORY"), LIMIT, "out of memory"),
        (Job("PREEMPTED"), 1, ""),
        (Job("TIMEOUT"), LIMIT, "time limit"),
        (Job("COMPLETED", "", 0, 0), 1, ""),
        (Job("COMPLETED", "", 0, 0), LIMIT, "no record"),
        (Job("UNKNOWN"), LIMIT, "job failed"),
    ],
)
def test_verdict(job, count, cause) -> None:
    assert verdict(job, count) == cause


def test_completed_without_a_record_is_not_trusted(slurm, submitter, store) -> None:
    """COMPLETED without a record: resubmitted at the second look, and given up in the end."""
    supervisor, (cell, done) = Supervisor(submitter, lambda: None), ids(2)
    submitter.submit([cell, done])
    finish(store, done)
    for submissions in range(1, LIMIT + 1):
        (slurm / "queue").write_text(f"{1000 + submissions}|N/A|COMPLETED|None\n")
        supervisor.look(store, [cell])
        assert calls(slurm) == submissions  # a record may appear late
        supervisor.look(store, [cell])
    assert calls(slurm) == LIMIT
    failure = read_json(store.folder(cell) / "failure.json")
    assert failure["cause"] == "no record"
    assert f"job {1000 + LIMIT} ended as COMPLETED" in failure["message"]


def test_progress_is_never_given_up(slurm, submitter, store) -> None:
    supervisor, (cell,) = Supervisor(submitter, lambda: None), ids(1)
    store.folder(cell).mkdir(parents=True)
    submitter.submit([cell])
    for round_ in range(2 * LIMIT):
        (slurm / "queue").write_text(f"{1001 + round_}|N/A|PREEMPTED|None\n")
        (store.folder(cell) / "checkpoint.pt").write_text(str(round_))
        supervisor.look(store, [cell])
        supervisor.look(store, [cell])
    assert calls(slurm) == 1 + 2 * LIMIT
    assert not worker.has_ended(store, cell)


def lose(
    slurm: Path, store: Store, supervisor: Supervisor, cells: list[str], job: int, state: str
) -> None:
    """Let that job end with this state, and let the launcher look twice."""
    (slurm / "queue").write_text(f"{job}|N/A|{state}|None\n")
    for _ in range(2):
        supervisor.look(store, [cell for cell in cells if not worker.has_ended(store, cell)])


def test_only_the_cell_that_kills_its_job_is_blamed(slurm, submitter, store) -> None:
    """The other cell of the job never started.

    It gets a job of its own after the first cell is given up.
    """
    supervisor, (poisoned, fine) = Supervisor(submitter, lambda: None), ids(2)
    submitter.submit([poisoned, fine])
    for job in range(1001, 1001 + LIMIT):
        begin(store, poisoned, str(submitter.ledger.submitted_jobs()[poisoned][-1].log))
        lose(slurm, store, supervisor, [poisoned, fine], job, "OUT_OF_MEMORY")
    assert read_json(store.folder(poisoned) / "failure.json")["cause"] == "out of memory"
    assert not worker.has_ended(store, fine)
    assert submitter.ledger.submitted_jobs()[fine][-1].job == str(1001 + LIMIT)
    for job in range(
        1001 + LIMIT, 1001 + 2 * LIMIT
    ):  # if no cell of the job begins, it is not retried for ever
        lose(slurm, store, supervisor, [fine], job, "OUT_OF_MEMORY")
    assert read_json(store.folder(fine) / "failure.json")["cause"] == "out of memory"


def test_cells_that_wait_for_a_slow_one_are_not_given_up(slurm, submitter, store) -> None:
    """Each job is pre-empted for good while its first cell still runs; it is saved each time."""
    supervisor, (slow, behind) = Supervisor(submitter, lambda: None), ids(2)
    store.folder(slow).mkdir(parents=True)
    submitter.submit([slow, behind])
    for job in range(1001, 1001 + 2 * LIMIT):
        (store.folder(slow) / "checkpoint.pt").write_text(str(job))
        lose(slurm, store, supervisor, [slow, behind], job, "PREEMPTED")
    assert not worker.has_ended(store, behind)
    lose(
        slurm, store, supervisor, [slow, behind], 1001 + 2 * LIMIT, "CANCELLED"
    )  # the user cancelled the whole job
    assert {read_json(store.folder(cell) / "failure.json")["cause"] for cell in (slow, behind)} == {
        "cancelled"
    }


def test_outdated_accounts_are_not_trusted(slurm, submitter, store) -> None:
    """slurmdbd does not know yet that the job was cancelled."""
    supervisor, (cell,) = Supervisor(submitter, lambda: None), ids(1)
    submitter.submit([cell])
    (slurm / "accounts").write_text("1001|RUNNING|0:0\n")
    sent = submitter.ledger.submitted_jobs()[cell][-1]
    sent.log.write_text("srun: Job step aborted\n")
    lose(slurm, store, supervisor, [cell], 1001, "CANCELLED")
    said = read_json(store.folder(cell) / "failure.json")
    assert said["cause"] == "cancelled"
    assert (
        said["message"] == "job 1001 was cancelled; `vlpeft retry --cause cancelled` runs it again"
    )  # the log has nothing to add
    assert notes(submitter.ledger.root, [cell])[cell].text.startswith(
        "its job 1001 ended as CANCELLED"
    )


def test_a_refusal_is_retried_while_other_jobs_run(slurm, submitter, store, capsys) -> None:
    """It is reported once and costs the cell no attempt.

    It ends the launch only if no other job runs.
    """
    supervisor, cells = Supervisor(submitter, lambda: None), ids(4)
    submitter.submit(cells)
    (slurm / "queue").write_text("1001|0|NODE_FAIL|None\n1001|1|RUNNING|None\n")
    (slurm / "refusal").write_text("sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    for _ in range(2 * LIMIT):
        supervisor.look(store, cells)
    assert (
        capsys.readouterr().err.count(
            "QOSMaxSubmitJobPerUserLimit; it is tried again while other jobs go on"
        )
        == 1
    )
    finish(store, *cells[2:])
    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        [supervisor.look(store, cells[:2]) for _ in range(2)]
    (slurm / "refusal").unlink()
    [supervisor.look(store, cells) for _ in range(2)]
    assert not any(worker.has_ended(store, cell) for cell in cells[:2])
    assert len(submitter.ledger.submitted_jobs()[cells[0]]) == 2


def test_no_answer_changes_nothing(slurm, submitter, store) -> None:
    supervisor, (cell,) = Supervisor(submitter, lambda: None), ids(1)
    submitter.submit([cell])
    (slurm / "squeue").write_text(
        "#!/bin/bash\necho 'Unable to contact slurm controller' >&2\nexit 1\n"
    )
    for _ in range(3):
        supervisor.look(store, [cell])
    assert calls(slurm) == 1


def test_waiting_ends_with_the_last_cell(slurm, submitter, store, monkeypatch) -> None:
    monkeypatch.setattr(supervise, "POLL_SECONDS", 0)
    cells, looks = ids(3), []
    submitter.submit(cells)
    (slurm / "queue").write_text("1001|0|RUNNING|None\n1001|1|RUNNING|None\n")

    def watch() -> None:
        finish(store, cells[len(looks)]) if len(looks) < 3 else None
        looks.append(True)

    Supervisor(submitter, watch).wait(cells)
    assert len(looks) == 4


def test_tries_are_counted_until_there_is_progress(store, tmp_path) -> None:
    (cell,), log = ids(1), tmp_path / "job.log"
    log.write_text("one\n\ntwo\nthree\nfour\n")
    store.folder(cell).mkdir(parents=True)
    for _ in range(LIMIT - 1):
        begin(store, cell, str(log))
    assert last_if_exhausted(store, cell) is None
    begin(store, cell, str(log))
    note(store, cell, "killed by SIGSEGV")
    assert (last_if_exhausted(store, cell).count, last_if_exhausted(store, cell).end) == (
        LIMIT,
        "killed by SIGSEGV",
    )
    (store.folder(cell) / "checkpoint.pt").write_text("further")
    assert last_if_exhausted(store, cell) is None
    begin(store, cell, str(log))
    assert last_if_exhausted(store, cell) is None
    forget(store, cell)
    give_up(store, cell, "killed", "by SIGSEGV", str(log))
    assert (
        read_json(store.folder(cell) / "failure.json")["message"]
        == f"by SIGSEGV; {log} ends: two | three | four"
    )
    assert "cannot be read" in tail(tmp_path / "nowhere")
    for line, cause in (
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0", "out of memory"),
        ("Bus error", "killed"),
    ):
        log.write_text(line)
        give_up(store, cell, "killed", "by SIGKILL", str(log))
        assert read_json(store.folder(cell) / "failure.json")["cause"] == cause


class Worker:
    """A worker of a job that has already ended."""

    def __init__(self, pid: int, code: int) -> None:
        self.pid, self.poll = pid, lambda: code


@pytest.fixture
def start(store, monkeypatch):
    """Run a job whose workers end at once with the result of `works(pid, log)`."""
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "7",
        "SUBMITIT_FOLDER": str(store.root),
    }.items():
        monkeypatch.setenv(name, value)

    def call(cells: list[str], works, at_once: int = 1) -> None:
        job, pids = CellJob(tuple(cells), str(store.root), {}, 90, at_once), itertools.count(1)

        def begin_worker(log: str) -> None:
            pid = next(pids)
            job.workers[pid] = Worker(pid, works(pid, log))

        monkeypatch.setattr(job, "_start", begin_worker)
        job()

    return call


def test_a_killed_worker_is_replaced(store, start, monkeypatch) -> None:
    """The cell that kills its worker is tried LIMIT times and given up; the cells after it run."""
    poisoned, fine = ids(2)

    def work(pid: int, log: str) -> int:
        monkeypatch.setattr(os, "getpid", lambda: pid)
        if worker.JobPolicy(store, log, gate=None).begins(poisoned):
            return -11
        finish(store, fine)
        return 0

    start([poisoned, fine], work)
    failure = read_json(store.folder(poisoned) / "failure.json")
    assert failure["message"].startswith(
        f"killed by SIGSEGV, {LIMIT} times without getting further"
    )
    assert store.has_record(fine)


def test_the_cell_of_the_killed_worker_is_blamed(store, start) -> None:
    """The second of two workers is killed. The cell of the first worker is not to blame."""
    first, second = ids(2)

    def work(pid: int, log: str) -> int:
        if pid <= 2:
            begin(store, (first, second)[pid - 1], log)
            edit_json(
                store.folder((first, second)[pid - 1]) / "tries.json",
                lambda content: content.update(pid=pid),
            )
        return -9 if pid == 2 else 0

    start([first, second], work, at_once=2)
    ends = [read_json(store.folder(cell) / "tries.json")["end"] for cell in (first, second)]
    assert ends == ["ended without a message", "killed by SIGKILL (out of memory?)"]


def test_workers_that_die_at_once_are_not_replaced_for_ever(start) -> None:
    pids: list[int] = []
    with pytest.raises(SystemExit) as end:
        start(ids(1), lambda pid, _: pids.append(pid) or -11)
    assert end.value.code == 11
    assert LIMIT < len(pids) <= LIMIT + 2


@pytest.mark.parametrize("code", [worker.STOPPED, 1])
def test_a_job_ends_as_its_workers_did(start, code) -> None:
    with pytest.raises(SystemExit) as end:
        start(ids(2), lambda pid, _: {1: code}.get(pid, 0), at_once=2)
    assert end.value.code == code


def test_a_cell_that_another_worker_has_ended_is_left_alone(store, tmp_path) -> None:
    """It fails between this worker's look and its turn, and is not tried a second time."""
    (cell,) = ids(1)
    give_up(store, cell, "settings", "by the other worker", "")
    assert not worker.JobPolicy(store, str(tmp_path / "log"), gate=None).begins(cell)
    assert tries(store, cell) is None


def test_requeueing_keeps_the_cells(slurm, store, monkeypatch) -> None:
    job = CellJob(tuple(ids(2)), str(store.root), {"threads": 1}, 90, 2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(SystemExit) as end:  # the cluster refuses
        job.checkpoint()
    assert end.value.code == worker.STOPPED
    (slurm / "scontrol").write_text("#!/bin/bash\necho 'JobId=7 Requeue=1 Restarts=0'\n")
    again = job.checkpoint().function
    assert (again.ids, again.root, again.runtime, again.signal_seconds, again.at_once) == (
        job.ids,
        job.root,
        job.runtime,
        90,
        2,
    )


def test_the_ledger_reads_what_it_writes(tmp_path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.submitted_jobs() == {}
    with ledger.lock():
        folder = ledger.new()
    ledger.write(folder, Submission("7", (("a", "b"), ("c",))))
    logs = [folder / f"7_{index}_0_log.out" for index in (0, 0, 1)]
    assert ledger.submitted_jobs() == {
        cell: [(f"7_{index}", log)] for cell, index, log in zip("abc", (0, 0, 1), logs, strict=True)
    }
    other = folder.with_name("99999-torn") / "submission.json"
    other.parent.mkdir()
    for damaged in ("{", "[]", '{"job": 3}'):
        other.write_text(damaged)
        with pytest.raises(UserError, match=str(other)):
            ledger.submitted_jobs()


def test_waiting_cells_are_reported(slurm, submitter, store, monkeypatch) -> None:
    root, (queued, running, lost, forgotten, never) = submitter.ledger.root, ids(5)
    submitter.submit([queued, "x", running, "y", lost, "z"])
    submitter.submit([forgotten])
    (slurm / "queue").write_text(
        "1001|0|PENDING|Priority\n1001|1|RUNNING|None\n1001|2|TIMEOUT|None\n"
    )
    noted = notes(root, [queued, running, lost, forgotten, never])
    assert noted == {
        queued: ("pending", "queued as job 1001_0 (Priority)"),
        running: ("pending", "in job 1001_1, which runs: starting, or behind its other cells"),
        lost: ("missing", "its job 1001_2 ended as TIMEOUT; `vlpeft sweep` submits it again"),
        forgotten: ("missing", "its job 1002 has ended; `vlpeft sweep` submits it again"),
    }
    (slurm / "queue").write_text("1002|N/A|RUNNING|None\n")
    assert notes(root, [forgotten])[forgotten] == ("pending", "in job 1002, starting")
    (slurm / "queue").write_text(
        "1001|0|PENDING|Priority\n1001|1|RUNNING|None\n1001|2|TIMEOUT|None\n"
    )
    (slurm / "accounts").write_text("1002|NODE_FAIL|0:9\n")
    assert "ended as NODE_FAIL, signal 9" in notes(root, [forgotten])[forgotten].text
    (slurm / "accounts").write_text(
        "1001_0|PREEMPTED|0:0\n1001_0|PENDING|0:0\n1002|PREEMPTED|0:0\n"
    )
    noted = notes(root, [queued, forgotten], begun=[queued])
    assert noted[queued] == ("preempted", "queued again as job 1001_0 (Priority)")
    assert noted[forgotten] == (
        "preempted",
        "its job 1002 ended as PREEMPTED; `vlpeft sweep` submits it again",
    )
    (slurm / "accounts").write_text(
        "1001_0|PREEMPTED|0:0\n1001_0|REQUEUED|0:0\n1001_0|PENDING|0:0\n"
    )
    assert (
        notes(root, [queued], begun=[queued])[queued].state == "pending"
    )  # it has run since, and was requeued for another reason
    (slurm / "sacct").unlink()
    monkeypatch.setattr(
        cluster.shutil, "which", lambda _: None
    )  # without accounting the state is unknown
    assert notes(root, [queued], begun=[queued])[queued].state == "pending"
    (slurm / "squeue").unlink()
    (slurm / "squeue").write_text("#!/bin/bash\nexit 1\n")
    (slurm / "squeue").chmod(0o755)
    assert notes(root, [lost])[lost].state == "pending"
    assert "queue state unknown: `squeue` failed" in notes(root, [lost])[lost].text
    assert notes(root.parent / "elsewhere", [lost]) == {}


def test_cancelling_names_the_jobs_of_these_cells_only(slurm, submitter) -> None:
    submitter.submit(ids(6))
    (slurm / "queue").write_text(
        "1001|0|PENDING|Priority\n1001|1|RUNNING|None\n1001|2|COMPLETING|None\n1|N/A|RUNNING|None\n"
    )
    (slurm / "scancel").write_text(f'#!/bin/bash\necho "$@" > {slurm}/cancelled\n')
    (slurm / "scancel").chmod(0o755)
    assert cancel(submitter.ledger.root, "sweep", ids(6)[2:]) == (1, 0, 0, [])
    assert (slurm / "cancelled").read_text() == "1001_1\n"
    assert cancel(submitter.ledger.root, "sweep", ids(2)) == (1, 0, 0, [])
    assert (slurm / "cancelled").read_text() == "1001_0\n"


HOLDER = """
import json, os, platform, sys, time
from pathlib import Path
from filelock import FileLock
folder, host = Path(sys.argv[1]), sys.argv[2] or platform.node()
lock = FileLock(folder / "lock")
lock.acquire()
where = {"phase": "train", "step": 1, "total": 2, "updated": time.time(), "pid": os.getpid()}
(folder / "progress.json").write_text(json.dumps({**where, "host": host}))
print("held", flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("host", ["", "another-host"])
def test_what_holds_a_cell_is_stopped_or_named(store, host) -> None:
    """It shows no presence and has no launcher; on another machine it cannot be signalled."""
    (cell,) = ids(1)
    folder = store.folder(cell)
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(folder), host]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert cancel(store.root, "sweep", ["other"]) == (0, 0, 0, [])
            found = cancel(store.root, "sweep", [cell])
            if host:
                assert found == (0, 0, 0, [host])
                assert holder.poll() is None
            else:
                assert found == (0, 0, 1, [])
                assert holder.wait(30) == -signal.SIGTERM
        finally:
            holder.kill()
    assert cancel(store.root, "sweep", [cell]) == (0, 0, 0, []), "nothing holds it any more"


def test_another_users_launcher_is_not_interrupted(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError))
    with (
        show_presence(tmp_path, "sweep", "local"),
        pytest.raises(UserError, match=f"process {os.getpid()}, belongs to another user"),
    ):
        cancel(tmp_path, "sweep", [])


def test_logs_are_cut_at_the_cell(slurm, submitter) -> None:
    root, (one, two, late) = submitter.ledger.root, ids(3)
    submitter.submit([one, two])
    submitter.submit([late])
    (log,) = {sent.log for cell in (one, two) for sent in submitter.ledger.submitted_jobs()[cell]}
    log.write_text(
        f"before\n=== {one} starts\nfirst\n=== {one} done\nbetween\n=== {two} starts\nsecond\n"
    )
    submitter.ledger.submitted_jobs()[late][0].log.write_text("slurmstepd: error: no room\n")
    worker_log = root / "jobs" / "20260101-000000" / "host-1" / "5_0_log.out"
    worker_log.parent.mkdir(parents=True)
    worker_log.write_text(f"=== {two} starts\nlocally\n=== {two} failed\n=== {one} starts\n")
    assert [text for _, text in sections(root, one)] == [
        f"=== {one} starts\nfirst\n=== {one} done\n",
        f"=== {one} starts\n",
    ]
    assert [text for _, text in sections(root, two)] == [
        f"=== {two} starts\nsecond\n",
        f"=== {two} starts\nlocally\n=== {two} failed\n",
    ]
    worker_log.with_suffix(".err").write_text(
        f"=== {two} starts\na warning\n=== {two} failed\n=== {one} starts\n"
    )
    assert len(list(sections(root, one))) == 2  # the same marks are not shown again
    assert [text for _, text in sections(root, two)][1:] == [
        f"=== {two} starts\nlocally\n=== {two} failed\n",
        "a warning\n",
    ]
    assert [text for _, text in sections(root, late)] == ["slurmstepd: error: no room\n"]


@pytest.mark.parametrize("sweep", ["mine", "p_adapter/table1", "a~b", "quickstart@tiny"])
def test_running_launchers_are_detected(tmp_path, sweep) -> None:
    """Shipped sweeps in folders are included."""
    with show_presence(tmp_path, sweep, "local"):
        assert launchers(tmp_path, sweep) == [Launcher("local", platform.node(), os.getpid())]
        assert launchers(tmp_path, "other") == []
    assert launchers(tmp_path, sweep) == []


def test_ten_thousand_cells_take_few_commands(slurm, submitter, store, monkeypatch) -> None:
    """SLURM's slow commands are counted, for submission and for the state of 10,000 cells."""
    (slurm / "scontrol").write_text("#!/bin/bash\necho 'MaxArraySize            = 1001'\n")
    many = ids(10_000)
    assert submitter.submit(many) == 10_000
    assert calls(slurm) == 5  # 5,000 jobs of two cells
    sent = submitter.ledger.submitted_jobs()
    assert len(sent) == 10_000
    (slurm / "queue").write_text(
        "".join(f"{1001 + job // 1001}|{job % 1001}|PENDING|Priority\n" for job in range(5000))
    )
    asked: list[str] = []
    monkeypatch.setattr(
        cluster,
        "ask",
        lambda *command, ask=cluster.ask: [asked.append(command[0]), ask(*command)][1],
    )
    noted = notes(store.root, many)
    assert asked == ["squeue"]
    assert {each.state for each in noted.values()} == {"pending"}
    assert len(noted) == 10_000
