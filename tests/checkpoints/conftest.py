"""A web server on loopback that misbehaves on request."""

import hashlib
import http.server
import os
import threading
import time
from pathlib import Path

import pytest

from blockzoo.checkpoints import Artifact, Source

BODY = bytes(range(256)) * 4000  # 1 MB
REVISION = "0123456789" * 4


class FaultyServer(http.server.ThreadingHTTPServer):
    """Serves one file at /w.bin, at a mirror's path and at a hub's; `faults` are used up one a request."""

    daemon_threads = True

    def __init__(self):
        self.body, self.faults, self.requests, self.ranges = BODY, [], [], True
        self.other, self.if_range, self.tagged, self.encoding = BODY, True, True, None
        self.content_type, self.retry_after, self.pauses = "application/octet-stream", "0.1", []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self._hub_headers()
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()

    def _tag(self):
        return '"' + hashlib.sha256(self.server.body).hexdigest() + '"'

    def _hub_headers(self):
        self.send_header("X-Repo-Commit", REVISION)
        if self.server.tagged:
            self.send_header("ETag", self._tag())
        self.send_header("X-Linked-Size", str(len(self.server.body)))

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        fault = server.faults.pop(0) if server.faults and self.path.endswith(".bin") else None
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            if fault in (429, 503):
                self.send_header("Retry-After", server.retry_after)
            self.end_headers()
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{server.url}/elsewhere.bin")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "swap":  # another version is there from now on
            server.body = server.other
        start, body = 0, server.body
        wanted = self.headers.get("Range")
        if server.if_range and self.headers.get("If-Range", self._tag()) != self._tag():
            wanted = None
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            claimed = start + 1 if fault == "wrong-range" else start
            self.send_header("Content-Range", f"bytes {claimed}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if fault == "corrupt":
            body = body[:-1] + b"!"
        self._hub_headers()
        self.send_header("Content-Type", server.content_type)
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        if fault in ("no-length", "whole-no-length"):
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if fault in ("truncate", "no-length", "stall"):
            self.wfile.write(body[start : start + (len(body) - start) // 2])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(1.5)
            self.close_connection = True
            return
        if fault == "whole-no-length":
            self.close_connection = True
        if fault == "slow":
            for offset in range(start, len(body), 50_000):
                self.wfile.write(body[offset : offset + 50_000])
                self.wfile.flush()
                time.sleep(0.1)
            return
        self.wfile.write(body[start:])


@pytest.fixture
def server(monkeypatch):
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (*proxies, "BLOCKZOO_OFFLINE", "HF_HUB_OFFLINE", "BLOCKZOO_MIRRORS", "BLOCKZOO_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = FaultyServer()
    monkeypatch.setattr("blockzoo.checkpoints.transfer.sleep", server.pauses.append)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BLOCKZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def artifact(server):
    def make(*sources: Source, body: bytes = BODY) -> Artifact:
        return Artifact(
            name="model.tag",
            file="w.bin",
            sha256=hashlib.sha256(body).hexdigest(),
            size=len(body),
            sources=sources or (Source(url=f"{server.url}/w.bin"),),
            license="apache-2.0",
            data_license="cc-by-4.0",
            origin="ours",
            metric={},
            command="",
        )

    return make


@pytest.fixture
def child_code():
    """The program of another process that fetches an artifact."""
    return lambda item: f"from blockzoo.checkpoints import Artifact, Source, fetch\nprint(fetch({item!r}))"


@pytest.fixture
def debris(cache):
    """Files of the cache that are neither finished weights nor their stamps and locks."""

    def find() -> list[str]:
        names = [name for _, _, files in os.walk(cache) for name in files]
        return sorted(name for name in names if not name.endswith((".lock", ".verified")))

    return find
