"""Queries and updates of run documents.

Documents of the older and the newer form are read; invalid ones are read as far as possible. Every
change is one atomic, idempotent update of one document, safe to repeat after a lost answer. Times
are in UTC.

`collection` is a collection of run documents, of MongoDB or the embedded store. `run_id` is a name
or number, such as ``"006724"`` or 6724. Functions that accept the document of a run change only
this one, even if it has no name, or the run has several. An unknown run raises `RunNotFound`. With
an `owner`, a run that this owner has not claimed stays unchanged, and False is returned.
"""

import logging
import math
import re
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from amstrax import rundoc, settings
from amstrax.exceptions import (
    InvalidOption,
    InvalidRunDocument,
    RunDatabaseUnreachable,
    RunNotFound,
    did_you_mean,
)
from amstrax.strict_json import short

log = logging.getLogger(__name__)

#: Number of attempts at a run that keeps failing
MAX_FAILURES = 3
#: States of a run's processing, from first to last; failed runs are retried a few times
STATUSES = ("pending", "submitted", "running", "done", "failed")
#: States of a run as shown and searched, see `state_of`
STATES = ("taking", "no-end", *STATUSES, "cancelled")
#: A run without end that began earlier is not being taken any more; longest run, assumed
LONGEST_RUN = timedelta(days=2)
#: Prefix of the owner of the claim of a run while its job is submitted
SUBMITTER_PREFIX = "submit-"
#: States of one target of a run
TARGET_STATUSES = ("running", "done", "failed", "skipped")
#: Tag of runs to leave alone, and tag of runs to process whatever their state
ABANDON, PROCESS = "abandon", "process"
#: Quality of a run, as judged by people: each is a tag, and a run has one of them at most
QUALITIES = ("good", "bad", "unsure")
#: Fields of claims: for processing a run, and for copying or deleting its live data
PROCESSING_CLAIM, COPY_CLAIM = "processing_claim", "copy_claim"
#: Largest valid count of failures
_MOST_FAILURES = 1_000_000
#: Upper limit of run numbers
_MOST_RUNS = 10**18
#: Status in older documents -> present status
OLD_WORDS = {"processing": "running"}
Filter = dict[str, Any]
#: Name, number or document of a run
_Run = str | int | Mapping[str, Any]
#: Retries of a change while other processes change the document
_MOST_ATTEMPTS = 100
# Runs already reported as having several documents
_warned: set[tuple[str, ...]] = set()
_DATA_IDENTITY = ("type", "host", "location", "lineage_hash")
# $type also matches lists of objects
_DOCUMENT_FORM = {"$type": "object", "$not": {"$type": "array"}}


class Status(NamedTuple):
    """Status or state of a run, from a document of either form."""

    status: str
    time: datetime | None = None
    host: str | None = None
    reason: str | None = None


def this_host() -> str:
    """Return the name of this machine in run documents: AMSTRAX_HOST, or the host name."""
    return settings.get("AMSTRAX_HOST") or socket.gethostname()


