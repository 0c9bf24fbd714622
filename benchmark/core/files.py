"""Read and write files, so that no reader sees half of one and no damage ends in a traceback.

A file is written to a temporary one in the same folder, which then takes its name in one step. The
temporary one has a name that nobody can guess, is created by its writer (a planted link is not
followed), and gets the permissions of every other file that the user makes (0666 without the
umask). Its writer holds a lock on it. The kernel frees this lock when the writer dies, so the next
writer in the folder recognises and removes what a killed one has left.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from vlpeft.benchmark.core.errors import UserError

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.writing")
NAME_LENGTH = 100  # of a file's name in that of its temporary one; a name may have 255 bytes
# A temporary file that cannot be locked is removed when nobody has written to it for so long.
ABANDONED_SECONDS = 7 * 24 * 3600.0
# What os.link raises on disks without hard links: exFAT, cloud drives, some network disks.
NO_LINKS = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
}
# What fsync raises for a folder on disks that cannot sync folders.
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES}


def to_json(values: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Return JSON with sorted keys: equal values give equal bytes.

    Without indentation it is written ten times as fast.
    """
    text = json.dumps(values, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return encode_json(f"{text}\n")


def encode_json(text: str) -> bytes:
    """Encode JSON as UTF-8, which cannot hold half of a surrogate pair: it becomes its escape."""
    return text.encode(errors="backslashreplace")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a small status file; None if it does not exist. Raises UserError for a damaged one."""
    try:
        values = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        # The latter: the results are one file of evidence, which has no status files.
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({error}); restore or delete it") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: expected a mapping, found {type(values).__name__}; restore or delete it"
        )
    return values


class NotRegularFile(OSError):
    """A pipe, a device or a socket in the place of a file."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        IsADirectoryError: It is a folder.
        NotRegularFile: It is a pipe or a device, which might never end.
        OSError: It cannot be opened.
    """
    # Without O_NONBLOCK, to open a pipe waits until somebody writes to it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise NotRegularFile(errno.EINVAL, "Not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes, *, exclusive: bool = False) -> bool:
    """Write a file so that `kill -9` and power cuts leave the old one or the whole new one.

    Args:
        path: The file; missing folders are created.
        data: Its content.
        exclusive: Keep an existing file, and return False.

    Raises:
        UserError: If the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with _temporary(path) as (temporary, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if exclusive and not _name_first(temporary, path):
                return False
            if not exclusive:
                temporary.replace(path)
            _sync_folder(path.parent)
    return True


def write_quickly(path: Path, data: bytes) -> None:
    """Write a file that can be made again: atomically, but without fsync.

    A power cut may leave it empty. Raises UserError if the folder cannot be written.
    """
    with write_errors(path), _temporary(path) as (temporary, file):
        file.write(data)
        file.flush()
        temporary.replace(path)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Give an empty temporary file, and move it to `path` at the end; remove it after an error.

    For files that are too large for `write_atomically`. Raises OSError.
    """
    remove_abandoned(path.parent)
    with _temporary(path) as (temporary, _):
        yield temporary
        temporary.replace(path)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user has named. An old file stays whole if the new one cannot be.

    A link is followed and the permissions of an old file are kept, as by every command that
    writes to a named file. A device or a pipe is written to.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    with replacement(target) as temporary:
        temporary.write_bytes(data)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder, and rename it to `path` at the end.

    It is removed after an error. Raises OSError, for instance if `path` exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    folder = _temporary_name(path)
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _try_lock(handle)
        yield folder
        folder.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file if it exists. Raises UserError for a folder in its place."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}; delete it") from error


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a UserError: what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; "
            "choose a writable --root with free space"
        ) from error


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose writers are dead."""
    # It is housekeeping: what another user owns, or another process removes first, is left.
    with suppress(OSError):
        for entry in os.scandir(folder):
            if TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_abandoned(Path(entry.path), entry.is_dir(follow_symlinks=False))


def _remove_if_abandoned(path: Path, is_folder: bool) -> None:
    """Remove a temporary file or folder unless its writer holds its lock."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    # A lock on a network disk needs a file that is open for writing.
    access = os.O_RDONLY if is_folder else os.O_RDWR
    handle = os.open(path, flags | access)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a disk without locks
            if time.time() - os.fstat(handle).st_mtime < ABANDONED_SECONDS:
                return
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(handle)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Create a temporary file for `path`, lock it, and remove it at the end if it is left."""
    while True:
        temporary = _temporary_name(path)
        # O_EXCL never opens what exists, a link neither. The kernel applies the umask to 0666.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666)
        _try_lock(handle)
        # Another process may have taken it for abandoned before it was locked.
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)
    with os.fdopen(handle, "wb") as file:
        try:
            yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    """Return a name that TEMPORARY matches and nobody can guess."""
    short = os.fsdecode(os.fsencode(path.name)[:NAME_LENGTH])
    return path.with_name(f".{short}.{secrets.token_hex(8)}.writing")


def _try_lock(handle: int) -> None:
    """Lock a temporary file. On a disk without locks, its age decides when it is abandoned."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def _name_first(temporary: Path, path: Path) -> bool:
    """Give a complete file its name, unless the name is taken. Return True if this call did."""
    # A hard link, unlike a rename, fails if the name is taken.
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _rename_first(temporary, path)
    return True


def _rename_first(temporary: Path, path: Path) -> bool:
    """Do the same on a disk without hard links, where a rename would replace an existing file.

    Writers take turns by a lock on the folder. The kernel frees it when its holder dies, so a
    killed writer blocks nobody, and it leaves no claim in place of a record. (Several machines may
    not see each other's locks on folders; of these, only the holder of the cell's lock publishes.)
    """
    handle = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return False
        temporary.rename(path)
    finally:
        os.close(handle)
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the disk can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(handle)
