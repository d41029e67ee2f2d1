"""Parts of the automatic loop: select runs, follow jobs, status file, old job files."""

import contextlib
import json
import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import amstrax
from amstrax import rundoc, settings, strict_json
from amstrax.auto_processing.engines.base import DONE, GONE, HELD, UNKNOWN, Engine, JobState
from amstrax.commands.base import (
    FIRST_BACKOFF,
    LEFT_TO_ANOTHER,
    LONGEST_BACKOFF,
    describe_error,
)
from amstrax.exceptions import AmstraxError, InvalidOption, RunDatabaseError
from amstrax.rundb import documents, leases

log = logging.getLogger(__name__)

#: Timeout of jobs submitted on another machine that have not claimed their run [s]
SILENCE = 3600.0

#: Allowed names of folders of live data
_RUN_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,100}")

_FIELDS = (
    *("name", "number", "mode", "start", "end", "tags", "daq_config.strax_output_path"),
    *("data.type", "data.host", "data.location"),
    *("processing_status", "processing_failed", "processing_job", "processing_claim"),
)

Document = Mapping[str, Any]
Filter = dict[str, Any]


@dataclass(frozen=True)
class RunSelection:
    """Selection of runs to process, by detector, data types to make, and raw data types.

    Only `run_id` is processed if it is given, or else runs from `min_run_number` on. A run is not
    retried after `max_failures`; `retry_pause` is the time between its first failure and the next
    attempt [s], doubled by each further failure.
    """

    detector: str
    targets: tuple[str, ...]
    raw_types: tuple[str, ...]
    run_id: str | None = None
    min_run_number: int = 0
    max_failures: int = documents.MAX_FAILURES
    retry_pause: float = FIRST_BACKOFF

    def filter(self, now: datetime) -> Filter:
        """Return the filter for the runs to submit at a time by the clock of the database server.

        These runs have ended, have input data on this machine, are unclaimed, and lack the tag
        ``abandon``. In addition they have the tag ``process``, or the status pending, or no status
        and no data of the target on this machine, or they have failed (not too often, not by
        cancelling, and the pause is over), or the claim of the job that began them has expired.
        """
        made = {"type": self.targets[-1], "host": documents.this_host()}
        has_failed = [documents.has_status("failed"), documents.is_not_cancelled()]
        was_begun = documents.has_status("submitted", "running")
        due = [
            documents.has_tag(documents.PROCESS),
            {"processing_status": "pending"},
            {"processing_status.status": "pending"},
            # No status, or an invalid value, such as a number
            {"$and": [documents.has_no_status(), {"data": {"$not": {"$elemMatch": made}}}]},
            {"$and": [*has_failed, self._pause_is_over(now)]},
            {"$and": [was_begun, {"processing_claim.expires": {"$lte": now}}]},
        ]
        conditions: list[Filter] = [
            {"end": {"$ne": None}},
            documents.lacks_tag(documents.ABANDON),
            documents.is_unclaimed(now),
            # While copy_live works on a run, files may be missing or incomplete
            documents.is_unclaimed(now, documents.COPY_CLAIM),
            {"$or": due},
            self._has_input_here(),
        ]
        if self.run_id is not None:
            conditions.append({"$or": documents.run_filters(self.run_id)})
        if self.min_run_number:
            conditions.append({"number": {"$gte": self.min_run_number}})
        return {"$and": conditions}

    def _has_input_here(self) -> Filter:
        host = documents.this_host()
        options = [documents.has_data(kind, host=host) for kind in ("live", *self.raw_types)]
        folder = settings.live_data(self.detector)
        if folder is not None:
            names = sorted(name for name in os.listdir(folder) if _RUN_FOLDER.fullmatch(name))
            numbers = [int(name) for name in names if name.isdigit() and len(name) < 19]
            options += [{"number": {"$in": numbers}}, {"name": {"$in": names}}]
        return {"$or": options}

    def _pause_is_over(self, now: datetime) -> Filter:
        """Return a filter for failed runs whose pause is over."""
        options: list[Filter] = []
        for failures in range(1, self.max_failures):
            # A failed run has at least one failure
            n_failures: Any = failures if failures > 1 else {"$not": {"$gt": 1}}
            pause = min(self.retry_pause * 2 ** (failures - 1), LONGEST_BACKOFF)
            long_ago: list[Filter] = [
                {"processing_status.time": {"$lte": now - timedelta(seconds=pause)}},
                {"processing_status.time": None},
                # The older form, a word, has no time
                {"processing_status": {"$regex": "^failed"}},
            ]
            options.append({"processing_failed": n_failures, "$or": long_ago})
        return {"$or": options} if options else {"_id": {"$in": []}}


