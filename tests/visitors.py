"""Those who ask a dashboard for pages, without a browser."""

import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

from dashboard_server import Lab, Server

from amstrax.dashboard.logins import PasswordFile

PASSWORDS = {"alice": "long enough for alice", "bob": "long enough for bob"}


def add_users(lab: Lab) -> None:
    """Write the file of users of a lab."""
    for name, password in PASSWORDS.items():
        PasswordFile(lab.folder / "users").set(name, password)


class Visitor:
    """One who asks for pages, with a jar for cookies."""

    def __init__(self, server: Server, address: str = "", trust: ssl.SSLContext | None = None):
        self.address, self.jar = address or server.address, CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.jar), urllib.request.HTTPSHandler(context=trust)
        )

    def get(self, path: str, form: dict | None = None, **headers: str):
        """Return status, address, headers and text of a page."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            answer = self._opener.open(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.url, answer.headers, answer.read().decode()

    def log_in(self, name: str, password: str, **more: str):
        """Log in, and return what `get` does."""
        text = self.get("login")[3]
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', text)[1]
        return self.get("login", {"_xsrf": xsrf, "name": name, "password": password, **more})


def handshake(
    server: Server, origin: str, cookie: str, token: str = "x", user: str = ""
) -> tuple[int, str]:
    """Open a websocket, as a page of `origin` would do it; return status, and what is said.

    With `user`, a header names them.
    """
    more = f"X-Remote-User: {user}\r\n" if user else ""
    host = server.address.split("/")[2]
    with socket.create_connection(host.split(":"), timeout=60) as line:
        line.sendall(
            f"GET /runs/ws HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: bokeh, {token}\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}"
            f"Cookie: {cookie}\r\n\r\n".encode()
        )
        answer = ""
        # To its end, or as far as is of interest
        until = "\r\n\r\n" if token == "x" else "ACK"
        while until not in answer and (more := line.recv(2000)):
            answer += more.decode("latin-1")
    return int(answer.split()[1]), answer
