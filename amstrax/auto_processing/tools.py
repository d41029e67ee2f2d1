"""What every command needs around its work: logging, signals, exit status. Imports nothing slow.

Commands that run strax do so within `amstrax.auto_processing.jobs.run_tool`.
"""

import argparse
import atexit
import contextlib
import functools
import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from amstrax import settings
from amstrax.auto_processing import console
from amstrax.exceptions import UsageError
from amstrax.rundb.leases import Stop


@contextlib.contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Set `stop` at SIGTERM, SIGINT or SIGHUP; a second SIGTERM or SIGINT acts as without this.

    SIGHUP only sets it: terminals send several, systemd one right after SIGTERM. It is ignored
    where whoever started this process said so, as nohup does.

    Does nothing outside the main thread, where signals cannot be handled. Log lines do not
    disturb progress bars within.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def restore(*numbers: int) -> None:
        for number in before.keys() & numbers:
            signal.signal(number, before.pop(number))

    def handle(number: int, _frame: Any) -> None:
        if number != signal.SIGHUP:
            restore(signal.SIGTERM, signal.SIGINT)
        if number != signal.SIGHUP or not stop.reason:
            stop.reason = signal.Signals(number).name
        stop.event.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handle)
    try:
        with logging_redirect_tqdm():
            yield
    finally:
        restore(*before)


@functools.cache
def _end_quickly() -> None:
    """Spare the process, at its end, a search for garbage: 0.3 s where strax is imported."""
    atexit.register(gc.freeze)


def run_tool(
    args: argparse.Namespace,
    logger: logging.Logger,
    work: Callable[[Stop], str | None],
    what: str,
    folder: object,
    option: str = "--output",
    log_name: str | None = None,
    around: Callable[[Stop], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> int:
    """Do the work of a command, and return its exit status: 0, 1 on failure, 2 on wrong use.

    What fails is one line in the log, with ``--debug`` more; signals set the `Stop` that the work
    is given.

    Parameters
    ----------
    args
        Options of the command, of which ``debug`` is used.
    logger
        The command's.
    work
        Does it, and returns what to print at the end, if anything.
    what, folder, option
        As of `console.describe_failure`.
    log_name
        Log into the file of this name in ``args.log_folder`` too, or the folder of the settings;
        see `console.log_to_folder`.
    around
        What the work is done within.
    """
    console.log_to_console(args.debug)
    _end_quickly()
    stop = Stop()
    try:
        if log_name is not None:
            log_folder = args.log_folder or settings.batch("AMSTRAX_LOG_FOLDER")
            console.log_to_folder(log_folder, log_name)
        with stop_on_signals(stop), around(stop):
            text = work(stop)
        if text is not None:
            print(text)
    except Exception as error:
        message = (
            stop.message() if stop.reason else console.describe_failure(error, what, folder, option)
        )
        logger.error("%s", message, exc_info=args.debug)
        return 2 if isinstance(error, UsageError) else 1
    return 0
