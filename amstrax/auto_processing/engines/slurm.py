"""Slurm, through its commands: sbatch, squeue, scontrol, sacct and scancel.

Its bindings and wrappers cannot tell on every site how a job has ended. Statements about Slurm's
behaviour hold for 22.05.
"""

import contextlib
import logging
import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.base import Job, JobState, KnownJob
from amstrax.exceptions import EngineUnreachable, JobRefused, NotAvailable

log = logging.getLogger(__name__)

#: Longest time that one of Slurm's commands may take [s]; they give up by themselves long before
TIMEOUT = 60

#: Environment variables of Slurm's commands. sbatch hands them on to the job and Slurm's files, so
#: that others, which may hold secrets, are left out
_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"),
    *("SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_CONSTRAINT"),
    "SBATCH_RESERVATION",
)

#: Columns of squeue, each with a width that truncates nothing
_COLUMNS = {"jobarrayid": 40, "state": 40, "name": 1100, "reason": 400}

#: States of Slurm -> state of a job that has not ended
_ALIVE = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"), base.PENDING),
    **dict.fromkeys(("RESV_DEL_HOLD", "REQUEUE_HOLD", "SPECIAL_EXIT"), base.HELD),
    **dict.fromkeys(("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT"), base.RUNNING),
    **dict.fromkeys(("STOPPED", "SUSPENDED"), base.RUNNING),
}
#: Reasons for which a pending job will not start by itself -> message
_HELD = {
    "JobHeldUser": "held by its user: scontrol release",
    "JobHeldAdmin": "held by an administrator of Slurm",
    "JobHoldMaxRequeue": "held, since Slurm has started it too often",
    "launch_failed_requeued_held": "held, since it could not be started",
    "BadConstraints": "no machine meets its requirements",
    "DependencyNeverSatisfied": "a job that it waits for has failed",
}
#: Other reasons for which a job is pending -> message
_PENDING = {
    "None": "",
    "Resources": "waits for a free machine",
    "Priority": "waits for jobs of higher priority",
    "PartitionTimeLimit": "its time limit exceeds that of its partition",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "ReqNodeNotAvail": "a machine that it needs is not available",
    "BeginTime": "waits for the time when it may begin",
    "QOSMaxJobsPerUserLimit": "waits for other jobs of this user to end",
    "AssocMaxJobsLimit": "waits for other jobs of this account to end",
}
#: States of Slurm for jobs that have failed -> message
_FAILED = {
    "TIMEOUT": "stopped, since it ran longer than its partition or account allows",
    "DEADLINE": "stopped at its deadline",
    "OUT_OF_MEMORY": "killed, since it used more memory than it asked for: submit it with more",
    "NODE_FAIL": "the machine that it ran on has failed",
    "BOOT_FAIL": "the machine that it was to run on did not start",
    "CANCELLED": "cancelled",
    "PREEMPTED": "stopped, to make room for jobs of higher priority",
    "REVOKED": "taken over by another cluster",
    "LAUNCH_FAILED": "could not be started",
}
#: Errors of commands when Slurm is away or busy, which is no refusal
_AWAY = re.compile(
    r"unable to contact|connect failure|connection refused|timed out|zero bytes|standby mode"
    r"|temporarily|try again|authentication|munge|credential|dns srv|configuration source"
    r"|unable to (establish|load) config|communication|slurm_persist_conn|not respond",
    re.IGNORECASE,
)


