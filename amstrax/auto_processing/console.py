"""What commands say in a terminal or a job: log lines, failures; importing this costs nothing."""

import errno
import logging
import sys
import time

from amstrax.exceptions import AmstraxError

#: Loggers of strax that repeat, at length, what is reported here in one line
_NOISY_LOGGERS = ("strax", "ThreadedMailboxProcessor", "SingleThreadProcessor")


def log_to_console(debug: bool) -> None:
    """Log lines with UTC times to the error stream; strax's own only with `debug`."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)sZ %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for name in ("numba", "numexpr", "matplotlib", "pymongo", "paramiko"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.CRITICAL + 1)


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
