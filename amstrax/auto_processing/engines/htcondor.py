"""HTCondor, through its own Python bindings (htcondor2, of the package htcondor)."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amstrax import settings
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.base import Job, JobState, KnownJob
from amstrax.exceptions import EngineUnreachable, InvalidOption, JobRefused, NotAvailable
from amstrax.strict_json import one_line

#: Longest time that HTCondor may take for an answer [s]
TIMEOUT = 60

#: Attributes of a job's ad with its name and its submitter. HTCondor's own attributes for these are
#: of the account that the job runs as, which may be shared
_NAME, _USER = "AmstraxJob", "AmstraxUser"

#: Ids of jobs: the number of a cluster, for a job of an array also its number in the cluster, and
#: the name of the schedd that knows it
_ID = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?@[A-Za-z0-9_.@-]{1,255}")

#: Attributes from which the state of a job is read
_STATE = (
    *("JobStatus", "ExitBySignal", "ExitSignal", "ExitCode"),
    *("HoldReason", "RemoveReason", "LastRejMatchReason"),
)
#: HTCondor's numbers for states of jobs
_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD, _TRANSFERS, _SUSPENDED = range(1, 8)

#: Calls that HTCondor may refuse
_REFUSABLE = ("submit", "submit_array", "describe", "locate")
#: Errors of HTCondor when it is away or busy, which is no refusal
_AWAY = re.compile(
    r"connect|CEDAR|SECMAN|locate|time(d )?out|reasonable time|performing action|fetch ads"
    r"|authenticat|communicat|overloaded",
    re.IGNORECASE,
)


class HTCondorEngine(base.Engine):
    """Jobs run where HTCondor finds room for them; ``queue`` is a category of the lab's pool.

    The setting AMSTRAX_CONDOR_ATTRIBUTES gives attributes that the pool requires of jobs, as in
    ClassAds, with ``{queue}`` for the queue.
    """

    name = "htcondor"

    def __init__(self) -> None:
        if find_spec("htcondor2") is None:
            raise NotAvailable(
                "the engine htcondor is not available: its Python bindings are missing; "
                "pip install 'amstrax[htcondor]', or choose another --engine"
            )
        try:
            _call("locate")
        except (EngineUnreachable, _Refused) as error:
            raise NotAvailable(
                f"the engine htcondor is not available: {error}; use a machine that submits "
                "to HTCondor, set CONDOR_CONFIG to its configuration, or choose another --engine"
            ) from None

    def submit(self, job: Job) -> str:
        """Submit a job and return its id, ``CLUSTER@SCHEDD``.

        Raises InvalidOption when AMSTRAX_CONDOR_ATTRIBUTES is invalid for this job, other errors as
        `base.Engine.submit`.
        """
        base.check_files(job)
        try:
            return _call("submit", **_description(job))
        except _Refused as error:
            raise JobRefused(
                f"HTCondor refuses job {job.name} (queue {job.queue}, {job.memory} MB): {error}; "
                "see --queue, --mem and the setting AMSTRAX_CONDOR_ATTRIBUTES"
            ) from None

    def _submit_array(self, jobs: Sequence[Job]) -> dict[Job, str]:
        with contextlib.suppress(_Refused):
            return dict(zip(jobs, _call("submit_array", **_array(jobs)), strict=True))
        return {}

    def describe(self, job: Job) -> str:
        try:
            return _call("describe", **_description(job)).strip()
        except _Refused as error:
            raise JobRefused(
                f"no submit description of job {job.name}: {error}; "
                "see the setting AMSTRAX_CONDOR_ATTRIBUTES"
            ) from None

    def jobs(self) -> list[KnownJob]:
        """Return the jobs that were submitted on this machine, as `base.Engine.jobs`."""
        prefix = base.PREFIX
        ours = f'{_USER} == "{_user()}" && substr({_NAME}, 0, {len(prefix)}) == "{prefix}"'
        ads = _call("jobs", constraint=ours, names=[_NAME, *_STATE])
        ads.sort(key=lambda ad: [int(number) for number in ad["number"].split(".")])
        known = [KnownJob(ad["id"], ad[_NAME], _state(ad)) for ad in ads]
        return [job for job in known if job.state.alive or job.state.state == base.HELD]

    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job, with at most two queries to each schedd.

        The jobs of another machine's schedd are unknown while it cannot be reached.
        """
        gone = JobState(base.GONE, None, "HTCondor knows no such job")
        states = dict.fromkeys(job_ids, gone)
        clusters: dict[str, set[str]] = {}
        for job_id in filter(_ID.fullmatch, states):
            number, schedd = _number(job_id)
            clusters.setdefault(schedd, set()).add(number)
        for schedd, numbers in clusters.items():
            try:
                ads = _call("jobs", constraint=_any_of(numbers), names=_STATE, schedd=schedd)
                rest = numbers - {ad["number"] for ad in ads}
                if rest:
                    question = {"constraint": _any_of(rest), "most": len(rest), "schedd": schedd}
                    ads += _call("history", names=_STATE, **question)
            except EngineUnreachable as error:
                if schedd == _call("locate"):
                    raise
                away = JobState(base.UNKNOWN, None, str(error))
                states |= {i: away for i in states if _ID.fullmatch(i) and _number(i)[1] == schedd}
            else:
                states |= {ad["id"]: _state(ad) for ad in ads}
        return states

    def cancel(self, job_id: str) -> None:
        if _ID.fullmatch(job_id):
            number, schedd = _number(job_id)
            _call("remove", constraint=_any_of([number]), schedd=schedd)


