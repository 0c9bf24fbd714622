"""`vlpeft doctor` on machines that lack something."""

import errno
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from vlpeft.benchmark.core.errors import MetricUnavailable
from vlpeft.benchmark.core.libraries import huggingface_hub
from vlpeft.benchmark.launch import doctor
from vlpeft.benchmark.launch.doctor import Finding, examine


@pytest.fixture
def found(tmp_path: Path):
    """What is found, by name."""

    def look(root: Path = tmp_path) -> dict[str, Finding]:
        return {each.name: each for each in examine(root)}

    return look


def test_each_line_is_fine_or_says_what_to_do(found) -> None:
    findings = found()
    assert list(findings) == [
        *("python", "gpu", "torchvision", "java", "spice", "slurm", "memory", "hub", "data"),
        *("locale", "umask", "disk", "locks", "links"),
    ]
    for each in findings.values():
        assert each.found
        assert each.fix or each.state != "FIX"
    assert findings["python"].state == "ok"


def test_a_gpu_that_torch_does_not_see(found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert found()["gpu"].state == "FIX"
    assert "install a build of torch for CUDA" in found()["gpu"].fix


def test_torchvision_of_another_torch(found, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    assert found()["torchvision"].state == "FIX"
    assert "nms" in found()["torchvision"].found


def test_without_java(found, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MetricUnavailable("needs Java 8 or newer")

    monkeypatch.setattr("vlpeft.benchmark.metrics.java.java", absent)
    assert (found()["java"].state, found()["java"].fix) == ("note", "needs Java 8 or newer")


@pytest.mark.parametrize(
    ("programs", "state"),
    [((), "note"), (("sbatch",), "FIX"), (("sbatch", "squeue", "sacct"), "ok")],
)
def test_slurm(programs, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name in programs else None)
    assert doctor._slurm().state == state


def test_a_full_disk_and_little_memory(found, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    memory = namedtuple("memory", "total available")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1, 1, 10**9))
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory(8 * 10**9, 10**9))
    findings = found()
    assert (findings["disk"].state, findings["memory"].state) == ("FIX", "FIX")
    assert findings["disk"].found.startswith("1.0 GB free in ")


def test_disks_without_links_or_locks(found, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert "writers take turns by locks" in found()["links"].found

    class NoLock:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> None:
            raise NotImplementedError("no flock here")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(doctor, "FileLock", NoLock)
    assert found()["locks"].state == "FIX"


def test_a_folder_that_is_not_there_yet_is_looked_at_where_it_would_be(found, tmp_path) -> None:
    assert str(tmp_path) in found(tmp_path / "a" / "b")["disk"].found


def test_a_hub_that_does_not_answer_is_asked_once(found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its library is switched off while weights are loaded: it would ask and wait again."""
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append((url, timeout))
            raise ConnectionError("no network")

    constants = huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.is_reachable.cache_clear()
    try:
        assert found()["hub"].state == "note"
        with huggingface_hub.offline_if_unreachable():
            assert constants.HF_HUB_OFFLINE is True
        assert constants.HF_HUB_OFFLINE is False
    finally:
        huggingface_hub.is_reachable.cache_clear()
    assert asked == [(constants.ENDPOINT, huggingface_hub.REACH_SECONDS)]


def test_the_command(vlpeft, tmp_path: Path) -> None:
    code, out, _ = vlpeft("doctor", "--root", tmp_path, "--json")
    states = {each["name"]: each["state"] for each in json.loads(out)}
    assert code == int("FIX" in states.values())
    _, text, _ = vlpeft("doctor", "--root", tmp_path)
    assert len(text.splitlines()) == len(states) + 1


def test_a_private_umask_is_noted() -> None:
    code = "import os; os.umask(0o077); from vlpeft.benchmark.launch.doctor import _umask"
    command = [sys.executable, "-c", f"{code}; print(_umask().state)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "note\n"
