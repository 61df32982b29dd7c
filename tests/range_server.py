"""An HTTP server of a folder, in a thread: it answers ranges, counts them, and misbehaves when told to."""

from __future__ import annotations

import html
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Fault = Literal["500", "403", "404", "cut", "stuck", "flip", None]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hung up: those that time out are meant to."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class RangeServer:
    """What the server did, and what it is to do."""

    root: Path
    url: str = ""
    index: bool = True
    """Whether folders have index pages."""
    ranges: bool = True
    marks: bool = True
    """Whether it tells when files changed."""
    fault: Callable[[int], Fault] = lambda number: None
    """What goes wrong with the n-th request for a tar."""
    tars: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, first byte and end of each request for a tar."""
    others: list[str] = field(default_factory=list)
    """Names of other files that were read."""
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tar_bytes(self) -> int:
        return sum(end - start for _, start, end in self.tars)

    def forget(self) -> None:
        self.tars.clear()
        self.others.clear()


@contextmanager
def serving(root: Path) -> Iterator[RangeServer]:
    state = RangeServer(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            name = self.path.strip("/")
            path = state.root / name
            if path.is_dir():
                if not state.index:
                    return self.send_error(403)
                links = "".join(
                    f'<a href="{html.escape(item.name)}{"/" * item.is_dir()}">{html.escape(item.name)}</a>\n'
                    for item in sorted(path.iterdir())
                )
                return self._send(200, f'<html><a href="../">up</a> <a href="?C=N">by name</a>{links}'.encode(), True)
            if not path.is_file():
                return self.send_error(404)
            data = path.read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if state.ranges else None
            start, end = (int(asked[1]), min(int(asked[2]) + 1, len(data))) if asked else (0, len(data))
            if asked and start >= len(data):
                return self.send_error(416)
            fault: Fault = None
            if body and name.endswith(".tar"):
                with state.lock:
                    state.tars.append((name, start, end))
                    number = len(state.tars)
                fault = state.fault(number)
            elif body:
                state.others.append(name)
            if fault in {"500", "403", "404"}:
                return self.send_error(int(fault))
            if fault == "stuck":
                state.released.wait(30)
                return self.send_error(500)
            sent = bytearray(data[start:end])
            if fault == "flip":
                sent[::64] = bytes(byte ^ 8 for byte in sent[::64])
            marks = {"Last-Modified": str(path.stat().st_mtime_ns)} if state.marks else {}
            return self._send(206 if asked else 200, bytes(sent), body, cut=fault == "cut", **marks)

        def _send(self, status: int, data: bytes, body: bool, cut: bool = False, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