class SlurmEngine(base.Engine):
    """Jobs run where Slurm finds room for them; ``queue`` is its partition."""

    name = "slurm"

    def __init__(self) -> None:
        missing = [name for name in ("sbatch", "squeue", "scancel") if not shutil.which(name)]
        if missing:
            raise NotAvailable(
                f"the engine slurm is not available: {missing[0]} is not on PATH; "
                "use a machine that submits to Slurm, or choose another --engine"
            )

    def submit(self, job: Job) -> str:
        base.check_files(job)
        done = _run(_sbatch(job))
        # The id, or id;cluster
        job_id = done.stdout.strip().partition(";")[0]
        if done.returncode == 0 and _is_id(job_id):
            return job_id
        error = _error(done)
        if _AWAY.search(error):
            raise EngineUnreachable(f"Slurm does not take job {job.name} now: {error}")
        queue = f"partition {job.queue}" if job.queue else "its default partition"
        raise JobRefused(
            f"Slurm refuses job {job.name} with {job.memory} MB in {queue}: {error}; "
            "`sinfo --long` shows partitions and their limits"
        )

    def _submit_array(self, jobs: Sequence[Job]) -> dict[Job, str]:
        first, numbers = jobs[0], ",".join(str(job.index) for job in jobs)
        cases = "\n".join(
            f"{j.index}) exec {shlex.quote(str(j.script.absolute()))};;" for j in jobs
        )
        script = f"#!/bin/bash\ncase $SLURM_ARRAY_TASK_ID in\n{cases}\nesac\n"
        done = _run(_sbatch(first, numbers), script)
        array = done.stdout.strip().partition(";")[0]
        if done.returncode == 0 and _is_id(array):
            return {job: f"{array}_{job.index}" for job in jobs}
        if _AWAY.search(_error(done)):
            raise EngineUnreachable(f"Slurm does not take {len(jobs)} jobs now: {_error(done)}")
        # Such as one longer than its MaxArraySize
        log.debug("Slurm refuses an array: %s", _error(done))
        return {}

    def describe(self, job: Job) -> str:
        return shlex.join(_sbatch(job))

    def jobs(self) -> list[KnownJob]:
        known = [
            KnownJob(row["jobarrayid"], row["name"], _alive(row["state"], row["reason"]))
            for row in _squeue()
            if row["name"].startswith(base.PREFIX) and row["state"] in _ALIVE
        ]
        return sorted(known, key=lambda job: [int(n) for n in re.findall(r"\d+", job.job_id)])

    def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Return the state of each job.

        This takes one query, another for each failed job, and one for all jobs that the queue does
        not know any more. Jobs of an array are gone then if Slurm only records ended jobs in a
        file, which lacks the ids of arrays.
        """
        states = dict.fromkeys(job_ids, JobState(base.GONE, None, "Slurm knows no such job"))
        if not states:
            return states
        rows = {row["jobarrayid"]: row for row in _squeue("--states=all")}
        for job_id in states.keys() & rows.keys():
            state, reason = rows[job_id]["state"], rows[job_id]["reason"]
            if state in _ALIVE:
                states[job_id] = _alive(state, reason)
            else:
                states[job_id] = _ended(state, _exit_code(job_id, state), reason)
        return states | _accounting(states.keys() - rows.keys())

    def cancel(self, job_id: str) -> None:
        if not _is_id(job_id):
            return
        done = _run(["scancel", job_id])
        if done.returncode != 0 and "invalid job id" not in done.stderr.lower():
            raise EngineUnreachable(f"Slurm does not cancel job {job_id}: {_error(done)}")


def _sbatch(job: Job, numbers: str = "") -> list[str]:
    """Return the command that submits a job; with `numbers`, an array, and its script on stdin.

    With --export=NIL or NONE, Slurm would log in as the user for an environment, which takes time
    and can fail; ALL exports the few variables of sbatch. Without --no-requeue, Slurm would start a
    job again while an orphan of it runs on a machine that it cannot reach.
    """
    options = {
        "job-name": job.name,
        # Slurm replaces %j and the like; %% is a %
        "output": str(job.log.absolute()).replace("%", "%%"),
        "mem": f"{job.memory}M",
        "export": "ALL",
    }
    if job.queue:
        options["partition"] = job.queue
    if numbers:
        # Slurm replaces %a in the name of a file. In the name of the job `_squeue` does
        options |= {name: job.in_array(options[name]) for name in ("job-name", "output")}
        options["array"] = numbers
    return [
        *("sbatch", "--parsable", "--no-requeue", "--open-mode=append"),
        *(f"--{name}={value}" for name, value in options.items()),
        *(() if numbers else (str(job.script.absolute()),)),
    ]


def _run(command: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    log.debug("running %s", shlex.join(command))
    try:
        return subprocess.run(
            command,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise EngineUnreachable(f"Slurm's {command[0]} has not answered in {TIMEOUT} s") from None
    except OSError as error:
        raise EngineUnreachable(f"Slurm's {command[0]} cannot be run: {error}") from None


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error messages of a command as one line."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line) for line in done.stderr.splitlines()]
    return "; ".join(filter(None, map(str.strip, lines))) or f"exit code {done.returncode}"


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(_[0-9]{1,9})?", text) is not None


def _squeue(*options: str) -> list[dict[str, str]]:
    """Return the rows of squeue for this user's jobs, with `_COLUMNS`; one for a job of an array.

    The name of a job of an array has its number, as of `Job.name`.
    """
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    done = _run(
        ["squeue", "--noheader", "--me", "--all", "--array", f"--Format={columns}", *options]
    )
    if done.returncode != 0:
        raise EngineUnreachable(f"Slurm does not list its jobs: {_error(done)}")
    rows = []
    for line in done.stdout.splitlines():
        row, start = {}, 0
        for name, width in _COLUMNS.items():
            row[name] = line[start : start + width].strip()
            start += width
        row["name"] = row["name"].replace("%a", row["jobarrayid"].partition("_")[2])
        rows.append(row)
    return rows


def _alive(state: str, reason: str) -> JobState:
    ours = _ALIVE[state]
    if ours == base.PENDING and reason in _HELD:
        ours = base.HELD
    if ours == base.HELD:
        return JobState(base.HELD, None, _HELD.get(reason, f"held by Slurm: {reason}"))
    if ours == base.PENDING:
        return JobState(base.PENDING, None, _PENDING.get(reason, reason))
    return JobState(base.RUNNING, None, "suspended" if state in ("STOPPED", "SUSPENDED") else "")


def _exit_code(job_id: str, state: str) -> str:
    """Return exit code and signal ("3:0") of a job that has ended; squeue mixes them up."""
    if state != "FAILED":
        return ""
    done = _run(["scontrol", "--oneliner", "show", "job", job_id])
    found = re.search(r"\bExitCode=(\d+:\d+)", done.stdout)
    return found[1] if found else ""


def _ended(state: str, exit_code: str, reason: str = "") -> JobState:
    """Return the state of a job that has ended, from Slurm's: ``CANCELLED by 1000``, ``3:0``."""
    word, _, by = state.partition(" ")
    code, number = (int(part) for part in (exit_code or "0:0").split(":"))
    if word == "COMPLETED":
        return JobState(base.DONE, 0)
    if reason in _HELD:
        return JobState(base.FAILED, None, _HELD[reason])
    if word == "FAILED" and number:
        return base.killed(number)
    if word == "FAILED" and code:
        return base.exited(code)
    text = _FAILED.get(word, f"ended in Slurm's state {word}")
    if by:
        with contextlib.suppress(ValueError, KeyError):
            by = f"by {pwd.getpwuid(int(by.removeprefix('by '))).pw_name}"
        text += f" {by}"
    return JobState(base.FAILED, None, text if reason in ("", "None") else f"{text} ({reason})")


def _accounting(job_ids: Iterable[str]) -> dict[str, JobState]:
    """Return the states of jobs that accounting knows.

    That is slurmdbd or, where Slurm records ended jobs in a readable file, that file.
    """
    job_ids = [job_id for job_id in job_ids if _is_id(job_id)]
    if not job_ids or not shutil.which("sacct"):
        return {}
    command = ["sacct", "--parsable2", "--noheader", "--format=jobid,state,exitcode"]
    command.append(f"--jobs={','.join(job_ids)}")
    done = _run([*command, "--allocations"])
    if done.returncode != 0 and "disabled" in done.stderr:
        done = _run([*command, "--completion"])
    if done.returncode != 0:
        if _AWAY.search(done.stderr):
            raise EngineUnreachable(f"Slurm's accounting does not answer: {_error(done)}")
        log.debug("sacct: %s", _error(done))
        return {}
    states = {}
    for line in done.stdout.splitlines():
        job_id, state, exit_code = line.split("|")[:3]
        if job_id not in job_ids:
            continue
        states[job_id] = _alive(state, "") if state in _ALIVE else _ended(state, exit_code)
    return states
