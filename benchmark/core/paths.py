"""Paths that users write, and paths in text that leaves this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

# An absolute path: at the start of a word, up to a character that ends it in a message.
NAME = r"[^\s/:;,'\"()<>`|]+"
ABSOLUTE = re.compile(rf"(?<![\w./:~<-])(?:~|[A-Za-z]:)?/(?:{NAME}/)*({NAME})/?")

YAML = (".yaml", ".yml")  # how the names of such files end


# Path.expanduser and Path.resolve raise RuntimeError for unknown users and for links to themselves.
# Here these stay as they are, and opening the file reports them.
def expand_home(path: str | Path) -> Path:
    """Return a path in which `~` is the user's home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def resolve_path(path: str | Path) -> Path:
    """Return the absolute path behind all links; `~` is the user's home folder."""
    return Path(os.path.realpath(expand_home(path)))


def hide_folders(text: str, *folders: str) -> str:
    """Return text in which absolute paths keep their last name only.

    Tables, reports and evidence are published; a folder may hold the name of a user or a project.

    Args:
        text: A message.
        folders: Folders that it may name. They may contain spaces, which end other paths.
    """
    for folder in folders:
        if folder not in ("", "/"):
            text = text.replace(f"{folder.rstrip('/')}/", "")
    return ABSOLUTE.sub(lambda found: found[1], text)
