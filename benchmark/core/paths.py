"""Paths in text that leaves this machine."""

from __future__ import annotations

import re

# An absolute path: at the start of a word, up to a character that ends it in a message.
NAME = r"[^\s/:;,'\"()<>`|]+"
ABSOLUTE = re.compile(rf"(?<![\w./:~<-])(?:~|[A-Za-z]:)?/(?:{NAME}/)*({NAME})/?")


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
