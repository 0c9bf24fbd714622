"""Download the files of a dataset.

An interrupted download continues where it stopped. Each file is compared with its published
checksum, and it appears complete or not at all.

No maintained library was found that continues an interrupted download and checks the file (pooch
starts again). So requests makes the requests, and the code here follows RFC 9110 (Range, If-Range,
Content-Range).
"""

from __future__ import annotations

import json
import ssl
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

CHUNK = 1 << 16  # bytes; at most this much is lost when a connection is cut
MIB = 1 << 20
TRIES = 4  # failed tries in a row that bring no new byte
PAUSE = 2.0  # seconds before the next try, times the number of failed tries
WAIT = (20, 60)  # seconds to wait for a connection, and for the next bytes
PASSING = (408, 429, 500, 502, 503, 504)  # status codes of passing problems, worth another try


def download(sources: tuple[Download, ...], root: Path, watch: ReportCheck) -> list[str]:
    """Download the files that `root` does not have yet, and unpack them.

    Returns:
        The names of the downloaded files.

    Raises:
        UserError: A download failed; names the file and the fix.
    """
    fetched = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock", timeout=0):
            for source in sources:
                if source.missing(root):
                    _fetch_and_unpack(source, root, watch)
                    fetched.append(source.file)
    except Timeout as error:
        raise UserError(f"another process is downloading into {root}; wait for it") from error
    except OSError as error:
        raise UserError(
            f"cannot write below {root}: {error.strerror or error};"
            " choose a writable --path with free space"
        ) from error
    return fetched


def _fetch_and_unpack(source: Download, root: Path, watch: ReportCheck) -> None:
    path = root / source.file
    if not path.exists():
        fetch(source, path, watch)
    if source.gives:
        unpack(source, root, watch)


