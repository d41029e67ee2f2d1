"""Reading run documents from the run database."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from amstrax.exceptions import InvalidRunDocument, RunDatabaseUnreachable, RunNotFound
from amstrax.rundb.fields import name_of, number_of, tags_of
from amstrax.rundb.filters import run_filters
from amstrax.strict_json import short

log = logging.getLogger(__name__)

#: Others may change a document so often between reading and changing it
_MOST_ATTEMPTS = 100

# Documents of which it has been said that they are of one run
_warned: set[tuple[str, ...]] = set()


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
        f"run {run_id} is not in the run database ({place(collection)}): check its number, and "
        "which detector's run it is"
    )


def merge_tags(collection: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a run with the tags of all documents of its number or name.

    One run should have one document: where it has more, a warning says so, once.
    """
    number, name = number_of(document), name_of(document)
    alike = [{"number": number}] * (number is not None) + [{"name": name}] * (name is not None)
    if not alike:
        return dict(document)
    found = read(collection, {"$or": alike}, ["tags"])
    ids = sorted(str(other["_id"]) for other in found)
    if len(ids) > 1 and (place(collection), *ids) not in _warned:
        _warned.add((place(collection), *ids))
        log.warning(
            "run %s has %d documents in %s (_id %s): remove all but one; a tag of one counts",
            name,
            len(ids),
            place(collection),
            ", ".join(ids[:3]),
        )
    tags = [{"name": tag} for other in found for tag in tags_of(other)]
    return {**document, "tags": tags} if len(ids) > 1 else dict(document)


def duplicates(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of runs that have more than one of some documents."""
    names = Counter(name_of({"number": number_of(d)}) or str(name_of(d)) for d in documents)
    return [name for name, n in names.items() if n > 1]


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


def id_of(collection: Any, run_id: str | int | Mapping[str, Any]) -> Any:
    """Return the _id of the document of a run; raises as `find_run` does.

    What takes the name or number of a run takes its document as well: it is the one that is meant,
    also when it has neither, or is not the only one.
    """
    if isinstance(run_id, Mapping):
        return run_id["_id"]
    return find_run(collection, run_id, projection=["_id"])["_id"]


def find_only(collection: Any, run_id: str | int, projection: Iterable[str]) -> dict[str, Any]:
    """Return the document of a run, which must be the only one.

    Raises
    ------
    RunNotFound
        When there is none.
    InvalidRunDocument
        When there are several.
    """
    found = read(collection, {"$or": run_filters(run_id)}, projection, limit=3)
    if len(found) > 1:
        ids = ", ".join(repr(document["_id"])[:40] for document in found)
        raise InvalidRunDocument(
            f"run {run_id} has several documents in {place(collection)} (_id {ids}): remove all "
            "but one, or give them different numbers and names"
        )
    return found[0] if found else find_run(collection, run_id, None, projection)


def make_list(collection: Any, _id: Any, field: str) -> None:
    """Turn a null into a list, so that something can be added to it."""
    value = (collection.find_one({"_id": _id}, [field]) or {}).get(field, [])
    if value is None:
        collection.update_one({"_id": _id, field: None}, {"$set": {field: []}})
    elif not isinstance(value, list):
        raise InvalidRunDocument(
            f"{field} of the run with _id {short(_id)} in {place(collection)} is a "
            f"{type(value).__name__}, not a list: correct the document"
        )


def attempts(collection: Any, run_id: Any, _id: Any) -> Iterator[int]:
    """Yield the numbers of attempts to change a document that others change meanwhile.

    Raises
    ------
    InvalidRunDocument
        Instead of an attempt more than `_MOST_ATTEMPTS`.
    """
    yield from range(_MOST_ATTEMPTS)
    name = name_of(run_id) if isinstance(run_id, Mapping) else run_id
    raise InvalidRunDocument(
        f"the document of run {short(name, str)} with _id {short(_id)} in {place(collection)} "
        f"cannot be changed in {_MOST_ATTEMPTS} attempts: correct what is odd in it"
    )


def place(collection: Any) -> str:
    """Return the name of a collection, for messages."""
    return getattr(collection, "full_name", "the run database")
