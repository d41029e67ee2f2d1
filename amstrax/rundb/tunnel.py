"""SSH tunnel from a local port to MongoDB on the DAQ host, on `sshtunnel`, that reconnects.

sshtunnel listens on one loopback port for the life of the tunnel, so the same MongoClient works
after a reconnection. Its sessions are replaced by those of `connect`, which verifies the host key
against known_hosts (`amstrax.rundb.known_hosts`) and follows ssh's configuration
(`amstrax.rundb.ssh_config`). A forked child neither uses nor closes the tunnel of its parent.
"""

import base64
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import paramiko
import sshtunnel

from amstrax.exceptions import (
    RunDatabaseError,
    RunDatabaseNotSet,
    RunDatabaseRefused,
    RunDatabaseUnreachable,
)
from amstrax.rundb import known_hosts
from amstrax.rundb.ssh_config import ProxySocket, SSHHost, destination
from amstrax.settings import RunDatabase

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
#: Time without attempts after a failure, and after the refusal of a log-in that was accepted
#: before, since repeated attempts could lock the account [s]
PAUSE, PAUSE_AFTER_REFUSAL = 1.0, 60.0
#: Longest time of one step: connect, log in, open a channel [s]. sshd that resolves client names
#: may stall this long
STEP_TIMEOUT = 30.0
KEEPALIVE = 15  # [s]
_CHUNK = 1 << 16  # [bytes]


class Tunnel(sshtunnel.SSHTunnelForwarder):
    """Tunnel to MongoDB by the settings `config`, listening at `address`.

    Raises RunDatabaseUnreachable when no local port is free.
    """

    def __init__(self, config: RunDatabase):
        self.config = config
        #: The last error, if nothing has succeeded since
        self.error: RunDatabaseError | None = None
        self._lock = threading.Lock()
        self._transport: Any = None
        # The last session that has reached MongoDB
        self._tried: Any = None
        self._connections: set[socket.socket] = set()
        self._not_before = 0.0
        self._was_up = False
        self._closed = False
        super().__init__(
            (config.daq_host, config.daq_port),
            # Sessions are those of `connect`: none of this is used
            ssh_config_file=None,
            ssh_username="-",
            ssh_password="-",
            allow_agent=False,
            host_pkey_directories=[],
            local_bind_address=(LOOPBACK, 0),
            remote_bind_address=(config.mongo_host, config.mongo_port),
            logger=logging.getLogger(_quiet_logger("sshtunnel")),
        )
        try:
            self._make_ssh_forward_server(self._remote_binds[0], self._local_binds[0])
        except sshtunnel.BaseSSHTunnelForwarderError as error:
            raise RunDatabaseUnreachable(
                f"no local port for the tunnel to {config.daq_host}: {error}"
            ) from error
        [self._server] = self._server_list
        # sshtunnel queues 5 connections; pymongo may open more at once
        self._server.socket.listen(64)
        threading.Thread(
            target=self._serve_forever_wrapper,
            args=(self._server,),
            name=f"tunnel to {config.daq_host}",
            daemon=True,
        ).start()

    def _connect_to_gateway(self) -> None:
        self._session()

    def _make_ssh_forward_handler_class(self, remote_address_: Any) -> Any:
        handler = super()._make_ssh_forward_handler_class(remote_address_)
        # sshtunnel opens a channel for each connection; `open_channel` uses a live session
        handler.ssh_transport = self
        handler._redirect = _forward
        return handler

    @property
    def is_active(self) -> bool:
        """Whether the SSH session is alive, as far as known."""
        return self._transport is not None and self._transport.is_active()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the local end."""
        return self._server.server_address

    def ensure(self) -> None:
        """Connect if no session is alive, and check that MongoDB's port is reached."""
        if self._session() is not self._tried:
            self.open_channel().close()

    def open_channel(
        self, src_addr: tuple[str, int] = (LOOPBACK, 0), is_first: bool = True, **_given: Any
    ) -> paramiko.Channel:
        """Return a channel to MongoDB's port, or raise a RunDatabaseError with the reason.

        sshtunnel calls this in place of a session's method. A session that does not answer is
        replaced, if `is_first`.
        """
        session = self._session()
        try:
            channel = open_channel(self.config, session, src_addr)
        except SessionDied as error:
            with self._lock:
                self.error = error
                self._drop(session, str(error))
            if not is_first:
                raise
            return self.open_channel(src_addr, is_first=False)
        except RunDatabaseError as error:
            self.error = error
            raise
        # Without a timeout, sending into a frozen session would block forever
        channel.settimeout(self.config.timeout)
        self.error = None
        self._tried = session
        return channel

    def close(self) -> None:
        """Close the tunnel, with all connections through it."""
        self._closed = True
        # Without the lock, a session that is being made would stay open
        with self._lock:
            self.stop(force=True)
        for connection in list(self._connections):
            _shut(connection)

    def abandon(self) -> None:
        """Drop the tunnel in a child process, without a message to the server."""
        self._closed = True
        sockets: list[Any] = [self._server.socket, *self._connections]
        if self._transport is not None:
            self._transport.active = False
            sockets.append(self._transport.sock)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.close()

    def _session(self) -> paramiko.Transport:
        with self._lock:
            if self._closed:
                raise RunDatabaseUnreachable(f"the tunnel to {self.config.daq_host} is closed")
            if self.is_active:
                return self._transport
            if self._transport is not None:
                self._drop(self._transport, "the SSH session has ended")
            if self.error is not None and time.monotonic() < self._not_before:
                raise type(self.error)(*self.error.args)
            try:
                self._transport = connect(self.config)
            except RunDatabaseError as error:
                is_refused = self._was_up and isinstance(error, RunDatabaseRefused)
                pause = PAUSE_AFTER_REFUSAL if is_refused else PAUSE
                self.error, self._not_before = error, time.monotonic() + pause
                raise
            if self._was_up:
                log.warning("the tunnel to %s is up again", self.config.daq_host)
            self._was_up = True
            self.error = None
            return self._transport

    def _drop(self, transport: paramiko.Transport, why: str) -> None:
        # The caller holds the lock; another thread may have replaced the session before
        if self._transport is transport:
            log.warning("the tunnel to %s is down: %s", self.config.daq_host, why)
            self._transport = None
            transport.close()


