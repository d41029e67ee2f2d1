"""Import and export run documents as JSON of MongoDB's tools, add new ones, and summarize them.

Dates, ids and similar values are in the relaxed extended JSON of ``mongoexport``, such as
``{"$date": "2024-01-02T03:04:05Z"}``: one document per line, or all in an array.
"""

import hashlib
import logging
import math
import sys
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import run_metadata, rundoc, settings, strict_json
from amstrax.exceptions import InvalidRunDocument, LiveDataNotFound, RunDatabaseUnreachable
from amstrax.rundb import connection, documents
from amstrax.strict_json import one_line, short

log = logging.getLogger(__name__)

STDIO = "-"
#: Documents sent at once
_BATCH = 200
#: Largest file that is imported [bytes], since it is held in memory
_MOST_BYTES = 2**31
#: Largest document that MongoDB stores [bytes]
_MOST_DOCUMENT_BYTES = 2**24


def to_json(document: Mapping[str, Any], indent: int | None = None) -> str:
    """Return a document as relaxed extended JSON."""
    from bson import json_util  # slow to import

    return json_util.dumps(document, json_options=json_util.RELAXED_JSON_OPTIONS, indent=indent)


def documents_in(path: str) -> list[dict[str, Any]]:
    """Load the documents in a file, ``"-"`` for standard input.

    Unreadable files and invalid documents raise `InvalidRunDocument` with the line.
    """
    place = "standard input" if path == STDIO else strict_json.place_of(path)
    if path == STDIO:
        try:
            text = sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRunDocument(f"{place} cannot be read ({error})") from None
    else:
        text = strict_json.read_text(path, InvalidRunDocument, _MOST_BYTES)
    found = _parsed(text, place)
    for i, (document, where) in enumerate(found, 1):
        if not isinstance(document, dict):
            raise InvalidRunDocument(f"{where}: document {i} is not an object: nothing is imported")
        try:
            new_document(document)
        except InvalidRunDocument as error:
            raise InvalidRunDocument(
                f"{where}: document {i}: {error}: nothing is imported"
            ) from None
    return [document for document, _ in found]


def _parsed(text: str, place: str) -> list[tuple[Any, str]]:
    """Return each document, with its place."""
    from bson import json_util  # slow to import

    def parse(part: str, line: int = 1) -> Any:
        return strict_json.parse(part, place, InvalidRunDocument, json_util.object_hook, line)

    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InvalidRunDocument(f"{place} is empty: give run documents, one a line or in an array")
    if lines[0][1].lstrip().startswith("["):
        return [(document, place) for document in parse(text)]
    if not lines[0][1].rstrip().endswith("}"):
        # One document that spans several lines
        return [(parse(text), place)]
    return [(parse(line, i), f"{place}, line {i}") for i, line in lines]


def import_documents(
    collection: Any, new: Iterable[dict[str, Any]], replace: bool = False
) -> tuple[int, int]:
    """Add run documents; return the number added and the number that existed already.

    Existing runs are not changed, unless `replace`.
    """
    known = set()
    for there in documents.read(collection, {}, ["name", "number"]):
        known |= {documents.name_of(there), documents.number_of(there)} - {None}
    added, batch = 0, []
    present: list[dict[str, Any]] = []
    for document in new:
        prepared = new_document(document)
        keys = {documents.name_of(document), documents.number_of(document)} - {None}
        if keys & known:
            present.append(document)
            continue
        known |= keys
        batch.append(prepared)
        if len(batch) == _BATCH:
            added += _insert(collection, batch)
            batch = []
    added += _insert(collection, batch)
    for document in present if replace else ():
        name = documents.name_of(document)
        assert name is not None
        there = documents.find_run(collection, name, projection=["_id"])
        whole = {k: v for k, v in new_document(document).items() if k != "_id"}
        collection.replace_one({"_id": there["_id"]}, whole)
    return added, len(present)


