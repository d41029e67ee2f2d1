"""What all engines have in common: jobs, their states, and the scripts that they run."""

import os
import re
import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from amstrax import strict_json
from amstrax.exceptions import InvalidOption, JobRefused, UnknownEngine, did_you_mean

#: Name of each engine -> the module below this package, and the class in it
ENGINES = MappingProxyType(
    {
        "local": "local:LocalEngine",
        "htcondor": "htcondor:HTCondorEngine",
        "slurm": "slurm:SlurmEngine",
    }
)

#: States of a job. ``held``: the batch system keeps it, and will not start it by itself; ``gone``:
#: the batch system knows nothing of it (any more); ``unknown``: it is on another machine, which
#: cannot be asked from this one
PENDING, RUNNING, DONE, FAILED, HELD, GONE, UNKNOWN = (
    "pending",
    "running",
    "done",
    "failed",
    "held",
    "gone",
    "unknown",
)

_SAFE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+]*")


class JobState(NamedTuple):
    """State of a job.

    Attributes
    ----------
    state
        ``pending``, ``running``, ``done``, ``failed``, ``held``, ``gone`` or ``unknown``.
    exit_code
        Of a job that has ended by itself; None for others.
    reason
        Why it pends, is held or has failed, in words that a person understands; may be empty.
    """

    state: str
    exit_code: int | None = None
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs, or will."""
        return self.state in (PENDING, RUNNING)


@dataclass(frozen=True)
class Job:
    """A job as it is submitted.

    Attributes
    ----------
    run_id, targets, context, detector
        What it processes, by which it is known.
    script
        File that it runs, as of `write_script`.
    log
        File for what it says; its folder must exist.
    memory
        What it needs [MB].
    queue
        Queue, partition or category of the batch system; None for its default.
    """

    run_id: str
    targets: tuple[str, ...]
    context: str
    detector: str
    script: Path
    log: Path
    memory: int
    queue: str | None = None

    @property
    def name(self) -> str:
        """Name that the batch system knows it by."""
        return job_name(self.run_id, self.targets, self.context, self.detector)


class KnownJob(NamedTuple):
    """A job that an engine knows: its id there, its name and its state."""

    job_id: str
    name: str
    state: JobState


class Engine(ABC):
    """A batch system, or what takes its place.

    Every method raises `amstrax.exceptions.EngineUnreachable` when the batch system does not
    answer: nothing is known of its jobs then, and later it may. Making an engine raises
    `amstrax.exceptions.NotAvailable` where the batch system is not installed.
    """

    #: By which `get` finds it
    name: str

    @abstractmethod
    def submit(self, job: Job) -> str:
        """Submit a job and return its id; it outlives this process.

        Raises
        ------
        JobRefused
            When the batch system does not take it: unknown queue, too much memory, ...
        """

    @abstractmethod
    def describe(self, job: Job) -> str:
        """Return exactly what `submit` would do, for a person; nothing is submitted."""

    @abstractmethod
    def jobs(self) -> list[KnownJob]:
        """Return this user's amstrax jobs that run, pend or are held, oldest first."""

    @abstractmethod
    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job, ended ones too, with few questions to the batch system."""

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """End a job, or take it from the queue; nothing happens when it has ended already."""

    def state(self, job_id: str) -> JobState:
        """Return the state of one job."""
        return self.states([job_id])[job_id]

    def find(self, name: str) -> list[KnownJob]:
        """Return the jobs of a name that run, pend or are held, oldest first."""
        return [job for job in self.jobs() if job.name == name]


def get(name: str) -> Engine:
    """Return the engine of a name: ``local``, ``htcondor`` or ``slurm``.

    Raises
    ------
    UnknownEngine
        When there is no such engine.
    NotAvailable
        When it is not installed here.
    """
    if name not in ENGINES:
        raise UnknownEngine(f"no engine {name!r}{did_you_mean(name, ENGINES)}")
    module, _, class_name = ENGINES[name].partition(":")
    return getattr(import_module(f"{__package__}.{module}"), class_name)()


#: What every name of ours begins with
PREFIX = "amstrax-"


def job_name(run_id: str, targets: Sequence[str], context: str, detector: str) -> str:
    """Return the name of the job for this work: the same for everyone who would submit it.

    Raises
    ------
    InvalidOption
        When a part has characters that a batch system may take for something else.
    """
    for part in (run_id, *targets, context, detector):
        if not _SAFE.fullmatch(part):
            raise InvalidOption(
                f"{part!r} cannot be part of a job's name: letters, digits, _ . + are allowed"
            )
    return f"{PREFIX}{detector}-{run_id}-{context}-{'+'.join(targets)}"


def check_files(job: Job) -> None:
    """Make sure that a job can start: not all batch systems look, or say so where it is seen.

    Raises
    ------
    JobRefused
        When its script, or the folder for its log, is not there.
    """
    if not os.access(job.script, os.X_OK):
        raise JobRefused(f"the script {job.script} is not there, or cannot be executed")
    if not os.access(job.log.parent, os.W_OK | os.X_OK):
        raise JobRefused(f"the folder {job.log.parent}, for the log of a job, cannot be written to")


def write_script(path: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Write the script of a job: it runs one command, and takes its place.

    Parameters
    ----------
    path
        File to write; one that is there is replaced, at once.
    command
        Program and arguments.
    environment
        Variables to set before; no secrets, since others may read the file.
    """
    strict_json.write_text(path, script_text(command, environment), mode=0o755)


def script_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return what `write_script` writes."""
    lines = ["#!/bin/bash"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines.append(f"exec {shlex.join(command)}")
    return "\n".join(lines) + "\n"


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