def _forward(handler: Any, channel: paramiko.Channel) -> None:
    """Forward bytes in both directions until both have ended.

    Replaces sshtunnel's forwarding, which waits with `select`. That fails for file descriptors from
    1024 on, and needs paramiko's pipe for the channel: closing it while the session's thread writes
    to it ends the session, with all connections. It also drops replies after the end of a request.
    """
    local, connections = handler.request, handler.ssh_transport._connections
    local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(size: int) -> bytes:
        while True:
            # The timeout is for sending; an idle connection has not failed
            with contextlib.suppress(TimeoutError):
                return channel.recv(size)

    def carry(
        receive: Callable[[int], bytes], send: Callable[[bytes], Any], end: Callable[[], Any]
    ) -> None:
        try:
            while data := receive(_CHUNK):
                send(data)
            end()
        except (OSError, EOFError):
            channel.close()
            _shut(local)

    def carry_back() -> None:
        carry(receive, local.sendall, lambda: local.shutdown(socket.SHUT_WR))

    connections.add(local)
    try:
        back = threading.Thread(target=carry_back, daemon=True)
        back.start()
        carry(local.recv, channel.sendall, channel.shutdown_write)
        back.join()
    finally:
        connections.discard(local)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def step_timeout(config: RunDatabase) -> float:
    """Return the longest time that one step may take [s]."""
    return min(STEP_TIMEOUT, config.timeout / 4)


