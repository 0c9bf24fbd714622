"""What has passed in which environment, as files below the user's cache. Imports no torch.

An environment is the versions of Python and of the libraries, the code, and the device. One file holds the parts that
have passed there: ~/.cache/vlpeft/verified/KEY.json ($XDG_CACHE_HOME in place of ~/.cache where it is set).
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from vlpeft.benchmark.cells import provenance
from vlpeft.benchmark.cells.records import read_json, to_json, write_atomically
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.registry import REPOSITORY

COMPUTING = ("benchmark", "baselines", "methods")  # the packages that numbers come from
SUFFIXES = (".py", ".json", ".safetensors")


@dataclass(frozen=True)
class Environment(Config):
    """All that the numbers of a cell depend on besides its settings."""

    python: str
    packages: dict[str, str]
    code: str  # hash of the packages' files
    device: str  # such as "cpu: AMD EPYC" or "cuda: NVIDIA H100"

    @classmethod
    def here(cls, device: str) -> Environment:
        """This process's; `device` is "cpu" or "cuda"."""
        packages = {name: version(name) for name in provenance.PACKAGES}
        return cls(
            platform.python_version(), packages, code_hash(), f"{device}: {device_name(device)}"
        )

    @cached_property
    def key(self) -> str:
        """Names its stamp."""
        return hashlib.sha256(to_json(dump(self))).hexdigest()[:16]

    @property
    def versions(self) -> str:
        """Versions on one line."""
        found = {"python": self.python, **self.packages}
        return ", ".join(f"{name} {number}" for name, number in found.items())


@dataclass(frozen=True)
class Stamp(Config):
    """The content of a stamp: the environment is there for people."""

    environment: Environment
    parts: tuple[str, ...]


def device_name(device: str) -> str:
    """The name of the processor, or of the GPU."""
    if device == "cpu":
        return provenance.processor()
    import torch

    return torch.cuda.get_device_name()


@cache
def code_hash(folder: Path = REPOSITORY) -> str:
    """Hash of the files that compute: the same in a checkout, a wheel and a copy that jobs run."""
    digest = hashlib.sha256()
    for name, path in sorted(_files(folder)):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for package in COMPUTING:
        for path in (folder / package).rglob("*"):
            if path.suffix in SUFFIXES and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def cache_folder() -> Path:
    """Where stamps are kept."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "vlpeft" / "verified"


def passed(environment: Environment) -> frozenset[str]:
    """The parts that have passed. A stamp that cannot be read is worth none."""
    path = cache_folder() / f"{environment.key}.json"
    try:
        values = read_json(path)
        return (
            frozenset(parse(Stamp, values, str(path)).parts) if values is not None else frozenset()
        )
    except Exception:  # torn by a full disk, or unreadable: checked again, and written again
        return frozenset()


def remember(environment: Environment, parts: Iterable[str]) -> str:
    """Add parts to the stamp. Returns why that was not possible, or ""."""
    both = tuple(sorted(passed(environment) | set(parts)))
    try:
        write_atomically(
            cache_folder() / f"{environment.key}.json", to_json(dump(Stamp(environment, both)))
        )
    except Exception as error:
        return str(error.__cause__ or error)
    return ""


@contextmanager
def alone(environment: Environment) -> Iterator[None]:
    """Wait while another process verifies the same environment; where no lock can be made, do not."""
    lock = FileLock(cache_folder() / f"{environment.key}.lock")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def missing(environment: Environment, parts: Sequence[str]) -> tuple[str, ...]:
    """The parts that have not passed yet."""
    known = passed(environment)
    return tuple(part for part in parts if part not in known)
