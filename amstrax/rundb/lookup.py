"""How the embedded store keeps documents in a table, and finds those that match a filter."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeGuard

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
    status TEXT,
    tags TEXT,
    made TEXT,
    UNIQUE (collection, id)
);
CREATE INDEX IF NOT EXISTS by_name ON documents (collection, name);
CREATE INDEX IF NOT EXISTS by_number ON documents (collection, number);
CREATE INDEX IF NOT EXISTS by_odd ON documents (collection, odd) WHERE odd;
CREATE INDEX IF NOT EXISTS by_work ON documents
    (collection, status, tags, made, name, number, odd);
"""
#: What a file of version 1 lacks
SCHEMA_2 = """
ALTER TABLE documents ADD COLUMN status TEXT;
ALTER TABLE documents ADD COLUMN tags TEXT;
ALTER TABLE documents ADD COLUMN made TEXT;
CREATE INDEX by_work ON documents (collection, status, tags, made, name, number, odd)
"""
#: Fields of documents from which `work_of` makes columns
WORK_FIELDS = ("processing_status", "tags", "data")
COLUMNS = ("id", "name", "number", "odd", "body", "status", "tags", "made")
#: Why a document is odd: the index says nothing of its name or number, or of the other columns
_ODD_NAME, _ODD_WORK = 1, 2
#: Forms of the status, a word or a document, in the index
_WORD, _DOCUMENT = "w:", "d:"
_STATUS_FORMS = {"processing_status": _WORD, "processing_status.status": _DOCUMENT}
#: Documents read at a time
_BATCH = 256
#: With more values than this a lookup reads all documents
_MOST_VALUES = 500


class Lookup:
    """The rows that can match a filter, and whether each does.

    Conditions on ``_id``, ``name`` and ``number`` that ask for one value or one of some are looked
    up in the index. So are those on status, tags, and types and hosts of data, in every ``$and``
    and ``$or``, see `_sql`; of the documents that the index leaves, each is compared with all of
    the filter. Documents in which name or number is neither missing, null, a text nor a number that
    SQLite keeps, and the like, are "odd": they are always read.
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
        odd = "SELECT 1 FROM documents WHERE collection = ? AND odd & 1 LIMIT 1"
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
        elif not parts and (said := _sql(self.condition)) is not None:
            parts.append(
                " AND seq IN (SELECT seq FROM documents INDEXED BY by_work "
                f"WHERE collection = ? AND (odd OR {said[0]}))"
            )
            parameters += [self.collection, *said[1]]
        return "".join(parts), parameters


#: A condition in SQL, and its parameters
_Condition = tuple[str, list[Any]]


def _sql(condition: Document) -> _Condition | None:
    """Return what the index says of a filter: a condition that all documents fulfil which match.

    None when it says nothing.
    """
    found: list[_Condition] = []
    for key, value in condition.items():
        said: _Condition | None = None
        if key == "$and":
            known = [part for part in map(_sql, value) if part is not None]
            said = _joined(known, " AND ") if known else None
        elif key == "$or":
            options = [_sql(part) for part in value]
            if options and None not in options:
                said = _joined([part for part in options if part is not None], " OR ")
        elif key == "$nor":
            # Only of this is the index's word exact, so that its opposite is
            forms = [_STATUS_FORMS.get(field) for part in value for field in part]
            is_type = all([*part.values()] == [{"$type": "string"}] for part in value)
            if is_type and None not in forms:
                lacks = [("NOT coalesce(status GLOB ?, 0)", [f"{form}*"]) for form in forms]
                said = _joined(lacks, " AND ")
        else:
            said = _field_sql(key, value)
        if said is not None:
            found.append(said)
    return _joined(found, " AND ") if found else None


def _joined(parts: list[_Condition], operator: str) -> _Condition:
    text = operator.join(text for text, _ in parts)
    return f"({text})", [value for _, values in parts for value in values]


def _field_sql(field: str, value: Any) -> _Condition | None:
    """Return what the index says of a condition on a field, as `_sql`."""
    if field in ("name", "number"):
        values = _one_of(value)
        if values is None or len(values) > _MOST_VALUES:
            return None
        return f"{field} IN ({', '.join('?' * len(values))})", [*values]
    if field in ("tags", "tags.name"):
        return ("instr(tags, ?)", [f"\n{value}\n"]) if _is_text(value) else None
    if field == "data":
        return _data_sql(value)
    form = _STATUS_FORMS.get(field)
    if form is None:
        return None
    if value is None and form == _WORD:
        return "status IS NULL", []
    if isinstance(value, dict) and value.keys() == {"$regex"}:
        begin = re.match(r"\^(\w+)$", str(value["$regex"]))
        return "status GLOB ?", [f"{form}{begin[1] if begin else ''}*"]
    values = _one_of(value)
    if values is None or not all(map(_is_text, values)):
        return None
    marks = ", ".join("?" * len(values))
    return f"status IN ({marks})", [f"{form}{word}" for word in sorted(values)]


def _data_sql(value: Any) -> _Condition | None:
    """Return what the index says of a condition on the entries of data, as `_sql`."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    lacks = isinstance(value.get("$not"), dict)
    entry = (value["$not"] if lacks else value).get("$elemMatch")
    if not isinstance(entry, dict) or not all(_is_text(entry.get(k)) for k in ("type", "host")):
        return None
    parameters = [f"\n{entry['type']}\t{entry['host']}\n"]
    if not lacks:
        return "instr(made, ?)", parameters
    return ("NOT instr(coalesce(made, ''), ?)", parameters) if len(entry) == 2 else None


