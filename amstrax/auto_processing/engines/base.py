"""Interface of all engines: jobs, their states, and their scripts."""

import contextlib
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

#: Name of each engine, of its module in this package -> class in that module
ENGINES = MappingProxyType(
    {"local": "LocalEngine", "htcondor": "HTCondorEngine", "slurm": "SlurmEngine"}
)

#: States of a job. ``held``: the batch system keeps it, and will not start it by itself; ``gone``:
#: the batch system does not know it (any more); ``unknown``: it is on another machine, which cannot
#: be queried from this one
PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"
HELD, GONE, UNKNOWN = "held", "gone", "unknown"

#: Prefix of the names of all jobs
PREFIX = "amstrax-"
_SAFE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+]*")

#: Signals -> their most likely cause
_CAUSES: dict[int, str] = {
    signal.SIGKILL: "often for lack of memory",
    signal.SIGTERM: "by a user or the batch system",
    signal.SIGSEGV: "a bug in compiled code",
    signal.SIGBUS: "a bug in compiled code, or a disk that is full",
    signal.SIGXCPU: "it exceeded its limit of CPU time",
}


class JobState(NamedTuple):
    """State of a job, such as ``running``.

    `exit_code` is that of a job that has ended by itself, `reason` why it is pending, is held or
    has failed, for the user.
    """

    state: str
    exit_code: int | None = None
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs or is pending."""
        return self.state in (PENDING, RUNNING)


@dataclass(frozen=True)
class Job:
    """A job as it is submitted."""

    run_id: str
    targets: tuple[str, ...]
    context: str
    detector: str
    #: Script, as of `write_script`, and log file, whose folder must exist
    script: Path
    log: Path
    #: Memory that it may use [MB]
    memory: int
    #: Queue, partition or category of the batch system; None for its default
    queue: str | None = None
    #: Number of runs that it processes; with more than one, `run_id` is a label of the group
    n_runs: int = 1
    #: Number in a job array, which ends `run_id`; jobs of an array differ in it, and in the script
    index: int | None = None

    @property
    def name(self) -> str:
        """Name of the job in the batch system."""
        return job_name(self.run_id, self.targets, self.context, self.detector)

    def in_array(self, text: str, number: str = "%a") -> str:
        """Return `text` with another number for the index: name or path for the whole array."""
        return text.replace(self.run_id, f"{self.run_id.rpartition('.')[0]}.{number}")


class KnownJob(NamedTuple):
    """A job that an engine knows: its id there, its name and its state."""

    job_id: str
    name: str
    state: JobState


class Engine(ABC):
    """A batch system, or a replacement for one.

    Every method raises `amstrax.exceptions.EngineUnreachable` when the batch system does not
    answer; a later call may succeed. Making an engine raises
    `amstrax.exceptions.NotAvailable` where the batch system is not installed.
    """

    #: Key in `ENGINES`
    name: str

    @abstractmethod
    def submit(self, job: Job) -> str:
        """Submit a job and return its id; it outlives this process.

        After EngineUnreachable, `find` tells whether the batch system has the job. Raises
        JobRefused when it refuses the job: unknown queue, too much memory, no script, no folder
        for the log, ...
        """

    def submit_many(self, jobs: Sequence[Job]) -> list[str | JobRefused]:
        """Submit jobs in as few calls as possible; return the id or the refusal of each.

        Jobs with an index are submitted as arrays. After EngineUnreachable, `find` tells which of
        the jobs the batch system has.
        """
        arrays: dict[tuple, list[Job]] = {}
        for job in jobs:
            if job.index is not None:
                with contextlib.suppress(JobRefused):
                    check_files(job)
                    name, log = job.in_array(job.name), job.in_array(str(job.log))
                    arrays.setdefault((name, log, job.memory, job.queue), []).append(job)
        answers: dict[Job, str | JobRefused] = {}
        for members in arrays.values():
            if len(members) > 1:
                answers |= self._submit_array(members)
        # Also those of a refused array, each with its own reason
        for job in jobs:
            try:
                answers[job] = answers.get(job) or self.submit(job)
            except JobRefused as error:
                answers[job] = error
        return [answers[job] for job in jobs]

    def _submit_array(self, jobs: Sequence[Job]) -> dict[Job, str]:
        """Submit a job array, and return the id of each of its jobs; none if it is refused."""
        return {}

    @abstractmethod
    def describe(self, job: Job) -> str:
        """Describe for the user what `submit` would do; nothing is submitted."""

    @abstractmethod
    def jobs(self) -> list[KnownJob]:
        """Return this user's amstrax jobs that run, pend or are held, oldest first."""

    @abstractmethod
    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job, ended ones too, with few queries to the batch system."""

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """End a job, or take it from the queue; do nothing if it has ended already."""

    def state(self, job_id: str) -> JobState:
        """Return the state of one job."""
        return self.states([job_id])[job_id]

    def find(self, name: str) -> list[KnownJob]:
        """Return the jobs of a name that run, pend or are held, oldest first."""
        return [job for job in self.jobs() if job.name == name]


def get(name: str) -> Engine:
    """Return the engine of a name: ``local``, ``htcondor`` or ``slurm``.

    Raises UnknownEngine for another name, NotAvailable when the engine is not installed.
    """
    if name not in ENGINES:
        raise UnknownEngine(f"no engine {name!r}{did_you_mean(name, ENGINES)}")
    return getattr(import_module(f"{__package__}.{name}"), ENGINES[name])()


def job_name(run_id: str, targets: Sequence[str], context: str, detector: str) -> str:
    """Return the name of the job for this work, the same whoever submits it.

    Raises InvalidOption when a part has characters with a meaning in a batch system.
    """
    for part in (run_id, *targets, context, detector):
        if not _SAFE.fullmatch(part):
            raise InvalidOption(
                f"{part!r} cannot be part of a job's name: letters, digits, _ . + are allowed"
            )
    return f"{PREFIX}{detector}-{run_id}-{context}-{'+'.join(targets)}"


def check_files(job: Job) -> None:
    """Check the script and the log folder of a job, since not all batch systems do.

    Raises JobRefused when one is missing or has wrong permissions.
    """
    if not os.access(job.script, os.X_OK):
        raise JobRefused(f"the script {job.script} is missing or not executable")
    if not os.access(job.log.parent, os.W_OK | os.X_OK):
        raise JobRefused(f"the log folder {job.log.parent} is missing or not writable")


def write_script(path: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Write the script of a job, which becomes one command; replace an existing one atomically.

    `environment` has variables to set before; no secrets, since others may read the file.
    """
    strict_json.write_text(path, script_text(command, environment), mode=0o755)


def script_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the text that `write_script` writes."""
    lines = ["#!/bin/bash"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines.append(f"exec {shlex.join(command)}")
    return "\n".join(lines) + "\n"


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
    cause = f": {_CAUSES[number]}" if number in _CAUSES else ""
    return JobState(FAILED, None, f"killed by signal {number} ({name}){cause}")
