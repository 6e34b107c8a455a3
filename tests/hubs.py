"""A hub of models on this machine: what huggingface_hub asks of one, with faults to order."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `repos`; breaks the connection once after so many bytes of the files in `cut`; remembers what was `fetched`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}             # name: file: content
        self.refused: dict[str, tuple[int, str]] = {}            # name, or file: HTTP status and the hub's own code
        self.cut: dict[str, int] = {}
        self.fetched: list[tuple[str, str | None]] = []          # (file, Range)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, folder: Path) -> None:
        """Publish a folder."""
        self.repos[name] = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        sent = {"X-Repo-Commit": SHA, "Content-Length": str(len(data))} | {k.replace("_", "-"): v for k, v in headers.items()}
        for key, value in sent.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/").removeprefix("api/models/").split("/")
        name, kind, rest = "/".join(path[:2]), path[2] if len(path) > 2 else "", "/".join(path[4:])
        if name in self.server.refused or name not in self.server.repos:
            status, code = self.server.refused.get(name, (401, "RepoNotFound"))
            return self.answer(status, X_Error_Code=code, X_Error_Message=code)
        files = self.server.repos[name]
        if kind == "tree":
            found = [{"type": "file", "path": f, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for f, d in files.items()]
            return self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
        if kind != "resolve":
            info = {"id": name, "sha": SHA, "siblings": [{"rfilename": f, "size": len(d)} for f, d in files.items()]}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if rest in self.server.refused:
            return self.answer(self.server.refused[rest][0])
        return self.send_file(rest, files[rest])

    do_HEAD = do_GET

    def send_file(self, name: str, data: bytes) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        named = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if asked:
            named["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.server.fetched.append((name, asked))
        if self.command == "GET" and name in self.server.cut:
            self.answer(206 if asked else 200, **named, Content_Length=str(len(data) - start))
            self.wfile.write(data[start : self.server.cut.pop(name)])
            self.close_connection = True
            return None
        return self.answer(206 if asked else 200, data[start:], **named)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is said."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()
    Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
