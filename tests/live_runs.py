"""Live data on a DAQ and destinations of copies, with a real sshd and rsync."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from needs import need, need_all
from servers import SSHServer

from amstrax.auto_processing import rsync
from amstrax.rundb import documents, get_mongo_collection, transfer

ENDED = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """An sshd that lets commands in."""
    need_all("rsync")
    server = SSHServer(tmp_path_factory.mktemp("login"), 1)
    yield server
    server.kill()


@pytest.fixture
def daq(tmp_path, monkeypatch, sshd):
    """A DAQ with a run database in a file, whose copies go to ``stbc``, by ssh, and ``dcache``."""
    if sshd._process is None:
        sshd.start()
    return Daq(tmp_path, monkeypatch, sshd)


class Daq:
    """Folders ``live``, ``stbc`` and ``dcache`` with their settings, and the run database."""

    def __init__(self, folder: Path, monkeypatch, sshd: SSHServer):
        self.folder, self._monkeypatch = folder, monkeypatch
        self.live, self.stbc, self.dcache = (folder / n for n in ("live", "stbc", "dcache"))
        for path in (self.live, self.stbc, self.dcache):
            path.mkdir()
        self.set(
            AMSTRAX_HOST="daq",
            AMSTRAX_RUNDB_PATH=str(folder / "rundb.sqlite"),
            AMSTRAX_LOG_FOLDER=str(folder / "logs"),
            AMSTRAX_SSH_CONFIG=str(sshd.client_config(folder / "ssh_config")),
            XAMS_COPY_TO=f"stbc=login:{self.stbc}, dcache={self.dcache}",
            XAMS_LIVE_DATA=str(self.live),
        )
        self.runs = get_mongo_collection("xams")

    def set(self, **settings: str) -> None:
        """Change settings."""
        for name, value in settings.items():
            self._monkeypatch.setenv(name, value)

    def add_run(
        self, number: int, n_bytes: int = 3000, end=ENDED, written=True, detector="xams", **fields
    ) -> Path:
        """Write a run of random bytes, register it, and return its folder."""
        name = f"{number:06d}"
        noise = random.Random(number)
        for chunk in ("000000", "000000_post", "000001_pre", "000001"):
            path = self.live / name / chunk
            path.mkdir(parents=True)
            (path / "xams-daq_reader_0_139811453138688").write_bytes(noise.randbytes(n_bytes))
        if written:
            (self.live / name / "THE_END").mkdir()
            (self.live / name / "THE_END/xams-daq_reader_0_139811453138688").write_text("end\n")
        entry = {"type": "live", "host": "daq", "location": str(self.live)}
        document = {"number": number, "name": name, "start": ENDED, "end": end, "data": [entry]}
        transfer.add_run(get_mongo_collection(detector), document | fields)
        return self.live / name

    def hosts(self, number: int, key: str = "data") -> list[str]:
        """Return the hosts that have live data of a run, or had, as its document says."""
        document = documents.find_run(self.runs, number)
        return sorted(entry["host"] for entry in document.get(key) or ())

    def log(self, name: str) -> str:
        """Return the log of a tool."""
        return "".join(path.read_text() for path in self.folder.glob(f"logs/*/{name}.log"))


def start(tool: str, *arguments: object) -> subprocess.Popen:
    """Start a tool as a separate process."""
    return subprocess.Popen(
        [sys.executable, "-m", f"amstrax.auto_processing.{tool}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, what: str, timeout: float = 180):
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.02)
    return value


def as_nobody(command: list, **variables: object) -> subprocess.CompletedProcess:
    """Run a command as a user id without a name, and without HOME, as containers do."""
    need_all("root")
    need(shutil.which("setpriv") is not None, "needs setpriv")
    # Python itself may be in a folder that only root may look into
    setpriv = "setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps=+dac_read_search"
    words = [*setpriv.split(), "--ambient-caps=+dac_read_search", *map(str, command)]
    kept = {k: v for k, v in os.environ.items() if k.startswith(("AMSTRAX", "XAMS", "PATH"))}
    environment = kept | {k: str(v) for k, v in variables.items()}
    return subprocess.run(
        words, env=environment, cwd="/", capture_output=True, text=True, check=False
    )


def contents(folder: Path) -> dict[str, tuple]:
    """Return inode, time of change and bytes of each entry of a folder, by name."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        + ((path.read_bytes(),) if path.is_file() else ())
        for path in sorted(folder.rglob("*"))
    }


def same(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files."""
    return (
        subprocess.run(["diff", "-r", "-x", rsync.MARKER, one, other], check=False).returncode == 0
    )


def flip(path: Path) -> None:
    """Change a byte of a file, but not its size and time."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def recently() -> datetime:
    """Return a time a minute ago."""
    return datetime.now(UTC) - timedelta(minutes=1)


@contextlib.contextmanager
def small_disk(path: Path, size: str, options: str = ""):
    """Mount a disk of a size, which only root can."""
    need_all("root")
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
