"""SSH tunnel from a local port to MongoDB on the DAQ host, which mends itself.

The local end listens on loopback, on one port for as long as the tunnel lives, also while the SSH
session is down: so one and the same MongoClient goes on when the session is back, and nobody else
can take the port. Each new connection to the local end looks whether the session is alive, and
makes a new one where it is not. A child after `os.fork` neither uses nor closes the tunnel of its
parent.

Each step of a session is a function with an error of its own, which says what to do; `connect`
takes them all. The key of the host is verified against known_hosts, always (see
`amstrax.rundb.known_hosts`); where the host is, is in `amstrax.rundb.ssh_config`.
"""

import atexit
import base64
import contextlib
import functools
import logging
import os
import socket
import socketserver
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax.exceptions import (
    RunDatabaseError,
    RunDatabaseNotSet,
    RunDatabaseRefused,
    RunDatabaseUnreachable,
)
from amstrax.rundb import known_hosts
from amstrax.rundb.ssh_config import ProxySocket, SSHHost, destination
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
#: Longest time of one step: to connect, to log in, to open a channel [s]. Hosts that look up the
#: name of who comes, in a name server that does not answer, let one wait for so long
STEP_TIMEOUT = 30.0
KEEPALIVE = 15  # [s]


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
    import paramiko  # noqa: F401, slow to import

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


def step_timeout(link: RunDatabase) -> float:
    """Return the longest time that one step may take [s]."""
    return min(STEP_TIMEOUT, link.timeout / 4)


def connect(link: RunDatabase) -> "paramiko.Transport":
    """Return a new SSH session with the DAQ host, logged in.

    Raises
    ------
    RunDatabaseUnreachable
        When there is no such host, or nothing that speaks SSH.
    HostKeyRefused
        When its key is revoked, not in known_hosts, or another one.
    RunDatabaseRefused
        When the log-in is refused.
    RunDatabaseNotSet
        When there is nothing to log in with, or ssh's settings cannot be used.
    """
    to = destination(link)
    transport, _ = log_in(to, verified(to))
    transport.set_keepalive(KEEPALIVE)
    return transport


def verified(to: SSHHost) -> "paramiko.Transport":
    """Return a new SSH session with the DAQ host, whose key is verified, before any log-in.

    Raises
    ------
    RunDatabaseUnreachable, HostKeyRefused
        As `connect` does.
    """
    transport = greet(to, dial(to))
    try:
        known_hosts.verify(to, transport.get_remote_server_key())
    except BaseException:
        transport.close()
        raise
    return transport