def _description(job: Job) -> dict[str, Any]:
    """Return the arguments of `condor_calls.submit` for a job.

    They have nothing of this process's environment (no getenv), since all users can read ads.
    """
    log = job.log.absolute()
    plain = {
        "executable": str(job.script.absolute()),
        "output": str(log),
        "error": str(log),
        # Log of HTCondor itself
        "log": f"{log}.condor",
        "initialdir": str(Path.cwd()),
        "request_cpus": "1",
        "request_memory": str(job.memory),
        # The machines share file systems
        "should_transfer_files": "NO",
        "notification": "never",
        "batch_name": job.name,
    }
    odd = next((text for text in plain.values() if not text.isprintable()), None)
    if odd is not None:
        raise InvalidOption(f"{odd!r} cannot be given to HTCondor: it has unprintable characters")
    strings = {_NAME: job.name, _USER: _user()}
    return {"plain": plain, "strings": strings, "attributes": _attributes(job.queue)}


def _array(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the arguments of `condor_calls.submit_array` for jobs that differ as in an array."""
    of_all = _description(jobs[0])
    items = []
    for job in jobs:
        own = _description(job)
        lines = {name: own["plain"][name] for name in ("executable", "output", "error", "log")}
        items.append(lines | {f"My.{_NAME}": job.name})
    of_all["plain"]["batch_name"] = jobs[0].in_array(jobs[0].name, "all")
    attributes = ";".join(filter(None, ["AmstraxArray = true", of_all["attributes"]]))
    return of_all | {"attributes": attributes, "items": items}


def _attributes(queue: str | None) -> str:
    """Return the attributes that the pool requires; without a queue, those without ``{queue}``."""
    text = settings.get("AMSTRAX_CONDOR_ATTRIBUTES") or ""
    if queue is None:
        return ";".join(part for part in text.split(";") if "{queue}" not in part)
    if not re.fullmatch(r"[A-Za-z0-9_.+-]+", queue):
        raise InvalidOption(f"the queue {queue!r} is no name: letters, digits, _ . + - are allowed")
    return text.replace("{queue}", queue)


def _user() -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", settings.login_name())


def _number(job_id: str) -> tuple[str, str]:
    """Return the number of a job with that in its cluster (``12.0``), and its schedd."""
    number, _, schedd = job_id.partition("@")
    return number if "." in number else f"{number}.0", schedd


def _any_of(numbers: Iterable[str]) -> str:
    """Return the constraint that a job is one with these numbers."""
    texts = ", ".join(f'"{number}"' for number in sorted(numbers))
    return f'member(strcat(ClusterId, ".", ProcId), {{{texts}}})'


def _state(ad: dict[str, Any]) -> JobState:
    status = ad["JobStatus"]
    if status == _HELD:
        why = one_line(ad["HoldReason"] or "HTCondor gives no reason")
        return JobState(base.HELD, None, f"held: {why}")
    if status == _IDLE:
        why = ad["LastRejMatchReason"]
        text = f"waits for a machine ({one_line(why)} so far)" if why else "waits for a machine"
        return JobState(base.PENDING, None, text)
    if status in (_RUNNING, _TRANSFERS, _SUSPENDED):
        return JobState(base.RUNNING, None, "suspended" if status == _SUSPENDED else "")
    if status == _REMOVED:
        why = ad["RemoveReason"]
        return JobState(base.FAILED, None, f"cancelled ({one_line(why)})" if why else "cancelled")
    # An ad with a signal may also have an exit code of 0
    if ad["ExitBySignal"]:
        return base.killed(int(ad["ExitSignal"] or 0))
    if ad["ExitCode"] is None:
        return JobState(base.FAILED, None, "ended, with an exit status that HTCondor does not know")
    return base.exited(int(ad["ExitCode"]))


class _Refused(Exception):
    """HTCondor refuses a call."""


def _call(name: str, **arguments: Any) -> Any:
    """Call a function of condor_calls.py in a separate process."""
    program = Path(__file__).with_name("condor_calls.py")
    try:
        done = subprocess.run(
            # -P, since the folder of the program has another module htcondor
            [sys.executable, "-P", str(program)],
            input=json.dumps([name, arguments]),
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
        said = one_line(done.stderr) or f"exit code {done.returncode}"
        raise EngineUnreachable(f"HTCondor's bindings failed: {said[:500]}") from None
    if "error" not in answer:
        return answer["result"]
    if name in _REFUSABLE and not _AWAY.search(answer["error"]):
        raise _Refused(answer["error"])
    raise EngineUnreachable(f"HTCondor does not answer: {answer['error']}")