def _insert(collection: Any, batch: list[dict[str, Any]]) -> int:
    from pymongo.errors import BulkWriteError, DuplicateKeyError  # slow to import

    if not batch:
        return 0
    try:
        collection.insert_many(batch)
    except (BulkWriteError, DuplicateKeyError, RunDatabaseUnreachable):
        # Another process adds runs too, or the connection dropped: one by one is safe to repeat
        return sum(add_run(collection, document) for document in batch)
    return len(batch)


def export_documents(found: Iterable[Mapping[str, Any]], path: str) -> int:
    """Write documents to a file, ``"-"`` for standard output, one per line; return their number.

    The file is complete or, after a failure, unchanged.
    """
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for document in found:
            count += 1
            yield f"{to_json(document)}\n"

    if path == STDIO:
        sys.stdout.writelines(lines())
    else:
        strict_json.write_text(Path(path), lines())
    return count


def add_live(collection: Any, folder: Path, document_file: Path | None = None) -> str:
    """Register a run from its folder of live data; return a one-line report.

    The name of `folder`, such as ``live_data/006724``, is the name of the run; a missing folder
    raises `LiveDataNotFound`. If the run is not in the run database yet, its document is loaded
    from `document_file`, by default ``rundoc_RUN_ID.json`` next to the folder. A needed document
    that is missing or invalid raises `InvalidRunDocument`. The live data is added to the document,
    for this host.
    """
    folder = settings.expanded(folder).absolute()
    if not folder.is_dir():
        raise LiveDataNotFound(
            f"no folder {folder}: give the folder of a run, as LIVE_FOLDER/006724"
        )
    run_id = rundoc.check_run_name(folder.name)
    is_new = not any(collection.find_one(f, ["_id"]) for f in documents.run_filters(run_id))
    if is_new or document_file is not None:
        source = document_file or folder.with_name(f"rundoc_{run_id}.json")
        if document_file is None and not source.is_file():
            raise InvalidRunDocument(
                f"run {run_id} is not in the run database, and {source} with its document is "
                "missing: give one with --rundoc"
            )
        is_new = add_run(collection, _load_named(source, run_id))
    entry = {"type": "live", "host": documents.this_host(), "location": str(folder.parent)}
    has_new_data = documents.add_data(collection, run_id, entry)
    run = "added" if is_new else "exists already"
    data = "is registered" if has_new_data else "was registered already"
    return f"run {run_id} {run}, its live data in {folder.parent} {data}"


def _load_named(source: Path, run_id: str) -> dict[str, Any]:
    """Load the only document in a file, and set its name to that of a run."""
    found = documents_in(str(source))
    if len(found) != 1:
        raise InvalidRunDocument(f"{source} has {len(found)} documents: give one")
    [document] = found
    if documents.name_of(document) != run_id:
        log.warning(
            "the document in %s is of run %s: it is added as run %s, the name of its folder",
            source,
            documents.name_of(document),
            run_id,
        )
        # It identifies the other run
        document.pop("_id", None)
    number = documents.number_of({"number": run_id})
    document |= {"name": run_id} | ({} if number is None else {"number": number})
    document["start"] = rundoc.start_time(document)
    document["end"] = rundoc.end_time(document)
    return document


def add_run(collection: Any, document: Mapping[str, Any]) -> bool:
    """Add the document of a run unless it has one already; return whether it was added.

    Errors are those of `new_document`.
    """
    from pymongo.errors import DuplicateKeyError  # slow to import

    new = new_document(document)
    name, number = documents.name_of(new), documents.number_of(new)
    filters = documents.run_filters(name or "")
    if number is not None:
        filters += documents.run_filters(number)

    def exists() -> bool:
        return any(collection.find_one(condition, ["_id"]) is not None for condition in filters)

    if exists():
        return False
    try:
        connection.resilient(collection.insert_one, new)
    except DuplicateKeyError:
        # Another process has just added it, or this one has and the answer was lost
        if exists():
            return False
        raise InvalidRunDocument(
            f"the _id {new['_id']} of run {name} belongs to another document in "
            f"{documents.place(collection)}: remove it from the new document"
        ) from None
    return True


