"""How jobs end, in words that a person understands: the same ones for every engine."""

import signal

from amstrax.auto_processing.engines.base import DONE, FAILED, JobState

#: Signals -> what has most likely sent them
_SENDERS = {
    signal.SIGKILL: "often because memory was short",
    signal.SIGTERM: "somebody, or the batch system, told it to stop",
    signal.SIGSEGV: "a bug in compiled code",
    signal.SIGBUS: "a bug in compiled code, or a disk that is full",
    signal.SIGXCPU: "it used more CPU time than it may",
}


def exited(code: int) -> JobState:
    """Return the state of a job that has ended by itself with an exit code."""
    if code == 0:
        return JobState(DONE, 0)
    return JobState(FAILED, code, f"ended with exit code {code}: its log says why")


def killed(number: int) -> JobState:
    """Return the state of a job that a signal has ended."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    sender = _SENDERS.get(number)
    return JobState(
        FAILED, None, f"killed by signal {number} ({name})" + (f": {sender}" if sender else "")
    )
