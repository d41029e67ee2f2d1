"""HTCondor, through its own Python bindings (htcondor2, of the package htcondor)."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amstrax import settings
from amstrax.auto_processing.engines.base import (
    FAILED,
    GONE,
    HELD,
    PENDING,
    PREFIX,
    RUNNING,
    UNKNOWN,
    Engine,
    Job,
    JobState,
    KnownJob,
    check_files,
    exited,
    killed,
)
from amstrax.exceptions import EngineUnreachable, InvalidOption, JobRefused, NotAvailable

#: Longest time that HTCondor may take for an answer [s]
TIMEOUT = 60

#: Attributes of a job's ad by which its name and who submitted it are known: HTCondor's own names
#: for these are of the account that the job runs as, and its queue may be shared
_NAME, _USER = "AmstraxJob", "AmstraxUser"

#: Ids of jobs: the number of a cluster, and the name of the schedd that knows it
_ID = re.compile(r"[0-9]{1,9}@[A-Za-z0-9_.@-]{1,255}")

#: Attributes from which the state of a job is read
_STATE = (
    *("ClusterId", "JobStatus", "ExitBySignal", "ExitSignal", "ExitCode"),
    *("HoldReason", "RemoveReason", "LastRejMatchReason"),
)
#: HTCondor's numbers for states of jobs
_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD, _TRANSFERS, _SUSPENDED = range(1, 8)

#: Calls that it may refuse
_REFUSABLE = ("submit", "describe", "locate")
#: What HTCondor says when it is away, or busy, rather than against what is asked of it
_AWAY = re.compile(
    r"connect|CEDAR|SECMAN|locate|time(d )?out|reasonable time|performing action|fetch ads"
    r"|authenticat|communicat|overloaded",
    re.IGNORECASE,
)


class HTCondorEngine(Engine):
    """Jobs run where HTCondor finds room for them; ``queue`` is a category of the lab's pool.

    The setting AMSTRAX_CONDOR_ATTRIBUTES gives attributes that the pool wants its jobs to have, as
    in ClassAds, with ``{queue}`` for the queue.

    Raises
    ------
    NotAvailable
        When the bindings, or HTCondor's configuration, are not here.
    """

    name = "htcondor"

    def __init__(self) -> None:
        if find_spec("htcondor2") is None:
            raise NotAvailable(
                "the engine htcondor cannot be used here: its Python bindings are missing; "
                "pip install 'amstrax[htcondor]', or choose another --engine"
            )
        try:
            _call("locate")
        except (EngineUnreachable, _Refused) as error:
            raise NotAvailable(
                f"the engine htcondor cannot be used here: {error}; go to a machine that submits "
                "to HTCondor, set CONDOR_CONFIG to its configuration, or choose another --engine"
            ) from None

    def submit(self, job: Job) -> str:
        """Submit a job and return its id, ``CLUSTER@SCHEDD``; it outlives this process.

        Raises
        ------
        JobRefused
            When HTCondor does not take it (attributes that the pool does not have, ...), or its
            script or the folder for its log is not there.
        EngineUnreachable
            When HTCondor does not answer; whether it has the job is open then, and `find` tells.
        InvalidOption
            When AMSTRAX_CONDOR_ATTRIBUTES cannot be used for this job.
        """
        check_files(job)
        try:
            return _call("submit", **_description(job))
        except _Refused as error:
            raise JobRefused(
                f"HTCondor refuses job {job.name} (queue {job.queue}, {job.memory} MB): {error}; "
                "see --queue, --mem and the setting AMSTRAX_CONDOR_ATTRIBUTES"
            ) from None

    def describe(self, job: Job) -> str:
        """Return exactly what `submit` would do, for a person; nothing is submitted."""
        try:
            return _call("describe", **_description(job)).strip()
        except _Refused as error:
            raise JobRefused(
                f"no submit description of job {job.name}: {error}; "
                "see the setting AMSTRAX_CONDOR_ATTRIBUTES"
            ) from None

    def jobs(self) -> list[KnownJob]:
        """Return this user's amstrax jobs that run, pend or are held, oldest first.

        These are the ones that were submitted on this machine.
        """
        ours = f'{_USER} == "{_user()}" && substr({_NAME}, 0, {len(PREFIX)}) == "{PREFIX}"'
        ads = _call("jobs", constraint=ours, names=[_NAME, *_STATE])
        ads.sort(key=lambda ad: ad["ClusterId"])
        known = [KnownJob(ad["id"], ad[_NAME], _state(ad)) for ad in ads]
        return [job for job in known if job.state.alive or job.state.state == HELD]

    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job, ended ones too.

        That is at most two questions to each schedd that has taken one of them. One of another
        machine may be away, or taken out of the pool: its jobs are unknown then.
        """
        states = {job_id: JobState(GONE, None, "HTCondor knows no such job") for job_id in job_ids}
        clusters: dict[str, set[str]] = {}
        for job_id in filter(_ID.fullmatch, states):
            cluster, _, schedd = job_id.partition("@")
            clusters.setdefault(schedd, set()).add(cluster)
        for schedd, numbers in clusters.items():
            try:
                ads = _call("jobs", constraint=_any_of(numbers), names=_STATE, schedd=schedd)
                rest = numbers - {str(ad["ClusterId"]) for ad in ads}
                if rest:
                    question = {"constraint": _any_of(rest), "most": len(rest), "schedd": schedd}
                    ads += _call("history", names=_STATE, **question)
            except EngineUnreachable as error:
                if schedd == _call("locate"):
                    raise
                away = JobState(UNKNOWN, None, str(error))
                states |= {f"{number}@{schedd}": away for number in numbers}
            else:
                states |= {ad["id"]: _state(ad) for ad in ads}
        return states

    def cancel(self, job_id: str) -> None:
        """End a job, or take it from the queue; nothing happens when it has ended already."""
        if _ID.fullmatch(job_id):
            cluster, _, schedd = job_id.partition("@")
            _call("remove", constraint=_any_of([cluster]), schedd=schedd)