def find_runs(
    collection: Any, wanted: RunSelection, limit: int, skip: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Find the documents of at most `limit` runs to submit now, newest first.

    Runs whose data is not at its registered place are skipped, and runs whose name, or `key_of`
    their document, is in `skip`. Runs whose place cannot be checked are included, so that
    submitting them reports the error.
    """
    found: list[dict[str, Any]] = []
    skipped = set(skip)
    condition = wanted.filter(documents.server_time(collection))
    step, seen = 2 * limit + len(skipped), 0
    while len(found) < limit:
        batch = documents.read(
            collection, condition, _FIELDS, sort=[("number", -1)], skip=seen, limit=step
        )
        seen += len(batch)
        for document in batch:
            if {documents.name_of(document), key_of(document)} & skipped:
                continue
            try:
                if not has_source(document, wanted):
                    continue
            except (OSError, RuntimeError, ValueError) as error:
                log.debug(
                    "the data of run %s cannot be checked: %r", documents.name_of(document), error
                )
            found.append(document)
            if len(found) == limit:
                return found
        if len(batch) < step:
            break
    return found


def key_of(document: Document) -> str:
    """Return a key of a document that is unique even if several have the same or no number."""
    return repr(document["_id"])


def has_source(document: Document, wanted: RunSelection) -> bool:
    """Return whether a run's live data, or its raw data, is on this machine.

    Raises OSError, RuntimeError or ValueError when a folder in the document cannot be read, or the
    name of the run is invalid.
    """
    name = rundoc.check_run_name(documents.name_of(document))
    folder = settings.live_data(wanted.detector)
    if folder is not None and (folder / name).is_dir():
        return True
    for entry in documents.data_of(document, host=documents.this_host()):
        kind = entry.get("type")
        if not entry.get("location") or kind not in ("live", *wanted.raw_types):
            continue
        location = rundoc.check_location(entry.get("location"))
        if (location / name if kind == "live" else location).is_dir():
            return True
    return False


class Followed(NamedTuple):
    """Run whose job is followed: its name, the field ``processing_job``, and the document."""

    run_id: str
    job: Document
    document: Document

    @property
    def attempt(self) -> str:
        """Name of the attempt."""
        return str(self.job.get("attempt", ""))

    def describe(self) -> str:
        """Return the name of the job, for messages."""
        return f"job {self.job.get('job_id')} ({self.job.get('engine')})"

    def filter(self) -> Filter:
        """Return the filter for the run while it has this job and no end is recorded."""
        is_at_work = documents.has_status("submitted", "running")
        return {"$and": [{"processing_job.attempt": self.attempt}, is_at_work]}


def followed_runs(collection: Any, engine: str) -> list[Followed]:
    """Return the runs that are submitted or running in an engine, from this machine."""
    condition = {
        "$and": [
            {"processing_job.engine": engine, "processing_job.host": documents.this_host()},
            documents.has_status("submitted", "running"),
        ]
    }
    found = documents.read(collection, condition, _FIELDS)
    return [
        Followed(documents.name_of(document) or "?", document["processing_job"], document)
        for document in found
        if isinstance(document.get("processing_job"), Mapping)
    ]


def job_states(engine: Engine, runs: Sequence[Followed]) -> dict[str, JobState]:
    """Return the state of the job of each run, by the name of the attempt.

    A batch system that lost its latest state, such as Slurm after ``kill -9``, reuses the ids of
    forgotten jobs. So the name of the job must match too, and of two names with one id the later
    owns the job. Runs of one job have the same id and name.
    """
    owners: dict[str, Any] = {}
    for run in sorted(runs, key=lambda run: str(run.job.get("time"))):
        if run.job.get("job_id"):
            owners[str(run.job["job_id"])] = run.job.get("name")
    states = engine.states(owners) if owners else {}
    names = {job.job_id: job.name for job in engine.jobs()} if owners else {}
    result = {}
    for run in runs:
        job_id = str(run.job.get("job_id"))
        if job_id not in owners:
            # The submitting process was killed before it could record the job
            state = JobState(GONE, None, "its job was never recorded")
        elif owners[job_id] != (name := run.job.get("name")) or (
            names.get(job_id) not in (None, name)
        ):
            state = JobState(GONE, None, "the batch system has given its id to another job")
        else:
            state = states[job_id]
        result[run.attempt] = state
    return result


def live_jobs(runs: Iterable[Followed], states: Mapping[str, JobState]) -> set[str]:
    """Return the ids of the jobs that run or are pending, by the result of `job_states`."""
    return {str(run.job.get("job_id")) for run in runs if states[run.attempt].alive}


def begun_jobs(
    collection: Any, runs: Iterable[Followed], states: Mapping[str, JobState]
) -> set[str]:
    """Return the names of ended jobs for several runs that have begun one of them."""
    ended = {
        str(run.job.get("name"))
        for run in runs
        if documents.is_of_several_runs(run.job) and not states[run.attempt].alive
    }
    if not ended:
        return set()
    is_begun = {"$nor": [documents.has_status("pending", "submitted")]}
    condition = {"$and": [{"processing_job.name": {"$in": sorted(ended)}}, is_begun]}
    found = documents.read(collection, condition, ["processing_job.name"])
    return {str(documents.job_of(document)["name"]) for document in found}


def settle(
    collection: Any,
    engine: Engine,
    run: Followed,
    state: JobState,
    max_failures: int,
    begun: Container[str] = (),
) -> str | None:
    """Update the document of a run after the end of its job.

    Return a line about the change, or None. Nothing changes if the job itself has recorded its end,
    as usual, or while a job unknown to the engine still renews its claim. A job that only another
    machine knows is gone when its claim has expired.

    A job for several runs that dies costs the run that it was at: if its name is in `begun`, see
    `begun_jobs`, those that it has not begun are set pending.
    """
    if state.alive:
        return None
    now = documents.server_time(collection)
    has_claim = documents.is_claimed(run.document, attempt=run.attempt, now=now)
    if state.state in (GONE, UNKNOWN) and has_claim:
        return None
    if state.state == UNKNOWN and not _has_ended_elsewhere(run, now):
        return None
    if state.state == HELD:
        engine.cancel(str(run.job.get("job_id")))
    if state.exit_code == LEFT_TO_ANOTHER:
        # The other job changes the status, or its claim expires
        free = {"$and": [run.filter(), documents.is_unclaimed(now), {"_id": run.document["_id"]}]}
        if _set_pending(collection, run, "left by a second job", free):
            return f"run {run.run_id}: {run.describe()} left it to another one, which is gone"
        return None
    reason = describe_end(run, state)
    is_begun = has_claim or documents.status_of(run.document).status != "submitted"
    is_of_others = documents.is_of_several_runs(run.job) and str(run.job.get("name")) in begun
    if is_of_others and not is_begun and state.state != DONE:
        if leases.is_held(run.document, now):
            return None
        is_not_begun = {"$and": [run.filter(), documents.has_status("submitted")]}
        if _set_pending(collection, run, reason, is_not_begun):
            log.info("run %s: %s had not begun it: pending again", run.run_id, run.describe())
            return None
    failures = _record_end(collection, run, reason)
    if failures is None:
        return None
    if run.job.get("cancelled_by"):
        return f"run {run.run_id}: {run.describe()} was cancelled by {run.job['cancelled_by']}"
    return f"run {run.run_id}: {reason} ({consequence(failures, max_failures)})"


def _set_pending(collection: Any, run: Followed, reason: str, condition: Filter) -> bool:
    """Set a run pending that its job has not processed; its failures stay."""
    return documents.set_status(
        collection, run.document, "pending", reason, keep_failures=True, condition=condition
    )


def _has_ended_elsewhere(run: Followed, now: datetime) -> bool:
    """Return whether an unclaimed job that only another machine knows has ended."""
    claim = run.document.get(documents.PROCESSING_CLAIM)
    if isinstance(claim, Mapping) and str(claim.get("owner")).startswith(f"{run.attempt}."):
        return True
    # It may be queued there
    times = (run.job.get("time"), documents.status_of(run.document).time)
    known = [t.replace(tzinfo=t.tzinfo or UTC) for t in times if isinstance(t, datetime)]
    return not known or now - max(known) > timedelta(seconds=SILENCE)


def record_refusal(
    collection: Any,
    run: str | Document,
    error: Exception,
    max_failures: int,
    is_new: bool,
    tag: str | None = None,
) -> tuple[str, bool]:
    """Record that a run cannot be submitted as a failure; return a text, and whether it worked.

    With `is_new`, earlier failures of the run do not count. `tag` is removed from the run.
    """
    reason = describe_error(error)
    try:
        if is_new:
            documents.set_status(collection, run, "pending")
        if tag is not None:
            documents.remove_tag(collection, run, tag)
        failures = documents.record_failure(collection, run, reason, f"refused-{uuid.uuid4().hex}")
    except RunDatabaseError:
        raise
    except Exception as second:
        return f"cannot be submitted: {reason}; not recorded: {describe_error(second)}", False
    return f"cannot be submitted: {reason} ({consequence(failures or 0, max_failures)})", True


def consequence(failures: int, max_failures: int) -> str:
    """Return the consequence of a number of failures, for messages."""
    if failures >= max_failures:
        return (
            f"failure {failures}: given up. Correct the cause, then tag the run "
            f"'{documents.PROCESS}', or set it pending"
        )
    return f"failure {failures} of {max_failures}"


def describe_end(run: Followed, state: JobState) -> str:
    """Return how a job that did not record its end has ended, in one line."""
    if state.state == HELD:
        return f"{run.describe()} was held, and is removed: {state.reason or 'no reason given'}"
    see = f"; see {run.job['log']}" if run.job.get("log") else ""
    if state.state == DONE:
        return f"{run.describe()} ended without recording a result{see}"
    word, why = "failed", f"exit code {state.exit_code}"
    if state.state in (GONE, UNKNOWN):
        word, why = "is gone", "the batch system does not know it"
    return f"{run.describe()} {word}: {state.reason or why}{see}"


def _record_end(collection: Any, run: Followed, reason: str) -> int | None:
    """Record that a job has failed and remove its claim; return the number of failures.

    Return None if the job has recorded its end itself. An orphan of the job stops by itself without
    its claim.
    """
    failures = documents.record_failure(
        collection, run.document, reason, run.attempt, condition=run.filter()
    )
    owner = {"$regex": f"^{re.escape(run.attempt)}\\."}
    collection.update_one(
        {"_id": run.document["_id"], "processing_claim.owner": owner},
        {"$unset": {"processing_claim": ""}},
    )
    return failures


def is_switched_on(switches: Any) -> bool:
    """Return whether automatic processing is on in collection ``daq.processing``, as by default."""
    document = switches.find_one({"name": "auto_processing"}) or {}
    return document.get("status") != "off"


def switch(switches: Any, is_on: bool, user: str) -> None:
    """Switch automatic processing on or off, and record user and time; see `is_switched_on`."""
    change = {"status": "on" if is_on else "off", "user": user, "time": datetime.now(UTC)}
    switches.update_one({"name": "auto_processing"}, {"$set": change}, upsert=True)


def cancel(collection: Any, engine: Engine, run_id: str, user: str) -> str:
    """End the waiting or running job of a run, record that, and return the name of the job.

    A job that follows a run which is being taken ends without a change of the run. Otherwise the
    run is then failed, cancelled by `user`, which does not count as a failure. The automatic
    loop ignores it until it is submitted, tagged ``process`` or set pending. A job for several runs
    goes on with the others: it leaves this one when it renews its claim next, within a twelfth of
    the lifetime of a claim.

    Raises RunNotFound, EngineUnreachable, and InvalidOption when the run has no job that can be
    ended from this machine, or the job has ended meanwhile.
    """
    document = documents.find_run(collection, run_id, None, _FIELDS)
    name = documents.name_of(document) or run_id
    status, job = documents.status_of(document).status, documents.job_of(document)
    follows = status == "pending" and bool(job.get("follows"))
    if status not in ("submitted", "running") and not follows:
        raise InvalidOption(f"run {name} is {status}: there is no job to end")
    if job.get("engine") != engine.name or job.get("host") != documents.this_host():
        raise InvalidOption(
            f"the job of run {name} is one of {job.get('engine')} from {job.get('host')}, not of "
            f"{engine.name} from {documents.this_host()}: end it there"
        )
    run = Followed(name, job, document)
    if not job.get("job_id"):
        raise InvalidOption(f"the job id of run {name} is not recorded yet: try again in a minute")
    if follows:
        if not engine.state(str(job["job_id"])).alive:
            raise InvalidOption(f"{run.describe()}, which followed run {name}, has ended already")
        engine.cancel(str(job["job_id"]))
        return run.describe()
    # Before it ends, so that neither the job nor a loop counts it as a failure
    if not documents.set_cancelled(collection, name, run.attempt, user):
        raise InvalidOption(f"{run.describe()} of run {name} has ended meanwhile")
    others: Filter = {"$and": [documents.has_status("submitted", "running")]}
    others |= {f"processing_job.{key}": job.get(key) for key in ("engine", "job_id", "name")}
    others["_id"] = {"$ne": document["_id"]}
    has_others = documents.is_of_several_runs(job) and collection.find_one(others, ["_id"])
    try:
        if not has_others:
            engine.cancel(str(job["job_id"]))
    except AmstraxError:
        documents.set_cancelled(collection, name, run.attempt, None)
        raise
    # A running job records it itself
    _record_end(collection, run, "cancelled")
    return run.describe()


# Files already reported as not writable -> reason
_unwritable: dict[Path, str] = {}


def write_status(path: Path, content: Mapping[str, Any]) -> None:
    """Write the status of a tool to a JSON file, with time, host, process and version.

    The file is replaced atomically, and its folder is made. If it cannot be written, this is logged
    once, and the tool continues.
    """
    own = {
        "time": datetime.now(UTC),
        "host": documents.this_host(),
        "pid": os.getpid(),
        "version": amstrax.__version__,
    }

    def encoded(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    text = json.dumps({**own, **content}, indent=1, default=encoded)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        strict_json.write_text(path, text + "\n")
        _unwritable.pop(path, None)
    except OSError as error:
        reason = str(error.strerror or error)
        if _unwritable.get(path) != reason:
            _unwritable[path] = reason
            log.warning("the status file %s cannot be written: %s", path, reason)


def read_status(path: Path) -> tuple[dict[str, Any], datetime] | None:
    """Load a file of `write_status`, and return its content and time; None without the file.

    Raises OSError when the file exists and cannot be read, InvalidOption when it is no status file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = strict_json.parse(text, str(path), InvalidOption)
        time = datetime.fromisoformat(content["time"])
        return content, time if time.tzinfo else time.replace(tzinfo=UTC)
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidOption(
            f"{path} is no status file of a tool of amstrax ({error}): remove it"
        ) from None


#: Names of the script and the logs of a job as given by `submitting`, after the name of the run
_JOB_FILE = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{6}\.(sh|log|log\.condor)")


def remove_old_job_files(
    folders: Iterable[Path], keep: float, is_alive: Callable[[str], bool]
) -> int:
    """Remove old scripts and logs of jobs; return their number.

    Each of the folders has a folder for each run. Files without a write for the time `keep` [s] are
    removed. Links, files with other names, and files of runs for which `is_alive` is true are kept.
    """
    before, removed = time.time() - keep, 0
    for path in (path for folder in folders for path in folder.glob("*")):
        # Another loop may remove the same files and folders
        with contextlib.suppress(OSError):
            of_folder = path.lstat()
            if not stat.S_ISDIR(of_folder.st_mode) or is_alive(path.name):
                continue
            for file in path.glob("*"):
                with contextlib.suppress(OSError):
                    of_file = file.lstat()
                    is_old = stat.S_ISREG(of_file.st_mode) and of_file.st_mtime < before
                    if is_old and _JOB_FILE.fullmatch(file.name.removeprefix(path.name)):
                        file.unlink()
                        removed += 1
            if of_folder.st_mtime < before:
                # Only an empty folder; a new one may be in use
                path.rmdir()
    return removed
