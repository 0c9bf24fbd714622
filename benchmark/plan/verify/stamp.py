"""What has passed in which environment, as files in the user's cache. Imports no torch.

An environment consists of the versions of Python and of the libraries, the code, the device, and
whether Java is installed, without which some checks do not run.
One file holds the parts that have passed there: ~/.cache/vlpeft/verified/KEY.json. If
$XDG_CACHE_HOME is set, it replaces ~/.cache.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from vlpeft.benchmark.cells import provenance
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.files import read_json, to_json, write_atomically
from vlpeft.benchmark.core.registry import REPOSITORY

COMPUTING = ("benchmark", "baselines", "methods")  # the packages that compute numbers
SUFFIXES = (".py", ".json", ".safetensors")


@dataclass(frozen=True)
class Environment(Config):
    """What decides whether the checks must run again."""

    python: str
    packages: dict[str, str]
    code: str  # hash of the packages' files
    device: str  # such as "cpu: AMD EPYC, AVX2" or "cuda: NVIDIA H100"
    has_java: bool

    @classmethod
    def here(cls, device: str) -> Environment:
        """Return the environment of this process; `device` is "cpu" or "cuda"."""
        packages = {name: version(name) for name in provenance.PACKAGES}
        described = f"{device}: {device_name(device)}"
        has_java = shutil.which("java") is not None
        return cls(platform.python_version(), packages, code_hash(), described, has_java)

    @cached_property
    def key(self) -> str:
        """The name of its stamp."""
        return hashlib.sha256(to_json(dump(self))).hexdigest()[:16]

    @property
    def versions(self) -> str:
        """All versions on one line."""
        found = {"python": self.python, **self.packages}
        return ", ".join(f"{name} {number}" for name, number in found.items())


@dataclass(frozen=True)
class Stamp(Config):
    """The content of a stamp. The environment is there for people to read."""

    environment: Environment
    parts: tuple[str, ...]


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor with its vector instructions.

    The instructions are named, too: the same processor may offer fewer of them on another host,
    and each set of instructions adds in its own order.
    """
    import torch

    if device == "cpu":
        return f"{provenance.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return torch.cuda.get_device_name()


@cache
def code_hash(folder: Path = REPOSITORY) -> str:
    """Return the hash of the files that compute.

    It is the same for a checkout, a wheel and the copy that jobs run.

    folder: the one that holds the package `vlpeft`.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_files(folder)):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for package in COMPUTING:
        for path in (folder / "vlpeft" / package).rglob("*"):
            if path.suffix in SUFFIXES and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def cache_folder() -> Path:
    """Return the folder of the stamps."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given else Path.home() / ".cache"
    return base / "vlpeft" / "verified"


def _stamp(environment: Environment) -> Path:
    return cache_folder() / f"{environment.key}.json"


def passed(environment: Environment) -> frozenset[str]:
    """Return the parts that have passed; none if the stamp cannot be read."""
    path = _stamp(environment)
    try:
        values = read_json(path)
        if values is None:
            return frozenset()
        return frozenset(parse(Stamp, values, str(path)).parts)
    except Exception:
        # Torn by a full disk, or unreadable. The parts are checked and written again.
        return frozenset()


def remember(environment: Environment, parts: Iterable[str]) -> str:
    """Add parts to the stamp. Return why that was not possible, or ""."""
    both = tuple(sorted(passed(environment) | set(parts)))
    try:
        write_atomically(_stamp(environment), to_json(dump(Stamp(environment, both))))
    except Exception as error:
        return str(error.__cause__ or error)
    return ""


@contextmanager
def alone(environment: Environment) -> Iterator[None]:
    """Wait while another process verifies the same environment.

    If no lock can be made, there is no waiting: both verify, which costs time only.
    """
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
    """Return the parts that have not passed yet."""
    known = passed(environment)
    return tuple(part for part in parts if part not in known)