def number_of(document: Mapping[str, Any]) -> int | None:
    """Return the number of a run; None if it is missing or invalid."""
    for value in (document.get("number"), document.get("name")):
        # bson.Code is a subclass of str
        if type(value) is str and _is_number(value):
            return int(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
            return int(value) if 0 <= value < _MOST_RUNS else None
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def name_of(document: Mapping[str, Any]) -> str | None:
    """Return the name of a run, or its number with six digits; None if it has neither."""
    name = document.get("name")
    if isinstance(name, str) and name:
        # bson.Code, a subclass of str, is not hashable
        return str(name)
    number = number_of(document)
    return None if number is None else f"{number:06d}"


def status_of(document: Mapping[str, Any]) -> Status:
    """Return the status of a run, from a word (older form) or a document (newer form).

    A missing or invalid status is pending.
    """
    value = document.get("processing_status")
    if type(value) is str and value:
        if value.startswith("failed"):
            cause = value.removeprefix("failed").removeprefix(" due to ").strip()
            return Status("failed", reason=cause or None)
        return Status(OLD_WORDS.get(value, value))
    word = value.get("status") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(word, str):
        return Status("pending")
    given = (value.get(field) for field in ("host", "reason"))
    host, reason = (v if v is None or type(v) is str else short(v) for v in given)
    return Status(OLD_WORDS.get(str(word), str(word)), time_of(value, "time"), host, reason)


def state_of(document: Mapping[str, Any], followed: Collection[str] = ()) -> Status:
    """Return the state of a run, one of `STATES`: its status, and what else its document tells.

    A failed run whose job was cancelled is ``cancelled``. A pending run is ``running`` while a
    process has claimed it, or follows it; without end it is ``taking``, or ``no-end`` if it began
    more than `LONGEST_RUN` ago. `has_state` is the filter. The document has the fields
    `STATE_FIELDS`; `followed` has the names of runs that processes without claim are at work on,
    see `leases.runs_at_work`.
    """
    status = status_of(document)
    if cancelled_by(document) is not None:
        return status._replace(status="cancelled")
    if status.status != "pending":
        return status
    if name_of(document) in followed:
        return Status("running", host=this_host(), reason="amstraxer is at work on it")
    claim = document.get(PROCESSING_CLAIM)
    if is_claimed(document) and isinstance(claim, Mapping):
        owner = claim.get("owner")
        if isinstance(owner, str) and not owner.startswith(SUBMITTER_PREFIX):
            return Status("running", reason="a process has claimed it")
    if document.get("end") is not None:
        return status
    return status._replace(status="taking" if is_being_taken(document) else "no-end")


def is_being_taken(document: Mapping[str, Any]) -> bool:
    """Return whether a run has begun within the last `LONGEST_RUN`, and has no end yet."""
    start = utc_time_of(document, "start")
    is_recent = start is not None and start > datetime.now(UTC) - LONGEST_RUN
    return document.get("end") is None and is_recent


def time_of(document: Mapping[str, Any], field: str) -> datetime | None:
    """Return a time of a document, converted to UTC if it is from JSON; None if it is invalid."""
    value = document.get(field)
    if value is None or isinstance(value, datetime):
        return value
    try:
        return rundoc.start_time({"start": value})
    except InvalidRunDocument:
        return None


def cancelled_by(document: Mapping[str, Any]) -> str | None:
    """Return who has cancelled the last job of a failed run; None if it was not cancelled.

    The loop does not retry such a run; submitting it clears the mark.
    """
    who = job_of(document).get("cancelled_by")
    return str(who) if who and status_of(document).status == "failed" else None


def failures_of(document: Mapping[str, Any]) -> int:
    """Return the number of failures of a run's processing."""
    value = document.get("processing_failed")
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = float(value)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return min(max(int(value), 0), _MOST_FAILURES)
    return 0


def tags_of(document: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's tags."""
    tags = document.get("tags")
    names = [
        tag.get("name") if isinstance(tag, Mapping) else tag
        # The filter for tags also finds a tag outside a list
        for tag in (tags if isinstance(tags, list) else [tags])
    ]
    return [str(name) for name in names if isinstance(name, str) and name]


def quality_of(document: Mapping[str, Any]) -> str:
    """Return the quality of a run, one of `QUALITIES`; empty without one."""
    tags = tags_of(document)
    return next((quality for quality in QUALITIES if quality in tags), "")


def comments_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comments of a run, from first to last: ``user``, ``text`` and ``time``.

    The DAQ writes their text as ``comment``, other tools as ``text``.
    """
    found = document.get("comments")
    return [
        {
            "user": str(each.get("user") or ""),
            "text": str(each.get("comment") or each.get("text") or ""),
            "time": utc_time_of(each, "date"),
        }
        for each in (found if isinstance(found, list) else ())
        if isinstance(each, Mapping)
    ]


def data_of(document: Mapping[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the entries of a run's data whose `fields`, such as ``type="live"``, match."""
    data = document.get("data")
    return [
        entry
        for entry in (data if isinstance(data, list) else ())
        if isinstance(entry, dict) and all(entry.get(k) == v for k, v in fields.items())
    ]


def megabytes_of(entry: Mapping[str, Any]) -> float | None:
    """Return the size of an entry of data [MB]; None if it is missing or invalid."""
    size: Any = entry.get("size_mb")
    is_number = isinstance(size, (int, float)) and not isinstance(size, bool)
    return float(size) if is_number and 0 <= size < math.inf else None


def job_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run's last job: attempt, engine, job_id, name, ...; may be empty.

    Without ``job_id`` the job was about to be submitted, or was not a job of an engine.
    """
    job = document.get("processing_job")
    return dict(job) if isinstance(job, Mapping) else {}


def is_of_several_runs(job: Mapping[str, Any]) -> bool:
    """Return whether a record of `job_of` is of a job that processes several runs."""
    n_runs = job.get("n_runs")
    return isinstance(n_runs, int) and n_runs > 1


def is_claimed(
    document: Mapping[str, Any],
    field: str = PROCESSING_CLAIM,
    attempt: str | None = None,
    now: datetime | None = None,
) -> bool:
    """Return whether a run is claimed, in a field: the opposite of the filter `is_unclaimed`.

    With `attempt`, return whether a job of this attempt holds the claim. `now` is the time of the
    database server; that of this machine, the default, is enough for a first check.
    """
    claim = document.get(field)
    if claim is None:
        return False
    if not isinstance(claim, Mapping):
        return attempt is None
    if attempt is not None and not str(claim.get("owner")).startswith(f"{attempt}."):
        return False
    expires = claim.get("expires")
    # A claim without expiry lasts until its writer removes it
    return not isinstance(expires, datetime) or (
        expires.replace(tzinfo=expires.tzinfo or UTC) > (now or datetime.now(UTC))
    )


def utc_time_of(document: Mapping[str, Any], field: str) -> datetime | None:
    """Return a time in UTC; None if it is missing or invalid."""
    value = time_of(document, field)
    if value is None:
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


#: Fields of a document that `state_of` reads
STATE_FIELDS = (
    *("name", "number", "start", "end", "processing_status", "processing_job.cancelled_by"),
    PROCESSING_CLAIM,
)


def run_filters(run_id: str | int, runid_field: str | None = None) -> list[Filter]:
    """Return filters for a run, by `runid_field` or else number and name, the most likely first."""
    if runid_field not in (None, "name", "number"):
        raise InvalidOption(f"runid_field is {runid_field!r}: it must be 'name' or 'number'")
    text = str(run_id)
    filters: list[Filter] = []
    if runid_field != "name" and _is_number(text):
        filters.append({"number": int(text)})
    if runid_field != "number":
        filters.append({"name": f"{run_id:06d}" if isinstance(run_id, int) else text})
    return filters


def has_name(names: Iterable[str]) -> Filter:
    """Return a filter for runs of these names, also by number for documents without name."""
    known = sorted(set(names))
    numbers = [int(name) for name in known if _is_number(name)]
    return {"$or": [{"name": {"$in": known}}, {"name": None, "number": {"$in": numbers}}]}


def has_status(*statuses: str) -> Filter:
    """Return a filter for runs with these statuses, in either form."""
    words = set(statuses) | {old for old, new in OLD_WORDS.items() if new in statuses}
    options: list[Filter] = [
        {"processing_status": {"$in": sorted(words)}},
        {"processing_status.status": {"$in": sorted(words)}},
    ]
    if "pending" in statuses:
        options.append({"processing_status": None})
    if "failed" in statuses:
        options.append({"processing_status": {"$regex": "^failed"}})
    return {"$or": options}


def has_state(*states: str, followed: Collection[str] = ()) -> Filter:
    """Return a filter for runs in any of these `STATES`; `followed` as of `state_of`."""
    for state in states:
        _check_word(state, STATES)
    now = datetime.now(UTC)
    is_at_work: Filter = {
        "$or": [
            has_name(followed),
            {
                "$nor": [is_unclaimed(now), {f"{PROCESSING_CLAIM}.owner": None}],
                f"{PROCESSING_CLAIM}.owner": {"$not": {"$regex": f"^{SUBMITTER_PREFIX}"}},
            },
        ]
    }
    is_pending: Filter = {"$or": [has_status("pending"), has_no_status()]}
    is_recent: Filter = {"start": {"$gt": now - LONGEST_RUN}}
    is_cancelled: Filter = {"$nor": [is_not_cancelled()]}
    waits = {"$and": [is_pending, {"$nor": [is_at_work]}]}
    filters: dict[str, Filter] = {
        "taking": {"$and": [waits, {"end": None}, is_recent]},
        "no-end": {"$and": [waits, {"end": None}, {"$nor": [is_recent]}]},
        "pending": {"$and": [waits, {"end": {"$ne": None}}]},
        "running": {"$or": [has_status("running"), {"$and": [is_pending, is_at_work]}]},
        "failed": {"$and": [has_status("failed"), is_not_cancelled()]},
        "cancelled": {"$and": [has_status("failed"), is_cancelled]},
    }
    return {"$or": [filters.get(state) or has_status(state) for state in states]}


def has_no_status() -> Filter:
    """Return a filter for runs without status in either form."""
    return {
        "$nor": [
            {"processing_status": {"$type": "string"}},
            {"processing_status.status": {"$type": "string"}},
        ]
    }


def is_not_cancelled() -> Filter:
    """Return a filter for runs whose last job was not cancelled."""
    return {"processing_job.cancelled_by": None}


def has_tag(name: str) -> Filter:
    """Return a filter for runs with a tag."""
    return {"$or": [{"tags.name": name}, {"tags": name}]}


def lacks_tag(name: str) -> Filter:
    """Return a filter for runs without a tag."""
    return {"$and": [{"tags.name": {"$ne": name}}, {"tags": {"$ne": name}}]}


def has_data(data_type: str, **fields: Any) -> Filter:
    """Return a filter for runs with data of a type, such as ``has_data("live", host="daq")``."""
    return {"data": {"$elemMatch": {"type": data_type, **fields}}}


def is_unclaimed(now: datetime, field: str = PROCESSING_CLAIM) -> Filter:
    """Return a filter for runs unclaimed at `server_time`, by the claim in a field."""
    return {"$or": [{field: None}, {f"{field}.expires": {"$lte": now}}]}


def find_run(
    collection: Any,
    run_id: str | int,
    runid_field: str | None = None,
    projection: Iterable[str] | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fetch the document of a run.

    Only `runid_field`, ``"name"`` or ``"number"``, is searched, by default both. `projection` has
    the fields to return, as for pymongo.
    """
    for condition in run_filters(run_id, runid_field):
        document = collection.find_one(condition, projection)
        if document is not None:
            return document
    raise RunNotFound(
        f"run {run_id} is not in the run database ({place(collection)}): check its number, and "
        "which detector's run it is"
    )


def merge_tags(collection: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run document, with the tags of all documents of its number or name.

    A run should have one document; the first time that it has several is logged.
    """
    number, name = number_of(document), name_of(document)
    alike = [{"number": number}] * (number is not None) + [{"name": name}] * (name is not None)
    found = read(collection, {"$or": alike}, ["tags"]) if alike else []
    if len(found) < 2:
        return dict(document)
    ids = sorted(str(other["_id"]) for other in found)
    if (place(collection), *ids) not in _warned:
        _warned.add((place(collection), *ids))
        log.warning(
            "run %s has %d documents in %s (_id %s), whose tags are merged: remove all but one",
            name,
            len(ids),
            place(collection),
            ", ".join(ids[:3]),
        )
    return {**document, "tags": [{"name": tag} for other in found for tag in tags_of(other)]}


def read(
    collection: Any,
    condition: Mapping[str, Any],
    projection: Iterable[str] | Mapping[str, Any] | None = None,
    watch: Callable[[Iterable], Iterable] = iter,
    **options: Any,
) -> list[dict[str, Any]]:
    """Fetch all matching documents; start again if the connection drops meanwhile.

    `watch` wraps the iterator of documents, for example with a progress bar; the options are
    ``sort``, ``limit`` and ``skip``, as for pymongo.
    """
    try:
        return list(watch(collection.find(condition, projection, **options)))
    except RunDatabaseUnreachable:
        # find_one, unlike iteration, waits until the connection is back
        collection.find_one({"_id": None}, ["_id"])
        return list(watch(collection.find(condition, projection, **options)))


def id_of(collection: Any, run_id: _Run) -> Any:
    """Return the _id of the document of a run; `run_id` may be its document."""
    if isinstance(run_id, Mapping):
        return run_id["_id"]
    return find_run(collection, run_id, projection=["_id"])["_id"]


def find_only(collection: Any, run_id: str | int, projection: Iterable[str]) -> dict[str, Any]:
    """Fetch the only document of a run; several raise `InvalidRunDocument`."""
    found = read(collection, {"$or": run_filters(run_id)}, projection, limit=3)
    if len(found) > 1:
        ids = ", ".join(repr(document["_id"])[:40] for document in found)
        raise InvalidRunDocument(
            f"run {run_id} has several documents in {place(collection)} (_id {ids}): remove all "
            "but one, or give them different numbers and names"
        )
    return found[0] if found else find_run(collection, run_id, None, projection)


def _make_list(collection: Any, _id: Any, field: str) -> None:
    """Replace a null by an empty list, so that entries can be added."""
    value = (collection.find_one({"_id": _id}, [field]) or {}).get(field, [])
    if value is None:
        collection.update_one({"_id": _id, field: None}, {"$set": {field: []}})
    elif not isinstance(value, list):
        raise InvalidRunDocument(
            f"{field} of the run with _id {short(_id)} in {place(collection)} is a "
            f"{type(value).__name__}, not a list: correct the document"
        )


def _push(collection: Any, condition: Filter, field: str, entry: Mapping[str, Any]) -> bool:
    """Add an entry to a list of the document that matches; return whether one does."""
    _make_list(collection, condition["_id"], field)
    return collection.update_one(condition, {"$push": {field: entry}}).matched_count == 1


def _unchangeable_error(collection: Any, run_id: _Run, _id: Any) -> InvalidRunDocument:
    """Return the error for a document that `_MOST_ATTEMPTS` could not change."""
    name = name_of(run_id) if isinstance(run_id, Mapping) else run_id
    return InvalidRunDocument(
        f"the document of run {short(name, str)} with _id {short(_id)} in {place(collection)} "
        f"could not be changed in {_MOST_ATTEMPTS} attempts: correct its invalid fields"
    )


def place(collection: Any) -> str:
    return getattr(collection, "full_name", "the run database")


def server_time(collection: Any) -> datetime:
    """Fetch the time of the database server [UTC]."""
    if "server_time" in dir(type(collection)):
        return collection.server_time()
    # Plain collection of pymongo
    answer = collection.database.client.admin.command("hello")
    return answer["localTime"].replace(tzinfo=UTC)


def add_data(collection: Any, run_id: str | int, *entries: Mapping[str, Any]) -> bool:
    """Add entries to a run's data, or update existing ones; return whether all are new.

    Type, host, location and lineage_hash identify an entry. New entries take one update. An entry
    without type, host or location, and data that is not a list, raise `InvalidRunDocument`.
    """
    for entry in entries:
        missing = [key for key in ("type", "host", "location") if not entry.get(key)]
        if missing:
            raise InvalidRunDocument(
                f"data of run {run_id} lacks {', '.join(missing)}: give an entry as "
                "{type, host, location, ...}"
            )
    _id = id_of(collection, run_id)
    _make_list(collection, _id, "data")
    for _ in range(_MOST_ATTEMPTS):
        known = [{"data": {"$elemMatch": _identity(entry)}} for entry in entries]
        lacks_all = {"_id": _id, "$nor": known}
        new = {"$push": {"data": {"$each": [dict(entry) for entry in entries]}}}
        if collection.update_one(lacks_all, new).matched_count:
            return True
        if len(entries) > 1:
            return all([add_data(collection, run_id, entry) for entry in entries])
        [entry] = entries
        has_it = {"_id": _id, **known[0]}
        if collection.update_one(has_it, {"$set": {"data.$": dict(entry)}}).matched_count:
            return False
        id_of(collection, run_id)
    raise _unchangeable_error(collection, run_id, _id)


def remove_data(
    collection: Any, run_id: str | int, entry: Mapping[str, Any], deleted_by: str
) -> int:
    """Move entries of a run's data to deleted_data, and return their number.

    Entries match that contain all fields of `entry`, such as ``{"type": "live", "host": "daq"}``;
    `deleted_by` is recorded with the time.
    """
    document = find_run(collection, run_id, projection=["data"])
    _id = document["_id"]
    _make_list(collection, _id, "deleted_data")
    deletion = {"deleted_at": datetime.now(UTC), "deleted_by": deleted_by}
    identities: list[Filter] = []
    for found in data_of(document, **entry):
        if _identity(found) not in identities:
            identities.append(_identity(found))
    removed = 0
    for identity in identities:
        alike = [{**e, **deletion} for e in data_of(document) if _identity(e) == identity]
        done = collection.update_one(
            {"_id": _id, "data": {"$elemMatch": identity}},
            {"$pull": {"data": identity}, "$push": {"deleted_data": {"$each": alike}}},
        )
        removed += len(alike) if done.matched_count else 0
    return removed


def add_tag(collection: Any, run_id: str | int, tag: str, user: str) -> bool:
    """Add a tag to a run, with user and date; return False if it has the tag already."""
    new = {"name": tag, "user": user, "date": datetime.now(UTC)}
    return _push(collection, {"_id": id_of(collection, run_id), **lacks_tag(tag)}, "tags", new)


def remove_tag(collection: Any, run_id: _Run, tag: str, user: str | None = None) -> bool:
    """Remove a tag from a run, or only that of a user; return False if it has none."""
    _id = id_of(collection, run_id)
    if user is not None:
        pull = {"$pull": {"tags": {"name": tag, "user": user}}}
        return collection.update_one({"_id": _id, "tags.user": user}, pull).modified_count == 1
    for field in ("tags.name", "tags"):
        # $pull only works on lists
        single = {"_id": _id, "$and": [{field: tag}, {"tags": {"$not": {"$type": "array"}}}]}
        if collection.update_one(single, {"$unset": {"tags": ""}}).matched_count:
            return True
    forms = (("tags.name", {"name": tag}), ("tags", tag))
    done = [collection.update_one({"_id": _id, f: tag}, {"$pull": {"tags": v}}) for f, v in forms]
    return any(result.matched_count for result in done)


def set_quality(collection: Any, run_id: str | int, quality: str, user: str, reason: str) -> None:
    """Set the quality of a run to one of `QUALITIES`, with who says so and why; replace others.

    It is a tag, so `select_runs` of a context selects by it: ``include_tags="good"``. An unknown
    quality raises `InvalidOption`.
    """
    if quality not in QUALITIES:
        raise InvalidOption(f"quality {quality!r} is unknown{did_you_mean(quality, QUALITIES)}")
    _id = id_of(collection, run_id)
    for other in QUALITIES:
        remove_tag(collection, {"_id": _id}, other)
    tag = {"name": quality, "user": user, "date": datetime.now(UTC), "comment": reason}
    _push(collection, {"_id": _id, **lacks_tag(quality)}, "tags", tag)


def add_comment(collection: Any, run_id: str | int, text: str, user: str) -> None:
    """Add a comment to a run, in the form of the DAQ."""
    comment = {"user": user, "comment": text, "date": datetime.now(UTC)}
    # Each has its time, so that one that is sent again after a lost answer is there once
    lacks_it = {"comments": {"$not": {"$elemMatch": comment}}}
    _push(collection, {"_id": id_of(collection, run_id), **lacks_it}, "comments", comment)


def _identity(entry: Mapping[str, Any]) -> Filter:
    """Return the fields that identify an entry of data, with None for missing ones."""
    return {key: entry.get(key) for key in _DATA_IDENTITY}


def set_status(
    collection: Any,
    run_id: _Run,
    status: str,
    reason: str | None = None,
    host: str | None = None,
    owner: str | None = None,
    job: Mapping[str, Any] | None = None,
    keep_failures: bool = False,
    condition: Mapping[str, Any] | None = None,
) -> bool:
    """Set the status of a run, one of `STATUSES`, with the time; `run_id` may be its document.

    ``"pending"`` also clears the failures, unless `keep_failures`. `host` caused the status, by
    default this machine. `job` is a new record of its job, see `job_of`; None keeps the present
    one. If the document does not match the filter `condition`, nothing is changed and False is
    returned.
    """
    _check_word(status, STATUSES)
    changes: Filter = {}
    if status == "pending" and not keep_failures:
        changes |= {"processing_failed": 0, "processing_failures": []}
    if job is not None:
        changes["processing_job"] = dict(job)
    new = _status(collection, status, reason, host)
    wanted = {"$and": [_owned(collection, run_id, owner), condition or {}]}
    return update_status(collection, wanted, new, {"$set": changes})


def _owned(collection: Any, run_id: _Run, owner: str | None) -> Filter:
    """Return a filter for the document of a run, and for the owner of its claim unless None."""
    owned = {} if owner is None else {"processing_claim.owner": owner}
    return {"_id": id_of(collection, run_id), **owned}


def _check_word(status: str, known: tuple[str, ...]) -> None:
    if status not in known:
        raise InvalidOption(f"status {status!r} is unknown{did_you_mean(status, known)}")


def update_status(
    collection: Any,
    condition: Mapping[str, Any],
    status: Mapping[str, Any],
    update: Mapping[str, Any] | None = None,
) -> bool:
    """Set the status of a run, keeping those of its targets; return whether a document matched.

    `condition` is a filter; `update` has other changes, made at the same time.
    """
    update = update or {}
    is_document = {"processing_status": _DOCUMENT_FORM}
    parts = {f"processing_status.{field}": value for field, value in status.items()}
    forms = ((is_document, parts), ({"$nor": [is_document]}, {"processing_status": dict(status)}))
    for form, change in forms:
        changes = {**update, "$set": {**update.get("$set", {}), **change}}
        if collection.update_one({"$and": [condition, form]}, changes).matched_count:
            return True
    return False


def set_target_status(
    collection: Any,
    run_id: _Run,
    target: str,
    status: str,
    is_online: bool,
    reason: str | None = None,
    owner: str | None = None,
) -> bool:
    """Set the status of one target of a run, in ``processing_status.targets``.

    `target` is a data type, `status` one of `TARGET_STATUSES`; `is_online` tells whether the loop
    that follows the DAQ processes the run, which may be given as its document.
    """
    _check_word(status, TARGET_STATUSES)
    if not re.fullmatch(r"[A-Za-z]\w*", target, re.ASCII):
        raise InvalidOption(f"target {short(target)} is no data type: use letters, digits and _")
    owned = _owned(collection, run_id, owner)
    new = _status(collection, status, reason, None) | {"is_online": is_online}
    can_hold_it = {
        "processing_status": _DOCUMENT_FORM,
        "$or": [
            {"processing_status.targets": {"$exists": False}},
            {"processing_status.targets": _DOCUMENT_FORM},
        ],
    }
    change = {f"processing_status.targets.{target}": new}
    for _ in range(_MOST_ATTEMPTS):
        if collection.update_one({"$and": [owned, can_hold_it]}, {"$set": change}).matched_count:
            return True
        before = collection.find_one(owned, ["processing_status"])
        if before is None:
            return False
        # The older form of the status, a word, cannot hold targets
        seen = before.get("processing_status")
        form = status_of(before)._asdict() if seen is not None else {}
        whole = {"processing_status": {**form, "targets": {target: new}}}
        is_as_seen = {"$and": [owned, {"processing_status": seen}, {"$nor": [can_hold_it]}]}
        if collection.update_one(is_as_seen, {"$set": whole}).matched_count:
            return True
    raise _unchangeable_error(collection, run_id, owned["_id"])


def history_entry(action: str, status: str, is_online: bool, **fields: Any) -> dict[str, Any]:
    """Return an entry of a run's ``processing_history`` with the present time, host and user."""
    now = datetime.now(UTC)
    return {
        # Rounded as BSON does, so that `add_history` finds the entry again
        "time": now.replace(microsecond=now.microsecond // 1000 * 1000),
        "user": settings.login_name(),
        "host": this_host(),
        "action": action,
        "status": status,
        "is_online": is_online,
        **fields,
    }


def add_history(
    collection: Any, run_id: _Run, entry: Mapping[str, Any], owner: str | None = None
) -> bool:
    """Add an entry of `history_entry` to a run's history, once; return False if it is not added.

    That is when `owner` is given, and does not have the claim of the run.
    """
    owned = _owned(collection, run_id, owner)
    same = {"$elemMatch": {key: entry[key] for key in ("time", "user", "host", "action")}}
    lacks_it = {**owned, "processing_history": {"$not": same}}
    if _push(collection, lacks_it, "processing_history", dict(entry)):
        return True
    return collection.find_one({**owned, "processing_history": same}, ["_id"]) is not None


def set_job(collection: Any, run_id: str | int, job: Mapping[str, Any], owner: str) -> bool:
    """Set the record of a run's job, see `job_of`; an empty one is removed."""
    change = {"$set": {"processing_job": dict(job)}} if job else {"$unset": {"processing_job": ""}}
    condition = _owned(collection, run_id, owner)
    return collection.update_one(condition, change).matched_count == 1


def set_job_id(collection: Any, run_id: str | int, attempt: str, job_id: str) -> bool:
    """Record the job id of a started attempt; return False if the run has another job now."""
    own_claim = {"processing_claim.owner": {"$regex": f"^{re.escape(attempt)}\\."}}
    condition = {
        "_id": id_of(collection, run_id),
        "processing_job.attempt": attempt,
        "$or": [{"processing_claim": None}, own_claim],
    }
    change = {"$set": {"processing_job.job_id": job_id}}
    return collection.update_one(condition, change).matched_count == 1


def set_cancelled(collection: Any, run_id: str | int, attempt: str, user: str | None) -> bool:
    """Record who cancels the job of an attempt, before it ends; None clears the record.

    A cancelled job does not count as a failure, see `record_failure` and `cancelled_by`. Unless
    this job is submitted or running, nothing is changed and False is returned.
    """
    condition = {"_id": id_of(collection, run_id), **_active_job(attempt)}
    change: Filter = {"$set": {"processing_job.cancelled_by": user}}
    if user is None:
        change = {"$unset": {"processing_job.cancelled_by": ""}}
    return collection.update_one(condition, change).matched_count == 1


def _active_job(attempt: str) -> Filter:
    return {
        "processing_job.attempt": attempt,
        "processing_status.status": {"$in": ["submitted", "running"]},
    }


def record_failure(
    collection: Any,
    run_id: _Run,
    reason: str,
    attempt: str,
    host: str | None = None,
    condition: Mapping[str, Any] | None = None,
) -> int | None:
    """Set a run's status to failed, count the failure, and return the number of failures.

    A cancelled job does not count as a failure; the reason names who cancelled it. Each attempt,
    named in a job or claim, is counted once. `run_id` may be the document of the run; `host` is
    where it failed, by default this machine. If the document does not match the filter `condition`,
    nothing is changed and None is returned.
    """
    _id = id_of(collection, run_id)
    _mend_count(collection, _id)
    status = _status(collection, "failed", reason, host)
    failure = {"attempt": attempt} | {k: status[k] for k in ("time", "host", "reason")}
    wanted = {"$and": [{"_id": _id}, condition or {}]}
    fields = ["processing_failed", "processing_failures", "processing_job"]
    for _ in range(_MOST_ATTEMPTS):
        before = collection.find_one(wanted, fields)
        if before is None:
            if condition is not None and collection.find_one({"_id": _id}, ["_id"]) is not None:
                return None
            name = name_of(run_id) if isinstance(run_id, Mapping) else run_id
            raise RunNotFound(f"run {name} has been removed from {place(collection)}")
        count = failures_of(before)
        job = job_of(before)
        is_its = job.get("attempt") == attempt
        if is_its and job.get("log"):
            failure["log"] = job["log"]
        if is_its and (who := job.get("cancelled_by")):
            is_cancelled = {"processing_job.attempt": attempt, "processing_job.cancelled_by": who}
            cancelled = _status(collection, "failed", f"cancelled by {who}", host)
            if update_status(collection, {"$and": [wanted, is_cancelled]}, cancelled):
                return count
            continue
        known = before.get("processing_failures") or ()
        if any(isinstance(f, Mapping) and f.get("attempt") == attempt for f in known):
            # Counted when the job was taken for dead; it may have continued since
            at_work = {"$and": [wanted, _active_job(attempt)]}
            update_status(collection, at_work, status)
            return count
        uncounted = {
            "processing_failed": before.get("processing_failed"),
            "processing_failures.attempt": {"$ne": attempt},
        }
        change = {
            "$set": {"processing_failed": count + 1},
            "$push": {"processing_failures": failure},
        }
        if update_status(collection, {"$and": [wanted, uncounted]}, status, change):
            return count + 1
    raise _unchangeable_error(collection, run_id, _id)


def _mend_count(collection: Any, _id: Any) -> None:
    """Replace an invalid count of failures by a number, and an invalid list by a list."""
    found = collection.find_one({"_id": _id}, ["processing_failed", "processing_failures"]) or {}
    # The update tests again, so that failures counted meanwhile are kept
    kinds = {"processing_failed": ("int", "long"), "processing_failures": ("array",)}
    values = {"processing_failed": failures_of(found), "processing_failures": []}
    for field, types in kinds.items():
        if field in found and found[field] != values[field] and not isinstance(found[field], list):
            is_invalid = {"$nor": [{field: {"$type": kind}} for kind in types]}
            collection.update_one({"_id": _id, **is_invalid}, {"$set": {field: values[field]}})


def _status(collection: Any, status: str, reason: str | None, host: str | None) -> dict[str, Any]:
    return {
        "status": status,
        "time": server_time(collection),
        "host": host or this_host(),
        "reason": reason,
    }
