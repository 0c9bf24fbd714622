"""`vlpeft data download` against a local server.

The server cuts connections, ignores ranges, and sends wrong checksums, archives and licences.
"""

import hashlib
import io
import json
import ssl
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import requests
import urllib3
from filelock import FileLock

from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.fetch import download as module
from vlpeft.benchmark.datasets.fetch.download import download
from vlpeft.benchmark.datasets.sources import Download

BODY = bytes(i * i % 251 for i in range(300_000))  # longer than four chunks
SHA, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`.

    `cuts` holds the number of bytes after which each of the next answers ends; `asked` records the
    requests.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.statuses, self.asked = {}, [], [], []
        self.ranges, self.etag, self.shift, self.length, self.encoding = True, '"one"', 0, True, ""

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request, client_address):
        pass  # the client may hang up


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(
            SimpleNamespace(
                path=self.path[1:],
                range=self.headers.get("Range"),
                match=self.headers.get("If-Range"),
            )
        )
        assert self.headers["Accept-Encoding"] == "identity"
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if self.path[1:] not in server.files:
            return self.send_error(404)
        return self.serve(server.files[self.path[1:]])

    def serve(self, body):
        server, start = self.server, 0
        asked = self.headers.get("Range")
        unchanged = self.headers.get("If-Range") in (None, server.etag)
        if asked and server.ranges and unchanged:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) - server.shift
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if asked and server.ranges and unchanged else 200)
        if asked and server.ranges and unchanged:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[start:][:cut])


@pytest.fixture
def server(monkeypatch):
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "PAUSE", 0)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.files["a.bin"] = BODY
        yield made
        made.shutdown()
        thread.join()


def quiet(*_):
    pass


def get(server, folder, **more):
    source = Download(**{"file": "a.bin", "url": server.url("a.bin"), "sha256": SHA, **more})
    return download((source,), folder, quiet)


def left(folder):
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".download.lock"
    )


# One file


def test_a_file_arrives_and_is_not_fetched_again(server, tmp_path):
    assert get(server, tmp_path / "new/root", md5=MD5, bytes=len(BODY)) == ["a.bin"]
    assert (tmp_path / "new/root/a.bin").read_bytes() == BODY
    assert left(tmp_path / "new/root") == ["a.bin"]
    assert get(server, tmp_path / "new/root") == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("etag", ['"one"', ""])
def test_a_cut_connection_goes_on_where_it_was(server, tmp_path, etag):
    server.cuts, server.etag = [131_072, 65_536], etag
    get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [asked.range for asked in server.asked] == [None, "bytes=131072-", "bytes=196608-"]
    assert [asked.match for asked in server.asked] == [None, etag or None, etag or None]
    assert left(tmp_path) == ["a.bin"]


def test_a_cut_file_is_kept_for_the_next_run(server, tmp_path):
    server.cuts = [131_072] + [0] * module.TRIES
    with pytest.raises(UserError) as caught:
        get(server, tmp_path)
    assert (
        f"131,072 bytes are kept in {tmp_path / 'a.bin.part'}: run the command again to continue"
        in str(caught.value)
    )
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:131_072]
    server.asked.clear()
    server.cuts.clear()
    assert get(server, tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [asked.range for asked in server.asked] == ["bytes=131072-"]


def test_an_unreachable_server(tmp_path, server):
    source = Download(file="a.bin", url="http://127.0.0.1:9/a.bin")
    with pytest.raises(
        UserError,
        match=r"127\.0\.0\.1:9/a\.bin: connection lost \(ConnectionError\); 0 bytes are kept",
    ):
        download((source,), tmp_path, quiet)


def test_a_server_without_ranges_sends_the_whole_file(server, tmp_path):
    server.cuts, server.ranges = [131_072], False
    get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.asked) == 2


def test_a_server_without_ranges_and_progress_is_given_up(server, tmp_path):
    server.ranges, server.cuts = False, [131_072, 65_536] * 20
    with pytest.raises(UserError, match="connection lost"):
        get(server, tmp_path)
    assert len(server.asked) == 1 + module.TRIES


def test_a_server_that_starts_before_the_requested_byte(server, tmp_path):
    server.cuts, server.shift = [131_072], 1000
    get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_server_that_skips_bytes_is_refused(server, tmp_path):
    server.cuts, server.shift = [131_072], -1000
    with pytest.raises(
        UserError, match="the server sent a range that begins at '132072', not at 131072"
    ):
        get(server, tmp_path)


def test_a_file_that_changed_in_between_is_fetched_again(server, tmp_path):
    server.cuts = [131_072] + [0] * module.TRIES
    with pytest.raises(UserError):
        get(server, tmp_path)
    server.cuts.clear()
    server.files["a.bin"], server.etag = BODY[::-1], '"two"'
    get(server, tmp_path, sha256=hashlib.sha256(BODY[::-1]).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_a_part_of_another_url_is_not_used(server, tmp_path):
    server.files["b.bin"] = BODY[::-1]
    server.cuts = [131_072] + [0] * module.TRIES
    with pytest.raises(UserError):
        get(server, tmp_path, url=server.url("b.bin"))
    server.cuts.clear()
    get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_stopped_before_the_last_rename(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY)
    (tmp_path / "a.bin.part.json").write_text(
        json.dumps({"url": server.url("a.bin"), "validator": '"one"'})
    )
    get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.asked) == 1


def test_a_part_that_is_too_long_is_fetched_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
    (tmp_path / "a.bin.part.json").write_text(
        json.dumps({"url": server.url("a.bin"), "validator": '"one"'})
    )
    get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("published", "wrong"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {SHA}, published is {'0' * 64}"),
        ({"sha256": "", "md5": "0" * 32}, f"its md5 is {MD5}, published is {'0' * 32}"),
        ({"bytes": 7}, "it has 300,000 bytes, 7 are published"),
    ],
)
def test_a_wrong_checksum_leaves_nothing(server, tmp_path, published, wrong):
    with pytest.raises(UserError) as caught:
        get(server, tmp_path, **published)
    assert wrong in str(caught.value)
    assert server.url("a.bin") in str(caught.value)
    assert "the file was removed" in str(caught.value)
    assert left(tmp_path) == []


def test_a_short_file_of_unknown_length_fails_its_checksum(server, tmp_path):
    server.length, server.cuts = False, [1000]
    with pytest.raises(UserError, match="its sha256 is"):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_a_busy_server_is_retried(server, tmp_path):
    server.statuses = [503, 429]
    assert get(server, tmp_path) == ["a.bin"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_names_url_status_and_place(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(UserError) as caught:
        get(server, tmp_path)
    assert f"{server.url('a.bin')}: the server answers {status}" in str(caught.value)
    assert f"save it as {tmp_path / 'a.bin'}" in str(caught.value)
    assert len(server.asked) == 1


def test_a_transfer_compressed_against_our_wish_is_refused(server, tmp_path):
    server.encoding = "gzip"
    with pytest.raises(UserError, match="sends an unexpected encoding; fetch it with a browser"):
        get(server, tmp_path)


def test_progress_is_reported_once_a_mebibyte(server, tmp_path):
    server.files["a.bin"], steps = BODY * 10, []
    download(
        (Download(file="a.bin", url=server.url("a.bin")),),
        tmp_path,
        lambda *step: steps.append(step),
    )
    assert steps == [
        ("fetch MiB of a.bin", 1, 2),
        ("fetch MiB of a.bin", 2, 2),
        ("check a.bin", 0, None),
    ]


def test_two_downloads_into_one_folder(server, tmp_path):
    with (
        FileLock(tmp_path / ".download.lock"),
        pytest.raises(UserError, match="another process is downloading into"),
    ):
        get(server, tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write below .*; choose a writable --path"):
        get(server, tmp_path / "file/below")


# Archives


def packed(kind, members):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, text in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def unpacked(server, folder, kind="zip", members=None, **more):
    server.files["x.zip"] = packed(
        kind,
        members
        or {"pics/1.txt": "one", "pics/deep/2.txt": "two", "list.json": "[]", "other/3.txt": "3"},
    )
    source = Download(
        **{"file": "x.zip", "url": server.url("x.zip"), "gives": ("pics", "list.json"), **more}
    )
    return download((source,), folder, quiet)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("into", ["", "deep/er"])
def test_only_needed_files_are_unpacked_and_the_archive_is_removed(server, tmp_path, kind, into):
    assert unpacked(server, tmp_path, kind, into=into) == ["x.zip"]
    prefix = f"{into}/" if into else ""
    assert left(tmp_path) == sorted(
        f"{prefix}{name}" for name in ("pics/1.txt", "pics/deep/2.txt", "list.json")
    )
    assert (tmp_path / prefix / "pics/deep/2.txt").read_text() == "two"
    assert unpacked(server, tmp_path, kind, into=into) == []
    assert len(server.asked) == 1


def test_existing_files_are_not_rewritten(server, tmp_path):
    (tmp_path / "list.json").write_text("mine")
    unpacked(server, tmp_path)
    assert (tmp_path / "list.json").read_text() == "mine"
    assert (tmp_path / "pics/1.txt").read_text() == "one"


def test_an_archive_fetched_by_hand_is_unpacked(server, tmp_path):
    (tmp_path / "x.zip").write_bytes(packed("zip", {"pics/1.txt": "one", "list.json": "[]"}))
    unpacked(server, tmp_path)
    assert left(tmp_path) == ["list.json", "pics/1.txt"]
    assert server.asked == []


def test_an_archive_without_the_expected_files(server, tmp_path):
    with pytest.raises(
        UserError, match=r"x\.zip holds no 'list\.json', only pics; unpack it by hand to"
    ):
        unpacked(server, tmp_path, members={"pics/1.txt": "one"})
    assert left(tmp_path) == ["x.zip"]


def test_a_damaged_archive_is_removed(server, tmp_path):
    good = packed("zip", {"pics/1.txt": "one" * 100, "list.json": "[]"})
    for damaged in (b"no archive", good[:-30], good.replace(b"oneone", b"oneeno", 1)):
        (tmp_path / "x.zip").write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"x\.zip is damaged .* and was removed; run the command again"
        ):
            unpacked(server, tmp_path)
        assert left(tmp_path) == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_never_leave_the_folder(server, tmp_path, kind):
    root = tmp_path / "root"
    unpacked(
        server,
        root,
        kind,
        members={
            "pics/1.txt": "one",
            "pics/../../evil.txt": "x",
            "/pics/abs.txt": "x",
            "list.json": "[]",
        },
    )
    assert left(tmp_path) == ["root/list.json", "root/pics/1.txt"]


def flip(content: bytes, start: int, new: bytes) -> bytes:
    return content[:start] + new + content[start + len(new) :]


def tarred(member: tarfile.TarInfo, mode: str = "w", content: bytes = b"") -> bytes:
    out = io.BytesIO()
    member.size = len(content)
    with tarfile.open(fileobj=out, mode=mode) as tar:
        tar.addfile(member, io.BytesIO(content))
        tar.addfile(tarfile.TarInfo("list.json"))
    return out.getvalue()


def link_tar() -> bytes:
    member = tarfile.TarInfo("pics/1.txt")
    member.type, member.linkname = tarfile.LNKTYPE, "nowhere"
    return tarred(member)


NOISE = bytes(i * i * 7 % 251 for i in range(5000))
ZIP = packed("zip", {"pics/1.txt": "one" * 100, "list.json": "[]"})
PLAIN = tarred(tarfile.TarInfo("pics/1.txt"), "w", NOISE)
GZIP = tarred(tarfile.TarInfo("pics/1.txt"), "w:gz", NOISE)
XZ = tarred(tarfile.TarInfo("pics/1.txt"), "w:xz", NOISE)
CENTRAL = ZIP.find(b"PK\1\2")
BAD_ARCHIVES = {
    "encrypted": (flip(flip(ZIP, 6, b"\1"), CENTRAL + 8, b"\1"), "cannot be unpacked here"),
    "unknown method": (flip(flip(ZIP, 8, b"a"), CENTRAL + 10, b"a"), "cannot be unpacked here"),
    "link to nothing": (link_tar(), "cannot be unpacked here"),
    "long name": (tarred(tarfile.TarInfo(f"pics/{'a' * 300}")), "cannot be unpacked here"),
    "checksum of gzip": (flip(GZIP, len(GZIP) - 8, b"\0\0\0\0"), "is damaged"),
    "inside of gzip": (flip(GZIP, len(GZIP) // 2, b"\xff" * 40), "is damaged"),
    "inside of xz": (flip(XZ, len(XZ) // 2, b"\xff" * 40), "is damaged"),
    "header of a later member": (flip(PLAIN, 512 + 5120, b"\xff" * 20), "is damaged"),
}


@pytest.mark.parametrize("case", sorted(BAD_ARCHIVES))
def test_a_bad_archive_is_one_line(server, tmp_path, case):
    content, words = BAD_ARCHIVES[case]
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.zip {words}"):
        unpacked(server, tmp_path)
    assert left(tmp_path) == ([] if words == "is damaged" else ["x.zip"])


def test_an_archive_that_is_larger_than_the_disk_is_not_unpacked(server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    (tmp_path / "x.zip").write_bytes(ZIP)
    with pytest.raises(UserError, match=r"unpacks to 302 bytes, and 10 are free there"):
        unpacked(server, tmp_path)
    assert left(tmp_path) == ["x.zip"]


# Encryption


@pytest.mark.parametrize("checksum", ["", SHA])
def test_a_redirection_to_http_needs_a_checksum(tmp_path, checksum):
    source = Download(file="a", url="https://example.org/a", sha256=checksum)
    answer = requests.Response()
    answer.url = "http://example.org/b"
    if checksum:
        module._refuse_unprotected(answer, source)
        return
    with pytest.raises(UserError, match=r"redirects to http://example\.org/b, without encryption"):
        module._refuse_unprotected(answer, source)


def test_a_bad_certificate_is_named_at_once(tmp_path, monkeypatch):
    tries = []

    def get(*_, **__):
        tries.append(1)
        cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
        cause.verify_message = "certificate has expired"
        raise requests.exceptions.SSLError(urllib3.exceptions.SSLError(cause))

    monkeypatch.setattr(requests.Session, "get", get)
    source = Download(file="a", url="https://example.org/a")
    with pytest.raises(UserError, match=r"certificate is not accepted \(certificate has expired"):
        download((source,), tmp_path, quiet)
    assert len(tries) == 1


# The command


@pytest.fixture
def card(server, tmp_path):
    about = "summary: two files\nlicence: CC BY 4.0\nhomepage: https://example.org/terms\n"
    sources = [{"file": "a.bin", "url": server.url("a.bin"), "sha256": SHA}]
    hand = [{"what": "the images", "get": "ask at https://example.org/form", "places": ["images"]}]
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"format: karpathy\nfile: a.bin\n{about}downloads: {json.dumps(sources)}\n"
        f"by_hand: {json.dumps(hand)}\n"
    )
    return path


@pytest.fixture
def said(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", "download", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_the_licence_comes_first_and_must_be_accepted(server, card, said, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    code, out, err = said(card, "--path", tmp_path / "data")
    assert code == 2
    assert out.splitlines()[:3] == [
        "mine: two files",
        "licence: CC BY 4.0",
        "terms: https://example.org/terms",
    ]
    assert err == (
        "vlpeft: error: the licence of 'mine' must be accepted before "
        "its files are fetched: read its terms, then add --yes\n"
    )
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert said(card, "--path", tmp_path / "data")[0] == 2
    assert server.asked == []
    monkeypatch.setattr("builtins.input", lambda _: "y")
    code, out, _ = said(card, "--path", tmp_path / "data")
    assert code == 0
    assert f"fetched into {tmp_path / 'data'}: a.bin" in out


def test_yes_accepts_and_a_second_run_fetches_nothing(server, card, said, tmp_path):
    code, out, _ = said(card, "--yes")
    assert code == 0
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert (
        "by hand: images: the images cannot be fetched by program; ask "
        f"at https://example.org/form; put images at {tmp_path}/images"
    ) in out
    code, out, _ = said(card)
    assert code == 0
    assert f"nothing to fetch for {tmp_path}" in out
    assert len(server.asked) == 1


def test_a_wrong_checksum_is_one_line(server, card, said):
    server.files["a.bin"] = BODY[::-1]
    code, _, err = said(card, "--yes")
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("vlpeft: error: ")]) == 1
    assert "its sha256 is" in err


def test_an_interruption_explains_how_to_continue(card, said, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fetch", interrupt)
    code, _, err = said(card, "--yes")
    assert code == 130
    assert "run the same command again: what was fetched is kept" in err
