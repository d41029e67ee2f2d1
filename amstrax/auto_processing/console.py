"""Log lines of commands in a terminal or a job; importing this costs nothing."""

import logging
import sys
import time

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
    for name in ("numba", "matplotlib", "pymongo", "paramiko"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.CRITICAL + 1)
