"""What commands say in a terminal or a job: log lines, failures; importing this costs nothing."""

import errno
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from amstrax import settings
from amstrax.exceptions import AmstraxError

#: Loggers of strax that repeat, at length, what is reported here in one line
_NOISY_LOGGERS = ("strax", "ThreadedMailboxProcessor", "SingleThreadProcessor")
_FORMAT, _TIME_FORMAT = "%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"


def log_to_console(debug: bool) -> None:
    """Log lines with UTC times to the error stream; strax's own only with `debug`."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format=_FORMAT,
        datefmt=_TIME_FORMAT,
        stream=sys.stderr,
        force=True,
    )
    for name in ("numba", "numexpr", "matplotlib", "pymongo", "paramiko"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.CRITICAL + 1)


def log_to_folder(folder: str | Path, name: str) -> None:
    """Log the lines of the console to ``FOLDER/YYYY-MM-DD/NAME.log`` too, after `log_to_console`.

    The day is that of UTC, of each line. Any number of processes may log to one file.

    Raises
    ------
    OSError
        When nothing can be written there.
    """
    handler = DatedFileHandler(settings.expanded(folder).absolute(), name)
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME_FORMAT))
    handler.open(datetime.now(UTC)).close()
    logging.getLogger().addHandler(handler)


class DatedFileHandler(logging.Handler):
    """Writes lines into the file of their day, which may be removed or moved away meanwhile.

    When the disk is full, say, the console gets a line about that, and the work goes on.

    Parameters
    ----------
    folder
        Folder with a folder for each day; made where it is missing.
    name
        Name of the files, without ``.log``.
    """

    def __init__(self, folder: Path, name: str):
        super().__init__()
        self._folder = folder
        self._name = name
        self._complained = ""

    def open(self, time: datetime) -> BinaryIO:
        """Open the file for a time; it is made where it is missing."""
        day = self._folder / f"{time:%Y-%m-%d}"
        day.mkdir(parents=True, exist_ok=True)
        # Each line is one write to the end of the file, so that lines of several processes stay
        # whole. Opened for each: lines are few, and files on a network come and go
        return (day / f"{self._name}.log").open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            with self.open(datetime.fromtimestamp(record.created, UTC)) as file:
                file.write(line)
            self._complained = ""
        except OSError as error:
            text = f"no log in {self._folder}: {error.strerror or error}"
            if text != self._complained:
                self._complained = text
                sys.stderr.write(f"{text}\n")


def describe_failure(error: Exception, what: str, folder: object, option: str) -> str:
    """Return one line that says what failed, where, and what to do.

    Parameters
    ----------
    error
        What ended the work.
    what
        What the work was about, as ``run 006724``.
    folder
        Folder that was written to.
    option
        Option of the command that names that folder.
    """
    if isinstance(error, AmstraxError):
        return str(error)
    if isinstance(error, OSError):
        return f"{what}: {_describe_os_error(error, folder, option)}"
    text = " ".join(str(error).split()) or "no message"
    return (
        f"{what} failed with {type(error).__name__}: {text} (--debug shows where; please report it "
        "with that)"
    )


def _describe_os_error(error: OSError, folder: object, option: str) -> str:
    where = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left to write in {where}. Free some, or set another {option}, and start "
            "again: nothing incomplete has been left"
        )
    if error.errno == errno.EFBIG:
        return f"a file in {where} is too large for the limit set (ulimit -f)"
    return (
        f"{where}: {error.strerror or error}. If it cannot be written to, name another folder with "
        f"{option}"
    )