def resolve(to: SSHHost) -> list[str]:
    """Return the addresses of the DAQ host.

    Raises
    ------
    RunDatabaseUnreachable
        When there is no host of that name.
    """
    try:
        found = socket.getaddrinfo(to.host, to.port, to.family, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise RunDatabaseUnreachable(
            f"no host {to.host!r} is found ({error}): check DAQ_HOST, and whether this "
            "machine is online"
        ) from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def dial(to: SSHHost, addresses: Sequence[str] = ()) -> socket.socket:
    """Return a connection to the SSH port of the DAQ host, or the one of its proxy.

    Parameters
    ----------
    to
        Where to connect to.
    addresses
        Addresses of the host, where they are known.

    Raises
    ------
    RunDatabaseUnreachable
        When there is no host of that name, nothing listens there, or no proxy starts.
    """
    try:
        if to.proxy:
            return ProxySocket(to.proxy)
        for address in addresses or resolve(to):
            try:
                return socket.create_connection((address, to.port), step_timeout(to.link))
            except OSError as error:
                failure = error
        raise failure
    except OSError as error:
        if isinstance(error, RunDatabaseUnreachable):
            raise
        raise RunDatabaseUnreachable(
            f"{to.host} does not answer on port {to.port} ({_reason(error)}): check "
            "DAQ_HOST and DAQ_PORT, and whether this machine can reach it"
        ) from error


def greet(to: SSHHost, connection: socket.socket) -> "paramiko.Transport":
    """Return the SSH session on a connection, encrypted, with nothing verified yet.

    Raises
    ------
    RunDatabaseUnreachable
        When what listens there does not speak SSH, or not in time.
    """
    import paramiko  # slow to import

    timeout = step_timeout(to.link)
    try:
        transport = paramiko.Transport(connection)
        options = transport.get_security_options()
        options.key_types = known_hosts.preferred(to, options.key_types)
    except BaseException:
        connection.close()
        raise
    transport.set_log_channel(_quiet_logger())
    transport.banner_timeout = transport.handshake_timeout = timeout
    # Hosts that ask elsewhere about their users are slow at it
    transport.auth_timeout = 2 * timeout
    try:
        transport.start_client(timeout=timeout)
        # It returns without a word when the time is over; this does not
        transport.get_remote_server_key()
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        if isinstance(connection, ProxySocket):
            raise RunDatabaseUnreachable(
                f"{to.host} is not reached through {' '.join(to.proxy)[:60]!r} "
                f"({connection.reason() or _reason(error)}): check ssh's settings for it"
            ) from error
        raise RunDatabaseUnreachable(
            f"what listens on port {to.port} of {to.host} does not answer as an SSH "
            f"server ({_reason(error)}): check DAQ_PORT, or try again later"
        ) from error
    return transport


def log_in(to: SSHHost, transport: "paramiko.Transport") -> tuple["paramiko.Transport", str]:
    """Log in on a verified session; return the session that is logged in, and with what.

    A key file that is set is tried first, and then the password; with neither, the keys of the SSH
    agent and those that ssh takes by itself. Each after the first gets a session of its own.

    Raises
    ------
    RunDatabaseRefused
        When nothing of that is accepted. The session is closed then, as after all errors.
    RunDatabaseNotSet
        When there is nothing to log in with, or the key file cannot be read.
    RunDatabaseUnreachable
        When the line drops.
    """
    import paramiko  # slow to import

    tried: list[str] = []
    try:
        for what, attempt in _credentials(to):
            if tried:
                # Some servers hang up at a second attempt, and some after a few
                transport.close()
                transport = verified(to)
            try:
                attempt(transport)
            except paramiko.AuthenticationException as error:
                tried.append(f"{what} ({_reason(error)})")
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise RunDatabaseUnreachable(
                    f"{to.host} ended the session while logging in ({_reason(error)}): try "
                    "again later"
                ) from error
            else:
                if transport.is_authenticated():
                    return transport, what
                tried.append(f"{what} (accepted, but the host asks for more than that)")
        who = f"{to.user}@{to.host}"
        if not tried:
            raise RunDatabaseNotSet(
                f"nothing to log in with as {who}: set DAQ_KEY_FILE or DAQ_PASSWORD, or start an "
                "SSH agent that holds a key"
            )
        raise RunDatabaseRefused(
            f"{who} is refused, with {' and '.join(tried)}: check DAQ_USER, and that key or "
            "password"
        )
    except BaseException:
        transport.close()
        raise


def _credentials(
    to: SSHHost,
) -> Iterator[tuple[str, Callable[["paramiko.Transport"], Any]]]:
    link = to.link
    if not to.user:
        raise RunDatabaseNotSet(
            f"no user to log in to {to.host} as, and this user id has no name: set DAQ_USER"
        )
    keys: Iterable[tuple[str, Any]] = ()
    if link.daq_key_file is not None:
        path = link.daq_key_file
        keys = [(f"the key {path}", read_key(path, link.daq_key_password))]
    elif link.daq_password is None:
        keys = _usual_keys(to)
    for what, key in keys:
        yield what, functools.partial(_with_key, to, key)
    if link.daq_password is not None:
        yield "the password", functools.partial(_with_password, to)


def _with_key(to: SSHHost, key: Any, transport: "paramiko.Transport") -> None:
    transport.auth_publickey(to.user, key)


def _with_password(to: SSHHost, transport: "paramiko.Transport") -> None:
    transport.auth_password(to.user, to.link.daq_password)


def _usual_keys(to: SSHHost) -> Iterator[tuple[str, Any]]:
    import paramiko  # slow to import

    wanted = {key for path in to.identities for key in _public_keys(path)}
    if to.has_agent:
        with contextlib.closing(paramiko.Agent()) as agent:
            for key in agent.get_keys():
                if not to.identities_only or key.asbytes() in wanted:
                    yield f"the agent's key {key.fingerprint}", key
    for path in to.identities:
        if path.is_file():
            # Those with a password are for an agent
            with contextlib.suppress(RunDatabaseNotSet):
                yield f"the key {path}", read_key(path, None)


def _public_keys(path: Path) -> Iterator[bytes]:
    """Yield the public key beside a private one, or the one that is there in its place."""
    for each in (path.with_name(f"{path.name}.pub"), path):
        with contextlib.suppress(OSError, ValueError, IndexError):
            yield base64.b64decode(each.read_text("ascii").split()[1], validate=True)


def read_key(path: Path, password: str | None) -> "paramiko.PKey":
    """Return the private key in a file.

    Raises
    ------
    RunDatabaseNotSet
        When it cannot be read.
    """
    import paramiko  # slow to import

    problem = "holds no private key that paramiko can read, or DAQ_KEY_PASSWORD is wrong"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path), password)
        except OSError as error:
            raise RunDatabaseNotSet(
                f"the key file {path} cannot be read ({_reason(error)}): check DAQ_KEY_FILE"
            ) from error
        except paramiko.PasswordRequiredException:
            problem = "needs a password"
        except Exception as error:  # each parser has its own for what it does not know
            log.debug("%s as %s: %r", path, kind.__name__, error)
    raise RunDatabaseNotSet(
        f"the key file {path} {problem}: set DAQ_KEY_PASSWORD, or load the key into an SSH agent "
        "and leave DAQ_KEY_FILE out"
    ) from None


