"""Run documents in the run database: how tools ask for them, and how they change them.

Every function takes a collection, of MongoDB or of the embedded store. Every change is one atomic
update of one document, and may be repeated: done twice, as after a lost answer, it is done once.
Times are in UTC.
"""

import hashlib
import math
import os
import random
import re
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from amstrax import settings
from amstrax.exceptions import (
    InvalidOption,
    InvalidRunDocument,
    RunDatabaseUnreachable,
    RunNotFound,
    did_you_mean,
)

Filter = dict[str, Any]

#: States of a run's processing, from first to last; failed runs are tried again a few times
STATUSES = ("pending", "submitted", "running", "done", "failed")
#: Tag of runs to leave alone, and tag of runs to process whatever their state
ABANDON, PROCESS = "abandon", "process"
#: So often is a run tried that always fails
MAX_FAILURES = 3
#: How long a claim lasts unless it is renewed [s]
CLAIM_LIFETIME = 900.0
#: Fields of claims: of who processes a run, and of who copies or deletes its live data
PROCESSING_CLAIM, COPY_CLAIM = "processing_claim", "copy_claim"

_OLD_WORDS = {"processing": "running"}
_DATA_IDENTITY = ("type", "host", "location", "lineage_hash")


_IS_AT_WORK = {"processing_status.status": {"$in": ["submitted", "running"]}}


class Status(NamedTuple):
    """State of a run's processing, as a document says it in either form."""

    status: str
    time: datetime | None = None
    host: str | None = None
    reason: str | None = None


def this_host() -> str:
    """Return the name of this machine in run documents: the setting AMSTRAX_HOST, or its own."""
    return settings.get("AMSTRAX_HOST") or socket.gethostname()


def new_owner() -> str:
    """Return a name for one who claims runs, that nobody else has."""
    return f"{this_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


# Reading documents


def number_of(document: Mapping[str, Any]) -> int | None:
    """Return the number of a run, None where the document has none, or an odd one."""
    for value in (document.get("number"), document.get("name")):
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)
    return None


def name_of(document: Mapping[str, Any]) -> str | None:
    """Return the name of a run: the document's, or its number with six digits; else None."""
    name = document.get("name")
    if isinstance(name, str) and name:
        return name
    number = number_of(document)
    return None if number is None else f"{number:06d}"


def status_of(document: Mapping[str, Any]) -> Status:
    """Return the status of a run from the older form, a word, or the newer one, a document.

    Where nothing is set, or something that is neither, it is pending.
    """
    value = document.get("processing_status")
    if isinstance(value, str) and value:
        if value.startswith("failed"):
            reason = value.removeprefix("failed").removeprefix(" due to ").strip()
            return Status("failed", reason=reason or None)
        return Status(_OLD_WORDS.get(value, value))
    word = value.get("status") if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and isinstance(word, str):
        return Status(
            _OLD_WORDS.get(word, word),
            value.get("time"),
            value.get("host"),
            value.get("reason"),
        )
    return Status("pending")


def failures_of(document: Mapping[str, Any]) -> int:
    """Return how often processing of a run has failed."""
    value = document.get("processing_failed")
    if isinstance(value, (int, float)) and math.isfinite(value):
        return int(value)
    return int(value) if isinstance(value, str) and value.isdigit() else 0


