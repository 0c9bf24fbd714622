"""A hub on this machine, with the addresses of the Hugging Face hub that find and fetch files."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# a second revision of every repository, called `pinned`
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


class FakeHub(ThreadingHTTPServer):
    """A small web server.

    `files` maps repository to file to content, the same in both revisions; `plain` holds other
    files of the server.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.plain: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        if path != "api/agent-harnesses":  # a request that the client makes for its own telemetry
            self.server.asked.append(f"{self.command} {path}")
        if path in self.server.plain:
            self.answer(self.server.plain[path])
        elif path.startswith("api/models/"):
            self.about(path.removeprefix("api/models/"))
        elif "/resolve/" in path:
            self.resolve(*path.split("/resolve/"))
        else:
            self.answer(b"", status=404)

    def about(self, path: str) -> None:
        repository, kind, rest = next(
            (found for word in ("revision", "tree") if (found := path.partition(f"/{word}/"))[1]),
            (path, "", ""),
        )
        if repository not in self.server.files:
            self.answer(b"{}", status=404, error="RepoNotFound")
        elif "/" in rest:  # a folder of the repository
            self.answer(b"{}", status=404, error="EntryNotFound")
        elif kind == "/tree/":
            files = self.server.files[repository].items()
            self.answer(
                json.dumps(
                    [
                        {"type": "file", "path": name, "size": len(body), "oid": oid(body)}
                        for name, body in files
                    ]
                ).encode()
            )
        else:
            siblings = [{"rfilename": name} for name in self.server.files[repository]]
            self.answer(
                json.dumps(
                    {"id": repository, "sha": commit_of(rest), "siblings": siblings, "tags": []}
                ).encode()
            )

    def resolve(self, repository: str, rest: str) -> None:
        revision, _, name = rest.partition("/")
        if repository not in self.server.files:
            self.answer(b"", status=404, error="RepoNotFound")
        elif name not in self.server.files[repository]:
            self.answer(b"", status=404, error="EntryNotFound", commit=commit_of(revision))
        else:
            self.answer(self.server.files[repository][name], commit=commit_of(revision))

    def answer(self, body: bytes, status: int = 200, error: str = "", commit: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{oid(body)}"')
        if error:
            self.send_header("X-Error-Code", error)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def commit_of(revision: str) -> str:
    return OTHER if revision in ("pinned", OTHER) else COMMIT