def new_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document ready to add: with _id, name and, if possible, number.

    One without number and name, or that cannot be stored, raises `InvalidRunDocument`.
    """
    import bson  # slow to import

    name, number = documents.name_of(document), documents.number_of(document)
    if name is None:
        raise InvalidRunDocument(
            "the run document has neither number nor name: add the number of the run"
        )
    # Derived from the name, so that concurrent processes add a run only once
    digest = hashlib.sha256(f"amstrax run {name}".encode()).digest()
    new = {"_id": document.get("_id", bson.ObjectId(digest[:12])), **document}
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
        # bson raises its own errors, Python's and those of other libraries
        raise InvalidRunDocument(
            f"run {short(name, str)} cannot be stored: {short(error, one_line)}"
        ) from None
    if size > _MOST_DOCUMENT_BYTES:
        raise InvalidRunDocument(
            f"the document of run {short(name, str)} has {size / 1e6:.1f} MB; the run database "
            f"stores at most {_MOST_DOCUMENT_BYTES / 1e6:.1f} MB: make it smaller"
        )
    return new


class Summary(NamedTuple):
    """Summary of a run for lists; times are in UTC, missing or invalid fields are empty or None."""

    #: Name of the run; ``"?"`` without one
    run_id: str
    start: datetime | None
    end: datetime | None
    #: One of `documents.STATES`
    status: str
    mode: str
    user: str
    tags: list[str]
    #: Registered data types, on any host and on this one, without duplicates
    types: list[str]
    here: list[str]
    #: Who has cancelled the last job, if that made the run fail
    cancelled_by: str | None = None
    #: Whether the run is being taken
    is_being_taken: bool = False
    #: One of `documents.QUALITIES`, or empty; text of the newest comment; reason of the status
    quality: str = ""
    comment: str = ""
    reason: str = ""
    #: Class and source, as of `amstrax.run_metadata`, and name of the science run
    run_class: str = ""
    source: str = ""
    science_run: str = ""

    @property
    def length(self) -> float | None:
        """Duration [s]; None without start or end."""
        if self.start is None or self.end is None:
            return None
        return (self.end - self.start).total_seconds()


#: Fields of a document that `summary` reads
SUMMARY_FIELDS = (
    *(*documents.STATE_FIELDS, "mode", "user", "tags", "comments"),
    *("xams_bookkeeping.run_class", "xams_bookkeeping.source_type"),
    "xams_bookkeeping.science_run_id",
    *("data.type", "data.host", "data.lineage_hash"),
)


def summary(document: Mapping[str, Any], followed: Collection[str] = ()) -> Summary:
    """Return the summary of a run for lists; `followed` as of `documents.state_of`."""
    entries = documents.data_of(document)
    here = documents.data_of(document, host=documents.this_host())
    state = documents.state_of(document, followed)
    long_ago = datetime.min.replace(tzinfo=UTC)
    comments = documents.comments_of(document)
    newest = max(reversed(comments), key=lambda each: each["time"] or long_ago, default=None)
    return Summary(
        documents.name_of(document) or "?",
        documents.utc_time_of(document, "start"),
        documents.utc_time_of(document, "end"),
        state.status,
        str(document.get("mode") or ""),
        str(document.get("user") or ""),
        documents.tags_of(document),
        list(dict.fromkeys(str(entry.get("type")) for entry in entries)),
        list(dict.fromkeys(str(entry.get("type")) for entry in here)),
        documents.cancelled_by(document),
        documents.is_being_taken(document),
        documents.quality_of(document),
        newest["text"] if newest else "",
        state.reason or "",
        run_metadata.get_run_class(document),
        run_metadata.get_source_type(document),
        str(rundoc.value_at(document, "xams_bookkeeping.science_run_id") or ""),
    )