def _description(job: Job) -> dict[str, Any]:
    """Return the arguments of `condor_calls.submit` for a job.

    Nothing of this process's environment is in it (no getenv): an ad is there for all to read.
    """
    log = job.log.absolute()
    plain = {
        "executable": str(job.script.absolute()),
        "output": str(log),
        "error": str(log),
        # What HTCondor itself has to say of the job
        "log": f"{log}.condor",
        "initialdir": str(Path.cwd()),
        "request_cpus": "1",
        "request_memory": str(job.memory),
        # All is on file systems that the machines share
        "should_transfer_files": "NO",
        "notification": "never",
        "batch_name": job.name,
    }
    odd = next((text for text in plain.values() if not text.isprintable()), None)
    if odd is not None:
        raise InvalidOption(f"{odd!r} cannot be given to HTCondor: it has unprintable characters")
    strings = {_NAME: job.name, _USER: _user()}
    return {"plain": plain, "strings": strings, "attributes": _attributes(job.queue)}


def _attributes(queue: str | None) -> str:
    """Return the attributes that the pool wants, for a queue."""
    setting = "AMSTRAX_CONDOR_ATTRIBUTES"
    text = settings.get(setting, settings.BATCH[setting][1]) or ""
    if queue is None and "{queue}" in text:
        # As parts of it, a value that is not there
        parts = [part for part in text.split(";") if "{queue}" not in part]
        return ";".join(parts)
    if queue is not None and not re.fullmatch(r"[A-Za-z0-9_.+-]+", queue):
        raise InvalidOption(f"the queue {queue!r} is no name: letters, digits, _ . + - are allowed")
    return text.replace("{queue}", queue or "")


def _user() -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", settings.login_name())


def _any_of(numbers: Iterable[str]) -> str:
    """Return the constraint that a job is one of these clusters."""
    return f"member(ClusterId, {{{', '.join(sorted(numbers))}}})"


def _state(ad: dict[str, Any]) -> JobState:
    """Return the state that a job's ad tells of."""
    status = ad["JobStatus"]
    if status == _HELD:
        return JobState(HELD, None, f"held: {_line(ad['HoldReason'] or 'HTCondor says not why')}")
    if status == _IDLE:
        why = ad["LastRejMatchReason"]
        text = f"waits for a machine ({_line(why)} so far)" if why else "waits for a machine"
        return JobState(PENDING, None, text)
    if status in (_RUNNING, _TRANSFERS, _SUSPENDED):
        return JobState(RUNNING, None, "suspended" if status == _SUSPENDED else "")
    if status == _REMOVED:
        why = ad["RemoveReason"]
        return JobState(FAILED, None, f"cancelled ({_line(why)})" if why else "cancelled")
    # An exit code of 0 may stand beside a signal
    if ad["ExitBySignal"]:
        return killed(int(ad["ExitSignal"] or 0))
    if ad["ExitCode"] is None:
        return JobState(FAILED, None, "ended, and HTCondor does not know how")
    return exited(int(ad["ExitCode"]))


def _line(text: str) -> str:
    return " ".join(str(text).split())


class _Refused(Exception):
    """HTCondor's words against what was asked of it."""


def _call(name: str, **arguments: Any) -> Any:
    """Call a function of condor_calls.py in a process of its own."""
    program = Path(__file__).with_name("condor_calls.py")
    request = json.dumps([name, arguments])
    # Its folder is not to be searched for modules: there is another htcondor there
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(program)],
            input=request,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise EngineUnreachable(f"HTCondor has not answered in {TIMEOUT} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = _line(done.stderr) or f"exit code {done.returncode}"
        raise EngineUnreachable(f"HTCondor's bindings failed: {said[:500]}") from None
    if "error" not in answer:
        return answer["result"]
    if name in _REFUSABLE and not _AWAY.search(answer["error"]):
        raise _Refused(answer["error"])
    raise EngineUnreachable(f"HTCondor does not answer: {answer['error']}")
