"""The lock has one version of everything that is installed, for each Python, and no address."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")


def locked(python: str) -> dict[str, str]:
    """Map each name to the version that the lock gives on Linux x86-64."""
    place = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for line in (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(place):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is locked twice on Python {python}"
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            found[name] = specifier.version
    return found


def direct() -> Iterator[Requirement]:
    """Return what pyproject.toml names: to build, run, test and develop."""
    about = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    yield from map(Requirement, about["build-system"]["requires"])
    yield from map(Requirement, about["project"]["dependencies"])
    for extra in about["project"]["optional-dependencies"].values():
        yield from map(Requirement, extra)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_within_its_bounds(python: str) -> None:
    versions = locked(python)
    for requirement in direct():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not locked: run `tox run -e lock`"
        assert versions[name] in requirement.specifier, f"{name}: run `tox run -e lock`"


def test_the_lock_names_no_address() -> None:
    text = (TOP / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "@" not in text


def test_transformers_has_an_upper_bound() -> None:
    (transformers,) = (each for each in direct() if each.name == "transformers")
    assert "6.0" not in transformers.specifier
    assert any(each.operator == "<" for each in transformers.specifier)


def test_what_a_gpu_machine_needs_is_carried_or_named() -> None:
    """`gpu_day.sh` carries a package, or says that the machine must have it."""
    script = (TOP / "benchmark/bench/gpu_day.sh").read_text()
    carried = set(re.search(r'^CARRIED="([^"]*)"', script, re.MULTILINE)[1].split())
    head = script[: script.index("set -uo")]
    named = set(re.findall(r"[a-z0-9_-]+", head.replace("#", " ")))
    # Installed with the packages that the head names.
    named |= {"filelock", "markupsafe", "packaging"}
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["quickstart"], *extras["test"]]:
        name = canonicalize_name(Requirement(requirement).name)
        assert name in carried | named, name
    assert carried <= locked("3.12").keys(), "carried in the versions of the lock"


def test_the_script_of_a_gpu_machine_explains_itself() -> None:
    script = TOP / "benchmark/bench/gpu_day.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_day.sh --download WHEELS" in done.stderr
