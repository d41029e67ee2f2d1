"""Correction files that tests write, and a server that publishes some, with faults."""

import contextlib
import email.utils
import hashlib
import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

from amstrax.corrections import store

ELIFE = {"000001-000010": 1000.0, "000011-000020": 2000.0}


def write_files(folder: Path, **files) -> Path:
    """Write correction files, given as NAME_VERSION=content, into `folder`, and return it."""
    for stem, content in files.items():
        path = folder / store.folder_of(f"{stem}.json") / f"{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=4)
        path.write_text(text, encoding="utf-8")
    return folder


class Publisher(http.server.ThreadingHTTPServer):
    """A server of correction files, on this machine, that answers as `fault` says.

    Attributes
    ----------
    files
        Path on the server -> text.
    fault
        What it does instead of answering as it should; empty for nothing.
    asked
        Path, and headers by name, of each request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, str] = {}
        self.fault = ""
        self.use_etag = True
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Say nothing about clients that have gone."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Publisher

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        fault = self.server.fault
        text = self.server.files.get(self.path)
        if fault.isdigit():
            return self._answer(int(fault), b"{}")
        if fault == "hangs up":
            self.close_connection = True
            return None
        if fault == "slow":
            self.server.closing.wait(60)
            self.close_connection = True
            return None
        if fault == "elsewhere":
            return self._answer(302, b"", Location="http://elsewhere.invalid/x.json")
        if text is None:
            return self._answer(404, b"not found")
        body = text.encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        if self.server.use_etag:
            more = {"ETag": tag}
            same = self.headers.get("If-None-Match") == tag
        else:
            more = {"Last-Modified": email.utils.formatdate(1e9, usegmt=True)}
            same = self.headers.get("If-Modified-Since") == more["Last-Modified"]
        if fault == "html":
            return self._answer(200, b"<html>Log in</html>", "text/html; charset=utf-8")
        if fault == "truncated":
            return self._answer(200, body[: len(body) // 2], length=len(body))
        if fault == "truncated without length":
            return self._answer(200, body[: len(body) // 2], length=None)
        if fault == "drips":
            return self._drip(body)
        if fault == "latin-1":
            return self._answer(200, b'{"000001": "\xe9"}')
        return self._answer(304, b"", **more) if same else self._answer(200, body, **more)

    def _answer(self, status, body, content_type="text/plain; charset=utf-8", length=-1, **more):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in more.items():
            self.send_header(name, value)
        if length is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        elif status != 304:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.close_connection |= length != -1
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, body):
        """Send a byte now and then, so that no single wait is long."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.closing.wait(0.05):
                    return


@contextlib.contextmanager
def publisher() -> Iterator[Publisher]:
    """Run a `Publisher` within."""
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class RawServer(socketserver.ThreadingTCPServer):
    """A server on this machine that says what it is told to, byte by byte.

    Attributes
    ----------
    say
        Called with a function that sends bytes, for each request; it may go on for ever, since
        sending fails once the client or the server has gone.
    """

    daemon_threads = True

    def __init__(self, say, listen=True) -> None:
        super().__init__(("127.0.0.1", 0), _RawHandler)
        self.say = say
        self.listen = listen
        self.closing = threading.Event()

    def handle_error(self, request, client_address):
        """Say nothing about clients that have gone."""


class _RawHandler(socketserver.BaseRequestHandler):
    server: RawServer

    def handle(self):
        if self.server.listen:
            read = b""
            while b"\r\n\r\n" not in read:
                if not (more := self.request.recv(4096)):
                    return
                read += more
        self.server.say(self._send)

    def _send(self, data, wait=0.0):
        if self.server.closing.wait(wait):
            raise ConnectionAbortedError
        self.request.sendall(data)


@contextlib.contextmanager
def raw_server(say, listen=True) -> Iterator[RawServer]:
    """Run a `RawServer` within; without `listen` it does not wait for a request."""
    with RawServer(say, listen) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def make_stale(cache: Path) -> list[Path]:
    """Make copies old, so that they are asked after, and return them."""
    copies = sorted(cache.rglob("[!.]*.copy"))
    for path in copies:
        os.utime(path, (0, 0))
    return copies