def tags_of(document: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's tags."""
    tags = document.get("tags")
    names = [
        tag.get("name") if isinstance(tag, Mapping) else tag
        for tag in (tags if isinstance(tags, list) else ())
    ]
    return [name for name in names if isinstance(name, str) and name]


def data_of(document: Mapping[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the entries of a run's data in which `fields`, as ``type="live"``, are as given."""
    data = document.get("data")
    return [
        entry
        for entry in (data if isinstance(data, list) else ())
        if isinstance(entry, dict) and all(entry.get(k) == v for k, v in fields.items())
    ]


def job_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a run's last job: attempt, engine, job_id, name, ...; may be empty.

    One without ``job_id`` was about to be submitted, or was no job of an engine.
    """
    job = document.get("processing_job")
    return dict(job) if isinstance(job, Mapping) else {}


def find_run(
    collection: Any,
    run_id: str | int,
    runid_field: str | None = None,
    projection: Iterable[str] | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the document of a run.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number, as ``"006724"`` or 6724.
    runid_field
        Look at this field alone, ``"name"`` or ``"number"``; by default at both.
    projection
        Fields to have, as for pymongo.

    Raises
    ------
    RunNotFound
        When there is none.
    """
    for condition in run_filters(run_id, runid_field):
        document = collection.find_one(condition, projection)
        if document is not None:
            return document
    raise RunNotFound(
        f"run {run_id} is not in the run database ({_place(collection)}): check its number, and "
        "which detector's run it is"
    )


def read(
    collection: Any,
    condition: Mapping[str, Any],
    projection: Iterable[str] | Mapping[str, Any] | None = None,
    watch: Callable[[Iterable], Iterable] = iter,
    **options: Any,
) -> list[dict[str, Any]]:
    """Return all documents that match; read from the start again if the line drops meanwhile.

    Parameters
    ----------
    collection, condition, projection
        Collection, filter, and fields to have, as for pymongo.
    watch
        What the documents pass through while they come, as a progress bar.
    **options
        ``sort``, ``limit`` and ``skip``.
    """
    try:
        return list(watch(collection.find(condition, projection, **options)))
    except RunDatabaseUnreachable:
        # A collection repeats reads of one document, once the line is there again
        collection.find_one({"_id": None}, ["_id"])
        return list(watch(collection.find(condition, projection, **options)))


def run_filters(run_id: str | int, runid_field: str | None = None) -> list[Filter]:
    """Return filters that find a run, the likeliest first.

    Raises
    ------
    InvalidOption
        For a `runid_field` that is neither ``"name"`` nor ``"number"``.
    """
    if runid_field not in (None, "name", "number"):
        raise InvalidOption(f"runid_field is {runid_field!r}: it must be 'name' or 'number'")
    text = str(run_id)
    filters: list[Filter] = []
    if runid_field != "name" and text.isascii() and text.isdigit() and len(text) < 19:
        filters.append({"number": int(text)})
    if runid_field != "number":
        filters.append({"name": f"{run_id:06d}" if isinstance(run_id, int) else text})
    return filters


# Filters


def has_status(*statuses: str) -> Filter:
    """Return a filter for runs of these statuses, in either form."""
    words = set(statuses) | {old for old, new in _OLD_WORDS.items() if new in statuses}
    options: list[Filter] = [
        {"processing_status": {"$in": sorted(words)}},
        {"processing_status.status": {"$in": sorted(words)}},
    ]
    if "pending" in statuses:
        options.append({"processing_status": None})
    if "failed" in statuses:
        options.append({"processing_status": {"$regex": "^failed"}})
    return {"$or": options}


def has_tag(name: str) -> Filter:
    """Return a filter for runs with a tag."""
    return {"$or": [{"tags.name": name}, {"tags": name}]}


def lacks_tag(name: str) -> Filter:
    """Return a filter for runs without a tag."""
    return {"$and": [{"tags.name": {"$ne": name}}, {"tags": {"$ne": name}}]}


def has_data(data_type: str, **fields: Any) -> Filter:
    """Return a filter for runs with data of a type, as ``has_data("live", host="daq")``."""
    return {"data": {"$elemMatch": {"type": data_type, **fields}}}


def is_unclaimed(now: datetime | None = None, field: str = PROCESSING_CLAIM) -> Filter:
    """Return a filter for runs that nobody works on; `field` is the claim's."""
    return {"$or": [{field: None}, {f"{field}.expires": {"$lte": now or datetime.now(UTC)}}]}


def is_to_process(
    max_failures: int = MAX_FAILURES, ended: bool = True, now: datetime | None = None
) -> Filter:
    """Return a filter for runs that are to be processed.

    That are those of which nothing is said yet, those that have failed, fewer than `max_failures`
    times, those that were begun by someone whose claim has expired, and those with the tag
    ``process``; not those with the tag ``abandon``, and none that somebody works on.

    Parameters
    ----------
    max_failures
        Leave runs alone that have failed so often.
    ended
        Leave runs out that are still being taken.
    now
        Time at which claims are valid or not.
    """
    now = now or datetime.now(UTC)
    conditions: list[Filter] = [
        lacks_tag(ABANDON),
        is_unclaimed(now),
        {
            "$or": [
                has_tag(PROCESS),
                has_status("pending"),
                {
                    "$and": [
                        has_status("failed"),
                        {"processing_failed": {"$not": {"$gte": max_failures}}},
                    ]
                },
                {
                    "$and": [
                        has_status("submitted", "running"),
                        {"processing_claim.expires": {"$lte": now}},
                    ]
                },
            ]
        },
    ]
    if ended:
        conditions.append({"end": {"$ne": None}})
    return {"$and": conditions}


# Claims


def claim_next(
    collection: Any,
    owner: str,
    condition: Mapping[str, Any] | None = None,
    lifetime: float = CLAIM_LIFETIME,
    sort: Any = (("number", 1),),
    projection: Iterable[str] | Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Claim a run that nobody works on, and return its document, or None when there is none.

    Of several who ask at the same time, each is given another run, not always in order.

    Parameters
    ----------
    collection
        Collection of run documents.
    owner
        Name of the claimer, as `new_owner` makes it.
    condition
        Filter for the runs to choose from; by default `is_to_process`.
    lifetime
        Time after which others may claim it, unless it is renewed [s].
    sort
        Which run to take first.
    projection
        Fields to have of the document, as for pymongo.
    """
    while True:
        wanted: Filter = is_to_process() if condition is None else dict(condition)
        free = {"$and": [wanted, is_unclaimed()]}
        candidates = read(collection, free, ["_id"], sort=list(sort), limit=32)
        if not candidates:
            return None
        for i, candidate in enumerate(candidates):
            found = _claim(collection, candidate["_id"], owner, wanted, lifetime, projection)
            if found is not None:
                return found
            if i == 0:
                # Others are choosing too: do not go for the same runs as they
                others = candidates[1:]
                random.shuffle(others)
                candidates[1:] = others


def claim(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float = CLAIM_LIFETIME,
    field: str = PROCESSING_CLAIM,
    instead_of: Mapping[str, Any] | None = None,
) -> bool:
    """Claim a run, or renew the own claim; return False when somebody else works on it.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run.
    owner
        Name of the claimer, as `new_owner` makes it.
    lifetime
        Time after which others may claim it, unless it is renewed [s].
    field
        Field of the document that the claim is in: there is one for each kind of work.
    instead_of
        Filter: take the claim of another one if the document matches it.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    _id = _id_of(collection, run_id)
    found = _claim(collection, _id, owner, {}, lifetime, ["_id"], field, instead_of)
    return found is not None


def renew(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float = CLAIM_LIFETIME,
    field: str = PROCESSING_CLAIM,
) -> bool:
    """Let an own claim last longer; return False when it is not ours (any more)."""
    done = collection.update_one(
        {"_id": _id_of(collection, run_id), f"{field}.owner": owner},
        {"$set": {f"{field}.expires": datetime.now(UTC) + timedelta(seconds=lifetime)}},
    )
    return done.matched_count == 1


def release(collection: Any, run_id: str | int, owner: str, field: str = PROCESSING_CLAIM) -> bool:
    """Give an own claim up; return False when it was not ours (any more)."""
    done = collection.update_one(
        {"_id": _id_of(collection, run_id), f"{field}.owner": owner},
        {"$unset": {field: ""}},
    )
    return done.matched_count == 1


def _claim(
    collection: Any,
    _id: Any,
    owner: str,
    condition: Filter,
    lifetime: float,
    projection: Iterable[str] | Mapping[str, Any] | None,
    field: str = PROCESSING_CLAIM,
    instead_of: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Claim this run if it fulfils the condition and is free, or ours already, or to be taken."""
    from pymongo import ReturnDocument

    now = datetime.now(UTC)
    mine = {f"{field}.owner": owner}
    unclaimed = is_unclaimed(now, field)
    free = {"$and": [condition, unclaimed]} if condition else unclaimed
    claim = {
        "owner": owner,
        "host": this_host(),
        "time": now,
        "expires": now + timedelta(seconds=lifetime),
    }
    return collection.find_one_and_update(
        {"_id": _id, "$or": [free, mine, *([instead_of] if instead_of else [])]},
        {"$set": {field: claim}},
        projection=projection,
        return_document=ReturnDocument.AFTER,
    )


# Status


def set_status(
    collection: Any,
    run_id: str | int,
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
        Name or number of the run.
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
    changes: Filter = {"processing_status": _status(status, reason, host)}
    if status == "pending":
        changes |= {"processing_failed": 0, "processing_failures": []}
    if job is not None:
        changes["processing_job"] = dict(job)
    condition = {"_id": _id_of(collection, run_id)}
    if owner is not None:
        condition["processing_claim.owner"] = owner
    return collection.update_one(condition, {"$set": changes}).matched_count == 1


def set_job(collection: Any, run_id: str | int, job: Mapping[str, Any], owner: str) -> bool:
    """Set what is said of a run's job, see `job_of`, and leave its status; empty: nothing is.

    Return False when `owner` has not claimed the run (any more), and nothing was changed.
    """
    change = {"$set": {"processing_job": dict(job)}} if job else {"$unset": {"processing_job": ""}}
    condition = {"_id": _id_of(collection, run_id), "processing_claim.owner": owner}
    return collection.update_one(condition, change).matched_count == 1


def set_job_id(collection: Any, run_id: str | int, attempt: str, job_id: str) -> bool:
    """Say which job an attempt is that has begun; return False when the run has another by now."""
    own_claim = {"processing_claim.owner": {"$regex": f"^{re.escape(attempt)}\\."}}
    condition = {
        "_id": _id_of(collection, run_id),
        "processing_job.attempt": attempt,
        "$or": [{"processing_claim": None}, own_claim],
    }
    change = {"$set": {"processing_job.job_id": job_id}}
    return collection.update_one(condition, change).matched_count == 1


def record_failure(
    collection: Any,
    run_id: str | int,
    reason: str,
    attempt: str,
    host: str | None = None,
    condition: Mapping[str, Any] | None = None,
) -> int | None:
    """Set a run's status to failed, count the failure, and return how many there are.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run.
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
    _id = _id_of(collection, run_id)
    _make_list(collection, _id, "processing_failures")
    status = _status("failed", reason, host)
    failure = {"attempt": attempt} | {k: status[k] for k in ("time", "host", "reason")}
    while True:
        wanted = {"$and": [{"_id": _id}, condition or {}]}
        before = collection.find_one(wanted, ["processing_failed", "processing_failures"])
        if before is None:
            if condition is not None and collection.find_one({"_id": _id}, ["_id"]) is not None:
                return None
            raise RunNotFound(f"run {run_id} has been removed from {_place(collection)}")
        count = failures_of(before)
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


def _status(status: str, reason: str | None, host: str | None) -> dict[str, Any]:
    return {
        "status": status,
        "time": datetime.now(UTC),
        "host": host or this_host(),
        "reason": reason,
    }


# Data and tags


def add_data(collection: Any, run_id: str | int, entry: Mapping[str, Any]) -> bool:
    """Add an entry to a run's data, or bring the one there up to date.

    Entries are the same when type, host, location and lineage_hash are.

    Returns
    -------
    Whether it was not there yet.

    Raises
    ------
    RunNotFound
        When there is no such run.
    InvalidRunDocument
        When the entry has no type, host or location, or the run's data is no list.
    """
    missing = [key for key in ("type", "host", "location") if not entry.get(key)]
    if missing:
        raise InvalidRunDocument(
            f"data of run {run_id} lacks {', '.join(missing)}: an entry is "
            "{type, host, location, ...}"
        )
    _id = _id_of(collection, run_id)
    _make_list(collection, _id, "data")
    same = {"$elemMatch": _identity(entry)}
    while True:
        done = collection.update_one(
            {"_id": _id, "data": {"$not": same}}, {"$push": {"data": dict(entry)}}
        )
        if done.matched_count:
            return True
        done = collection.update_one({"_id": _id, "data": same}, {"$set": {"data.$": dict(entry)}})
        if done.matched_count:
            return False
        _id_of(collection, run_id)


def remove_data(
    collection: Any,
    run_id: str | int,
    entry: Mapping[str, Any],
    deleted_by: str,
) -> int:
    """Move entries of a run's data to deleted_data, and return how many.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run.
    entry
        What the entries have, as ``{"type": "live", "host": "daq"}``.
    deleted_by
        Who or what deletes them; the time is noted too.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    document = find_run(collection, run_id, projection=["data"])
    _id = document["_id"]
    _make_list(collection, _id, "deleted_data")
    deletion = {"deleted_at": datetime.now(UTC), "deleted_by": deleted_by}
    removed = 0
    seen: list[Filter] = []
    for found in data_of(document, **entry):
        identity = _identity(found)
        if identity in seen:
            continue
        seen.append(identity)
        alike = [e for e in data_of(document) if _identity(e) == identity]
        done = collection.update_one(
            {"_id": _id, "data": {"$elemMatch": identity}},
            {
                "$pull": {"data": identity},
                "$push": {"deleted_data": {"$each": [{**e, **deletion} for e in alike]}},
            },
        )
        removed += len(alike) if done.matched_count else 0
    return removed


def add_tag(collection: Any, run_id: str | int, tag: str, user: str) -> bool:
    """Give a run a tag, with user and date; return False when it had it already.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    _id = _id_of(collection, run_id)
    _make_list(collection, _id, "tags")
    done = collection.update_one(
        {"$and": [{"_id": _id}, lacks_tag(tag)]},
        {"$push": {"tags": {"name": tag, "user": user, "date": datetime.now(UTC)}}},
    )
    return done.matched_count == 1


def remove_tag(collection: Any, run_id: str | int, tag: str) -> bool:
    """Take a tag from a run; return False when it did not have it.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    _id = _id_of(collection, run_id)
    as_document = collection.update_one(
        {"_id": _id, "tags.name": tag}, {"$pull": {"tags": {"name": tag}}}
    )
    as_word = collection.update_one({"_id": _id, "tags": tag}, {"$pull": {"tags": tag}})
    return bool(as_document.matched_count or as_word.matched_count)


# Runs


def add_run(collection: Any, document: Mapping[str, Any]) -> bool:
    """Add the document of a run, unless there is one already; return whether there was none.

    Raises
    ------
    InvalidRunDocument
        When it has neither number nor name.
    """
    from pymongo.errors import DuplicateKeyError

    from amstrax.rundb import connection

    new = new_document(document)
    name, number = name_of(new), number_of(new)
    filters = [*run_filters(name or ""), *([] if number is None else run_filters(number))]

    def is_there() -> bool:
        return any(collection.find_one(condition, ["_id"]) is not None for condition in filters)

    if is_there():
        return False
    try:
        connection.resilient(collection.insert_one, new)
    except DuplicateKeyError:
        # Somebody else has just added it, or we have and the answer was lost
        if is_there():
            return False
        raise InvalidRunDocument(
            f"the _id {new['_id']} of run {name} is that of another document in "
            f"{_place(collection)}: leave it out of the document"
        ) from None
    return True


def new_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as it is added: with _id, name and, if it can have one, number.

    Raises
    ------
    InvalidRunDocument
        When it has neither number nor name.
    """
    name, number = name_of(document), number_of(document)
    if name is None:
        raise InvalidRunDocument(
            "the run document has neither number nor name: add the number of the run"
        )
    new = {"_id": document.get("_id", _run_object_id(name)), **document}
    if new.get("name") is None:
        new["name"] = name
    if number is not None:
        new.setdefault("number", number)
    return new


def _run_object_id(name: str) -> Any:
    """Return the _id that everyone gives to a new run of this name: so it is added once."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256(f"amstrax run {name}".encode()).digest()[:12])


def _id_of(collection: Any, run_id: str | int) -> Any:
    return find_run(collection, run_id, projection=["_id"])["_id"]


def _identity(entry: Mapping[str, Any]) -> Filter:
    """Return what tells an entry of data from others; None is for what is missing."""
    return {key: entry.get(key) for key in _DATA_IDENTITY}


def _make_list(collection: Any, _id: Any, field: str) -> None:
    """Turn a null into a list, so that something can be added to it."""
    value = (collection.find_one({"_id": _id}, [field]) or {}).get(field, [])
    if value is None:
        collection.update_one({"_id": _id, field: None}, {"$set": {field: []}})
    elif not isinstance(value, list):
        raise InvalidRunDocument(
            f"{field} of the run with _id {_id} in {_place(collection)} is a "
            f"{type(value).__name__}, not a list: correct the document"
        )


def _place(collection: Any) -> str:
    return getattr(collection, "full_name", "the run database")
