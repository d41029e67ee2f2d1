"""Pages of the list of runs: those that a search finds, in an order, so many at a time.

What a search needs of the run database is what both stores have; a page's documents alone are read
in full, however many runs there are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.rundb import documents
from amstrax.rundb.local import LocalCollection

#: What runs can be put in order by -> the field of the document
ORDERS = {
    "number": "number",
    "start": "start",
    "end": "end",
    "mode": "mode",
    "user": "user",
    "status": "processing_status.status",
    "changed": "processing_status.time",
    "failures": "processing_failed",
}

#: Fields that a text is looked for in
_TEXTS = ("name", "mode", "user", "tags", "tags.name", "comments.comment")

Filter = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """Which runs to list; what is not given leaves none out.

    Attributes
    ----------
    text
        Words, each of which is in the name, mode, user, a tag or a comment of the run; or is its
        number. Upper case is as lower case.
    statuses
        Of one of these, see `amstrax.rundb.documents.STATUSES`.
    modes
        Of one of these modes.
    tags
        With each of these tags.
    since, until
        Begun on one of these days, or between them (UTC).
    first, last
        With these numbers, or between them.
    """

    text: str = ""
    statuses: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    first: int | None = None
    last: int | None = None

    def filter(self) -> Filter:
        """Return the filter for these runs.

        Raises
        ------
        InvalidOption
            When there is no such status.
        """
        conditions: list[Filter] = [_has_word(word) for word in self.text.split()]
        for status in self.statuses:
            if status not in documents.STATUSES:
                raise InvalidOption(
                    f"status {status!r} is unknown{did_you_mean(status, documents.STATUSES)}"
                )
        if self.statuses:
            conditions.append(documents.has_status(*self.statuses))
        if self.modes:
            conditions.append({"mode": {"$in": list(self.modes)}})
        conditions += [documents.has_tag(tag) for tag in self.tags]
        if self.since is not None:
            conditions.append({"start": {"$gte": _midnight(self.since)}})
        if self.until is not None:
            conditions.append({"start": {"$lt": _midnight(self.until) + timedelta(days=1)}})
        if self.first is not None:
            conditions.append({"number": {"$gte": self.first}})
        if self.last is not None:
            conditions.append({"number": {"$lte": self.last}})
        return {"$and": conditions} if conditions else {}


class Page(NamedTuple):
    """Some of the runs that a search finds.

    Attributes
    ----------
    runs
        Their documents, with the fields asked for.
    total
        How many runs the search finds.
    skipped
        How many of those come before these.
    """

    runs: list[dict[str, Any]]
    total: int
    skipped: int


def page(
    collection: Any,
    search: Search,
    projection: Any = None,
    order: str = "number",
    descending: bool = True,
    skip: int = 0,
    limit: int = 50,
) -> Page:
    """Return a page of the list of runs; the last one for what is beyond it.

    Parameters
    ----------
    collection
        Collection of run documents.
    search
        Which runs.
    projection
        Fields to have, as for pymongo; ``_id`` is one of them.
    order
        One of `ORDERS`; runs that are alike in it come by number.
    descending
        The last in that order first.
    skip, limit
        So many are left out, and so many are read.

    Raises
    ------
    InvalidOption
        For an unknown order or status.
    """
    if order not in ORDERS:
        raise InvalidOption(f"order {order!r} is unknown{did_you_mean(order, ORDERS)}")
    condition = search.filter()
    way = -1 if descending else 1
    sort = [(ORDERS[order], way)]
    if order != "number":
        sort.append(("number", way))
    if condition and isinstance(collection, LocalCollection):
        # It looks at every document for either
        ids = [run["_id"] for run in collection.find(condition, ["_id"], sort=sort)]
        total = len(ids)
    elif condition:
        total = collection.count_documents(condition)
    else:
        total = collection.estimated_document_count()
    limit = max(limit, 1)
    skip = min(max(skip, 0), max(total - 1, 0) // limit * limit)
    if condition and isinstance(collection, LocalCollection):
        by_id = {"_id": {"$in": ids[skip : skip + limit]}}
        found = documents.read(collection, by_id, projection, sort=sort)
    else:
        found = documents.read(collection, condition, projection, sort=sort, skip=skip, limit=limit)
    return Page(found, total, skip)


def modes_and_tags(collection: Any) -> tuple[list[str], list[str]]:
    """Return the modes of runs, and the tags, that there are, in order."""
    modes = {mode for mode in collection.distinct("mode") if isinstance(mode, str) and mode}
    tags = set(documents.tags_of({"tags": collection.distinct("tags")}))
    return sorted(modes), sorted(tags)


def _has_word(word: str) -> Filter:
    """Return a filter for runs with a text in what is said of them."""
    pattern = {"$regex": re.escape(word), "$options": "i"}
    options: list[Mapping[str, Any]] = [{field: pattern} for field in _TEXTS]
    if word.isascii() and word.isdigit() and len(word) < 19:
        options.append({"number": int(word)})
    return {"$or": options}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
