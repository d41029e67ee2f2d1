"""Engine of this machine: so many processes at once as asked, others wait in order of submission.

Jobs outlive whoever submits them, and are found again by any process of the same user. Whether one
is alive is the kernel's word: each job holds a lock on a file, from its submission on, which is
gone with its last process, however that ends. A job that takes more memory than it asks for is
ended by its runner, which looks at it every second: the kernel, without root, would also count what
is only reserved.

The folder of the setting AMSTRAX_LOCAL_FOLDER has one for this machine, and in that:

- ``jobs/N``: a folder for each job, with ``job.json`` (what it is), ``started.json`` and
  ``exit.json`` (when, and how it ended), and the files ``lock``, ``runner`` and ``waiting``, which
  are locked while the job, its runner (see `local_runner`) and its place in the queue are there
- ``slots``: files, one for each job that may run, locked while one does
- ``lock``, ``last``: who numbers the next job, and the last number
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
from amstrax.auto_processing.engines import base, local_runner
from amstrax.auto_processing.engines.base import Engine, Job, JobState, KnownJob, exited, killed
from amstrax.exceptions import EngineUnreachable, InvalidOption, JobRefused

log = logging.getLogger(__name__)

#: Folders of jobs that have ended are kept so long [s], and looked for so often
KEEP = 14 * 86400.0
_CLEAN_EVERY = 3600.0
#: Time that a job has between SIGTERM and SIGKILL [s]
GRACE = 10.0
#: Numbers of jobs; what is longer is none of this engine's
_NUMBER = re.compile("[0-9]{1,18}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LocalEngine(Engine):
    """Runs jobs on this machine.

    Parameters
    ----------
    folder
        Folder to keep track of jobs in; by default that of the settings.
    slots
        So many jobs run at once, of those submitted here; by default as the settings say.
    grace
        A job that is cancelled may take so long to end before it is killed [s].

    Raises
    ------
    InvalidOption
        When the setting AMSTRAX_LOCAL_JOBS is no number.
    """

    name = "local"

    def __init__(self, folder: Path | None = None, slots: int | None = None, grace: float = GRACE):
        self.grace = grace
        self.host = socket.gethostname()
        self.folder = Path(folder or settings.local_folder()).absolute() / self.host
        self.slots = settings.local_jobs() if slots is None else slots

    def submit(self, job: Job) -> str:
        """Submit a job and return its id, ``NUMBER@HOST``.

        Raises
        ------
        JobRefused
            When its script or the folder of its log is not there.
        EngineUnreachable
            When nothing can be written into the folder that keeps track of jobs.
        """
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
            # From here on it is a job; without its runner it is gone
            folder = folder.rename(self._jobs / str(number))
            _start_runner(folder, [file.fileno() for file in locked], log.fileno())
        return f"{number}@{self.host}"

    def describe(self, job: Job) -> str:
        """Return what `submit` would do."""
        return (
            f"{job.script} >> {job.log} 2>&1\n"
            f"on {self.host}, as a process of its own; at most {self.slots} such jobs at once, "
            f"each is ended when it takes more than its {job.memory} MB"
        )

    def jobs(self) -> list[KnownJob]:
        """Return the jobs that run or wait, oldest first."""
        found = []
        for number in self._numbers():
            folder = self._jobs / str(number)
            if (folder / "exit.json").exists():
                continue
            state = self._state_of(f"{number}@{self.host}")
            if state.alive:
                name = str(_read(folder / "job.json").get("name", ""))
                found.append(KnownJob(f"{number}@{self.host}", name, state))
        return found

    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job; unknown for one that was submitted on another machine."""
        return {job_id: self._state_of(job_id) for job_id in job_ids}

    def _state_of(self, job_id: str) -> JobState:
        number, at, host = job_id.partition("@")
        if not _NUMBER.fullmatch(number) or not at:
            return JobState(base.GONE, reason="the local engine gives no such ids")
        if host != self.host:
            return JobState(base.UNKNOWN, reason=f"it was submitted on {host}")
        try:
            return _state(self._jobs / number)
        except OSError as error:
            return JobState(base.UNKNOWN, reason=f"its files cannot be read: {error}")

    def cancel(self, job_id: str) -> None:
        """End a job: with SIGTERM, and after some seconds with SIGKILL.

        Raises
        ------
        EngineUnreachable
            When it is of another machine.
        """
        folder = self._folder_of(job_id)
        if _signal_runner(folder, signal.SIGTERM):
            return
        # Without its runner, it has to be watched from here
        started = _pid(folder / "started.json")
        for number, grace in ((signal.SIGTERM, self.grace), (signal.SIGKILL, 5)):
            if started is None or not _is_locked(folder / "lock"):
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started, number)
            end = time.monotonic() + grace
            while _is_locked(folder / "lock") and time.monotonic() < end:
                time.sleep(0.05)

    @property
    def _jobs(self) -> Path:
        return self.folder / "jobs"

    def _numbers(self) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(self._jobs) if _NUMBER.fullmatch(name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise EngineUnreachable(f"{self._jobs} cannot be read: {error.strerror}") from None

    def _folder_of(self, job_id: str) -> Path:
        number, _, host = job_id.partition("@")
        if not _NUMBER.fullmatch(number):
            raise InvalidOption(f"{job_id!r} is no id of a job of the local engine: NUMBER@HOST")
        if host != self.host:
            raise EngineUnreachable(
                f"job {job_id} was submitted on another machine than this, which is {self.host}: "
                "the local engine knows its own jobs alone"
            )
        return self._jobs / number

    def _description(self, job: Job) -> dict[str, Any]:
        return {
            "name": job.name,
            "run_id": job.run_id,
            "script": str(job.script.absolute()),
            "log": str(job.log.absolute()),
            "slots": self.slots,
            "grace": self.grace,
            "memory": job.memory,
            "boot_id": _boot_id(),
            "time": time.time(),
        }

    @contextlib.contextmanager
    def _numbering(self) -> Iterator[int]:
        """Give the number of the next job, to one process at a time."""
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
                f"the jobs of this machine cannot be kept track of in {self.folder}: {error}; the "
                "setting AMSTRAX_LOCAL_FOLDER names another folder"
            ) from error

    def _last(self) -> int:
        """Return the last number that was given; what folders of jobs say counts as well."""
        path = self.folder / "last"
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return 0
        if _NUMBER.fullmatch(text):
            return int(text)
        # As after a power cut, where the file system does not keep what it was told to
        log.warning("%s holds no number: counting on from the jobs in %s", path, self._jobs)
        return 0

    def _clean(self) -> None:
        """Remove what is left of old jobs, now and then."""
        stamp = self.folder / "cleaned"
        now = time.time()
        if stamp.exists() and now - stamp.stat().st_mtime < _CLEAN_EVERY:
            return
        stamp.touch()
        for number in self._numbers():
            folder = self._jobs / str(number)
            state = self._state_of(f"{number}@{self.host}")
            if now - folder.stat().st_mtime > KEEP and not state.alive:
                shutil.rmtree(folder, ignore_errors=True)


