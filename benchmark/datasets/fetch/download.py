"""Fetch a dataset's files: each goes on where it was cut, is checked against its published checksum, and appears whole or not at all.

requests does the talking. No kept library was found that resumes a cut file and checks it (pooch fetches whole files), so
the 40 lines that do are here, after RFC 9110 (Range, If-Range, Content-Range).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock, Timeout

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.fetch.check import ReportCheck
from vlpeft.benchmark.datasets.fetch.checksum import wrong_checksum
from vlpeft.benchmark.datasets.fetch.unpack import unpack
from vlpeft.benchmark.datasets.sources import Download

CHUNK = 1 << 16  # so much of what came is lost at most when a connection is cut
MIB = 1 << 20
TRIES = 4  # without a byte of progress
PAUSE = 2.0  # seconds before the next try, times the tries so far
WAIT = (20, 60)  # seconds for a connection, and for the next bytes
PASSING = (408, 429, 500, 502, 503, 504)  # statuses worth another try


def download(sources: tuple[Download, ...], root: Path, watch: ReportCheck) -> list[str]:
    """Fetch what is not below `root` yet, and unpack it. Returns what was fetched. Raises UserError naming file and fix."""
    fetched = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock", timeout=0):
            for source in sources:
                if source.missing(root):
                    _one(source, root, watch)
                    fetched.append(source.file)
    except Timeout as error:
        raise UserError(f"another process is downloading into {root}; wait for it") from error
    except OSError as error:
        raise UserError(
            f"cannot write below {root}: {error.strerror or error}; choose a writable --path with free space"
        ) from error
    return fetched


def _one(source: Download, root: Path, watch: ReportCheck) -> None:
    path = root / source.file
    if not path.exists():
        fetch(source, path, watch)
    if source.gives:
        unpack(source, root, watch)


def fetch(source: Download, path: Path, watch: ReportCheck) -> None:
    """Save `source.url` as `path`. What a cut connection left in `path`.part is kept, here and in later runs, and completed.

    Raises UserError: the server refuses, the connection stays cut, or the file is not the published one (then it is removed).
    """
    part = path.with_name(f"{path.name}.part")
    failures, furthest = 0, _size(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with requests.Session() as session:
        while True:
            try:
                _complete(session, source, part, watch)
                break
            except _Cut as error:
                failures = 0 if _size(part) > furthest else failures + 1
                furthest = max(furthest, _size(part))
                if failures == TRIES:
                    raise UserError(
                        f"{source.url}: {error}; {_size(part):,} bytes are kept in {part}: run the command again to go on"
                    ) from error
                time.sleep(PAUSE * failures)
    watch(f"check {path.name}", 0, None)
    if wrong := wrong_checksum(source, part):
        _forget(part)
        raise UserError(
            f"{path.name} from {source.url}: {wrong}; the file was removed: run again, and if that stays, the source has changed"
        )
    part.replace(path)
    _forget(part)


class _Cut(Exception):
    """The connection ended early, or the server asks to come again."""


def _complete(session: requests.Session, source: Download, part: Path, watch: ReportCheck) -> None:
    """Ask for the bytes that `part` lacks and append them; for all of them where the server knows no ranges or the file changed."""
    have, kept = _size(part), _read_note(part)
    if kept.get("url") != source.url:
        have = 0
    headers = {"Accept-Encoding": "identity"}  # a compressed transfer would count other bytes
    if have:
        headers["Range"] = f"bytes={have}-"
        headers |= {"If-Range": kept["validator"]} if kept.get("validator") else {}
    try:
        with session.get(source.url, headers=headers, stream=True, timeout=WAIT) as answer:
            if have and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # whole already: stopped between the last byte and the check
            _refuse(answer, source, part, have)
            _append(answer, part, _start(answer, have), source.url, watch)
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        raise _Cut(f"connection lost ({type(error).__name__})") from error
    except requests.RequestException as error:
        raise UserError(f"cannot fetch {source.url}: {error}") from error


def _refuse(answer: requests.Response, source: Download, part: Path, have: int) -> None:
    status = answer.status_code
    if status == 416:  # more bytes are kept than there are: the file has changed
        _forget(part)
        raise _Cut(f"the server does not have byte {have:,}")
    if status in PASSING:
        raise _Cut(f"the server answers {status} {answer.reason}")
    if status not in (200, 206):
        raise UserError(
            f"{source.url}: the server answers {status} {answer.reason}; fetch it with a browser and save it as {part.with_suffix('')}"
        )
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(
            f"{source.url}: the server sends it compressed, unasked; fetch it with a browser and save it as {part.with_suffix('')}"
        )


def _start(answer: requests.Response, have: int) -> int:
    """At which byte the answer's content begins."""
    if answer.status_code == 200:
        return 0
    place = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if not place.isdecimal() or int(place) > have:
        raise _Cut(f"the server sent a range that begins at '{place}', not at {have}")
    return int(place)


def _append(
    answer: requests.Response, part: Path, start: int, url: str, watch: ReportCheck
) -> None:
    etag = answer.headers.get("ETag", "")
    validator = (
        etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
    )
    _note(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        for chunk in answer.iter_content(CHUNK):
            file.write(chunk)
            if file.tell() % MIB < len(chunk):
                watch(
                    f"fetch MiB of {part.stem}",
                    file.tell() // MIB,
                    total // MIB if total is not None else None,
                )
        done = file.tell()
    if total is not None and done < total:
        raise _Cut(f"{done:,} of {total:,} bytes came")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(part: Path) -> Path:
    """Remembers of which version of which file `part` is a piece."""
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> dict[str, Any]:
    try:
        note: dict[str, Any] = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
