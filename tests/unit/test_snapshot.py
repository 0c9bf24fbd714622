"""The code that a record names, and the copy of it that jobs run."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vlpeft.benchmark.cells import code as codebase
from vlpeft.benchmark.cells.code import NOTE, PACKAGES, code, commit, files, keep_diff
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import REPOSITORY
from vlpeft.slurm.snapshot import Snapshot

GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b.example")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", folder, *words],
        env={**os.environ, **GIT},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def write_packages(folder: Path, *, links: bool = False) -> Path:
    """Write the packages below `vlpeft`; with `links`, next to it and linked, as in a checkout."""
    for package in PACKAGES:
        place = folder / package if links or package == "vlpeft" else folder / "vlpeft" / package
        (place / "__pycache__").mkdir(parents=True)
        (place / "__init__.py").write_text(f'"""{package}."""\n')
        (place / "__pycache__" / "a.pyc").write_bytes(b"\0")
        if links and package != "vlpeft":
            (folder / "vlpeft" / package).symlink_to(f"../{package}")
    (folder / "vlpeft" / "slurm" / "profiles").mkdir()
    (folder / "vlpeft" / "slurm" / "profiles" / "weights.bin").write_bytes(bytes(range(256)))
    return folder


def named(*packages: str) -> list[str]:
    """Map a name to the files that packages of that name begin with."""
    return [
        f"vlpeft/{package}/__init__.py".replace("vlpeft/vlpeft", "vlpeft") for package in packages
    ]


@pytest.fixture
def installed(tmp_path) -> Path:
    """Write the packages as a wheel installs them."""
    return write_packages(tmp_path / "site-packages")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Write the packages into a repository and commit them."""
    folder = write_packages(tmp_path / "checkout", links=True)
    (folder / ".gitignore").write_text("__pycache__/\n*.log\n")
    (folder / "README.md").write_text("read me\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *AUTHOR, "commit", "-qm", "all")
    return folder


def edit(folder: Path) -> None:
    """Make a changed, a new, a deleted and an ignored file, and a changed file that is not code."""
    (folder / "methods" / "__init__.py").write_text("edited = 1\n")
    (folder / "methods" / "new one.py").write_text("new = 1\n")
    (folder / "results" / "__init__.py").unlink()
    (folder / "results" / "run.log").write_text("noise\n")
    (folder / "README.md").write_text("read me twice\n")


def test_the_packages_equal_those_of_the_wheel() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert list(PACKAGES) == wheel["only-include"]
    assert wheel["sources"] == {
        package: f"vlpeft/{package}" for package in PACKAGES if package != "vlpeft"
    }


def test_a_clean_checkout(checkout, tmp_path) -> None:
    (checkout / "README.md").write_text("no code\n")
    found = code(checkout)
    assert found.git() == {"sha": git(checkout, "rev-parse", "HEAD").strip(), "dirty": False}
    keep_diff(tmp_path / "root", checkout)
    assert not (tmp_path / "root").exists()


SECRETS = (
    *("methods/.env", "methods/key.pem", "methods/id_rsa", "results/data.csv", "slurm/a.json"),
    *("methods/.hidden.py", "methods/.secret/key.yaml", "benchmark/weights.bin", "methods/py"),
)


def test_new_files_that_are_no_sources_are_not_copied(checkout, tmp_path) -> None:
    """Neither into the difference nor to a cluster: a result folder is shared and published."""
    for name in SECRETS:
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("TOKEN=secret\n")
    assert not code(checkout).dirty
    keep_diff(tmp_path / "root", checkout)
    assert not (tmp_path / "root").exists()
    assert not [name for name in files(checkout) if name.removeprefix("vlpeft/") in SECRETS]


def test_new_sources_are_copied_by_their_own_names(checkout, tmp_path) -> None:
    """A file that is called like a pattern adds no other file."""
    (checkout / "methods" / "*.py").write_text("new = 1\n")
    (checkout / "methods" / "a.yaml").write_text("a: 1\n")
    (checkout / "methods" / "key.pem").write_text("TOKEN=secret\n")
    assert code(checkout).dirty
    keep_diff(tmp_path / "root", checkout)
    (kept,) = (tmp_path / "root" / "diffs").iterdir()
    assert "new = 1" in kept.read_text()
    assert "a: 1" in kept.read_text()
    assert "secret" not in kept.read_text()


def test_the_difference_restores_the_same_code(checkout, tmp_path) -> None:
    """Reading the difference does not change the repository."""
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(checkout), str(again))
    edit(checkout)
    before = {path: path.read_bytes() for path in (checkout / ".git").rglob("*") if path.is_file()}
    found = code(checkout)
    keep_diff(tmp_path / "root", checkout)
    assert before == {
        path: path.read_bytes() for path in (checkout / ".git").rglob("*") if path.is_file()
    }
    assert found.dirty
    assert found.git()["diff"] == found.diff
    git(again, "apply", "--binary", str(tmp_path / "root" / "diffs" / f"{found.diff}.diff"))
    assert {name: (again / name).read_bytes() for name in files(again)} == {
        name: (checkout / name).read_bytes() for name in files(checkout)
    }
    assert (again / "methods" / "new one.py").exists()


