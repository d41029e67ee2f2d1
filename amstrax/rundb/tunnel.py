"""SSH tunnel from a local port to MongoDB on the DAQ host, which mends itself.

The local end listens on loopback, on one port for as long as the tunnel lives, also while the SSH
session is down: so one and the same MongoClient goes on when the line is back, and nobody else can
take the port. Each new connection to the local end looks whether the session is alive, and makes a
new one where it is not.

A child after `os.fork` neither uses nor closes the tunnel of its parent.
"""

import atexit
import contextlib
import logging
import os
import socket
import socketserver
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amstrax.exceptions import RunDatabaseError, RunDatabaseRefused, RunDatabaseUnreachable
from amstrax.rundb.session import SessionDied, connect, open_channel
from amstrax.settings import RunDatabase

if TYPE_CHECKING:
    import paramiko

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
#: After a failure the tunnel is not tried again for so long [s]; the second is for a log-in that is
#: refused, though it was accepted before: too many attempts could lock the account
PAUSE = 1.0
PAUSE_AFTER_REFUSAL = 60.0

_open_tunnels: "weakref.WeakSet[Tunnel]" = weakref.WeakSet()
# Tunnels of the parent process: kept, since to collect them could wait for locks of its threads
_abandoned: list["Tunnel"] = []
_hooks_are_set = False


class Tunnel:
    """Tunnel to MongoDB as `link` says; `address` is its local end.

    Parameters
    ----------
    link
        The settings.

    Raises
    ------
    RunDatabaseUnreachable
        When no local port is free.
    """

    def __init__(self, link: RunDatabase):
        self.link = link
        self._lock = threading.Lock()
        self._transport: Any = None
        # The session through which MongoDB was reached
        self._tried: Any = None
        self._connections: set[socket.socket] = set()
        self._error: RunDatabaseError | None = None
        self._not_before = 0.0
        self._was_up = False
        self._closed = False
        try:
            self._listener = _Listener((LOOPBACK, 0), _Connection)
        except OSError as error:
            raise RunDatabaseUnreachable(
                f"no local port for the tunnel to {link.daq_host}: {error}"
            ) from error
        self._listener.tunnel = self
        _set_hooks()
        _open_tunnels.add(self)
        threading.Thread(
            target=self._listener.serve_forever,
            kwargs={"poll_interval": 0.1},
            name=f"tunnel to {link.daq_host}",
            daemon=True,
        ).start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the local end."""
        host, port = self._listener.server_address[:2]
        return str(host), port

    @property
    def error(self) -> RunDatabaseError | None:
        """What went wrong last, if nothing went right since."""
        return self._error

    def ensure(self) -> None:
        """Make the SSH session where there is none, or none any more; see that it leads somewhere.

        Raises
        ------
        RunDatabaseError
            Of a kind that says why it cannot be made, or why MongoDB's port is not reached.
        """
        if self._session() is not self._tried:
            self.open_channel().close()

    def open_channel(self, peer: tuple[str, int] = (LOOPBACK, 0)) -> "paramiko.Channel":
        """Return a connection to MongoDB's port, as the DAQ host sees it.

        Raises
        ------
        RunDatabaseError
            Of a kind that says why there is none.
        """
        try:
            channel = self._open_channel(self._session(), peer)
        except SessionDied:
            # It was dead or frozen, and is dropped now: a new one may do
            channel = self._open_channel(self._session(), peer)
        self._error = None
        self._tried = self._transport
        return channel

    def close(self) -> None:
        """Close it, with all connections through it."""
        self._closed = True
        _open_tunnels.discard(self)
        self._listener.shutdown()
        self._listener.server_close()
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        for connection in list(self._connections):
            _shut(connection)

    def abandon(self) -> None:
        """Let go of it in a child process, without a word to the other side."""
        self._closed = True
        sockets: list[Any] = [self._listener.socket, *self._connections]
        if self._transport is not None:
            self._transport.active = False
            sockets.append(self._transport.sock)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.close()

    def _session(self) -> "paramiko.Transport":
        with self._lock:
            if self._closed:
                raise RunDatabaseUnreachable(f"the tunnel to {self.link.daq_host} is closed")
            if self._transport is not None:
                if self._transport.is_active():
                    return self._transport
                self._lost(self._transport, "the SSH session has ended")
            if self._error is not None and time.monotonic() < self._not_before:
                raise type(self._error)(*self._error.args)
            try:
                self._transport = connect(self.link)
            except RunDatabaseError as error:
                is_refused = self._was_up and isinstance(error, RunDatabaseRefused)
                pause = PAUSE_AFTER_REFUSAL if is_refused else PAUSE
                self._error, self._not_before = error, time.monotonic() + pause
                raise
            if self._was_up:
                log.warning("the tunnel to %s is up again", self.link.daq_host)
            self._was_up = True
            self._error = None
            return self._transport

    def _open_channel(
        self, session: "paramiko.Transport", peer: tuple[str, int]
    ) -> "paramiko.Channel":
        try:
            channel = open_channel(self.link, session, peer)
        except SessionDied as error:
            with self._lock:
                self._error = error
                self._lost(session, str(error))
            raise
        except RunDatabaseError as error:
            self._error = error
            raise
        # Else it would wait for ever to send into a frozen session
        channel.settimeout(self.link.timeout)
        return channel

    def _lost(self, transport: "paramiko.Transport", why: str) -> None:
        # Under the lock. Another thread may have seen it first, and made a new one
        if self._transport is transport:
            log.warning("the tunnel to %s is down: %s", self.link.daq_host, why)
            self._transport = None
            transport.close()


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    tunnel: Tunnel

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection through the tunnel failed", exc_info=True)


class _Connection(socketserver.BaseRequestHandler):
    """Carry bytes between a local connection and MongoDB until either side ends it."""

    server: _Listener

    def handle(self) -> None:
        tunnel, local = self.server.tunnel, self.request
        try:
            channel = tunnel.open_channel(self.client_address)
        except RunDatabaseError as error:
            log.debug("%s", error)
            return
        local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tunnel._connections.add(local)
        try:
            back = threading.Thread(target=_carry_back, args=(channel, local), daemon=True)
            back.start()
            _carry(local.recv, channel.sendall)
            channel.close()
            back.join()
        finally:
            tunnel._connections.discard(local)
            channel.close()


def _carry_back(channel: "paramiko.Channel", local: socket.socket) -> None:
    def receive(size: int) -> bytes:
        while True:
            # The time-out is for what is sent; an idle connection is none that failed
            with contextlib.suppress(TimeoutError):
                return channel.recv(size)

    _carry(receive, local.sendall)
    _shut(local)


def _carry(receive: Callable[[int], bytes], send: Callable[[bytes], Any]) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := receive(1 << 16):
            send(data)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _set_hooks() -> None:
    # It ends all sessions at exit; what was registered after it, as our hook is, is called before
    import paramiko  # noqa: F401

    global _hooks_are_set
    if not _hooks_are_set:
        _hooks_are_set = True
        atexit.register(close_all)
        os.register_at_fork(after_in_child=_abandon_all)


def close_all() -> None:
    """Close all tunnels of this process."""
    for tunnel in list(_open_tunnels):
        tunnel.close()


def _abandon_all() -> None:
    for tunnel in list(_open_tunnels):
        tunnel.abandon()
        _abandoned.append(tunnel)
    _open_tunnels.clear()
