"""Adding runs to the run database, and to a run its data and tags."""

import hashlib
import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from amstrax.exceptions import InvalidRunDocument
from amstrax.rundb.fields import data_of, name_of, number_of
from amstrax.rundb.filters import Filter, lacks_tag, run_filters
from amstrax.rundb.finding import attempts, find_run, id_of, make_list, place
from amstrax.strict_json import one_line, short

_DATA_IDENTITY = ("type", "host", "location", "lineage_hash")
#: Largest document that MongoDB stores [bytes]
_MOST_BYTES = 2**24


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
    _id = id_of(collection, run_id)
    make_list(collection, _id, "data")
    same = {"$elemMatch": _identity(entry)}
    for _ in attempts(collection, run_id, _id):
        done = collection.update_one(
            {"_id": _id, "data": {"$not": same}}, {"$push": {"data": dict(entry)}}
        )
        if done.matched_count:
            return True
        done = collection.update_one({"_id": _id, "data": same}, {"$set": {"data.$": dict(entry)}})
        if done.matched_count:
            return False
        id_of(collection, run_id)
    raise AssertionError("attempts do not end without an error")


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
    make_list(collection, _id, "deleted_data")
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
    _id = id_of(collection, run_id)
    make_list(collection, _id, "tags")
    done = collection.update_one(
        {"$and": [{"_id": _id}, lacks_tag(tag)]},
        {"$push": {"tags": {"name": tag, "user": user, "date": datetime.now(UTC)}}},
    )
    return done.matched_count == 1


def remove_tag(collection: Any, run_id: str | int | Mapping[str, Any], tag: str) -> bool:
    """Take a tag from a run; return False when it did not have it.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    _id = id_of(collection, run_id)
    for field in ("tags.name", "tags"):
        # What is in no list can be pulled from none
        single = {"_id": _id, "$and": [{field: tag}, {"tags": {"$not": {"$type": "array"}}}]}
        if collection.update_one(single, {"$unset": {"tags": ""}}).matched_count:
            return True
    as_document = collection.update_one(
        {"_id": _id, "tags.name": tag}, {"$pull": {"tags": {"name": tag}}}
    )
    as_word = collection.update_one({"_id": _id, "tags": tag}, {"$pull": {"tags": tag}})
    return bool(as_document.matched_count or as_word.matched_count)


def _identity(entry: Mapping[str, Any]) -> Filter:
    """Return what tells an entry of data from others; None is for what is missing."""
    return {key: entry.get(key) for key in _DATA_IDENTITY}


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
            f"{place(collection)}: leave it out of the document"
        ) from None
    return True


def new_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as it is added: with _id, name and, if it can have one, number.

    Raises
    ------
    InvalidRunDocument
        When it has neither number nor name, or cannot be stored.
    """
    import bson

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
    _id = new["_id"]
    is_id = isinstance(_id, (str, int, bytes, datetime, bson.ObjectId, uuid.UUID))
    if not is_id and not (isinstance(_id, float) and math.isfinite(_id)):
        raise InvalidRunDocument(
            f"the _id of run {short(name, str)} is {short(_id)}: take a number, a text or an "
            "ObjectId, or leave it out"
        )
    try:
        size = len(bson.encode(new))
    except Exception as error:
        # bson has errors of its own, of Python's and of other libraries
        raise InvalidRunDocument(
            f"run {short(name, str)} cannot be stored: {short(error, one_line)}"
        ) from None
    if size > _MOST_BYTES:
        raise InvalidRunDocument(
            f"the document of run {short(name, str)} has {size / 1e6:.1f} MB; the run database "
            f"takes {_MOST_BYTES / 1e6:.1f} MB: make it smaller"
        )
    return new


def _run_object_id(name: str) -> Any:
    """Return the _id that everyone gives to a new run of this name: so it is added once."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256(f"amstrax run {name}".encode()).digest()[:12])
