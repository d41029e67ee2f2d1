"""The embedded run database: one SQLite file, for those who have no MongoDB.

`LocalClient` and its collections have the part of pymongo's interface that amstrax uses, with
pymongo's names, arguments and results. Documents are kept as BSON; their ``name``, ``number``,
status, tags, and types and hosts of data are indexed. Every write is one transaction that holds the
file's write lock from its first read, and is on disk when the call returns. The file must be on a
local disk: SQLite's locks fail between hosts on a network file system.
"""

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import bson

from amstrax import settings
from amstrax.exceptions import LocalDatabaseError, NotAvailable
from amstrax.rundb import embedded_query as queries
from amstrax.rundb.embedded_query import Document

if TYPE_CHECKING:
    from pymongo.results import DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

_Filter = Mapping[str, Any]
_Projection = Mapping[str, Any] | Iterable[str] | None
#: Runs a statement with parameters, and returns rows
_Read = Callable[[str, Sequence[Any]], list[tuple]]
#: Condition in SQL, and its parameters
_Condition = tuple[str, list[Any]]

#: How long a call waits for writes of other processes [s]
LOCK_TIMEOUT = 60.0
#: Version of the tables below, in the file's user_version
_SCHEMA_VERSION = 2
#: "amst", marks the file as ours
_APPLICATION_ID = 0x616D7374
#: Documents read at a time
_BATCH = 256
#: With more values than this a filter reads all documents
_MOST_VALUES = 500
#: Bits of column `odd`: the columns name and number, or the others, do not describe the document
_ODD_NAME, _ODD_WORK = 1, 2
#: Forms of the status, a word or a document, in the index
_AS_WORD, _AS_DOCUMENT = "w:", "d:"
_STATUS_FORMS = {"processing_status": _AS_WORD, "processing_status.status": _AS_DOCUMENT}
# Connections inherited by a fork: a child process must neither use nor close them
_inherited: list[sqlite3.Connection] = []
#: Table and indexes of version 1 of the file
SCHEMA = """
CREATE TABLE documents (
    seq INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id BLOB NOT NULL,
    name,
    number,
    odd INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE INDEX by_name ON documents (collection, name);
CREATE INDEX by_number ON documents (collection, number);
CREATE INDEX by_odd ON documents (collection, odd) WHERE odd
"""
#: What version 2 adds
SCHEMA_2 = """
ALTER TABLE documents ADD COLUMN status TEXT;
ALTER TABLE documents ADD COLUMN tags TEXT;
ALTER TABLE documents ADD COLUMN made TEXT;
CREATE INDEX by_work ON documents (collection, status, tags, made, name, number, odd)
"""
#: Fields of documents from which `work_of` makes columns
WORK_FIELDS = ("processing_status", "tags", "data")
COLUMNS = ("id", "name", "number", "odd", "body", "status", "tags", "made")


