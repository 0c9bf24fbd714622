"""Errors with messages for users: each names the place, the problem and the fix."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

DISK = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk full", errno.EROFS: "read-only disk"}


class UserError(Exception):
    """An error that the user can fix. The command line prints it on one line and exits with 2."""


class DataError(UserError):
    """A file of a dataset is missing, unreadable or malformed; the message names record and fix."""


class DivergedError(UserError):
    """Training has diverged: a loss or a weight is no longer a finite number."""


class OutOfMemory(UserError):
    """The memory did not suffice; the message names what would fit."""


class WeightsError(UserError):
    """Weights cannot be loaded: they are not on this machine, or incomplete."""


class MetricUnavailable(Exception):
    """A metric cannot run on this machine; records and tables show the message as the reason."""


def broken_source(error: Exception, file: str) -> UserError:
    """Return an error about a source file that cannot be read or imported.

    The message names the line, the problem and the fix.

    Args:
        error: The exception that reading or importing the file raised.
        file: The path of the file, or the last part of the path.
    """
    place, reason = file, f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        place, reason = f"{error.filename}:{error.lineno}", f"{type(error).__name__}: {error.msg}"
    else:
        # The innermost frame in the file itself: deeper ones are in libraries.
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.endswith(file):
                place = f"{frame.filename}:{frame.lineno}"
    one_line = " ".join(f"{place}: {reason}; fix or remove that file".split())
    return UserError(one_line)


def disk_trouble(error: BaseException | None) -> str:
    """Return "disk full" or "read-only disk" if that caused the error, and "" otherwise."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return DISK[error.errno]
        error = error.__cause__
    return ""


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Put `where` in front of the message of any UserError that the `with` block raises.

    Use it around functions that do not know the file or setting they work for.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or else the list of all words."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if options:
        return f"; known: {', '.join(options)}"
    return ""
