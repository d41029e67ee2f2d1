"""Logs of jobs: the end of one, read while it is written, and never another file; old ones go."""

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from amstrax.exceptions import NotAvailable
from amstrax.rundb import documents

#: Names that `submission` gives to the script and the logs of a job, after that of its run
_JOB_FILE = re.compile(r"(?P<run>.+)-\d{8}-\d{6}-[0-9a-f]{6}\.(sh|log|log\.condor)")
#: So much of the end of a log is read [bytes]
TAIL = 64_000


class Log(NamedTuple):
    """The end of a log.

    Attributes
    ----------
    path
        Its file.
    text
        What it says at its end.
    skipped
        How much of its beginning is left out [bytes].
    """

    path: Path
    text: str
    skipped: int


def read(document: Mapping[str, Any], log_folder: Path, most: int = TAIL) -> Log:
    """Return the end of the log of a run's last job.

    The document says which file that is; but anybody who can write documents could name any file
    there, so it must be a plain one in the log folder, and not by way of a link.

    Parameters
    ----------
    document
        Run document.
    log_folder
        Folder of logs.
    most
        So much of its end [bytes].

    Raises
    ------
    NotAvailable
        When there is no such log, or it is elsewhere.
    OSError
        When it cannot be read.
    """
    job = documents.job_of(document)
    name = job.get("log")
    if not isinstance(name, str) or not name:
        raise NotAvailable(
            "no log is known of this run: it was not submitted as a job, or its job was found later"
        )
    path, folder = Path(name), log_folder.absolute()
    if job.get("host") not in (None, documents.this_host()) and not path.exists():
        raise NotAvailable(f"the log is on {job['host']}: {name}")
    real, real_folder = path.resolve(), folder.resolve()
    if not real.is_relative_to(real_folder) or real.suffix != ".log":
        raise NotAvailable(
            f"the log {name} is not in the log folder {folder}: start the dashboard with its "
            "--log_folder to see it"
        )
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotAvailable(f"there is no log yet: {name}") from None
    with open(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise NotAvailable(f"{name} is no file")
        skipped = max(state.st_size - most, 0)
        file.seek(skipped)
        data = file.read(most)
    if skipped:
        # From the next whole line
        start = data.find(b"\n") + 1
        skipped, data = skipped + start, data[start:]
    return Log(path, data.decode("utf-8", "replace"), skipped)


def remove_old(folders: Iterable[Path], keep: float, is_alive: Callable[[str], bool]) -> int:
    """Remove scripts and logs of jobs that nothing was written to for a while; return how many.

    Files of other names, and links, are left alone.

    Parameters
    ----------
    folders
        Folders for scripts and logs, each with a folder for each run.
    keep
        How old they become [s].
    is_alive
        Returns whether a run has a job that waits or runs: its files are left alone.
    """
    before, removed = time.time() - keep, 0
    for path in (path for folder in folders for path in _entries(folder)):
        try:
            is_old = path.stat(follow_symlinks=False).st_mtime < before
            if not path.is_dir(follow_symlinks=False) or is_alive(path.name):
                continue
        except OSError:
            continue  # Another loop has just removed it
        for file in _entries(path):
            match = _JOB_FILE.fullmatch(file.name)
            if match is None or match["run"] != path.name:
                continue
            with contextlib.suppress(OSError):
                state = file.stat(follow_symlinks=False)
                if stat.S_ISREG(state.st_mode) and state.st_mtime < before:
                    os.unlink(file)
                    removed += 1
        if is_old:
            # One that is empty; a new one may be filled just now
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return removed


def _entries(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Return what is in a folder; nothing when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