class LocalCollection:
    """Collection of documents, with the methods of a `pymongo.collection.Collection` below."""

    def __init__(self, database: "LocalDatabase", name: str):
        self.database, self.name = database, name
        self.full_name = f"{database.name}.{name}"

    def __repr__(self) -> str:
        return f"{self.database!r}[{self.name!r}]"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        methods = [m for m in dir(type(self)) if not m.startswith("_")]
        raise AttributeError(
            f"a collection of the embedded run database has no {name}: it has {', '.join(methods)}"
        )

    def find(
        self,
        filter: _Filter | None = None,
        projection: _Projection = None,
        skip: int = 0,
        limit: int = 0,
        sort: Any = None,
    ) -> "LocalCursor":
        """Return a cursor over the documents that match, in the order of insertion or `sort`."""
        return LocalCursor(self, filter, projection).sort(sort or ()).skip(skip).limit(limit)

    def find_one(
        self, filter: Any = None, projection: _Projection = None, skip: int = 0, sort: Any = None
    ) -> Document | None:
        """Return the first document that matches, or None; `filter` may be an ``_id``."""
        if filter is not None and not isinstance(filter, Mapping):
            filter = {"_id": filter}
        return next(iter(self.find(filter, projection, skip, 1, sort)), None)

    def count_documents(self, filter: _Filter, skip: int = 0, limit: int = 0) -> int:
        """Return the number of documents that match."""
        return sum(1 for _ in self.find(filter, {"_id": 1}, skip, limit))

    def estimated_document_count(self) -> int:
        """Return the number of documents."""
        statement = "SELECT count(*) FROM documents WHERE collection = ?"
        rows = self.database.client._read(statement, [self.full_name])
        return rows[0][0] if rows else 0

    def distinct(self, key: str, filter: _Filter | None = None) -> list[Any]:
        """Return the distinct values of a field, and of the elements of arrays."""
        path = queries.parts_of(key)
        if any(map(str.isdigit, path)):
            raise NotAvailable(
                f"the embedded run database has no distinct of array indexes: {key!r}"
            )
        found: dict[tuple, Any] = {}
        for document in self.find(filter, {path[0]: 1}):
            for value in queries.values_at(document, path):
                found.setdefault(queries.order_key(value), value)
        return list(found.values())

    def insert_one(self, document: Document) -> "InsertOneResult":
        """Insert a document, with a new ``_id`` if it has none; errors are as in `insert_many`."""
        self.insert_many([document])
        return _results().InsertOneResult(document["_id"], True)

    def insert_many(
        self, documents: Iterable[Document], ordered: bool = True
    ) -> "InsertManyResult":
        """Insert documents; either all of them or, on an error and unlike MongoDB, none.

        Raises pymongo.errors.DuplicateKeyError when the collection has a document with the ``_id``
        of one of these.
        """
        ids = []
        with self.database.client._transaction() as connection:
            for document in documents:
                if "_id" not in document:
                    document["_id"] = bson.ObjectId()
                self._insert(connection, document)
                ids.append(document["_id"])
        return _results().InsertManyResult(ids, True)

    def update_one(
        self, filter: _Filter, update: _Filter, upsert: bool = False, array_filters: Any = None
    ) -> "UpdateResult":
        """Update the first document that matches."""
        return self._update(filter, _updater(filter, update, array_filters), upsert, limit=1)

    def update_many(
        self, filter: _Filter, update: _Filter, upsert: bool = False, array_filters: Any = None
    ) -> "UpdateResult":
        """Update all documents that match: all of them or, on an error, none."""
        return self._update(filter, _updater(filter, update, array_filters), upsert, limit=0)

    def replace_one(
        self, filter: _Filter, replacement: _Filter, upsert: bool = False
    ) -> "UpdateResult":
        """Replace the first document that matches."""
        wrong = [key for key in replacement if key.startswith("$")]
        if wrong:
            raise ValueError(f"a replacement must be a document without operators, not {wrong[0]}")
        _id = {key: value for key, value in replacement.items() if key == "_id"}
        make = _updater(filter, {"$set": _id})

        def replace(document: Document | None) -> Document:
            return {"_id": (document or make(None))["_id"], **replacement}

        return self._update(filter, replace, upsert, limit=1)

    def find_one_and_update(
        self,
        filter: _Filter,
        update: _Filter,
        projection: _Projection = None,
        sort: Any = None,
        upsert: bool = False,
        return_document: bool = False,
        array_filters: Any = None,
    ) -> Document | None:
        """Update the first document that matches, by `sort`, and return it.

        It is returned as before the update, unless `return_document` is
        `pymongo.ReturnDocument.AFTER`.
        """
        apply = _updater(filter, update, array_filters)
        _, project = queries.projection(projection)
        condition, order = queries.checked_filter(filter), queries.sort_order(sort or ())
        with self.database.client._transaction() as connection:
            found = next(self._select(_reader(connection), condition, order, limit=1), None)
            if found is not None:
                before, after = self._store(connection, *found, apply)
            elif upsert:
                before, after = None, apply(None)
                self._insert(connection, after)
            else:
                return None
        result = after if return_document else before
        return None if result is None else project(queries.plain(result))

    def delete_one(self, filter: _Filter) -> "DeleteResult":
        """Delete the first document that matches."""
        return self._delete(filter, 1)

    def delete_many(self, filter: _Filter) -> "DeleteResult":
        """Delete all documents that match."""
        return self._delete(filter, 0)

    def create_index(self, keys: Any, name: str | None = None, unique: bool = False) -> str:
        """Return a name and do nothing: the indexes are fixed."""
        if unique:
            raise NotAvailable("the embedded run database has no unique indexes besides _id")
        pairs = queries.sort_order(keys)
        return name or "_".join(f"{field}_{direction}" for field, direction in pairs)

    def server_time(self) -> datetime:
        """Return the time of this machine [UTC]."""
        return datetime.now(UTC)

    def drop(self) -> None:
        """Delete all documents."""
        self.delete_many({})

    def _update(
        self,
        filter: _Filter,
        apply: Callable[[Document | None], Document],
        upsert: bool,
        limit: int,
    ) -> "UpdateResult":
        condition = queries.checked_filter(filter)
        with self.database.client._transaction() as connection:
            found = [*self._select(_reader(connection), condition, limit=limit)]
            stored = [self._store(connection, *item, apply) for item in found]
            modified = sum(before is not after for before, after in stored)
            raw: Document = {"n": len(found), "nModified": modified}
            if upsert and not found:
                made = apply(None)
                self._insert(connection, made)
                raw = {"n": 1, "nModified": 0, "upserted": made["_id"]}
        return _results().UpdateResult(raw, True)

    def _delete(self, filter: _Filter, limit: int) -> "DeleteResult":
        condition = queries.checked_filter(filter)
        with self.database.client._transaction() as connection:
            found = [*self._select(_reader(connection), condition, limit=limit)]
            connection.executemany(
                "DELETE FROM documents WHERE seq = ?", [(seq,) for seq, _ in found]
            )
        return _results().DeleteResult({"n": len(found)}, True)

    def _insert(self, connection: sqlite3.Connection, document: Document) -> None:
        row = row_of({"_id": document["_id"], **document})
        try:
            connection.execute(
                f"INSERT INTO documents (collection, {', '.join(COLUMNS)}) "
                f"VALUES (?{', ?' * len(COLUMNS)})",
                (self.full_name, *row),
            )
        except sqlite3.IntegrityError:
            from pymongo.errors import DuplicateKeyError  # slow to import

            raise DuplicateKeyError(
                f"{self.full_name} has a document with _id {document['_id']!r} already",
                11000,
                {"keyValue": {"_id": document["_id"]}},
            ) from None

    def _store(
        self,
        connection: sqlite3.Connection,
        seq: int,
        body: bytes,
        apply: Callable[[Document | None], Document],
    ) -> tuple[Document, Document]:
        """Write a document changed by `apply`; return it before and after; the same if equal."""
        before = queries.decode_fields(body, None)
        after = apply(before)
        row = row_of(after)
        if body == row[COLUMNS.index("body")]:
            return before, before
        if row[0] != id_bytes(before["_id"]):
            from pymongo.errors import WriteError  # slow to import

            raise WriteError(f"the _id of a document ({before['_id']!r}) cannot be changed", 66)
        connection.execute(
            f"UPDATE documents SET {' = ?, '.join(COLUMNS)} = ? WHERE seq = ?", (*row, seq)
        )
        return before, after

    def _select(
        self,
        read: _Read,
        condition: Document,
        order: Sequence[tuple[str, int]] = (),
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[int, bytes]]:
        """Return row id and BSON of the documents that match a checked filter, in an order."""
        columns, by, end = "seq", "seq", skip + limit if limit else None
        if len(order) == 1 and order[0][0] in ("name", "number"):
            odd = f"SELECT 1 FROM documents WHERE collection = ? AND odd AND odd & {_ODD_NAME}"
            if not read(odd, [self.full_name]):
                # SQLite's order of null, numbers and texts is MongoDB's
                columns = f"seq, {order[0][0]}"
                by = f"{order[0][0]} {'ASC' if order[0][1] > 0 else 'DESC'}, seq"
                order = ()
        statement, parameters = _candidates(self.full_name, condition, columns)
        statement += f" ORDER BY {by}"
        if not condition and not order:
            statement += " LIMIT ? OFFSET ?"
            parameters += [limit or -1, skip]
            skip, end = 0, None
        places = [seq for seq, *_ in read(statement, parameters)]
        batch = _BATCH if order or end is None else min(_BATCH, 2 * end)
        found = self._matching(read, condition, places, batch)
        if order:
            fields = {name.partition(".")[0] for name, _ in order}
            keyed = [(queries.decode_fields(item[1], fields), item) for item in found]
            for name, way in reversed(order):

                def key(pair: tuple, name: str = name, way: int = way) -> tuple:
                    return queries.sort_key(pair[0], name, way)

                keyed.sort(key=key, reverse=way < 0)
            found = iter([item for _, item in keyed])
        return islice(found, skip, end)

    def _matching(
        self, read: _Read, condition: Document, places: list[int], batch: int
    ) -> Iterator[tuple[int, bytes]]:
        """Yield row id and BSON of the documents that match; read `batch` of them first."""
        fields, texts = queries.top_level_fields(condition), queries.needed_bytes(condition)
        matches = queries.compiled(condition)
        start = 0
        while start < len(places):
            part = places[start : start + batch]
            start, batch = start + batch, _BATCH
            bodies = dict(
                read(f"SELECT seq, body FROM documents WHERE seq IN ({_marks(part)})", part)
            )
            for seq in part:
                # Another process may have deleted it
                body = bodies.get(seq)
                if body is None or not all(text in body for text in texts):
                    continue
                if not fields or matches(queries.decode_fields(body, fields)):
                    yield seq, body


