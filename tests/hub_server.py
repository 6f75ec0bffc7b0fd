"""A real HTTP server that takes uploads and gives data sets and models as the Hugging Face hub does: small files."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

COMMIT = "a" * 40
_OF_DATA_SET = re.compile(
    r"/(?:api/)?datasets/(?P<name>[^/?]+/[^/?]+)(?:/(?P<what>revision|tree|resolve|paths-info)/(?P<rest>[^?]*))?(?:\?.*)?$"
)
_OF_MODEL = re.compile(
    r"/(?:api/models/)?(?P<name>[^/?]+/[^/?]+)/(?P<what>revision|tree|resolve)/(?P<rest>[^?]*)(?:\?.*)?$"
)


class HubServer(ThreadingHTTPServer):
    """`files` are what was committed, by path; `created` are the bodies of requests for repositories.

    `data_sets` and `models`: the files of each by name and path; `gated`: those that only the token of the same name
    may read.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.data_sets: dict[str, dict[str, bytes]] = {}
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: dict[str, str] = {}
        self.asked: list[str] = []  # paths of the requests for data sets and models

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        for pattern, kept in ((_OF_DATA_SET, self.server.data_sets), (_OF_MODEL, self.server.models)):
            found = pattern.match(self.path)
            if found is not None:
                return self._repository(kept, found["name"], found["what"] or "", found["rest"] or "")
        return self._send({})

    do_HEAD = do_GET

    def _repository(self, kept: dict[str, dict[str, bytes]], name: str, what: str, rest: str) -> None:
        """Facts, list of files or one file of a data set or a model."""
        self.server.asked.append(self.path)
        files = kept.get(name)
        token = self.server.gated.get(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if files is None:
            return self._refuse(404, "RepoNotFound")
        if token is not None and given != token:
            return self._refuse(403 if given else 401, "GatedRepo")
        path = rest.partition("/")[2]
        if what == "tree":
            self._send([entry(each, content) for each, content in files.items() if each.startswith(path)])
        elif what == "resolve":
            self._file(files.get(path))
        else:
            self._send({"id": name, "sha": COMMIT, "siblings": [{"rfilename": each} for each in files]})
        return None

    def _file(self, content: bytes | None) -> None:
        if content is None:
            return self._refuse(404, "EntryNotFound")
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(asked[1]), int(asked[2] or len(content) - 1)) if asked else (0, len(content) - 1)
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._answer(206 if asked else 200, content[start : end + 1], "application/octet-stream", headers)
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"{}", "application/json", {"X-Error-Code": code})

    def do_POST(self) -> None:
        body = self._body()
        found = _OF_DATA_SET.match(self.path)
        if found is not None and found["what"] == "paths-info":
            files = self.server.data_sets[found["name"]]
            asked = parse_qs(body.decode()).get("paths", [])
            self._send([entry(path, files[path]) for path in asked if path in files])
        elif self.path == "/api/repos/create":
            values = json.loads(body)
            self.server.created.append(values)
            self._send({"url": f"{self.server.origin}/datasets/{values['organization']}/{values['name']}"})
        elif self.path.endswith("/preupload/main"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._send({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            repo = self.path.removeprefix("/api/").removesuffix("/commit/main")
            commit = f"{self.server.origin}/{repo}/commit/{'a' * 40}"
            self._send({"success": True, "commitOid": "a" * 40, "commitUrl": commit})
        else:
            self._send({"errors": [], "warnings": []})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, payload: Any) -> None:
        self._answer(200, json.dumps(payload).encode(), "application/json", {})

    def _answer(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as lists of files have it."""
    return {"type": "file", "path": path, "size": len(content), "oid": "b" * 40}


@contextmanager
def running() -> Iterator[HubServer]:
    """The server for the time of the block."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
