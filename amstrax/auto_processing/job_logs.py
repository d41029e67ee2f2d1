"""Logs of jobs, read while they are written: the end of one, and never another file."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from amstrax.exceptions import NotAvailable
from amstrax.rundb import documents

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
