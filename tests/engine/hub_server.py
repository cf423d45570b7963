"""A hub on 127.0.0.1: as much of the Hugging Face hub's API as a download at a revision needs, and plain files."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"
BRANCHES = ("main", "refs/convert/parquet")


@dataclass
class Repository:
    """Files at one revision; `sizes` lies about how large some are, `gated` refuses them, `failing` has no answer."""

    files: dict[str, bytes]
    revision: str = REVISION
    gated: bool = False
    failing: bool = False
    sizes: dict[str, int] = field(default_factory=dict)

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": etag(content)}
            for path, content in self.files.items()
        ]

    def listing(self, name: str) -> dict[str, Any]:
        siblings = [
            {"rfilename": path, "size": self.sizes.get(path, len(content)), "blobId": etag(content)}
            for path, content in self.files.items()
        ]
        return {"id": name, "sha": self.revision, "siblings": siblings, "private": False, "tags": [], "downloads": 0}


@dataclass
class Hub:
    """What is served: repositories by `models/<id>` or `datasets/<id>`, plain files by path; and what was asked for."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        self.hub.asked.append(f"{self.command} {path}")
        status, headers, body = self.content(path)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def content(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path in self.hub.files:
            return 200, {}, self.hub.files[path]
        kind = "models"
        if path.startswith("api/"):
            kind, _, path = path.removeprefix("api/").partition("/")
            call = "tree" if "/tree/" in path else "revision"
            name, _, revision = path.partition(f"/{call}/")
            return self.repository_content(f"{kind}/{name}", name, revision, None, call)
        if path.startswith("datasets/"):
            kind, path = "datasets", path.removeprefix("datasets/")
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self.repository_content(f"{kind}/{name}", name, revision, file)

    def repository_content(
        self, key: str, name: str, revision: str, file: str | None, call: str = "resolve"
    ) -> tuple[int, dict[str, str], bytes]:
        repository = self.hub.repositories.get(key)
        if repository is None:
            return self.refusal(404, "RepoNotFound")
        if repository.failing:
            return self.refusal(500, "Internal")
        if revision not in (repository.revision, *BRANCHES):
            return self.refusal(404, "RevisionNotFound")
        if repository.gated:
            return self.refusal(403, "GatedRepo")
        if file is None:
            answer = repository.tree() if call == "tree" else repository.listing(name)
            return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
        if file not in repository.files:
            return self.refusal(404, "EntryNotFound")
        body = repository.files[file]
        return 200, {"ETag": f'"{etag(body)}"', "X-Repo-Commit": repository.revision}, body

    def refusal(self, status: int, code: str) -> tuple[int, dict[str, str], bytes]:
        return status, {"X-Error-Code": code, "X-Error-Message": f"{code} for this test"}, b"{}"

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve the hub; its address is `hub.url` while it lives."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
