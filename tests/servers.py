"""Real servers that tests start: sshd, MongoDB's protocol (SecantusDB), SSH with passwords.

Each listens on 127.0.0.1 alone, on a port that it keeps when it is stopped and started again.

On a machine with much to do any process, this one too, may stand still for many seconds. So what is
to work has time-outs of minutes here, and what is to end in time is timed with `AwakeTime`.
"""

import asyncio
import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from needs import FAKETIME, daemon_path, need_all

LOCALHOST = "127.0.0.1"
#: Users of MongoDB: one that may read and write, one that may read, one that may do nothing.
#: test_rundb_secrets.py looks for these passwords in all that is said anywhere
MONGO_USERS = {
    "writer": ("Wr1ter-pass:w@rd/%", "readWriteAnyDatabase"),
    "reader": ("Read3r-passw0rd", "readAnyDatabase"),
    "nobody": ("N0body-passw0rd", None),
}
SSH_PASSWORD = "T0nnel-passw0rd"


# Each holds the name of a port, for as long as this process lives
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nothing listens on, and that nothing else is given while this process is.

    It is none of those that the kernel gives to whoever asks for any: with these, a connection that
    somebody opens may take the port of a server that is down, or even connect to itself there.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(first // 2, first)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0amstrax tests, port {port}")
            with socket.socket() as probe:
                probe.bind((LOCALHOST, port))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port


class AwakeTime:
    """Within it, `seconds` counts the time in which this process is not kept from running.

    It takes ticks of its own for a measure: those that do not come, since the process stands still,
    are not counted. So what waits for a time-out of a second takes about a second of it, on every
    machine, and what hangs takes ever more.
    """

    TICK = 0.02  # [s]

    def __enter__(self) -> "AwakeTime":
        self.seconds = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _count(self) -> None:
        while not self._ended.wait(self.TICK):
            self.seconds += self.TICK


def with_clock(offset: str) -> dict[str, str]:
    """Return the environment of a process whose clock is ahead or behind, as by ``+20m``."""
    need_all("faketime")
    # Without the last one Event.wait hangs; with it time.sleep fails, so short processes alone work
    fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return os.environ | fake


class Server:
    """A process that listens on `port`, with its log in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen | None = None

    def command(self) -> list[str]:
        """Return the command that starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 180
        while not self.is_up():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                pytest.fail(f"{self.command()[0]} does not start:\n{self.log_path.read_text()}")
            time.sleep(0.02)

    def is_up(self) -> bool:
        """Return whether it answers."""
        return listens(self.port)

    @property
    def log_path(self) -> Path:
        """File with what it says."""
        return self.folder / f"{type(self).__name__}.log"

    def _processes(self) -> list[psutil.Process]:
        # An sshd leaves its sessions running when it ends
        assert self._process is not None
        try:
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: int) -> None:
        """Send a signal to it and its children; after SIGSTOP, wait until they have stopped."""
        if number in (signal.SIGSTOP, signal.SIGKILL):
            self._stop()
        if number != signal.SIGSTOP:
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _stop(self) -> None:
        """Stop it and its children, those too that come into being meanwhile."""
        stopped: set[psutil.Process] = set()
        while left := set(self._processes()) - stopped:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGSTOP)
                    while not is_stopped(process):
                        time.sleep(0.01)
            stopped |= left

    def kill(self) -> None:
        """End it at once, with its children: kill -9."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def is_stopped(process: psutil.Process) -> bool:
    """Return whether all threads of a process are stopped, or it has ended."""
    states = []
    # Process and threads may end before they stop
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{process.pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                states.append(path.read_text())
    return all(state.rpartition(")")[2].split()[0] in "TZ" for state in states)


def listens(port: int) -> bool:
    """Return whether something accepts connections on a port."""
    try:
        socket.create_connection((LOCALHOST, port), timeout=1).close()
    except OSError:
        return False
    return True


class MongoServer(Server):
    """SecantusDB with users and passwords on."""

    #: What a database with these users looks like, for the next server of this process
    _with_users: Path | None = None

    def __init__(self, folder: Path):
        super().__init__(folder)
        if MongoServer._with_users is None:
            self.auth = False
            self.start()
            self._make_users()
            self.kill()
            MongoServer._with_users = folder / "database_with_users"
            shutil.copytree(folder / "database", MongoServer._with_users)
        else:
            shutil.copytree(MongoServer._with_users, folder / "database")
        self.auth = True
        self.start()

    def command(self) -> list[str]:
        """Return the command that starts it."""
        program = Path(sys.prefix, "bin", "secantusd-py")
        options = ["--host", LOCALHOST, "--port", str(self.port), "--standalone"]
        options += ["--storage-path", str(self.folder / "database"), "--sync-on-commit"]
        return [str(program), *options, *(["--auth"] if self.auth else [])]

    def _make_users(self) -> None:
        import pymongo

        with pymongo.MongoClient(LOCALHOST, self.port) as client:
            for user, (password, role) in MONGO_USERS.items():
                roles = [{"role": role, "db": "admin"}] if role else []
                client["admin"].command("createUser", user, pwd=password, roles=roles)

    def client(self):
        """Return a client that has all rights, without tunnel."""
        import pymongo

        password = MONGO_USERS["writer"][0]
        return pymongo.MongoClient(LOCALHOST, self.port, username="writer", password=password)


class SSHServer(Server):
    """OpenSSH's sshd, which lets keys in and passwords not, and forwards to one port alone."""

    def __init__(self, folder: Path, forward_to: int):
        super().__init__(folder)
        need_all("sshd")
        self._sshd = str(daemon_path("sshd"))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.user = getpass.getuser()
        self.key_file = folder / "user_key"
        self.known_hosts = folder / "known_hosts"
        make_key(self.key_file)
        make_key(folder / "other_key")
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        self.new_host_key()
        lines = {
            "Port": self.port,
            "ListenAddress": LOCALHOST,
            "HostKey": folder / "host_key",
            "PidFile": folder / "sshd.pid",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "StrictModes": "no",
            "UsePAM": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "AllowTcpForwarding": "local",
            "PermitOpen": f"{LOCALHOST}:{forward_to}",
            "MaxStartups": "100",
            # No start-up files of this machine's user, which take time, or die in the middle
            "SetEnv": f"HOME={folder}",
        }
        (folder / "sshd_config").write_text(
            "".join(f"{name} {value}\n" for name, value in lines.items())
        )
        self.start()

    def command(self) -> list[str]:
        """Return the command that starts it."""
        return [self._sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]

    def new_host_key(self, known: bool = True) -> None:
        """Give the server another host key, from its next start on."""
        make_key(self.folder / "host_key")
        if known:
            self.known_hosts.write_text(self.known_hosts_line())

    def certify(self, authority: Path, *options: str) -> str:
        """Give the server a certificate, from its next start on; return the authority's line."""
        command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", *options]
        subprocess.run([*command, str(self.folder / "host_key.pub")], check=True)
        with open(self.folder / "sshd_config", "a") as config:
            config.write(f"HostCertificate {self.folder / 'host_key-cert.pub'}\n")
        kind, key = authority.with_name(f"{authority.name}.pub").read_text().split()[:2]
        return f"@cert-authority [{LOCALHOST}]:{self.port} {kind} {key}\n"

    def client_config(self, path: Path, host: str = "login") -> Path:
        """Write settings with which `ssh -F` finds the server under the name `host`."""
        lines = {
            "HostName": LOCALHOST,
            "Port": self.port,
            "User": self.user,
            "IdentityFile": self.key_file,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": os.devnull,
            # The least work: there are many sessions, and few cores
            "KexAlgorithms": "curve25519-sha256",
            "Ciphers": "aes128-gcm@openssh.com",
        }
        text = "".join(f"    {name} {value}\n" for name, value in lines.items())
        path.write_text(f"Host {host}\n{text}", encoding="utf-8")
        return path

    def said(self, text: str, at_least: int) -> int:
        """Return how often its log has a text, after waiting for the last times expected.

        A session writes to the log in its own time, also after its client has had an answer.
        """
        end = time.monotonic() + 120
        while (count := self.log_path.read_text().count(text)) < at_least:
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        return count

    def known_hosts_line(self) -> str:
        """Return the line of known_hosts for this server."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"[{LOCALHOST}]:{self.port} {kind} {key}\n"


class PasswordServer:
    """SSH server in a thread, which lets one password in, and no key."""

    def __init__(self, folder: Path, forward_to: int):
        import asyncssh

        host_key = asyncssh.generate_private_key("ssh-ed25519")

        class Connection(asyncssh.SSHServer):
            def begin_auth(self, username):
                return True

            def password_auth_supported(self):
                return True

            def validate_password(self, username, password):
                return password == SSH_PASSWORD

            def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
                return (dest_host, dest_port) == (LOCALHOST, forward_to)

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def start():
            return await asyncssh.create_server(
                Connection, LOCALHOST, 0, server_host_keys=[host_key]
            )

        self._server = asyncio.run_coroutine_threadsafe(start(), self._loop).result(30)
        self.port = self._server.get_port()
        self.user = "somebody"
        self.known_hosts = folder / "known_hosts_of_password_server"
        public = host_key.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[{LOCALHOST}]:{self.port} {public}\n")

    def close(self) -> None:
        """Stop it."""

        async def stop():
            self._server.close()
            await self._server.wait_closed()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


def make_key(path: Path, kind: str = "ed25519") -> None:
    """Write a new pair of SSH keys without password."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def settings_of(mongo: MongoServer, ssh: SSHServer | None, user: str = "writer") -> dict[str, str]:
    """Return the settings with which the run database is reached through a tunnel."""
    settings = {
        "MONGO_PORT": str(mongo.port),
        "MONGO_USER": user,
        "MONGO_PASSWORD": MONGO_USERS[user][0],
        "AMSTRAX_RUNDB_TIMEOUT": "120",
    }
    if ssh is not None:
        settings |= {
            "DAQ_HOST": LOCALHOST,
            "DAQ_PORT": str(ssh.port),
            "DAQ_USER": ssh.user,
            "DAQ_KEY_FILE": str(ssh.key_file),
            "DAQ_KNOWN_HOSTS": str(ssh.known_hosts),
        }
    return settings


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory):
    """A MongoDB server with users and passwords on."""
    server = MongoServer(tmp_path_factory.mktemp("mongo"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory, mongo_server):
    """An sshd that leads to the MongoDB server."""
    from amstrax.rundb import connection

    server = SSHServer(tmp_path_factory.mktemp("ssh"), mongo_server.port)
    yield server
    # Before the server, so that nothing tries to come back
    connection.close()
    server.kill()


@pytest.fixture
def run_database_settings(no_settings, monkeypatch, mongo_server, ssh_server) -> dict[str, str]:
    """Settings in the environment: a run database through a tunnel, as a user who may write."""
    settings = settings_of(mongo_server, ssh_server)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def mongo_collection(run_database_settings, mongo_server):
    """The empty collection of run documents of XAMS, through a tunnel."""
    from amstrax.rundb.connection import get_mongo_collection

    with mongo_server.client() as client:
        for name in ("runs_gas", "runs_new"):
            client["run"].drop_collection(name)
    return get_mongo_collection("xams")
