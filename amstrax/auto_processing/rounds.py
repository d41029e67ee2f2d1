"""Work that is done once, or again and again until it is told to end."""

import argparse
import logging
import time
from collections.abc import Callable

from amstrax.exceptions import AmstraxError, Stopped
from amstrax.rundb.leases import Stop

#: After a round that failed the next one waits, longer each time, up to this [s]
LONGEST_WAIT = 600.0
#: A run that failed rests for so long, and twice as long each further time, up to a day [s]
FIRST_REST, LONGEST_REST = 60.0, 86400.0


class Rests:
    """Which runs have failed a short while ago, and are left alone for now."""

    def __init__(self) -> None:
        self._rests: dict[str, tuple[float, float]] = {}

    def note(self, run_id: str, failed: bool) -> None:
        """Take note that a run has failed, or that all went well."""
        if not failed:
            self._rests.pop(run_id, None)
            return
        _, last = self._rests.get(run_id, (0.0, FIRST_REST / 2))
        rest = min(2 * last, LONGEST_REST)
        self._rests[run_id] = (time.monotonic() + rest, rest)

    def names(self) -> frozenset[str]:
        """Return the names of runs that rest."""
        now = time.monotonic()
        return frozenset(name for name, (until, _) in list(self._rests.items()) if until > now)


def describe(error: Exception) -> str:
    """Return an error as one line; one that nobody foresaw with its type."""
    is_known = isinstance(error, (AmstraxError, OSError))
    return " ".join(str(error).split()) if is_known else repr(error)


def repeat(
    one_round: Callable[[], None], args: argparse.Namespace, stop: Stop, logger: logging.Logger
) -> None:
    """Do a round of work; with ``args.loop`` again after ``args.pause`` seconds, until told to end.

    In a loop, what goes wrong is logged when it begins and when it is over, and the next round
    tries again.

    Parameters
    ----------
    one_round
        Does it.
    args
        As from `arguments.add_rounds`.
    stop
        Ends the loop, and the round.
    logger
        The command's.
    """
    if not args.loop:
        one_round()
        stop.check()
        return
    trouble, wait = "", args.pause
    while not stop.event.is_set():
        try:
            one_round()
            if trouble:
                logger.info("that is over: going on")
            trouble, wait = "", args.pause
        except Stopped:
            break
        except Exception as error:
            known = isinstance(error, (AmstraxError, OSError))
            text = describe(error)
            if text != trouble:
                logger.error("%s; trying again", text, exc_info=None if known else error)
            trouble, wait = text, min(2 * wait, max(LONGEST_WAIT, args.pause))
        stop.event.wait(wait)
    logger.info("ended by %s: %s", stop.reason or "another part", stop.remark)
