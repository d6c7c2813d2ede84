"""A web server on this machine that does to a download what the world does."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import sleep  # what the tests put in the place of time.sleep is not meant here

import pytest


@dataclass
class Web:
    """What the server does next, and what it was asked. The lists are used up, one entry a request."""

    url: str = ""
    content: bytes = b""
    etag: str | None = '"one"'
    modified: str | None = "Sat, 01 Jan 2022 00:00:00 GMT"
    ranges: bool = True
    honours_if_range: bool = True
    says_length: bool = True
    adds_to_length: int = 0
    cuts: list[int] = field(default_factory=list)  # the body ends after so many bytes
    stalls: list[int] = field(default_factory=list)  # nothing more comes after so many bytes
    statuses: list[int] = field(default_factory=list)  # 0: as usual
    drops: list[bool] = field(default_factory=list)  # closed without an answer
    redirect: str | None = None
    content_range: str | None = None
    chunked: bool = False
    slow: float = 0.0  # seconds between kilobytes
    asked: list[dict[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def starts(self) -> list[int]:
        """From which byte on each request asked."""
        return [int(headers.get("range", "bytes=0-")[6:-1]) for headers in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    web: Web

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        web = self.web
        web.asked.append({name.lower(): value for name, value in self.headers.items()})
        if web.drops and web.drops.pop(0):
            return
        status = web.statuses.pop(0) if web.statuses else 0
        if web.redirect is not None and self.path != "/moved.zip":
            self.send_response(302)
            self.send_header("Location", web.redirect)
            self.end_headers()
            return
        body, start = web.content, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, web.etag, web.modified) or not web.honours_if_range
        if status == 0 and asked and web.ranges and same:
            start = int(asked[1])
            status = 206 if start < len(body) else 416
        status = status or 200
        self.send_response(status)
        if status == 206:
            said = web.content_range or f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.send_header("Content-Range", said)
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(body)}")
        if web.etag:
            self.send_header("ETag", web.etag)
        if web.modified:
            self.send_header("Last-Modified", web.modified)
        body = body[start:] if status in (200, 206) else b"sorry"
        if web.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif web.says_length:
            self.send_header("Content-Length", str(len(body) + web.adds_to_length))
        # Before the client can go on to its next request.
        cut = web.cuts.pop(0) if web.cuts else len(body)
        stall = web.stalls.pop(0) if web.stalls else len(body)
        self.end_headers()
        self.send(body[: min(cut, stall)], done=cut >= len(body))
        if stall < len(body):
            web.over.wait(20)

    def send(self, body: bytes, done: bool) -> None:
        with contextlib.suppress(OSError):  # the other side may be gone
            for at in range(0, len(body), 1024):
                piece = body[at : at + 1024]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if self.web.chunked else piece)
                self.wfile.flush()
                sleep(self.web.slow)
            if self.web.chunked and done:
                self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    made = Web()
    handler = type("ThisHandler", (Handler,), {"web": made})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/a.zip"
    yield made
    made.over.set()
    server.shutdown()
    server.server_close()
    thread.join(5)
