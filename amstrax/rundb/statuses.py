"""Changes of a run's status, of what is said of its job, and of its failures."""

import re
from collections.abc import Mapping
from typing import Any

from amstrax.exceptions import InvalidOption, RunNotFound, did_you_mean
from amstrax.rundb.fields import STATUSES, failures_of, job_of, name_of, this_host
from amstrax.rundb.filters import Filter
from amstrax.rundb.finding import attempts, id_of, place
from amstrax.rundb.leases import server_time

_LOOKED_AT = ["processing_failed", "processing_failures", "processing_job"]
_IS_AT_WORK = {"processing_status.status": {"$in": ["submitted", "running"]}}


def set_status(
    collection: Any,
    run_id: str | int | Mapping[str, Any],
    status: str,
    reason: str | None = None,
    host: str | None = None,
    owner: str | None = None,
    job: Mapping[str, Any] | None = None,
) -> bool:
    """Set the status of a run, with time and host.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run, or its document.
    status
        One of `STATUSES`. With ``"pending"`` its failures are forgotten too.
    reason
        Why.
    host
        Where; by default this machine.
    owner
        Change the status only if this is who has claimed the run.
    job
        What is said of its job from now on, see `job_of`; None: what was said stays.

    Returns
    -------
    False when `owner` has not claimed the run (any more), and nothing was changed.

    Raises
    ------
    RunNotFound
        When there is no such run.
    InvalidOption
        For an unknown status.
    """
    if status not in STATUSES:
        raise InvalidOption(f"status {status!r} is unknown{did_you_mean(status, STATUSES)}")
    changes: Filter = {"processing_status": _status(collection, status, reason, host)}
    if status == "pending":
        changes |= {"processing_failed": 0, "processing_failures": []}
    if job is not None:
        changes["processing_job"] = dict(job)
    condition = {"_id": id_of(collection, run_id)}
    if owner is not None:
        condition["processing_claim.owner"] = owner
    return collection.update_one(condition, {"$set": changes}).matched_count == 1


def set_job(collection: Any, run_id: str | int, job: Mapping[str, Any], owner: str) -> bool:
    """Set what is said of a run's job, see `job_of`, and leave its status; empty: nothing is.

    Return False when `owner` has not claimed the run (any more), and nothing was changed.
    """
    change = {"$set": {"processing_job": dict(job)}} if job else {"$unset": {"processing_job": ""}}
    condition = {"_id": id_of(collection, run_id), "processing_claim.owner": owner}
    return collection.update_one(condition, change).matched_count == 1


def set_job_id(collection: Any, run_id: str | int, attempt: str, job_id: str) -> bool:
    """Say which job an attempt is that has begun; return False when the run has another by now."""
    own_claim = {"processing_claim.owner": {"$regex": f"^{re.escape(attempt)}\\."}}
    condition = {
        "_id": id_of(collection, run_id),
        "processing_job.attempt": attempt,
        "$or": [{"processing_claim": None}, own_claim],
    }
    change = {"$set": {"processing_job.job_id": job_id}}
    return collection.update_one(condition, change).matched_count == 1


def set_cancelled(collection: Any, run_id: str | int, attempt: str, user: str | None) -> bool:
    """Say who cancels the job that an attempt is, before it ends; with None, that nobody does.

    The end of that job is then no failure that counts, see `record_failure` and `cancelled_by`.
    Return False, and change nothing, when the run has no such job at work (any more).
    """
    condition = {
        "_id": id_of(collection, run_id),
        "processing_job.attempt": attempt,
        **_IS_AT_WORK,
    }
    change: Filter = {"$set": {"processing_job.cancelled_by": user}}
    if user is None:
        change = {"$unset": {"processing_job.cancelled_by": ""}}
    return collection.update_one(condition, change).matched_count == 1


def record_failure(
    collection: Any,
    run_id: str | int | Mapping[str, Any],
    reason: str,
    attempt: str,
    host: str | None = None,
    condition: Mapping[str, Any] | None = None,
) -> int | None:
    """Set a run's status to failed, count the failure, and return how many there are.

    The end of a job that somebody has cancelled is not counted, and that is its reason.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run, or its document.
    reason
        Why it failed, in a line.
    attempt
        Name of the attempt that failed, as a job's or claim's: it is counted once.
    host
        Where it failed; by default this machine.
    condition
        Filter: do so only if the document matches it; else change nothing and return None.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    _id = id_of(collection, run_id)
    _mend_count(collection, _id)
    status = _status(collection, "failed", reason, host)
    failure = {"attempt": attempt} | {k: status[k] for k in ("time", "host", "reason")}
    for _ in attempts(collection, run_id, _id):
        wanted = {"$and": [{"_id": _id}, condition or {}]}
        before = collection.find_one(wanted, _LOOKED_AT)
        if before is None:
            name = name_of(run_id) if isinstance(run_id, Mapping) else run_id
            if condition is not None and collection.find_one({"_id": _id}, ["_id"]) is not None:
                return None
            raise RunNotFound(f"run {name} has been removed from {place(collection)}")
        count = failures_of(before)
        if (who := _canceller(before, attempt)) is not None:
            so = {"processing_job.attempt": attempt, "processing_job.cancelled_by": who}
            cancelled = _status(collection, "failed", f"cancelled by {who}", host)
            change = {"$set": {"processing_status": cancelled}}
            if collection.update_one({"$and": [wanted, so]}, change).matched_count:
                return count
            continue
        known = before.get("processing_failures") or ()
        if any(isinstance(f, Mapping) and f.get("attempt") == attempt for f in known):
            # Counted already, when it was thought to be dead; it may have said since that it is not
            at_work = {"$and": [wanted, {"processing_job.attempt": attempt}, _IS_AT_WORK]}
            collection.update_one(at_work, {"$set": {"processing_status": status}})
            return count
        done = collection.update_one(
            {
                "$and": [
                    wanted,
                    {"processing_failed": before.get("processing_failed")},
                    {"processing_failures.attempt": {"$ne": attempt}},
                ]
            },
            {
                "$set": {"processing_status": status, "processing_failed": count + 1},
                "$push": {"processing_failures": failure},
            },
        )
        if done.matched_count:
            return count + 1
    raise AssertionError("attempts do not end without an error")


def _mend_count(collection: Any, _id: Any) -> None:
    """Make the count of failures a number, and their list a list, where they are neither."""
    found = collection.find_one({"_id": _id}, ["processing_failed", "processing_failures"]) or {}
    # Where they are still odd then, so that what others count meanwhile stays
    kinds = {"processing_failed": ("int", "long"), "processing_failures": ("array",)}
    values = {"processing_failed": failures_of(found), "processing_failures": []}
    for field, types in kinds.items():
        if field in found and found[field] != values[field] and not isinstance(found[field], list):
            is_odd = {"$nor": [{field: {"$type": kind}} for kind in types]}
            collection.update_one({"_id": _id, **is_odd}, {"$set": {field: values[field]}})


def _canceller(document: Mapping[str, Any], attempt: str) -> str | None:
    """Return who has cancelled an attempt that is a run's last one; None: nobody."""
    job = job_of(document)
    return job.get("cancelled_by") or None if job.get("attempt") == attempt else None


def _status(collection: Any, status: str, reason: str | None, host: str | None) -> dict[str, Any]:
    return {
        "status": status,
        "time": server_time(collection),
        "host": host or this_host(),
        "reason": reason,
    }
