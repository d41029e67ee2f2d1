"""Errors that amstrax raises itself: each says what was wrong, where, and what to do.

Every class is also one of Python's own kinds of error, so that code that catches, say,
``ValueError`` goes on working.
"""

import textwrap
from collections.abc import Iterable
from difflib import get_close_matches


class AmstraxError(Exception):
    """Base of all errors that are about the user's input or surroundings, not about a bug."""


class LiveDataNotFound(AmstraxError, FileNotFoundError):
    """There is no live data where the run is said to have it."""

    def __str__(self) -> str:
        return str(self.args[0])


class LiveDataCorrupted(AmstraxError, ValueError):
    """A live file or directory does not hold what redax writes."""


class LiveDataIncomplete(LiveDataCorrupted):
    """Live data of a run that has ended lacks a folder, a file, or the content of a file."""


class LiveDataTimeout(AmstraxError, TimeoutError):
    """The DAQ has written nothing new for too long, and has not ended the run."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownChannel(AmstraxError, ValueError):
    """Data of a channel that the channel map of the context does not name."""


class PulsesOverlap(AmstraxError, ValueError):
    """Two pulses of one channel overlap in time, or records are not sorted."""


class IndexOutOfBounds(AmstraxError, ValueError):
    """A row holds the number of a channel, record, sample or peak that does not exist."""


class InvalidRunDocument(AmstraxError, ValueError):
    """A run document lacks what is needed to read the run, or holds something odd there."""


class InvalidRegisters(InvalidRunDocument, TypeError):
    """Digitizer registers are no list of entries."""


class InvalidOption(AmstraxError, ValueError):
    """An option has a value that makes no sense."""


class UnsupportedStrax(AmstraxError, ImportError):
    """The installed strax lacks a hook that amstrax relies on."""


class RunNotFound(AmstraxError, LookupError):
    """No run document can be found for a run."""


class RunNotReady(AmstraxError, RuntimeError):
    """A run that is not to be processed now: it is being taken, or has the tag ``abandon``."""


class DataExists(AmstraxError, ValueError):
    """Stored raw data would be made again, and nobody has asked for that."""


class RunDatabaseError(AmstraxError):
    """Base of what can be wrong between here and the run database."""

    def __str__(self) -> str:
        return str(self.args[0])


class RunDatabaseNotSet(RunDatabaseError, ValueError):
    """A setting of the run database is missing, or makes no sense."""


class RunDatabaseUnreachable(RunDatabaseError, ConnectionError):
    """The run database cannot be reached, or did not answer in time; later it may."""


class RunDatabaseRefused(RunDatabaseError, PermissionError):
    """The run database, or the host of its tunnel, refuses a log-in or lacks a right."""


class UnknownDetector(AmstraxError, NameError):
    """There is no detector of that name."""


class HostKeyRefused(RunDatabaseError, ConnectionError):
    """The host of the tunnel is not known, or not the one that it was."""


class LocalDatabaseError(RunDatabaseError, RuntimeError):
    """The file of the embedded run database cannot be read or written, or is something else."""


class UnknownEngine(AmstraxError, ValueError):
    """There is no engine of that name to run jobs with."""


class EngineUnreachable(AmstraxError, ConnectionError):
    """The batch system does not answer; later it may."""

    def __str__(self) -> str:
        return str(self.args[0])


class JobRefused(AmstraxError, RuntimeError):
    """The batch system does not take a job."""


class CopyFailed(AmstraxError, OSError):
    """Live data could not be copied, or a copy could not be looked at."""

    def __str__(self) -> str:
        return str(self.args[0])


class DestinationUnusable(CopyFailed):
    """Nothing can be copied to a place for now: no way there, no right, no space."""


class CopyDiffers(CopyFailed, ValueError):
    """A copy is not what was copied."""


class CopyRefused(CopyFailed):
    """Something else than a copy of this run lies where its copy goes; it is not overwritten."""


class DeletionRefused(AmstraxError, RuntimeError):
    """Live data is not deleted, since it might be lost with that, or something else would be."""


class NotAvailable(AmstraxError, RuntimeError):
    """A part of amstrax that this installation or release does not have."""


class NoSuchDataType(AmstraxError, KeyError):
    """A context has no data type of the sort that is asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


class CorrectionError(AmstraxError):
    """Base of what can be wrong with corrections.

    Attributes
    ----------
    option
        Option that the correction is for; empty where that is not known.
    """

    option = ""

    def __str__(self) -> str:
        return str(self.args[0])


class CorrectionNotFound(CorrectionError, FileNotFoundError):
    """There is no correction file of that name where corrections are looked for."""


class InvalidCorrection(CorrectionError, ValueError):
    """A correction file, or the name of one, does not hold what it should."""


class RunNotCovered(CorrectionError, LookupError):
    """A correction file has no value, or no single one, for a run."""


class CorrectionsUnreachable(CorrectionError, ConnectionError):
    """Published corrections cannot be had, or not as they should be; later they may."""


class AlreadyAtWork(AmstraxError, RuntimeError):
    """Another process does the same work."""


class NoGain(AmstraxError, ValueError):
    """An LED run does not give the gain of a channel."""


class Stopped(AmstraxError):
    """The work was told to stop (SIGTERM, SIGINT or SIGHUP) before it was done."""


class CacheDamaged(AmstraxError, RuntimeError):
    """A file of numba's cache is damaged and cannot be removed, or no folder can hold a cache."""


class UsageError(AmstraxError, ValueError):
    """A command was given a wrong option; its exit status is 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the names in `known` that are most like `word`, as the end of a message."""
    known = sorted(set(known))
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    # The message is one line of at most 200 characters
    shown = textwrap.shorten(", ".join(known), 120, placeholder=" ...")
    return f"; there are {shown}"