def connect(config: RunDatabase) -> paramiko.Transport:
    """Return a new SSH session with the DAQ host, logged in.

    Raises the errors of `destination`, `dial`, `greet`, `amstrax.rundb.known_hosts.verify` and
    `log_in`, which are its steps.
    """
    to = destination(config)
    transport, _ = log_in(to, verified(to))
    transport.set_keepalive(KEEPALIVE)
    return transport


def verified(to: SSHHost) -> paramiko.Transport:
    """Return a new SSH session with the DAQ host, whose key is verified, before any log-in."""
    transport = greet(to, dial(to))
    try:
        known_hosts.verify(to, transport.get_remote_server_key())
    except BaseException:
        transport.close()
        raise
    return transport


def resolve(to: SSHHost) -> list[str]:
    """Return the addresses of the DAQ host, or raise RunDatabaseUnreachable."""
    try:
        found = socket.getaddrinfo(to.host, to.port, to.family, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise RunDatabaseUnreachable(
            f"no host {to.host!r} is found ({error}): check DAQ_HOST, and whether this "
            "machine is online"
        ) from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def dial(to: SSHHost, addresses: Sequence[str] = ()) -> socket.socket:
    """Connect to the SSH port of the DAQ host, directly or through its proxy.

    Without `addresses` the host is resolved. Raises RunDatabaseUnreachable when nothing answers.
    """
    try:
        if to.proxy:
            return ProxySocket(to.proxy)
        for address in addresses or resolve(to):
            try:
                return socket.create_connection((address, to.port), step_timeout(to.config))
            except OSError as error:
                failure = error
        raise failure
    except RunDatabaseUnreachable:
        raise
    except OSError as error:
        raise RunDatabaseUnreachable(
            f"{to.host} does not answer on port {to.port} ({_reason(error)}): check "
            "DAQ_HOST and DAQ_PORT, and whether this machine can reach it"
        ) from error


def greet(to: SSHHost, connection: socket.socket) -> paramiko.Transport:
    """Return the SSH session on a connection, encrypted, with nothing verified yet.

    Raises RunDatabaseUnreachable when the server does not speak SSH, or is too slow.
    """
    timeout = step_timeout(to.config)
    try:
        transport = paramiko.Transport(connection)
        options = transport.get_security_options()
        options.key_types = known_hosts.preferred(to, options.key_types)
    except BaseException:
        connection.close()
        raise
    transport.set_log_channel(_quiet_logger("paramiko"))
    transport.banner_timeout = transport.handshake_timeout = timeout
    # Hosts with a remote user database log in slowly
    transport.auth_timeout = 2 * timeout
    try:
        transport.start_client(timeout=timeout)
        # start_client returns silently after its timeout; this raises then
        transport.get_remote_server_key()
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        if isinstance(connection, ProxySocket):
            raise RunDatabaseUnreachable(
                f"{to.host} is not reached through {' '.join(to.proxy)[:60]!r} "
                f"({connection.reason() or _reason(error)}): check ssh's settings for it"
            ) from error
        raise RunDatabaseUnreachable(
            f"the server on port {to.port} of {to.host} does not answer as an SSH server "
            f"({_reason(error)}): check DAQ_PORT, or try again later"
        ) from error
    return transport


def log_in(to: SSHHost, transport: paramiko.Transport) -> tuple[paramiko.Transport, str]:
    """Log in on a verified session; return the authenticated session, and the credential used.

    The key file of the settings is tried first, then the password. Without both, the keys of the
    SSH agent and the default keys of ssh are tried. Each attempt after the first has its own
    session. After an error the session is closed.

    Raises RunDatabaseRefused when nothing is accepted, RunDatabaseNotSet when nothing can be tried,
    RunDatabaseUnreachable when the connection drops.
    """
    tried: list[str] = []
    try:
        for what, attempt in _credentials(to):
            if tried:
                # Some servers end the session at a second attempt
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
                tried.append(f"{what} (accepted, but the host requires another one too)")
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


def _credentials(to: SSHHost) -> Iterator[tuple[str, Callable[[paramiko.Transport], Any]]]:
    config = to.config
    if not to.user:
        raise RunDatabaseNotSet(
            f"no user to log in to {to.host} as, and this user id has no name: set DAQ_USER"
        )
    keys: Iterable[tuple[str, Any]] = ()
    if config.daq_key_file is not None:
        path = config.daq_key_file
        keys = [(f"the key {path}", read_key(path, config.daq_key_password))]
    elif config.daq_password is None:
        keys = _default_keys(to)
    for what, key in keys:
        yield what, methodcaller("auth_publickey", to.user, key)
    if config.daq_password is not None:
        yield "the password", methodcaller("auth_password", to.user, config.daq_password)


def _default_keys(to: SSHHost) -> Iterator[tuple[str, Any]]:
    """Yield the keys of the agent and those that ssh tries by default."""
    wanted = {key for path in to.identities for key in _public_keys(path)}
    if to.has_agent:
        with contextlib.closing(paramiko.Agent()) as agent:
            for key in agent.get_keys():
                if not to.identities_only or key.asbytes() in wanted:
                    yield f"the agent's key {key.fingerprint}", key
    for path in to.identities:
        if path.is_file():
            # Only the agent can use keys with a password
            with contextlib.suppress(RunDatabaseNotSet):
                yield f"the key {path}", read_key(path, None)


def _public_keys(path: Path) -> Iterator[bytes]:
    """Yield the public key that belongs to a private key file, or that is in it."""
    for each in (path.with_name(f"{path.name}.pub"), path):
        with contextlib.suppress(OSError, ValueError, IndexError):
            yield base64.b64decode(each.read_text("ascii").split()[1], validate=True)


def read_key(path: Path, password: str | None) -> paramiko.PKey:
    """Load the private key in a file, or raise RunDatabaseNotSet."""
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
        except Exception as error:  # each parser raises others for unknown formats
            log.debug("%s as %s: %r", path, kind.__name__, error)
    raise RunDatabaseNotSet(
        f"the key file {path} {problem}: set DAQ_KEY_PASSWORD, or load the key into an SSH agent "
        "and leave DAQ_KEY_FILE out"
    ) from None


def open_channel(
    config: RunDatabase, transport: paramiko.Transport, peer: tuple[str, int] = (LOOPBACK, 0)
) -> paramiko.Channel:
    """Return a channel to MongoDB's port, as the DAQ host sees it, for a local client at `peer`.

    Raises SessionDied when the session does not answer, RunDatabaseUnreachable when nothing listens
    there, RunDatabaseRefused when the SSH server does not permit it.
    """
    goal = (config.mongo_host, config.mongo_port)
    place = f"{config.mongo_host}:{config.mongo_port}"
    try:
        return transport.open_channel("direct-tcpip", goal, peer, timeout=step_timeout(config))
    except paramiko.ChannelException as error:
        if error.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
            raise RunDatabaseRefused(
                f"the SSH server of {config.daq_host} forwards nothing to {place}: check "
                "MONGO_HOST and MONGO_PORT, or ask its administrator to permit it "
                "(AllowTcpForwarding, PermitOpen)"
            ) from error
        raise RunDatabaseUnreachable(
            f"nothing listens at {place} as seen from {config.daq_host}: start MongoDB there, or "
            "check MONGO_HOST and MONGO_PORT"
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise SessionDied(
            f"{config.daq_host} does not answer any more ({_reason(error)}): try again later"
        ) from error


class SessionDied(RunDatabaseUnreachable):
    """An SSH session that was alive does not answer."""


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__


def _quiet_logger(package: str) -> str:
    """Return the name of a silenced logger for a package whose messages our errors repeat.

    Set a level for this logger to see its messages.
    """
    logger = logging.getLogger(f"{__name__}.{package}")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    return logger.name
