"""Simulated runs in a run database, and processes of tools that tests start, stop and kill."""

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import tqdm
from servers import is_stopped

LED, NAI, SHORT, LITTLE = "000301", "000302", "000303", "000304"
_RUNS: dict[str, dict[str, Any]] = {
    SHORT: {"source": "kr83m"},
    LED: {"source": "led", "duration": 0.2},
    NAI: {"source": "na22"},
    LITTLE: {"source": "kr83m", "detector": "xamsl"},
}


@pytest.fixture
def runs(no_settings):
    """Run documents of XAMS in the embedded run database, which is used without settings."""
    from amstrax.rundb import get_mongo_collection

    return get_mongo_collection("xams")


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker of a session makes; for the others it is there then.

    It is nobody's to write to.
    """
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    folder, done = base / f"once_{name}", base / f"once_{name}.done"
    with (base / f"once_{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def store_apart(st, folder: Path) -> None:
    """Let a context read its folders, which workers share, and store what it makes in `folder`."""
    from amstrax.strax_ext.storage import DataDirectory

    for frontend in st.storage:
        frontend.readonly = True
    st.storage.append(DataDirectory(str(folder)))


@pytest.fixture(scope="session")
def live_runs(tmp_path_factory) -> Path:
    """Folder with live data of a short run of each kind, and their documents."""

    def make(folder: Path) -> None:
        from amstrax import simulation

        for run_id, options in _RUNS.items():
            simulation.simulate(
                run_id, folder, **{"duration": 1, "rate": 20, "yields": "simple", **options}
            )

    return made_once(tmp_path_factory, "live", make)


def add_run(collection, live: Path, run_id: str = SHORT, **fields) -> None:
    """Add a run to a run database, with other values for some fields."""
    from amstrax.rundb import transfer

    [document] = transfer.documents_in(str(live / f"rundoc_{run_id}.json"))
    collection.insert_one(document | fields)


def copy_run(live: Path, folder: Path, run_id: str = SHORT, end: bool = True) -> Path:
    """Return a folder with a copy of a run, which may lack what says that it has ended."""
    shutil.copytree(live / run_id, folder / run_id)
    if not end:
        shutil.rmtree(folder / run_id / "THE_END")
    return folder


def stop_between_writes(child: "Child", collection) -> None:
    """Stop a process at a time when it does not hold the lock of the embedded run database."""
    with contextlib.closing(sqlite3.connect(collection.database.client.path, timeout=240)) as lock:
        lock.isolation_level = None
        lock.execute("BEGIN IMMEDIATE")
        child.signal(signal.SIGSTOP)
        wait(lambda: is_stopped(psutil.Process(child.pid)))
        lock.execute("ROLLBACK")


def end_run(folder: Path, run_id: str = SHORT) -> None:
    """Let a run of `copy_run` end."""
    from amstrax import redax

    redax.write_end(folder / run_id, {"xams-daq_reader_0": 1})


def wait(condition: Callable[[], Any], what: Callable[[], str] = lambda: "") -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + 240
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain {what()}"
        time.sleep(0.02)
    return value


class Child:
    """A tool in a process of its own, without the time that importing all of it takes.

    Parameters
    ----------
    main
        The tool's.
    arguments
        Its options.
    log
        File for what it says.
    """

    def __init__(self, main: Callable[[Sequence[str]], int], arguments: Sequence[str], log: Path):
        self.log = log
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(main, arguments)

    def _run(self, main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> None:
        status = 99
        with contextlib.suppress(BaseException):
            # tqdm's own lock is shared with the tests, for which a kill would take it away
            tqdm.tqdm.set_lock(threading.RLock())
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            sys.stdout = sys.stderr = self.log.open("a", buffering=1)
            try:
                status = main(list(arguments))
            except BaseException as error:
                sys.stderr.write(repr(error))
                raise
        os._exit(status)

    def text(self) -> str:
        """Return what it has said."""
        return self.log.read_text() if self.log.exists() else ""

    def says(self, text: str) -> None:
        """Wait until it has said something."""
        wait(lambda: text in self.text() or self.ended(), self.text)
        assert text in self.text(), self.text()

    def ended(self) -> bool:
        """Return whether it has ended; `status` is how, negative for a signal."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def result(self) -> int:
        """Wait for its end, and return its status."""
        wait(self.ended, self.text)
        assert self.status is not None
        return self.status

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if not self.ended():
            os.kill(self.pid, number)


@pytest.fixture
def start_tool(tmp_path):
    """Start a tool as a `Child`, which is killed with the test."""
    children: list[Child] = []

    def start(main: Callable, *arguments: str) -> Child:
        log = tmp_path / f"log_of_child_{len(children)}"
        children.append(Child(main, [*arguments, "--no-progress"], log))
        return children[-1]

    yield start
    for child in children:
        child.signal(signal.SIGKILL)
        child.result()