class LocalCursor(AbstractContextManager, Iterator[Document]):
    """Iterator over matching documents, which are read in batches."""

    def __init__(
        self, collection: LocalCollection, filter: _Filter | None, projection: _Projection
    ):
        self.collection = collection
        self._condition = queries.checked_filter(filter)
        self._fields, self._project = queries.projection(projection)
        self._options: dict[str, Any] = {}
        self._results: Iterator[Document] | None = None

    def sort(self, key_or_list: Any, direction: int | None = None) -> "LocalCursor":
        """Set the order, by a field or several."""
        return self._with(order=queries.sort_order(key_or_list, direction))

    def skip(self, skip: int) -> "LocalCursor":
        """Skip the first documents."""
        return self._with(skip=skip)

    def limit(self, limit: int) -> "LocalCursor":
        """Set the largest number of documents, 0 for all."""
        return self._with(limit=abs(limit))

    def close(self) -> None:
        """End the iteration."""
        self._results = iter(())

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Document:
        if self._results is None:
            read = self.collection.database.client._read
            found = self.collection._select(read, self._condition, **self._options)
            self._results = (
                self._project(queries.decode_fields(body, self._fields)) for _, body in found
            )
        return next(self._results)

    def _with(self, **options: Any) -> "LocalCursor":
        if self._results is not None:
            from pymongo.errors import InvalidOperation  # slow to import

            raise InvalidOperation("cannot set options after executing query")
        self._options |= options
        return self


