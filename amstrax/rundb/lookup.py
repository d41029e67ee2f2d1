"""How the embedded store keeps documents in a table, and finds those that match a filter."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from amstrax.exceptions import NotAvailable
from amstrax.rundb import queries
from amstrax.rundb.queries import Document

#: Tables and indexes of the file
SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    seq INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id BLOB NOT NULL,
    name,
    number,
    odd INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE INDEX IF NOT EXISTS by_name ON documents (collection, name);
CREATE INDEX IF NOT EXISTS by_number ON documents (collection, number);
CREATE INDEX IF NOT EXISTS by_odd ON documents (collection, odd) WHERE odd;
"""
#: Documents read at a time
_BATCH = 256
#: With more values than this a lookup reads all documents
_MOST_VALUES = 500


class Lookup:
    """The rows that can match a filter, and whether each does.

    Conditions on ``_id``, ``name`` and ``number`` that ask for one value or one of some are looked
    up in the index. Documents in which name or number is neither missing, null, a text nor a number
    that SQLite keeps are "odd": they are always looked at, since the index says nothing of them.
    """

    def __init__(self, collection: str, condition: Document):
        self.collection, self.condition = collection, condition
        self.rest = dict(condition)
        self.sets: dict[str, set] = {}
        for column in ("name", "number"):
            values = _one_of(condition.get(column))
            if values is not None:
                self.sets[column] = values
                del self.rest[column]
        self.ids = None
        ids = _one_of(condition.get("_id"), texts_only=True)
        if ids is not None:
            self.ids = [id_bytes(value) for value in ids]

    def select(
        self,
        read: Callable[[str, Sequence[Any]], list[tuple]],
        order: Sequence[tuple[str, int]] = (),
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[int, bytes]]:
        """Return place and BSON of the documents that match, in the order of insertion or `order`.

        `read` runs a statement with parameters and returns rows; `limit` 0 is none.
        """
        if not self.condition and limit and len(order) == 1 and order[0][0] in ("name", "number"):
            page = self._page(read, *order[0], skip, limit)
            if page is not None:
                return iter(page)
        found = self._matching(read, few=not order and skip + limit == 1)
        if order:
            fields = {name.partition(".")[0] for name, _ in order}
            keyed = [(queries.decode_fields(item[1], fields), item) for item in found]
            in_order = queries.sorted_documents(keyed, order, lambda pair: pair[0])
            found = iter([item for _, item in in_order])
        return islice(found, skip, skip + limit if limit else None)

    def _page(
        self,
        read: Callable[[str, Sequence[Any]], list[tuple]],
        column: str,
        way: int,
        skip: int,
        limit: int,
    ) -> list[tuple[int, bytes]] | None:
        """Return some of all documents, in the order of an index; None where that may be another.

        SQLite's order of what is missing, numbers and texts is MongoDB's.
        """
        odd = "SELECT 1 FROM documents WHERE collection = ? AND odd LIMIT 1"
        if read(odd, [self.collection]):
            return None
        statement = (
            "SELECT seq, body FROM documents WHERE collection = ? "
            f"ORDER BY {column} {'ASC' if way > 0 else 'DESC'}, seq LIMIT ? OFFSET ?"
        )
        return read(statement, [self.collection, limit, skip])

    def _matching(
        self, read: Callable[[str, Sequence[Any]], list[tuple]], few: bool
    ) -> Iterator[tuple[int, bytes]]:
        fields = queries.top_level_fields(self.rest)
        all_fields = queries.top_level_fields(self.condition)
        needed_bytes = queries.needed_bytes(self.rest)
        rest, whole = queries.compiled(self.rest), queries.compiled(self.condition)
        where, parameters = self._where()
        statement = (
            "SELECT seq, name, number, odd, body FROM documents "
            f"WHERE collection = ? AND seq > ?{where} ORDER BY seq LIMIT ?"
        )
        batch, last = (2 if few else _BATCH), -1
        while True:
            rows = read(statement, [self.collection, last, *parameters, batch])
            for seq, name, number, odd, body in rows:
                if odd:
                    test, needed = whole, all_fields
                else:
                    if "name" in self.sets and name not in self.sets["name"]:
                        continue
                    if "number" in self.sets and number not in self.sets["number"]:
                        continue
                    test, needed = rest, fields
                if not all(part in body for part in needed_bytes):
                    continue
                if not needed or test(queries.decode_fields(body, needed)):
                    yield seq, body
            if len(rows) < batch:
                return
            last, batch = rows[-1][0], _BATCH

    def _where(self) -> tuple[str, list[Any]]:
        parts, parameters = [], []
        for column, values in self.sets.items():
            if len(values) > _MOST_VALUES:
                continue
            marks = ", ".join("?" * len(values))
            parts.append(
                " AND seq IN ("
                f"SELECT seq FROM documents WHERE collection = ? AND {column} IN ({marks}) "
                "UNION ALL SELECT seq FROM documents WHERE collection = ? AND odd)"
            )
            parameters += [self.collection, *values, self.collection]
        if self.ids is not None and len(self.ids) <= _MOST_VALUES:
            parts.append(f" AND id IN ({', '.join('?' * len(self.ids))})")
            parameters += self.ids
        return "".join(parts), parameters


def _one_of(condition: Any, texts_only: bool = False) -> set | None:
    """Return the values of which a field must have one, where the filter says just that."""
    from bson import ObjectId

    if isinstance(condition, dict):
        if condition.keys() == {"$in"}:
            values = condition["$in"]
        elif condition.keys() == {"$eq"}:
            values = [condition["$eq"]]
        else:
            return None
    else:
        values = [condition]
    kinds = (str, ObjectId) if texts_only else (str, int, float)
    if all(isinstance(v, kinds) and not isinstance(v, bool) and _fits(v) for v in values):
        return set(values)
    return None


def _fits(value: Any) -> bool:
    """Return whether SQLite keeps this value as it is."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value == value and not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


def row_of(document: Document) -> tuple[bytes, Any, Any, bool, bytes]:
    """Return what is stored of a document: id, name, number, whether these are odd, BSON."""
    import bson

    body = bson.encode(document)
    columns: list[Any] = []
    odd = False
    for field in ("name", "number"):
        value = document.get(field)
        is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        if is_plain and _fits(value):
            columns.append(value)
        else:
            columns.append(None)
            odd = odd or value is not None
    return id_bytes(document["_id"]), columns[0], columns[1], odd, body


def id_bytes(value: Any) -> bytes:
    """Return the bytes of an ``_id``, by which there is one document of it.

    Raises
    ------
    NotAvailable
        For kinds that MongoDB does not take, or does not tell from others by their bytes.
    """
    import bson

    if isinstance(value, (list, tuple, re.Pattern, bson.Regex, bson.Decimal128)):
        raise NotAvailable(
            f"the embedded run database has no _id as {value!r}: take a number, text or ObjectId"
        )
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return bson.encode({"": value})
