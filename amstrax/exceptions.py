"""Errors of amstrax. Messages name value, place and remedy.

Most classes also derive from a built-in exception, so code that catches ``ValueError`` works.
"""

import textwrap
from collections.abc import Iterable
from difflib import get_close_matches


class AmstraxError(Exception):
    """Base of all errors due to user input or the environment, not to a bug."""

    def __str__(self) -> str:
        # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class LiveDataNotFound(AmstraxError, FileNotFoundError):
    """The live data of a run does not exist."""


class LiveDataCorrupted(AmstraxError, ValueError):
    """A live file or directory is not as redax writes it."""


class LiveDataIncomplete(LiveDataCorrupted):
    """Live data of an ended run lacks a folder, a file, or the content of a file."""


class LiveDataTimeout(AmstraxError, TimeoutError):
    """The DAQ has written nothing new within the timeout, and has not ended the run."""


class UnknownChannel(AmstraxError, ValueError):
    """Data of a channel that is not in the channel map of the context."""


class PulsesOverlap(AmstraxError, ValueError):
    """Two pulses of one channel overlap in time, or records are not sorted."""


class IndexOutOfBounds(AmstraxError, ValueError):
    """A row refers to a channel, record, sample or peak that does not exist."""


class InvalidRunDocument(AmstraxError, ValueError):
    """A run document lacks a field that is needed, or has an invalid value in it."""


class InvalidRegisters(InvalidRunDocument, TypeError):
    """Digitizer registers are not a list of entries."""


class InvalidOption(AmstraxError, ValueError):
    """An option or setting has an invalid value."""


class UnsupportedStrax(AmstraxError, ImportError):
    """The installed strax lacks a hook that amstrax relies on."""


class RunNotFound(AmstraxError, LookupError):
    """A run has no run document."""


class RunNotReady(AmstraxError, RuntimeError):
    """A run must not be processed now: it is being taken, or has the tag ``abandon``."""


class Postponed(AmstraxError, RuntimeError):
    """A run has to wait, for live data or another process, while other runs need not."""


class DataExists(AmstraxError, ValueError):
    """Raw data is stored already, and would be made again without being asked for."""


class RunDatabaseError(AmstraxError):
    """Base of errors of the run database."""


class RunDatabaseNotSet(RunDatabaseError, ValueError):
    """A setting of the run database is missing or invalid."""


class RunDatabaseUnreachable(RunDatabaseError, ConnectionError):
    """The run database cannot be reached, or did not answer in time; a retry may help."""


class RunDatabaseRefused(RunDatabaseError, PermissionError):
    """The run database, or the host of its tunnel, refuses a log-in or an operation."""


class UnknownDetector(AmstraxError, NameError):
    """The detector does not exist."""


class HostKeyRefused(RunDatabaseError, ConnectionError):
    """The host key of the tunnel is unknown or has changed."""


class LocalDatabaseError(RunDatabaseError, RuntimeError):
    """The file of the embedded run database cannot be read or written, or is another file."""


class UnknownEngine(AmstraxError, ValueError):
    """The engine for jobs does not exist."""


class EngineUnreachable(AmstraxError, ConnectionError):
    """The batch system does not answer; a retry may help."""


class JobRefused(AmstraxError, RuntimeError):
    """The batch system rejects a job."""


class CopyFailed(AmstraxError, OSError):
    """Live data could not be copied, or a copy could not be checked."""


class DestinationUnusable(CopyFailed):
    """A destination of copies is unusable for now: no connection, permission or space."""


class CopyDiffers(CopyFailed, ValueError):
    """A copy differs from the original."""


class CopyRefused(CopyFailed):
    """The destination of a copy holds other data, which is not overwritten."""


class DeletionRefused(AmstraxError, RuntimeError):
    """Live data is not deleted, since data might be lost."""


class NotAvailable(AmstraxError, RuntimeError):
    """A part of amstrax is not in this installation or release."""


class NoSuchDataType(AmstraxError, KeyError):
    """A context does not make a data type."""


class UnknownColumn(InvalidOption, KeyError):
    """Data has no column of a name."""


class InvalidSelection(InvalidOption, SyntaxError, TypeError, IndexError):
    """A selection is not an expression of columns that is true or false."""


class InvalidRunId(AmstraxError, ValueError, TypeError, IndexError):
    """A run id is not text, or none is given."""


class UnknownArgument(AmstraxError, TypeError):
    """A function, or a context, has no argument of a name."""


class UnknownMethod(AmstraxError, AttributeError):
    """A context has no method or attribute of a name."""


class CorrectionError(AmstraxError):
    """Base of errors of corrections."""

    #: Option that the correction is for; empty if unknown
    option = ""


class CorrectionNotFound(CorrectionError, FileNotFoundError):
    """A correction file does not exist."""


class InvalidCorrection(CorrectionError, ValueError):
    """A correction file, or its name, is invalid."""


class RunNotCovered(CorrectionError, LookupError):
    """A correction file has no value, or no single one, for a run."""


class CorrectionsUnreachable(CorrectionError, ConnectionError):
    """Published corrections cannot be fetched; a retry may help."""


class AlreadyAtWork(AmstraxError, RuntimeError):
    """Another process does the same work."""


class NoResult(AmstraxError, ValueError):
    """Data does not determine what a calibration looks for."""


class NoGain(NoResult):
    """An LED run does not determine the gain of a channel."""


class Stopped(AmstraxError):
    """Work was stopped by SIGTERM, SIGINT or SIGHUP."""


class CacheDamaged(AmstraxError, RuntimeError):
    """A file of numba's cache is damaged and cannot be removed, or no folder is writable."""


class UsageError(AmstraxError, ValueError):
    """A command has an invalid option; its exit status is 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the members of `known` most similar to `word`."""
    known = sorted(set(known))
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    # The message is one line of at most 200 characters
    shown = textwrap.shorten(", ".join(known), 120, placeholder=" ...")
    return f"; there are {shown}"