class LocalClient(AbstractContextManager):
    """Embedded database in a file, in place of a `pymongo.MongoClient`.

    The first write makes the file `path` and its folder; before, it has no documents. All methods
    raise LocalDatabaseError when the file cannot be read or written, is not a run database, or has
    vanished since this client used it.
    """

    def __init__(self, path: str | Path):
        self.path = settings.expanded(path).absolute()
        self._local = threading.local()
        self._was_there = False

    def __repr__(self) -> str:
        return f"LocalClient({str(self.path)!r})"

    def __getitem__(self, name: str) -> "LocalDatabase":
        return LocalDatabase(self, name)

    def list_database_names(self) -> list[str]:
        """Return the names of the databases with documents."""
        return sorted({name.partition(".")[0] for name in self._collections()})

    def close(self) -> None:
        """Close this thread's connection; it is opened again when needed."""
        connection = self._open_connection()
        if connection is not None:
            connection.close()
            self._local.connection = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return LocalClient, (self.path,)

    def _collections(self) -> list[str]:
        return [name for (name,) in self._read("SELECT DISTINCT collection FROM documents")]

    def _read(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        with self._translated_errors():
            connection = self._connect(create=False)
            return [] if connection is None else _reader(connection)(statement, parameters)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated_errors():
            connection = self._connect(create=True)
            assert connection is not None
            with _write_lock(connection):
                yield connection

    def _open_connection(self) -> sqlite3.Connection | None:
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.process != os.getpid():
            _inherited.append(connection)
            connection = self._local.connection = None
        return connection

    def _connect(self, create: bool) -> sqlite3.Connection | None:
        """Return this thread's connection; None for a missing file, unless it is to be made."""
        connection = self._open_connection()
        if connection is not None:
            if _identity(self.path) == self._local.identity:
                return connection
            # The file has been removed or replaced since
            self.close()
        if self._was_there and not self.path.exists():
            # Else runs would seem to be lost, and a write would begin a second database
            raise LocalDatabaseError(
                f"run database {self.path} has vanished: bring the file back, or name another with "
                "AMSTRAX_RUNDB_PATH"
            )
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            return None
        connection = sqlite3.connect(
            self.path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._local.connection, self._local.process = connection, os.getpid()
        self._local.identity = _identity(self.path)
        self._was_there = True
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is a run database; make or update its tables."""
        connection.execute("PRAGMA synchronous=FULL")
        if self._version(connection) == _SCHEMA_VERSION:
            return
        connection.execute("PRAGMA journal_mode=WAL")
        with _write_lock(connection):
            # Another process may have been first
            version = self._version(connection)
            if version == 0:
                if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise self._foreign_file_error()
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            if version < _SCHEMA_VERSION:
                _update_file(connection)
            connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the file's tables; 0 for a file that is not (yet) ours."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application not in (0, _APPLICATION_ID):
            raise self._foreign_file_error()
        if application == _APPLICATION_ID and version > _SCHEMA_VERSION:
            raise LocalDatabaseError(
                f"{self.path} was written by a newer amstrax (version {version} of the file): "
                "update amstrax, or name another file"
            )
        return version if application else 0

    def _foreign_file_error(self) -> LocalDatabaseError:
        return LocalDatabaseError(f"{self.path} is another program's database: name another file")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        remedy = "check the file and its folder, or name another with AMSTRAX_RUNDB_PATH"
        try:
            yield
        except sqlite3.Error as error:
            remedies = {
                "locked": "another process has been writing for long: try again, or end it",
                "full": "free some space: nothing has been changed",
                "not a database": "name another file with AMSTRAX_RUNDB_PATH",
            }
            text = str(error)
            found = [known for part, known in remedies.items() if part in text]
            raise LocalDatabaseError(
                f"run database {self.path}: {text}; {[*found, remedy][0]}"
            ) from error
        except OSError as error:
            raise LocalDatabaseError(
                f"run database {self.path}: {error.strerror or error}; {remedy}"
            ) from error


class LocalDatabase:
    """Database of a `LocalClient`."""

    def __init__(self, client: LocalClient, name: str):
        self.client, self.name = client, name

    def __repr__(self) -> str:
        return f"{self.client!r}[{self.name!r}]"

    def __getitem__(self, name: str) -> LocalCollection:
        return LocalCollection(self, name)

    def list_collection_names(self) -> list[str]:
        """Return the names of the collections with documents."""
        names = (name.split(".", 1) for name in self.client._collections())
        return sorted(collection for database, collection in names if database == self.name)


def _results() -> Any:
    from pymongo import results  # slow to import, and not needed to read

    return results


def _updater(
    filter: _Filter, update: _Filter, array_filters: Any = None
) -> Callable[[Document | None], Document]:
    if array_filters is not None:
        raise NotAvailable("the embedded run database has no array_filters: update by index")
    return queries.compiled_update(update, queries.checked_filter(filter))


def _reader(connection: sqlite3.Connection) -> _Read:
    return lambda statement, parameters: connection.execute(statement, parameters).fetchall()


@contextmanager
def _write_lock(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a write transaction; roll it back on an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _update_file(connection: sqlite3.Connection) -> None:
    """Upgrade a file from version 1 to version 2."""
    for statement in SCHEMA_2.split(";"):
        connection.execute(statement)
    last = -1
    while rows := connection.execute(
        f"SELECT seq, odd, body FROM documents WHERE seq > ? ORDER BY seq LIMIT {_BATCH}", [last]
    ).fetchall():
        for seq, odd, body in rows:
            columns, is_odd = work_of(queries.decode_fields(body, WORK_FIELDS))
            connection.execute(
                "UPDATE documents SET status = ?, tags = ?, made = ?, odd = ? WHERE seq = ?",
                (*columns, odd | _ODD_WORK * is_odd, seq),
            )
        last = rows[-1][0]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


# The index


def row_of(document: Document) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for a document."""
    body = bson.encode(document)
    names: list[Any] = []
    odd = 0
    for field in ("name", "number"):
        value = document.get(field)
        fits = type(value) in (str, int, float, bson.Int64) and _fits(value)
        names.append(value if fits else None)
        odd |= _ODD_NAME * (not fits and value is not None)
    work, is_odd = work_of(document)
    return id_bytes(document["_id"]), *names, odd | _ODD_WORK * is_odd, body, *work


def work_of(document: Document) -> tuple[tuple[str | None, str | None, str | None], bool]:
    """Return the columns status, tags and made for a document, and whether they are incomplete."""
    status, tags, data = (document.get(key) for key in WORK_FIELDS)
    form, word = _AS_WORD, status
    if isinstance(status, dict):
        form, word = _AS_DOCUMENT, status.get("status")
    is_odd = not (status is None or _is_text(word))
    names = [
        tag.get("name") if isinstance(tag, dict) else tag
        for tag in (tags if isinstance(tags, list) else [tags])
    ]
    is_odd |= any(isinstance(name, (list, str)) and not _is_text(name) for name in names)
    made = set()
    for entry in data if isinstance(data, list) else ():
        if not isinstance(entry, dict):
            is_odd |= isinstance(entry, list)
            continue
        kind, host = entry.get("type"), entry.get("host")
        if _is_text(kind) and _is_text(host):
            made.add(f"{kind}\t{host}")
        else:
            is_odd |= isinstance(kind, (str, list)) or isinstance(host, (str, list))
    columns = (
        f"{form}{word}" if _is_text(word) else None,
        _lines(filter(_is_text, names)),
        _lines(sorted(made)),
    )
    return columns, is_odd


def _lines(texts: Iterable[str]) -> str | None:
    text = "\n".join(texts)
    return f"\n{text}\n" if text else None


def _candidates(collection: str, condition: Document, columns: str) -> _Condition:
    """Return a statement that selects columns of all documents that may match a filter.

    Odd documents are always included, unless the filter is on ``_id``.
    """
    statement = f"SELECT {columns} FROM documents {{}} WHERE collection = ?{{}}"
    for key, value in _conjuncts(condition):
        ids = _allowed_values(value, (str, bson.ObjectId)) if key == "_id" else None
        if ids is not None and len(ids) <= _MOST_VALUES:
            found = statement.format("", f" AND id IN ({_marks(ids)})")
            return found, [collection, *map(id_bytes, ids)]
    for key, value in _conjuncts(condition):
        values = _allowed_values(value) if key in ("name", "number") else None
        if values is not None and len(values) <= _MOST_VALUES:
            found = statement.format("", f" AND {key} IN ({_marks(values)})")
            odd = statement.format("", " AND odd")
            return f"{found} UNION {odd}", [collection, *values, collection]
    sql = _sql(condition)
    if sql is None:
        return statement.format("", ""), [collection]
    found = statement.format("INDEXED BY by_work", f" AND (odd OR {sql[0]})")
    return found, [collection, *sql[1]]


def _conjuncts(condition: Document) -> Iterator[tuple[str, Any]]:
    """Yield the conditions of a filter, including those in ``$and``."""
    for key, value in condition.items():
        if key == "$and":
            for part in value:
                yield from _conjuncts(part)
        else:
            yield key, value


def _sql(condition: Document) -> _Condition | None:
    """Return an SQL condition that every document that matches a filter fulfils.

    None when the columns do not narrow the search.
    """
    found: list[_Condition] = []
    for key, value in _conjuncts(condition):
        sql: _Condition | None = None
        if key == "$or":
            options = [option for part in value if (option := _sql(part)) is not None]
            if len(options) == len(value):
                sql = _joined(options, " OR ")
        elif key == "$nor":
            # The column is exact for this condition only, so only this one may be negated
            forms = [_STATUS_FORMS.get(field) for part in value for field in part]
            is_type = all([*part.values()] == [{"$type": "string"}] for part in value)
            if is_type and None not in forms:
                lacks = [("NOT coalesce(status GLOB ?, 0)", [f"{form}*"]) for form in forms]
                sql = _joined(lacks, " AND ")
        elif key == "data":
            sql = _data_sql(value)
        else:
            sql = _field_sql(key, value)
        if sql is not None:
            found.append(sql)
    return _joined(found, " AND ") if found else None


def _joined(parts: list[_Condition], operator: str) -> _Condition:
    text = operator.join(text for text, _ in parts)
    return f"({text})", [value for _, values in parts for value in values]


def _field_sql(field: str, value: Any) -> _Condition | None:
    """Return the SQL condition, as `_sql`, for a condition on a field."""
    if field in ("tags", "tags.name"):
        return ("instr(tags, ?)", [f"\n{value}\n"]) if _is_text(value) else None
    values = _allowed_values(value)
    if field in ("name", "number"):
        if values is None or len(values) > _MOST_VALUES:
            return None
        return f"{field} IN ({_marks(values)})", [*values]
    form = _STATUS_FORMS.get(field)
    if form is None:
        return None
    if value is None and form == _AS_WORD:
        return "status IS NULL", []
    if isinstance(value, dict) and value.keys() == {"$regex"}:
        begin = re.match(r"\^(\w+)$", str(value["$regex"]))
        return "status GLOB ?", [f"{form}{begin[1] if begin else ''}*"]
    if values is None or not all(map(_is_text, values)):
        return None
    return f"status IN ({_marks(values)})", [f"{form}{word}" for word in sorted(values)]


def _data_sql(value: Any) -> _Condition | None:
    """Return the SQL condition, as `_sql`, for a condition on the entries of data."""
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


def _marks(values: Iterable[Any]) -> str:
    return ", ".join("?" for _ in values)


def _is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is text without the separators of columns."""
    return type(value) is str and _fits(value) and not re.search("[\n\t\0]", value)


def _allowed_values(
    condition: Any, kinds: tuple[type, ...] = (str, int, bson.Int64, float)
) -> set | None:
    """Return the values that a condition allows; None if it is not just an equality or $in."""
    values = [condition]
    if isinstance(condition, dict):
        [operator, *others] = condition or [None]
        if others or operator not in ("$in", "$eq"):
            return None
        values = condition["$in"] if operator == "$in" else [condition["$eq"]]
    return set(values) if all(type(v) in kinds and _fits(v) for v in values) else None


def _fits(value: Any) -> bool:
    """Return whether SQLite stores this value unchanged."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value == value and not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


def id_bytes(value: Any) -> bytes:
    """Return the BSON of an ``_id``, which is equal for equal values.

    Raises NotAvailable for types that MongoDB refuses, or whose equal values have different BSON.
    """
    if isinstance(value, (list, tuple, re.Pattern, bson.Regex, bson.Decimal128)):
        raise NotAvailable(
            f"the embedded run database has no _id like {value!r}: use a number, text or ObjectId"
        )
    if isinstance(value, float) and value.is_integer() and _fits(int(value)):
        value = int(value)
    return bson.encode({"": value})