def _is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is a text that can be part of a column."""
    return type(value) is str and _fits(value) and not re.search("[\n\t\0]", value)


def _one_of(condition: Any, texts_only: bool = False) -> set | None:
    """Return the values of which a field must have one, where the filter says just that."""
    from bson import Code, ObjectId

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
    if all(isinstance(v, kinds) and not isinstance(v, (bool, Code)) and _fits(v) for v in values):
        return set(values)
    return None


def _fits(value: Any) -> bool:
    """Return whether SQLite keeps this value as it is."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value == value and not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


def row_of(document: Document) -> tuple[Any, ...]:
    """Return what is stored of a document, for `COLUMNS`."""
    import bson

    body = bson.encode(document)
    columns: list[Any] = []
    odd = 0
    for field in ("name", "number"):
        value = document.get(field)
        is_plain = type(value) in (str, int, float, bson.Int64)
        if is_plain and _fits(value):
            columns.append(value)
        else:
            columns.append(None)
            odd |= _ODD_NAME * (value is not None)
    work, is_odd = work_of(document)
    odd |= _ODD_WORK * is_odd
    return id_bytes(document["_id"]), columns[0], columns[1], odd, body, *work


def work_of(document: Document) -> tuple[tuple[str | None, str | None, str | None], bool]:
    """Return the columns status, tags and made for a document, and whether it is odd there."""
    status, tags, data = (document.get(key) for key in ("processing_status", "tags", "data"))
    form, word = _WORD, status
    if isinstance(status, dict):
        form, word = _DOCUMENT, status.get("status")
    is_odd = not (status is None or _is_text(word))
    names = []
    for tag in tags if isinstance(tags, list) else [tags]:
        name = tag.get("name") if isinstance(tag, dict) else tag
        is_odd = is_odd or isinstance(name, list) or (isinstance(name, str) and not _is_text(name))
        names.append(name)
    made = set()
    for entry in data if isinstance(data, list) else ():
        if not isinstance(entry, dict):
            is_odd = is_odd or isinstance(entry, list)
            continue
        kind, host = entry.get("type"), entry.get("host")
        if _is_text(kind) and _is_text(host):
            made.add(f"{kind}\t{host}")
        else:
            is_odd = is_odd or isinstance(kind, (str, list)) or isinstance(host, (str, list))
    columns = (
        f"{form}{word}" if _is_text(word) else None,
        _lines([name for name in names if _is_text(name)]),
        _lines(sorted(made)),
    )
    return columns, is_odd


def _lines(texts: Iterable[str]) -> str | None:
    text = "\n".join(texts)
    return f"\n{text}\n" if text else None


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
    if isinstance(value, float) and value.is_integer() and _fits(int(value)):
        value = int(value)
    return bson.encode({"": value})