#: As `local_runner.main` takes their descriptors
_LOCKS = ("lock", "runner", "waiting")


def _start_runner(folder: Path, descriptors: list[int], log: int) -> None:
    done = subprocess.run(
        # Neither the user's packages nor their environment variables are for this one
        [sys.executable, "-I", "-S", local_runner.__file__, str(folder), *map(str, descriptors)],
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
    """Return the state of the job in a folder."""
    # Asked before its files are read, since these are written before it is let go of
    alive = _is_locked(folder / "lock")
    end = _read(folder / "exit.json")
    job = _read(folder / "job.json")
    if end:
        return _ended(end)
    if alive and (folder / "waiting").exists() and _is_locked(folder / "runner"):
        return JobState(base.PENDING, reason="waits for its turn")
    if alive:
        has_runner = _is_locked(folder / "runner")
        return JobState(base.RUNNING, reason="" if has_runner else "its runner was killed")
    if not job:
        return JobState(base.GONE, reason="the local engine does not know it (any more)")
    if job.get("boot_id") != _boot_id():
        return JobState(base.GONE, reason="the machine was started anew meanwhile")
    if not (folder / "started.json").exists():
        return JobState(base.GONE, reason="its runner was killed before it had begun")
    return JobState(base.GONE, reason="its runner was killed, so nobody saw how it ended")


def _ended(end: dict[str, Any]) -> JobState:
    code = end.get("code")
    if not isinstance(code, int | None):
        return JobState(base.FAILED, reason=f"ended, and its exit code was noted as {code!r}")
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
        return exited(code)
    state = killed(-code)
    memory = f"it had used {end['memory']} MB" if end.get("memory") else ""
    return state._replace(reason=f"{state.reason}; {memory}") if memory else state


def _signal_runner(folder: Path, number: int) -> bool:
    """Send a signal to the runner of a job; return False when it is not there."""
    pid = _pid(folder / "runner.json")
    if pid is None:
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # If it has its lock now, this process is the runner, not one that was given its number
        if not _is_locked(folder / "runner"):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _pid(path: Path) -> int | None:
    """Return the process that a file names; None when it names none."""
    pid = _read(path).get("pid")
    # 0 and 1 stand for others in calls that signal groups of processes
    return pid if isinstance(pid, int) and 1 < pid < 2**31 else None


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _read(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing when it is not there, or was damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}
