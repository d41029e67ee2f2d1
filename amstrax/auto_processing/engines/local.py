"""Engine of this machine: a limited number of processes at once, in order of submission.

Jobs outlive the process that submits them, and any process of the same user finds them again. Each
job holds a lock on a file from its submission on, which the kernel releases with its last process:
so the lock tells whether a job is alive. The runner of a job checks its memory every second, and
ends it when it uses more than it asks for. (Limits of the kernel, without root, would also count
reserved memory.)

The folder of the setting AMSTRAX_LOCAL_FOLDER has one for this machine, with:

- ``jobs/N``: a folder for each job, with ``job.json`` (its description), ``started.json`` and
  ``exit.json`` (when, and how it ended), and the files ``lock``, ``runner`` and ``waiting``, which
  are locked as long as the job, its runner (see `local_runner`) and its place in the queue exist
- ``slots``: a file for each job that may run, locked while one does
- ``lock``, ``last``: lock for numbering the next job, and the last number
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from amstrax import settings, strict_json
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.base import Job, JobState, KnownJob
from amstrax.exceptions import EngineUnreachable, InvalidOption, JobRefused

log = logging.getLogger(__name__)

#: Age at which folders of ended jobs are removed, and time between two removals [s]
KEEP = 14 * 86400.0
_CLEAN_EVERY = 3600.0
#: Time that a job has between SIGTERM and SIGKILL [s]
GRACE = 10.0
#: Program that runs a job and watches it; it imports nothing but Python's own modules
_RUNNER = Path(__file__).with_name("local_runner.py")
#: Files of a job with locks; `local_runner.main` takes their descriptors in this order
_LOCKS = ("lock", "runner", "waiting")
#: Numbers of jobs; longer ones are not of this engine
_NUMBER = re.compile("[0-9]{1,18}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LocalEngine(base.Engine):
    """Runs jobs on this machine.

    By default `folder`, to keep track of jobs in, and `slots`, the number of jobs of those
    submitted here that run at once, are those of the settings. A cancelled job is killed after the
    time `grace` [s]. Raises InvalidOption when the setting AMSTRAX_LOCAL_JOBS is no number.
    """

    name = "local"

    def __init__(self, folder: Path | None = None, slots: int | None = None, grace: float = GRACE):
        self.grace = grace
        self.host = socket.gethostname()
        self.folder = Path(folder or settings.local_folder()).absolute() / self.host
        self.slots = settings.local_jobs() if slots is None else slots
        self._jobs = self.folder / "jobs"

    def submit(self, job: Job) -> str:
        """Submit a job and return its id, ``NUMBER@HOST``, as `base.Engine.submit`.

        Raises JobRefused outside Linux too, which alone has handles of processes and ``/proc``.
        """
        if not hasattr(os, "pidfd_open"):
            raise JobRefused(
                f"engine local on {sys.platform}: it needs Linux; process the run with amstraxer"
            )
        base.check_files(job)
        try:
            log = job.log.open("ab")
        except OSError as error:
            raise JobRefused(f"the log of the job cannot be written: {error}") from None
        with log, self._numbering() as number, contextlib.ExitStack() as locks:
            folder = self._jobs / f".{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            strict_json.write_text(folder / "job.json", json.dumps(self._description(job)))
            locked = [locks.enter_context((folder / name).open("ab")) for name in _LOCKS]
            for file in locked:
                fcntl.flock(file, fcntl.LOCK_EX)
            # The new name makes it a job, which counts as gone if its runner does not start
            folder = folder.rename(self._jobs / str(number))
            _start_runner(folder, [file.fileno() for file in locked], log.fileno())
        return f"{number}@{self.host}"

    def describe(self, job: Job) -> str:
        return (
            f"{job.script} >> {job.log} 2>&1\n"
            f"on {self.host}, as a separate process; at most {self.slots} such jobs at once, "
            f"each is killed when it exceeds its {job.memory} MB"
        )

    def jobs(self) -> list[KnownJob]:
        """Return the jobs that run or wait, oldest first."""
        found = []
        for number in self._numbers():
            folder = self._jobs / str(number)
            if (folder / "exit.json").exists():
                continue
            job_id = f"{number}@{self.host}"
            state = self.state(job_id)
            if state.alive:
                name = str(_read(folder / "job.json").get("name", ""))
                found.append(KnownJob(job_id, name, state))
        return found

    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job; unknown for one that was submitted on another machine."""
        return {job_id: self.state(job_id) for job_id in job_ids}

    def state(self, job_id: str) -> JobState:
        number, at, host = job_id.partition("@")
        if not _NUMBER.fullmatch(number) or not at:
            return JobState(base.GONE, reason="it is not an id of the local engine")
        if host != self.host:
            return JobState(base.UNKNOWN, reason=f"it was submitted on {host}")
        try:
            return _state(self._jobs / number)
        except OSError as error:
            return JobState(base.UNKNOWN, reason=f"its files cannot be read: {error}")

    def cancel(self, job_id: str) -> None:
        """End a job: with SIGTERM, and after some seconds with SIGKILL.

        Raises InvalidOption when it is no id of this engine, EngineUnreachable when it is one of
        another machine.
        """
        number, _, host = job_id.partition("@")
        if not _NUMBER.fullmatch(number):
            raise InvalidOption(f"{job_id!r} is no id of a job of the local engine: NUMBER@HOST")
        if host != self.host:
            raise EngineUnreachable(
                f"job {job_id} was submitted on another machine than this, which is {self.host}: "
                "cancel it there"
            )
        folder = self._jobs / number
        if _end_runner(folder):
            return
        # Without its runner, this process has to wait for its end
        started = _pid(folder / "started.json")
        for sent, grace in ((signal.SIGTERM, self.grace), (signal.SIGKILL, 5)):
            if started is None or not _is_locked(folder / "lock"):
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started, sent)
            end = time.monotonic() + grace
            while _is_locked(folder / "lock") and time.monotonic() < end:
                time.sleep(0.05)

    def _numbers(self) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(self._jobs) if _NUMBER.fullmatch(name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise EngineUnreachable(f"{self._jobs} cannot be read: {error.strerror}") from None

    def _description(self, job: Job) -> dict[str, Any]:
        return {
            "name": job.name,
            "run_id": job.run_id,
            "script": str(job.script.absolute()),
            "log": str(job.log.absolute()),
            "slots": self.slots,
            "grace": self.grace,
            "memory": job.memory,
            "n_runs": job.n_runs,
            "boot_id": _boot_id(),
            "time": time.time(),
        }

    @contextlib.contextmanager
    def _numbering(self) -> Iterator[int]:
        """Yield the number of the next job, in one process at a time."""
        try:
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.folder / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                number = max(self._last(), *self._numbers(), 0) + 1
                strict_json.write_text(self.folder / "last", str(number))
                self._clean()
                yield number
        except OSError as error:
            raise EngineUnreachable(
                f"no job can be recorded in {self.folder}: {error}; the setting "
                "AMSTRAX_LOCAL_FOLDER names another folder"
            ) from error

    def _last(self) -> int:
        """Return the last job number from its file; 0 if it is missing or invalid."""
        path = self.folder / "last"
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return 0
        if _NUMBER.fullmatch(text):
            return int(text)
        # As after a power cut, on a file system that loses synchronized data
        log.warning("%s holds no number: counting on from the jobs in %s", path, self._jobs)
        return 0

    def _clean(self) -> None:
        """Remove the folders of old jobs from time to time."""
        stamp = self.folder / "cleaned"
        now = time.time()
        if stamp.exists() and now - stamp.stat().st_mtime < _CLEAN_EVERY:
            return
        stamp.touch()
        for number in self._numbers():
            folder = self._jobs / str(number)
            state = self.state(f"{number}@{self.host}")
            if now - folder.stat().st_mtime > KEEP and not state.alive:
                shutil.rmtree(folder, ignore_errors=True)


def _start_runner(folder: Path, descriptors: list[int], log: int) -> None:
    done = subprocess.run(
        # Isolated from the user's packages and environment variables
        [sys.executable, "-I", "-S", str(_RUNNER), str(folder), *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=descriptors,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        raise JobRefused(
            f"the process that runs the job ended with status {done.returncode}: the log of the "
            "job says why"
        )


def _state(folder: Path) -> JobState:
    # Checked before its files are read, since these are written before the lock is released
    alive = _is_locked(folder / "lock")
    end = _read(folder / "exit.json")
    job = _read(folder / "job.json")
    if end:
        return _ended(end)
    if alive:
        has_runner = _is_locked(folder / "runner")
        if has_runner and (folder / "waiting").exists():
            return JobState(base.PENDING, reason="waits for its turn")
        return JobState(base.RUNNING, reason="" if has_runner else "its runner was killed")
    if not job:
        return JobState(base.GONE, reason="the local engine does not know it (any more)")
    if job.get("boot_id") != _boot_id():
        return JobState(base.GONE, reason="the machine was restarted meanwhile")
    if not (folder / "started.json").exists():
        return JobState(base.GONE, reason="its runner was killed before it had begun")
    return JobState(base.GONE, reason="its runner was killed, so its exit status is unknown")


def _ended(end: dict[str, Any]) -> JobState:
    code = end.get("code")
    if not isinstance(code, int | None):
        return JobState(base.FAILED, reason=f"ended, with an invalid exit code {code!r}")
    if end.get("allowed"):
        return JobState(
            base.FAILED,
            reason=f"killed, since it used {end.get('memory')} MB, more than the "
            f"{end['allowed']} MB that it asked for: submit it with more (--mem)",
        )
    if end.get("cancelled") and code != 0:
        return JobState(base.FAILED, code if code and code > 0 else None, "cancelled")
    if code is None:
        return JobState(base.FAILED, reason=str(end.get("error", "")))
    if code >= 0:
        return base.exited(code)
    state = base.killed(-code)
    memory = f"; it had used {end['memory']} MB" if end.get("memory") else ""
    return state._replace(reason=state.reason + memory)


def _end_runner(folder: Path) -> bool:
    """Send SIGTERM to the runner of a job; return False if it has ended."""
    pid = _pid(folder / "runner.json")
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            # If its lock is held now, this process is the runner, not a later one of the same id
            if _is_locked(folder / "runner"):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                return True
        finally:
            os.close(descriptor)
    return False


def _is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on a file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _pid(path: Path) -> int | None:
    """Return the process id in a file; None without a valid one."""
    pid = _read(path).get("pid")
    # Calls that signal groups of processes take 0 and 1 for other groups
    return pid if isinstance(pid, int) and 1 < pid < 2**31 else None


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}
