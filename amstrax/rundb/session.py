"""SSH session with the DAQ host: to find it, to verify its key, to log in.

Each step is a function with an error of its own, which says what to do; `connect` takes them all.
The key of the host is verified against known_hosts, always.
"""

import contextlib
import functools
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax import settings
from amstrax.exceptions import (
    HostKeyRefused,
    RunDatabaseNotSet,
    RunDatabaseRefused,
    RunDatabaseUnreachable,
)
from amstrax.settings import RunDatabase

if TYPE_CHECKING:
    import paramiko

log = logging.getLogger(__name__)

#: Longest time of one step: to connect, to log in, to open a channel [s]. Hosts that look up the
#: name of who comes, in a name server that does not answer, let one wait for so long
STEP_TIMEOUT = 30.0
KEEPALIVE = 15  # [s]
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


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
        When its key is not in known_hosts, or another one.
    RunDatabaseRefused
        When the log-in is refused.
    RunDatabaseNotSet
        When there is nothing to log in with.
    """
    transport, _ = log_in(link, verified(link))
    transport.set_keepalive(KEEPALIVE)
    return transport


def verified(link: RunDatabase) -> "paramiko.Transport":
    """Return a new SSH session with the DAQ host, whose key is verified, before any log-in.

    Raises
    ------
    RunDatabaseUnreachable, HostKeyRefused
        As `connect` does.
    """
    transport = greet(link, dial(link))
    try:
        verify_host(link, transport)
    except BaseException:
        transport.close()
        raise
    return transport


def resolve(link: RunDatabase) -> list[str]:
    """Return the addresses of the DAQ host.

    Raises
    ------
    RunDatabaseUnreachable
        When there is no host of that name.
    """
    try:
        found = socket.getaddrinfo(link.daq_host, link.daq_port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise RunDatabaseUnreachable(
            f"no host {link.daq_host!r} is found ({error}): check DAQ_HOST, and whether this "
            "machine is online"
        ) from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def dial(link: RunDatabase) -> socket.socket:
    """Return a connection to the SSH port of the DAQ host.

    Raises
    ------
    RunDatabaseUnreachable
        When there is no host of that name, or nothing listens there.
    """
    resolve(link)
    try:
        return socket.create_connection((link.daq_host, link.daq_port), timeout=step_timeout(link))
    except OSError as error:
        raise RunDatabaseUnreachable(
            f"{link.daq_host} does not answer on port {link.daq_port} ({_reason(error)}): check "
            "DAQ_HOST and DAQ_PORT, and whether this machine can reach it"
        ) from error


def greet(link: RunDatabase, connection: socket.socket) -> "paramiko.Transport":
    """Return the SSH session on a connection, encrypted, with nothing verified yet.

    Raises
    ------
    RunDatabaseUnreachable
        When what listens there does not speak SSH, or not in time.
    """
    import paramiko

    timeout = step_timeout(link)
    transport = paramiko.Transport(connection)
    transport.set_log_channel(_quiet_logger())
    transport.banner_timeout = transport.handshake_timeout = timeout
    # Hosts that ask elsewhere about their users are slow at it
    transport.auth_timeout = 2 * timeout
    known = known_types(link)
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in known)
    try:
        transport.start_client(timeout=timeout)
        # It returns without a word when the time is over; this does not
        transport.get_remote_server_key()
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise RunDatabaseUnreachable(
            f"what listens on port {link.daq_port} of {link.daq_host} does not answer as an SSH "
            f"server ({_reason(error)}): check DAQ_PORT, or try again later"
        ) from error
    return transport


def verify_host(link: RunDatabase, transport: "paramiko.Transport") -> None:
    """Compare the key of the host with known_hosts.

    Raises
    ------
    HostKeyRefused
        When it is not there (the message has the line to add), or is another one.
    """
    key = transport.get_remote_server_key()
    known = list(known_keys(link))
    if any(each.asbytes() == key.asbytes() for each, _ in known):
        return
    name = known_name(link)
    if known:
        places = ", ".join(dict.fromkeys(place for _, place in known))
        raise HostKeyRefused(
            f"{name} shows the key {key.get_name()} {key.fingerprint}, which is not the one known "
            f"of it ({places}): somebody may be listening in. Ask who runs the host; only if its "
            f"key is a new one, take the old one away: ssh-keygen -R '{name}' "
            f"-f {link.known_hosts[0]}"
        )
    raise HostKeyRefused(
        f"{name} is not a known host; it shows the key {key.fingerprint}. If who runs the host "
        f"says that this is its key, add to {link.known_hosts[0]} the line\n"
        f"{name} {key.get_name()} {key.get_base64()}"
    )


def known_name(link: RunDatabase) -> str:
    """Return the DAQ host as known_hosts names it."""
    return link.daq_host if link.daq_port == 22 else f"[{link.daq_host}]:{link.daq_port}"


def known_keys(link: RunDatabase) -> Iterator[tuple["paramiko.PKey", str]]:
    """Yield each key that known_hosts has for the DAQ host, and the place of its line."""
    import paramiko
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

    name = known_name(link)
    for path in link.known_hosts:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip() or line.lstrip().startswith(("#", "@")):
                continue
            try:
                entry = HostKeyEntry.from_line(line, number)
            except (InvalidHostKey, paramiko.SSHException):
                continue
            if entry is None or entry.key is None:
                continue
            # One line at a time: a host may have several keys of one kind
            keys = paramiko.HostKeys()
            for host in entry.hostnames or []:
                keys.add(host, entry.key.get_name(), entry.key)
            if keys.lookup(name):
                yield entry.key, f"{path}, line {number}"


def known_types(link: RunDatabase) -> set[str]:
    """Return the algorithms of the keys that are known of the DAQ host."""
    kinds = {key.get_name() for key, _ in known_keys(link)}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    return kinds


def log_in(link: RunDatabase, transport: "paramiko.Transport") -> tuple["paramiko.Transport", str]:
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
    import paramiko

    tried: list[str] = []
    try:
        for what, attempt in _credentials(link):
            if tried:
                # Some servers hang up at a second attempt, and some after a few
                transport.close()
                transport = verified(link)
            try:
                attempt(transport)
            except paramiko.AuthenticationException as error:
                tried.append(f"{what} ({_reason(error)})")
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise RunDatabaseUnreachable(
                    f"{link.daq_host} ended the session while logging in ({_reason(error)}): try "
                    "again later"
                ) from error
            else:
                if transport.is_authenticated():
                    return transport, what
                tried.append(f"{what} (accepted, but the host asks for more than that)")
        who = f"{link.daq_user}@{link.daq_host}"
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
    link: RunDatabase,
) -> Iterator[tuple[str, Callable[["paramiko.Transport"], Any]]]:
    keys: Iterable[tuple[str, Any]] = ()
    if link.daq_key_file is not None:
        path = link.daq_key_file
        keys = [(f"the key {path}", read_key(path, link.daq_key_password))]
    elif link.daq_password is None:
        keys = _usual_keys()
    for what, key in keys:
        yield what, functools.partial(_with_key, link, key)
    if link.daq_password is not None:
        yield "the password", functools.partial(_with_password, link)


def _with_key(link: RunDatabase, key: Any, transport: "paramiko.Transport") -> None:
    transport.auth_publickey(link.daq_user, key)


def _with_password(link: RunDatabase, transport: "paramiko.Transport") -> None:
    transport.auth_password(link.daq_user, link.daq_password)


def _usual_keys() -> Iterator[tuple[str, Any]]:
    import paramiko

    with contextlib.closing(paramiko.Agent()) as agent:
        for key in agent.get_keys():
            yield f"the agent's key {key.fingerprint}", key
    for name in DEFAULT_KEYS:
        path = settings.in_home(f"~/.ssh/{name}")
        if path.is_file():
            # Those with a password are for an agent
            with contextlib.suppress(RunDatabaseNotSet):
                yield f"the key {path}", read_key(path, None)


def read_key(path: Path, password: str | None) -> "paramiko.PKey":
    """Return the private key in a file.

    Raises
    ------
    RunDatabaseNotSet
        When it cannot be read.
    """
    import paramiko

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
    import paramiko

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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


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