def fetch(source: Download, path: Path, watch: ReportCheck) -> None:
    """Save `source.url` as `path`.

    If the connection is cut, the bytes so far stay in `path`.part, and this or a later run
    completes them.

    Raises:
        UserError: The server refuses, the connection is cut again and again, or the file is not
            the published one (then it is removed).
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with requests.Session() as session:
        _complete_with_retries(session, source, part, watch)
    watch(f"check {path.name}", 0, None)
    if wrong := wrong_checksum(source, part):
        _forget(part)
        raise UserError(
            f"{path.name} from {source.url}: {wrong}; the file was removed. Run again;"
            " if the difference remains, the source has changed"
        )
    part.replace(path)
    _forget(part)


class _ConnectionCut(Exception):
    """The connection ended early, or the server asks to try again later."""


def _complete_with_retries(
    session: requests.Session, source: Download, part: Path, watch: ReportCheck
) -> None:
    failures, furthest = 0, _size(part)
    while True:
        try:
            _complete(session, source, part, watch)
            return
        except _ConnectionCut as error:
            failures += 1
            if _size(part) > furthest:  # new bytes: such a try is not a failure
                failures = 0
            furthest = max(furthest, _size(part))
            if failures == TRIES:
                raise UserError(
                    f"{source.url}: {error}; {_size(part):,} bytes are kept in {part}:"
                    " run the command again to continue"
                ) from error
            time.sleep(PAUSE * failures)


def _complete(session: requests.Session, source: Download, part: Path, watch: ReportCheck) -> None:
    """Request the bytes that `part` does not have, and append them.

    All bytes are requested again if the server does not support ranges or the file has changed.
    """
    have, kept = _size(part), _read_note(part)
    if kept.get("url") != source.url:
        have = 0
    headers = {"Accept-Encoding": "identity"}  # a range of compressed bytes would not fit
    if have:
        headers["Range"] = f"bytes={have}-"
        if kept.get("validator"):
            headers["If-Range"] = kept["validator"]
    try:
        with session.get(source.url, headers=headers, stream=True, timeout=WAIT) as answer:
            _refuse_unprotected(answer, source)
            if have and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # complete: the last run stopped between the last byte and the check
            _refuse_bad_answer(answer, source, part, have)
            _append(answer, part, _first_byte(answer, have), source.url, watch)
    except requests.exceptions.SSLError as error:
        if reason := _certificate_problem(error):
            raise UserError(
                f"{source.url}: its certificate is not accepted ({reason}); check the address, this"
                " machine's clock and its certificates (REQUESTS_CA_BUNDLE)"
            ) from error
        raise _ConnectionCut("connection lost (SSLError)") from error
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        raise _ConnectionCut(f"connection lost ({type(error).__name__})") from error
    except requests.RequestException as error:
        raise UserError(f"cannot fetch {source.url}: {error}") from error


def _certificate_problem(error: BaseException | None) -> str:
    """Return why a certificate was not accepted, or "" for other problems of a connection."""
    seen: list[object] = [error]
    for each in seen:
        if isinstance(each, ssl.SSLCertVerificationError):
            return each.verify_message
        if isinstance(each, BaseException):
            # requests and urllib3 keep the cause in `args` or `reason`.
            causes = [*each.args, getattr(each, "reason", None), each.__cause__]
            seen += [cause for cause in causes if isinstance(cause, BaseException)]
    return ""


def _refuse_unprotected(answer: requests.Response, source: Download) -> None:
    """Raise UserError if a redirection left https, and no checksum protects the file."""
    if source.sha256 or source.md5 or not source.url.startswith("https://"):
        return
    for step in (*answer.history, answer):
        if not step.url.startswith("https://"):
            raise UserError(
                f"{source.url}: the server redirects to {step.url}, without encryption, and no"
                " checksum is published; add its sha256 to the dataset's YAML, or another url"
            )


def _refuse_bad_answer(answer: requests.Response, source: Download, part: Path, have: int) -> None:
    status = answer.status_code
    if status == 416:  # we have more bytes than the file: it has changed
        _forget(part)
        raise _ConnectionCut(f"the server does not have byte {have:,}")
    if status in PASSING:
        raise _ConnectionCut(f"the server answers {status} {answer.reason}")
    by_browser = f"fetch it with a browser and save it as {part.with_suffix('')}"
    if status not in (200, 206):
        raise UserError(f"{source.url}: the server answers {status} {answer.reason}; {by_browser}")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(f"{source.url}: the server sends an unexpected encoding; {by_browser}")


def _first_byte(answer: requests.Response, have: int) -> int:
    """Return the position in the file of the first byte of the answer."""
    if answer.status_code == 200:
        return 0
    place = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if not place.isdecimal() or int(place) > have:
        raise _ConnectionCut(f"the server sent a range that begins at '{place}', not at {have}")
    return int(place)


def _append(
    answer: requests.Response, part: Path, start: int, url: str, watch: ReportCheck
) -> None:
    """Write the bytes of the answer into `part`, from byte `start` on."""
    note = {"url": url, "validator": _validator(answer)}
    _note_path(part).write_text(json.dumps(note), encoding="utf-8")
    total, total_mib = None, None
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal():
        total = start + int(length)
        total_mib = total // MIB
    mode = "wb"
    if start:
        mode = "r+b"
    with part.open(mode) as file:
        file.seek(start)
        file.truncate()
        for chunk in answer.iter_content(CHUNK):
            file.write(chunk)
            if file.tell() % MIB < len(chunk):  # once per MiB
                watch(f"fetch MiB of {part.stem}", file.tell() // MIB, total_mib)
        done = file.tell()
    if total is not None and done < total:
        raise _ConnectionCut(f"{done:,} of {total:,} bytes came")


def _validator(answer: requests.Response) -> str:
    """Return a strong ETag or the date, which If-Range compares (RFC 9110, section 13.1.5)."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified", "")


def _size(path: Path) -> int:
    if not path.exists():
        return 0
    return path.stat().st_size


def _note_path(part: Path) -> Path:
    """Return the file that records the address and the version of the file in `part`."""
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> dict[str, Any]:
    try:
        note: Any = json.loads(_note_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(note, dict):
        return {}
    return note


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)