def test_files_ignored_by_git_are_left_out(checkout) -> None:
    edit(checkout)
    expected = named(*(package for package in PACKAGES if package != "results"))
    assert files(checkout) == sorted(
        [*expected, "vlpeft/methods/new one.py", "vlpeft/slurm/profiles/weights.bin"]
    )


def test_an_installed_copy_has_no_commit(installed) -> None:
    assert code(installed).git() == {}
    assert files(installed) == sorted([*named(*PACKAGES), "vlpeft/slurm/profiles/weights.bin"])


def test_an_environment_in_a_repository_is_not_a_checkout(checkout) -> None:
    """The repository around the environment belongs to another project."""
    inside = write_packages(checkout / ".venv" / "site-packages")
    assert commit(checkout) != ""
    assert commit(inside) == ""
    assert len(files(inside)) == len(PACKAGES) + 1


def test_without_git_it_is_an_installed_copy(checkout, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code(checkout).git() == {}


@pytest.fixture(params=["checkout", "installed"])
def source(request) -> Path:
    return request.getfixturevalue(request.param)


def test_a_snapshot_is_made_once(source, tmp_path) -> None:
    folder, made = tmp_path / "code", Snapshot.take(source)
    made.write(folder)
    target = folder / made.name
    assert {
        path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()
    } == {*files(source), NOTE}
    assert all(
        (target / name).read_bytes() == (source / name).read_bytes() for name in files(source)
    )
    when = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    Snapshot.take(source).write(folder)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == when
    assert [path.name for path in folder.iterdir()] == [made.name]


def test_edited_code_is_another_snapshot_and_the_old_one_stays(source, tmp_path) -> None:
    made = Snapshot.take(source)
    (source / "vlpeft" / "methods" / "__init__.py").write_text("edited = 1\n")
    made.write(tmp_path / "code")  # the text before
    assert (
        tmp_path / "code" / made.name / "vlpeft" / "methods" / "__init__.py"
    ).read_text() == '"""methods."""\n'
    assert Snapshot.take(source).name != made.name


def test_a_snapshot_names_the_commit_and_can_be_copied(checkout, tmp_path) -> None:
    edit(checkout)
    made = Snapshot.take(checkout)
    made.write(tmp_path / "code")
    target = tmp_path / "code" / made.name
    assert code(target).git() == code(checkout).git()
    assert code(target).snapshot == made.name
    keep_diff(tmp_path / "root", target)
    assert not (tmp_path / "root").exists()
    (target / "vlpeft" / "methods" / "__pycache__").mkdir()
    (target / "vlpeft" / "methods" / "__pycache__" / "a.pyc").write_bytes(b"\0")
    assert Snapshot.take(target) == made


def test_a_killed_launch_leaves_nothing(installed, tmp_path, monkeypatch) -> None:
    made, folder = Snapshot.take(installed), tmp_path / "code"
    real, written = Path.write_bytes, []

    def write(self, content) -> int:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(self)
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(KeyboardInterrupt):
        made.write(folder)
    monkeypatch.undo()
    assert list(folder.iterdir()) == []
    (folder / ".torn" / "slurm").mkdir(parents=True)  # the state after `kill -9`
    made.write(folder)
    assert [path.name for path in folder.iterdir()] == [made.name]


def test_a_changed_snapshot_is_refused(installed, tmp_path) -> None:
    made = Snapshot.take(installed)
    made.write(tmp_path)
    (tmp_path / made.name / "vlpeft" / "slurm" / "__init__.py").write_text("edited = 1\n")
    with pytest.raises(
        UserError,
        match=r"slurm/__init__.py was changed after it was copied; .* remove .* and run again",
    ):
        made.write(tmp_path)


def test_a_folder_that_cannot_be_written(installed, tmp_path) -> None:
    (tmp_path / "code").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*; choose a writable --root"):
        Snapshot.take(installed).write(tmp_path / "code")


def test_jobs_import_from_the_snapshot(installed, tmp_path) -> None:
    """The folder of the submission is not on the path; the former PYTHONPATH comes last."""
    for name in named(*PACKAGES):
        (installed / name).write_text("value = 'old'\n")
    (installed / "plugin.py").write_text("")
    made = Snapshot.take(installed)
    made.write(tmp_path / "a folder")
    (installed / "vlpeft" / "methods" / "__init__.py").write_text("value = 'new'\n")
    (installed / "main.py").write_text(
        "import plugin, vlpeft.methods; print(vlpeft.methods.value)\n"
    )
    script = "\n".join([*made.setup(tmp_path / "a folder"), f"{sys.executable} -m main"])
    for before, said in (({"PYTHONPATH": str(installed)}, "old\n"), ({}, "")):
        environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            **before,
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=installed,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == said, done.stderr


NAMED = (
    "vlpeft/benchmark/launch/worker.py",
    "vlpeft/benchmark/backbones/tiny/vit/config.json",
    "vlpeft/results/tables/listing.py",
)


def test_this_code_can_be_copied() -> None:
    made = Snapshot.take()
    assert {*NAMED, NOTE} <= set(made.files)
    assert not [name for name in made.files if "__pycache__" in name]
    assert codebase.code().snapshot == ""
