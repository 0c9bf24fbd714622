"""What a machine needs to run sweeps, looked at without running anything.

Each look returns findings: what was found, and what to do where something is missing.
"""

from __future__ import annotations

import importlib
import locale
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import psutil
from filelock import FileLock, Timeout

from vlpeft.benchmark.core.errors import MetricUnavailable
from vlpeft.benchmark.core.files import NO_LINKS
from vlpeft.benchmark.datasets import data_folder

DISK_GB = 5.0  # free space below which a sweep may stop
MEMORY_GB = 4.0
State = Literal["ok", "note", "FIX"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: "ok"; "note" for what only some sweeps need; "FIX" for what all sweeps need.
        found: What is there.
        fix: What to do; "" if nothing is.
    """

    name: str
    state: State
    found: str
    fix: str = ""


def examine(root: Path) -> Iterator[Finding]:
    """Yield what is found on this machine. `root` is a folder on the disk for results."""
    for look in LOOKS:
        yield look()
    yield from _disk(root)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _torch() -> Finding:
    import torch

    found = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "without bf16"
        return Finding("gpu", "ok", f"{found}, {torch.cuda.get_device_name()}, {bf16}")
    if shutil.which("nvidia-smi"):
        fix = "install a build of torch for CUDA, or update the driver: see pytorch.org"
        return Finding("gpu", "FIX", f"{found} does not see the GPU of this machine", fix)
    return Finding("gpu", "note", f"{found}, no GPU: sweeps run on the CPU")


def _torchvision() -> Finding:
    try:
        torchvision = importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:  # built for another torch
        fix = "install the torchvision that belongs to this torch"
        return Finding("torchvision", "FIX", f"cannot be imported: {error}", fix)
    return Finding("torchvision", "ok", f"{torchvision.__version__} fits torch {version('torch')}")


def _java() -> Finding:
    from vlpeft.benchmark.metrics.java import java, run_java

    try:
        program = java()
        run_java(["-version"])
    except MetricUnavailable as error:
        return Finding("java", "note", "METEOR, SPICE and the PTB tokenizer need it", str(error))
    return Finding("java", "ok", program)


def _spice() -> Finding:
    from vlpeft.benchmark.metrics.captions import Spice

    try:
        Spice().require()
    except MetricUnavailable as error:
        return Finding("spice", "note", "the models of the metric SPICE are missing", str(error))
    return Finding("spice", "ok", "its models are installed")


def _slurm() -> Finding:
    programs = [name for name in ("sbatch", "squeue", "sacct") if shutil.which(name)]
    if len(programs) == 3:
        return Finding("slurm", "ok", str(shutil.which("sbatch")))
    if programs:
        fix = "add the folder of SLURM's programs to PATH"
        return Finding("slurm", "FIX", f"only {', '.join(programs)} on the PATH", fix)
    return Finding("slurm", "note", "not on this machine: `--on slurm` needs a login node")


def _memory() -> Finding:
    memory, cores = psutil.virtual_memory(), os.cpu_count() or 1
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free, {cores} cores"
    if memory.available < MEMORY_GB * 1e9:
        return Finding("memory", "FIX", found, "close other programs, or use --workers 1")
    return Finding("memory", "ok", found)


def _hub() -> Finding:
    from vlpeft.benchmark.core.libraries.huggingface_hub import cache_folder, is_reachable

    folder = cache_folder()
    if is_reachable():
        return Finding("hub", "ok", f"answers; its cache is {folder}")
    fix = "`vlpeft prefetch SWEEP` on a machine with a network, with HF_HOME on a shared disk"
    return Finding("hub", "note", f"does not answer: only weights in {folder} can be used", fix)


def _data() -> Finding:
    folder = data_folder()
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names:
        return Finding("data", "ok", f"{folder} has {', '.join(names)}")
    fix = "`vlpeft data download NAME`, or set VLPEFT_DATA; drawn datasets need no files"
    return Finding("data", "note", f"{folder} has no dataset", fix)


def _locale() -> Finding:
    found = locale.getpreferredencoding(do_setlocale=False)
    if found.lower().replace("-", "") == "utf8":
        return Finding("locale", "ok", found)
    fix = "set LC_ALL=C.UTF-8, so that names print as they are"
    return Finding("locale", "note", found, fix)


def _umask() -> Finding:
    mask = os.umask(0)
    os.umask(mask)
    if mask & 0o040:
        fix = "`umask 027` before the sweep, if others of your group are to read its results"
        return Finding("umask", "note", f"{mask:03o}: files are for you alone", fix)
    return Finding("umask", "ok", f"{mask:03o}: your group can read new files")


LOOKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _torch,
    _torchvision,
    _java,
    _spice,
    _slurm,
    _memory,
    _hub,
    _data,
    _locale,
    _umask,
)


def _disk(root: Path) -> Iterator[Finding]:
    """Look at the disk for results: its free space, locks and links."""
    place = root.absolute()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    found = f"{free:.1f} GB free in {place}"
    if free < DISK_GB:
        yield Finding("disk", "FIX", found, "free some, or choose another --root")
    else:
        yield Finding("disk", "ok", found)
    try:
        with TemporaryDirectory(prefix=".vlpeft-", dir=place) as folder:
            yield _locks(Path(folder))
            yield _links(Path(folder))
    except OSError as error:
        fix = "choose a --root that you may write to"
        yield Finding("files", "FIX", f"cannot write in {place}: {error.strerror}", fix)


def _locks(folder: Path) -> Finding:
    """Check that a lock keeps a second holder out. Workers find free cells by locks."""
    path, fix = folder / "lock", "choose a --root on a disk with locks (flock)"
    try:
        with FileLock(path, timeout=0):
            FileLock(path, timeout=0).acquire()
    except Timeout:
        return Finding("locks", "ok", "one process at a time holds a cell")
    except (OSError, NotImplementedError) as error:
        return Finding("locks", "FIX", f"files cannot be locked: {error}", fix)
    return Finding("locks", "FIX", "two holders got the same lock", fix)


def _links(folder: Path) -> Finding:
    """Check for hard links, which let exactly one writer publish a record."""
    (folder / "file").touch()
    try:
        os.link(folder / "file", folder / "link")
    except OSError as error:
        if error.errno in NO_LINKS:
            return Finding("links", "ok", "no hard links here; writers take turns by locks")
        found = f"hard links fail: {error.strerror}"
        return Finding("links", "FIX", found, "choose another --root")
    return Finding("links", "ok", "hard links work")
