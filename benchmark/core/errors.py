"""Errors whose message is written for the person at the keyboard."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

DISK = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk full", errno.EROFS: "read-only disk"}


class UserError(Exception):
    """Something the user can mend. The command line prints it on one line and exits with 2."""


class DataError(UserError):
    """A dataset's files are missing, unreadable or malformed; the message names the record and the fix."""


class WeightsError(UserError):
    """Weights cannot be loaded: they are not on this machine, or not whole."""


class MetricUnavailable(Exception):
    """A metric cannot run on this machine; the message is the reason a record and a table show."""


def broken_source(error: Exception, file: str) -> UserError:
    """What to say of a source file that cannot be read or imported: the line of it, what is wrong there, and the fix.

    file: its path, or how that ends.
    """
    if isinstance(error, SyntaxError) and error.filename:
        place, said = f"{error.filename}:{error.lineno}", f"{type(error).__name__}: {error.msg}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [
            f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename.endswith(file)
        ]
        place, said = (own or [file])[-1], f"{type(error).__name__}: {error}"
    return UserError(" ".join(f"{place}: {said}; mend that file, or take it away".split()))


def disk_trouble(error: BaseException | None) -> str:
    """ "disk full" or "read-only disk" where that is what an error comes from; "" for any other."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return DISK[error.errno]
        error = error.__cause__
    return ""


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Put the place in front of a UserError raised inside, for callees that do not know what they were called for."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or the list of what is known."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
