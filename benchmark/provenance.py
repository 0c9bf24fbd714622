"""In which environment a number was made."""

from __future__ import annotations

import functools
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.registry import REPOSITORY

PACKAGES = ("vlpeft", "torch", "transformers", "timm", "open_clip_torch", "numpy", "pycocoevalcap")


def provenance(device: str) -> dict[str, Any]:
    """Versions, code state, hardware and time, all JSON values."""
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else _processor()
    return {
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "git": git_state(),
        "host": platform.node(),
        "system": platform.platform(),
        "device": name,
        "threads": torch.get_num_threads(),
        "flush_denormal": True,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and whether the tree differs from it; empty outside a checkout."""
    sha = _git("rev-parse", "HEAD")
    return {"sha": sha, "dirty": bool(_git("status", "--porcelain"))} if sha else {}


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git: an installed copy has no commit to name
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    for line in about.read_text(encoding="utf-8").splitlines() if about.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
