"""Connection parameters of the DAQ host, from the settings of amstrax and of ssh.

ssh itself evaluates its configuration for a host (``ssh -G``), so aliases, ``Match``, ``Include``
and tokens work as for copies of live data. Settings of amstrax override those of ssh. The host key
is always verified, whatever the value of ``StrictHostKeyChecking``.
"""

import logging
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amstrax import settings
from amstrax.exceptions import RunDatabaseNotSet, RunDatabaseUnreachable
from amstrax.settings import RunDatabase

log = logging.getLogger(__name__)

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
#: Shortest timeout for ssh to read its configuration [s]
_SHORTEST = 10.0
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


@dataclass(frozen=True)
class SSHHost:
    """Connection parameters of the DAQ host.

    Attributes
    ----------
    link
        Settings of amstrax.
    host, port, user
        Address and user to connect with.
    known_hosts
        Files with host keys; the first is the user's own.
    revoked
        File with revoked keys, if any.
    key_alias
        Name of the host in known_hosts, if it differs.
    identities
        Private keys to log in with.
    identities_only
        Offer no other keys of the agent than these.
    has_agent
        Offer keys of the agent.
    proxy
        Command that provides the connection by its input and output; empty for none.
    """

    link: RunDatabase
    host: str
    port: int
    user: str
    known_hosts: tuple[Path, ...]
    revoked: Path | None = None
    key_alias: str = ""
    identities: tuple[Path, ...] = ()
    identities_only: bool = False
    has_agent: bool = True
    family: int = 0
    proxy: tuple[str, ...] = ()

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the host in known_hosts; the second is for entries of any port."""
        if self.key_alias:
            return (self.key_alias.lower(),)
        host = self.host.lower()
        return (host,) if self.port == 22 else (f"[{host}]:{self.port}", host)

    @property
    def principal(self) -> str:
        """Name of the host in certificates."""
        return self.key_names[-1]


def destination(link: RunDatabase) -> SSHHost:
    """Return the connection parameters of the DAQ host, by the settings of amstrax and of ssh.

    Raises
    ------
    RunDatabaseUnreachable
        When ssh does not answer in time.
    RunDatabaseNotSet
        When ssh cannot use its configuration, or it requires a feature that the tunnel lacks.
    """
    said = _ask_ssh(link)
    if said is None:
        return SSHHost(
            link,
            link.daq_host,
            link.daq_port,
            link.daq_user,
            link.known_hosts,
            identities=tuple(settings.in_home(key) for key in DEFAULT_KEYS),
        )

    def first(name: str, default: str = "") -> str:
        value = said.get(name, [default])[0]
        return "" if value == "none" else value

    host, port = first("hostname"), int(first("port", "22"))
    user = link.daq_user if "DAQ_USER" in link.given else first("user")
    tokens = {
        "%": "%",
        "h": host,
        "p": str(port),
        "r": user,
        "n": link.daq_host,
        "d": str(settings.in_home("~")),
        "u": settings.login_name(),
        "k": first("hostkeyalias") or link.daq_host,
    }
    known_hosts = link.known_hosts
    if "DAQ_KNOWN_HOSTS" not in link.given:
        known_hosts = tuple(
            path
            for name in ("userknownhostsfile", "globalknownhostsfile")
            for path in _paths(_expand(first(name), tokens))
        )
    revoked = first("revokedhostkeys")
    return SSHHost(
        link,
        host,
        port,
        user,
        known_hosts or link.known_hosts,
        revoked=settings.expanded(revoked) if revoked else None,
        key_alias=first("hostkeyalias"),
        identities=tuple(
            settings.expanded(_expand(key, tokens))
            for key in said.get("identityfile", ())
            if key != "none"
        ),
        identities_only=first("identitiesonly") == "yes",
        has_agent=said.get("identityagent") != ["none"],
        family=_FAMILIES.get(first("addressfamily"), 0),
        proxy=_proxy(link, first("proxyjump"), first("proxycommand"), tokens, first),
    )


def _ask_ssh(link: RunDatabase) -> dict[str, list[str]] | None:
    """Return ssh's settings for the DAQ host, by name; None if ssh is not available."""
    config = link.ssh_config
    ssh = shutil.which("ssh")
    if ssh is None:
        if (config or settings.in_home("~/.ssh/config")).exists():
            log.warning("ssh is not installed: its settings for %s are not used", link.daq_host)
        return None
    command = [ssh, "-G", *_config_option(link)]
    if "DAQ_PORT" in link.given:
        command += ["-p", str(link.daq_port)]
    if "DAQ_USER" in link.given:
        command += ["-l", link.daq_user]
    where = config or "~/.ssh/config"
    try:
        done = subprocess.run(
            [*command, "--", link.daq_host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(link.timeout / 4, _SHORTEST),
        )
    except subprocess.TimeoutExpired as error:
        raise RunDatabaseUnreachable(
            f"ssh does not say in time how to reach {link.daq_host!r}: check Match exec and "
            f"CanonicalizeHostname in {where}, or try again later"
        ) from error
    except ValueError as error:
        raise RunDatabaseNotSet(f"no host {link.daq_host!r} ({error}): check DAQ_HOST") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "No user exists for uid" in reason:
            log.warning("ssh cannot be asked for its settings (%s): they are not used", reason)
            return None
        raise RunDatabaseNotSet(
            f"ssh cannot use its settings for {link.daq_host!r} ({reason[:100]}): check DAQ_HOST "
            f"and {where}"
        )
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        said.setdefault(name.lower(), []).append(value.strip())
    return said


def _config_option(link: RunDatabase) -> list[str]:
    return [] if link.ssh_config is None else ["-F", str(link.ssh_config)]


def _proxy(
    link: RunDatabase, jump: str, command: str, tokens: Mapping[str, str], first: Any
) -> tuple[str, ...]:
    if first("proxyusefdpass") == "yes":
        raise RunDatabaseNotSet(
            f"ssh's settings for {link.daq_host} have ProxyUseFdpass, which the tunnel cannot do: "
            "use ProxyJump"
        )
    if jump:
        *others, last = jump.split(",")
        return (
            "ssh",
            *_config_option(link),
            *("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"),
            *(("-J", ",".join(others)) if others else ()),
            *("-W", f"[{tokens['h']}]:{tokens['p']}"),
            *("--", last if last.startswith("ssh://") else f"ssh://{last}"),
        )
    if command:
        return "/bin/sh", "-c", f"exec {_expand(command, tokens)}"
    return ()


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    """Return a text with ssh's tokens, such as ``%h``, replaced."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            raise RunDatabaseNotSet(
                f"the tunnel does not know the token {match[0]} in ssh's setting {text!r}: write "
                f"its value, or one of {', '.join(f'%{name}' for name in tokens)}"
            )
        return tokens[match[1]]

    return re.sub("%(.?)", value, text)


def _paths(text: str) -> Iterator[Path]:
    """Yield the paths in an unquoted list; paths with spaces are recognised if they exist."""
    words = text.split()
    while words:
        for n in range(len(words), 0, -1):
            path = settings.expanded(" ".join(words[:n]))
            if n == 1 or path.exists():
                yield path
                del words[:n]
                break


class ProxySocket(socket.socket):
    """Connection through a command that ends with the connection."""

    def __init__(self, command: tuple[str, ...]):
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._owner = os.getpid()
        self._said: list[bytes] = []
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                # Keep Ctrl-C in a terminal from reaching it
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def reason(self) -> str:
        """Return the last line of the command's error output, once it has ended."""
        self._reader.join(1)
        lines = b"".join(self._said).decode(errors="replace").strip().splitlines()
        return lines[-1][:120] if lines else ""

    def close(self) -> None:
        """Close the connection and end the command; a child process only drops it."""
        super().close()
        if os.getpid() == self._owner and self._process.poll() is None:
            self._process.terminate()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            for line in errors:
                self._said = [*self._said[-9:], line]
        self._process.wait()
