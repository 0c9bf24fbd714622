"""Which SLURM jobs `vlpeft sweep --prune` cancels."""

from types import SimpleNamespace

import pytest

from vlpeft.benchmark.core.errors import UserError
from vlpeft.slurm import cluster, control


@pytest.fixture
def cancelled(monkeypatch):
    """Jobs 7 and 8 are live: 7 runs one cell, 8 runs two."""
    live = {
        cell: (SimpleNamespace(job=job), SimpleNamespace(state="RUNNING"))
        for cell, job in (("a", "7"), ("b", "8"), ("c", "8"))
    }
    done: list[str] = []
    monkeypatch.setattr(control, "live_cells", lambda root: live)
    monkeypatch.setattr(cluster, "cancel", done.extend)
    return done


@pytest.mark.parametrize(
    ("cells", "jobs"),
    [({"a"}, ["7"]), ({"b", "c"}, ["8"]), ({"a", "b", "c"}, ["7", "8"]), ({"x"}, [])],
)
def test_jobs_of_nothing_else(cells, jobs, cancelled, tmp_path) -> None:
    assert control.cancel_jobs_of(tmp_path, cells) == len(jobs)
    assert cancelled == jobs


def test_a_job_with_other_cells_is_not_cancelled(cancelled, tmp_path) -> None:
    with pytest.raises(UserError, match="job 8 also runs cells that the sweep still has"):
        control.cancel_jobs_of(tmp_path, {"a", "b"})
    assert cancelled == []