def open_channel(
    link: RunDatabase, transport: "paramiko.Transport", peer: tuple[str, int]
) -> "paramiko.Channel":
    """Return a connection to MongoDB's port, as the DAQ host sees it.

    Raises
    ------
    SessionDied
        When there is no answer: the session is of no use any more.
    RunDatabaseUnreachable
        When nothing listens there.
    RunDatabaseRefused
        When the SSH server does not permit it.
    """
    import paramiko  # slow to import

    goal = (link.mongo_host, link.mongo_port)
    place = f"{link.mongo_host}:{link.mongo_port}"
    try:
        return transport.open_channel("direct-tcpip", goal, peer, timeout=step_timeout(link))
    except paramiko.ChannelException as error:
        if error.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
            raise RunDatabaseRefused(
                f"the SSH server of {link.daq_host} forwards nothing to {place}: check MONGO_HOST "
                "and MONGO_PORT, or ask who runs the host to permit it (AllowTcpForwarding, "
                "PermitOpen)"
            ) from error
        raise RunDatabaseUnreachable(
            f"nothing listens at {place} as seen from {link.daq_host}: does MongoDB run there? "
            "Else check MONGO_HOST and MONGO_PORT"
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise SessionDied(
            f"{link.daq_host} does not answer any more ({_reason(error)}): try again later"
        ) from error


class SessionDied(RunDatabaseUnreachable):
    """An SSH session that was alive does not answer."""


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__


def _quiet_logger() -> str:
    """Return the name of a logger for paramiko, which tells of each failure with a traceback.

    What of that matters is in our errors. Set a level for this logger to see it all.
    """
    logger = logging.getLogger(f"{__name__}.paramiko")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    return logger.name
