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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from amstrax import settings
from amstrax.exceptions import RunDatabaseNotSet, RunDatabaseUnreachable
from amstrax.settings import RunDatabase

log = logging.getLogger(__name__)

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_SHORTEST = 10.0  # minimum timeout of `ssh -G` [s]
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


@dataclass(frozen=True)
class SSHHost:
    """Connection parameters of the DAQ host; `config` has the settings of amstrax."""

    config: RunDatabase
    host: str
    port: int
    user: str
    #: Files with host keys; the first is the user's own
    known_hosts: tuple[Path, ...]
    #: File with revoked keys
    revoked: Path | None = None
    #: Name of the host in known_hosts, if it differs
    key_alias: str = ""
    #: Private keys to log in with
    identities: tuple[Path, ...] = ()
    #: Whether to offer no other keys of the agent
    identities_only: bool = False
    #: Whether to use an agent
    has_agent: bool = True
    #: Address family of the host: 0 for any
    family: int = 0
    #: Command whose standard input and output are the connection; empty for none
    proxy: tuple[str, ...] = ()

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the host in known_hosts; the last is for any port, and in certificates."""
        if self.key_alias:
            return (self.key_alias.lower(),)
        host = self.host.lower()
        return (host,) if self.port == 22 else (f"[{host}]:{self.port}", host)


def destination(config: RunDatabase) -> SSHHost:
    """Return the connection parameters of the DAQ host, by the settings of amstrax and of ssh.

    Raises RunDatabaseUnreachable when ssh times out, RunDatabaseNotSet when its configuration is
    invalid or requires a feature that the tunnel lacks.
    """
    ssh_settings = _load_ssh_settings(config)

    def first(name: str) -> str:
        value = ssh_settings.get(name, [""])[0]
        return "" if value == "none" else value

    host, port = first("hostname"), int(first("port"))
    user = config.daq_user if "DAQ_USER" in config.given else first("user")
    tokens = {
        "%": "%",
        "h": host,
        "p": str(port),
        "r": user,
        "n": config.daq_host,
        "d": str(settings.in_home("~")),
        "u": settings.login_name(),
        "k": first("hostkeyalias") or config.daq_host,
    }
    known_hosts = config.known_hosts
    if "DAQ_KNOWN_HOSTS" not in config.given:
        files = [first(f"{whose}knownhostsfile") for whose in ("user", "global")]
        known_hosts = tuple(path for each in files for path in _paths(_expand(each, tokens)))
    revoked = first("revokedhostkeys")
    identities = [key for key in ssh_settings.get("identityfile", ()) if key != "none"]
    return SSHHost(
        config,
        host,
        port,
        user,
        known_hosts or config.known_hosts,
        revoked=settings.expanded(revoked) if revoked else None,
        key_alias=first("hostkeyalias"),
        identities=tuple(settings.expanded(_expand(key, tokens)) for key in identities),
        identities_only=first("identitiesonly") == "yes",
        has_agent=ssh_settings.get("identityagent") != ["none"],
        family=_FAMILIES.get(first("addressfamily"), 0),
        proxy=_proxy(config, first, tokens),
    )


def _load_ssh_settings(config: RunDatabase) -> dict[str, list[str]]:
    """Return ssh's settings for the DAQ host, by name; those of amstrax if ssh is not available."""
    own = {
        "hostname": [config.daq_host],
        "port": [str(config.daq_port)],
        "user": [config.daq_user],
        "identityfile": [str(settings.in_home(key)) for key in DEFAULT_KEYS],
    }
    ssh = shutil.which("ssh")
    if ssh is None:
        if (config.ssh_config or settings.in_home("~/.ssh/config")).exists():
            log.warning("ssh is not installed: its settings for %s are not used", config.daq_host)
        return own
    command = [ssh, "-G", *_config_option(config)]
    if "DAQ_PORT" in config.given:
        command += ["-p", str(config.daq_port)]
    if "DAQ_USER" in config.given:
        command += ["-l", config.daq_user]
    where = config.ssh_config or "~/.ssh/config"
    try:
        done = subprocess.run(
            [*command, "--", config.daq_host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(config.timeout / 4, _SHORTEST),
        )
    except subprocess.TimeoutExpired as error:
        raise RunDatabaseUnreachable(
            f"`ssh -G` timed out for {config.daq_host!r}: check Match exec and "
            f"CanonicalizeHostname in {where}, or try again later"
        ) from error
    except ValueError as error:
        raise RunDatabaseNotSet(f"no host {config.daq_host!r} ({error}): check DAQ_HOST") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "No user exists for uid" in reason:
            log.warning("ssh cannot report its settings (%s): they are not used", reason)
            return own
        raise RunDatabaseNotSet(
            f"ssh cannot use its settings for {config.daq_host!r} ({reason[:100]}): check DAQ_HOST "
            f"and {where}"
        )
    ssh_settings: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        ssh_settings.setdefault(name.lower(), []).append(value.strip())
    return ssh_settings


def _config_option(config: RunDatabase) -> list[str]:
    return [] if config.ssh_config is None else ["-F", str(config.ssh_config)]


def _proxy(
    config: RunDatabase, first: Callable[[str], str], tokens: Mapping[str, str]
) -> tuple[str, ...]:
    if first("proxyusefdpass") == "yes":
        raise RunDatabaseNotSet(
            f"ssh's settings for {config.daq_host} have ProxyUseFdpass, which the tunnel does "
            "not support: use ProxyJump"
        )
    if first("proxyjump"):
        *others, last = first("proxyjump").split(",")
        return (
            "ssh",
            *_config_option(config),
            *("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"),
            *(("-J", ",".join(others)) if others else ()),
            *("-W", f"[{tokens['h']}]:{tokens['p']}"),
            *("--", last if last.startswith("ssh://") else f"ssh://{last}"),
        )
    if first("proxycommand"):
        return "/bin/sh", "-c", f"exec {_expand(first('proxycommand'), tokens)}"
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
    """Connection through a proxy command, which ends with the connection."""

    def __init__(self, command: tuple[str, ...]):
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._owner = os.getpid()
        self._last_line = b""
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
        return self._last_line.decode(errors="replace").strip()[:120]

    def close(self) -> None:
        """Close the connection and end the command; a child process only drops it."""
        super().close()
        if os.getpid() == self._owner and self._process.poll() is None:
            self._process.terminate()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            for line in errors:
                self._last_line = line if line.strip() else self._last_line
        self._process.wait()
