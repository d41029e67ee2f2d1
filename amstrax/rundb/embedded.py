"""The embedded run database: a file for those who have no MongoDB.

`LocalClient` and its collections have the part of pymongo's interface that amstrax uses, with
pymongo's names, arguments and results. What they understand of filters and projections is in
`amstrax.rundb.embedded_query`, and of updates in `amstrax.rundb.embedded_update`; anything else is
refused.

Documents are kept as BSON in one SQLite file. Every write is a transaction of its own that holds
the file's write lock from its first read, so that of several processes one at a time decides what
it changes; it is on disk when the call returns. ``name`` and ``number`` of documents are indexed,
and so are their status, tags, and types and hosts of their data.

The file must be on a local disk: SQLite cannot keep several hosts apart on a network file system.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson

from amstrax import settings
from amstrax.exceptions import LocalDatabaseError, NotAvailable
from amstrax.rundb import embedded_query as queries
from amstrax.rundb import embedded_update as updates
from amstrax.rundb.embedded_query import AS_DOCUMENT, AS_WORD, Document, Lookup, is_text

if TYPE_CHECKING:
    from pymongo.results import DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

#: How long a call waits for other processes' writes [s]
LOCK_TIMEOUT = 60.0
#: Version of the tables below, in the file's user_version
_SCHEMA_VERSION = 2
#: "amst", marks the file as ours
_APPLICATION_ID = 0x616D7374
# Connections of a process that this one was forked from: using or closing them here would harm it
_inherited: list[sqlite3.Connection] = []
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
        filter: Mapping[str, Any] | None = None,
        projection: Mapping[str, Any] | Iterable[str] | None = None,
        skip: int = 0,
        limit: int = 0,
        sort: Any = None,
        batch_size: int = 0,
    ) -> "LocalCursor":
        """Return a cursor over the documents that match, in the order of insertion or `sort`."""
        return LocalCursor(self, filter, projection, skip, limit, sort)

    def find_one(
        self,
        filter: Any = None,
        projection: Mapping[str, Any] | Iterable[str] | None = None,
        skip: int = 0,
        sort: Any = None,
    ) -> Document | None:
        """Return the first document that matches, or None; `filter` may be an ``_id``."""
        if filter is not None and not isinstance(filter, Mapping):
            filter = {"_id": filter}
        return next(iter(self.find(filter, projection, skip, 1, sort)), None)

    def count_documents(self, filter: Mapping[str, Any], skip: int = 0, limit: int = 0) -> int:
        """Return the number of documents that match."""
        return sum(1 for _ in self.find(filter, {"_id": 1}, skip, limit))

    def estimated_document_count(self) -> int:
        """Return the number of documents."""
        statement = "SELECT count(*) FROM documents WHERE collection = ?"
        rows = self.database.client._read(statement, [self.full_name])
        return rows[0][0] if rows else 0

    def distinct(self, key: str, filter: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the different values of a field, also in arrays."""
        path = queries.parts_of(key)
        if any(map(str.isdigit, path)):
            raise NotAvailable(f"the embedded run database has no distinct of an index: {key!r}")
        found: dict[tuple, Any] = {}
        for document in self.find(filter, {path[0]: 1}):
            for value in queries.values_at(document, path):
                found.setdefault(queries.order_key(value), value)
        return list(found.values())

    def insert_one(self, document: Document) -> "InsertOneResult":
        """Insert a document; it is given an ``_id`` if it has none.

        Raises
        ------
        pymongo.errors.DuplicateKeyError
            When there is a document with this ``_id``.
        """
        from pymongo.results import InsertOneResult  # slow to import

        self.insert_many([document])
        return InsertOneResult(document["_id"], True)

    def insert_many(
        self, documents: Iterable[Document], ordered: bool = True
    ) -> "InsertManyResult":
        """Insert documents; either all of them or, on an error and unlike MongoDB, none.

        Raises
        ------
        pymongo.errors.DuplicateKeyError
            When there is a document with an ``_id`` of these.
        """
        from pymongo.results import InsertManyResult  # slow to import

        ids = []
        with self.database.client._transaction() as connection:
            for document in documents:
                if "_id" not in document:
                    document["_id"] = bson.ObjectId()
                self._insert(connection, document)
                ids.append(document["_id"])
        return InsertManyResult(ids, True)

    def update_one(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any],
        upsert: bool = False,
        array_filters: Any = None,
    ) -> "UpdateResult":
        """Update the first document that matches."""
        apply = self._updater(filter, update, array_filters)
        return self._update(filter, apply, upsert, limit=1)

    def update_many(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any],
        upsert: bool = False,
        array_filters: Any = None,
    ) -> "UpdateResult":
        """Update all documents that match: all of them or, on an error, none."""
        apply = self._updater(filter, update, array_filters)
        return self._update(filter, apply, upsert, limit=0)

    def replace_one(
        self, filter: Mapping[str, Any], replacement: Mapping[str, Any], upsert: bool = False
    ) -> "UpdateResult":
        """Put a whole document in the place of the first that matches."""
        wrong = [key for key in replacement if key.startswith("$")]
        if wrong:
            raise ValueError(f"a replacement is a document, without operators as {wrong[0]}")

        def replace(document: Document | None) -> Document:
            if document is None:
                _id = {key: value for key, value in replacement.items() if key == "_id"}
                made = updates.apply_update(None, queries.checked_filter(filter), {"$set": _id})
                return {"_id": made["_id"], **replacement}
            return {"_id": document["_id"], **replacement}

        return self._update(filter, replace, upsert, limit=1)

    def find_one_and_update(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any],
        projection: Mapping[str, Any] | Iterable[str] | None = None,
        sort: Any = None,
        upsert: bool = False,
        return_document: bool = False,
        array_filters: Any = None,
    ) -> Document | None:
        """Update the first document that matches, by `sort`, and return it.

        As it was before, unless `return_document` is `pymongo.ReturnDocument.AFTER`.
        """
        apply = self._updater(filter, update, array_filters)
        project = Projection(projection)
        with self.database.client._transaction() as connection:
            found = self._select(connection, filter, None, 1, queries.sort_order(sort or ()))
            if not found and not upsert:
                return None
            if not found:
                before, after = None, apply(None)
                self._insert(connection, after)
            else:
                [(seq, before)] = found
                after = apply(before)
                self._store(connection, seq, before, after)
            result = after if return_document else before
        return None if result is None else project(_as_stored(result))

    def delete_one(self, filter: Mapping[str, Any]) -> "DeleteResult":
        """Delete the first document that matches."""
        return self._delete(filter, 1)

    def delete_many(self, filter: Mapping[str, Any]) -> "DeleteResult":
        """Delete all documents that match."""
        return self._delete(filter, 0)

    def create_index(self, keys: Any, name: str | None = None, unique: bool = False) -> str:
        """Do nothing but return a name: ``_id``, ``name`` and ``number`` have an index always."""
        if unique:
            raise NotAvailable("the embedded run database has no unique indexes besides _id")
        pairs = queries.sort_order(keys)
        return name or "_".join(f"{field}_{direction}" for field, direction in pairs)

    def server_time(self) -> datetime:
        """Return the time of the machine that the file is on: this one [UTC]."""
        return datetime.now(UTC)

    def drop(self) -> None:
        """Delete all documents."""
        self.delete_many({})

    def _updater(
        self, filter: Mapping[str, Any], update: Mapping[str, Any], array_filters: Any
    ) -> Callable[[Document | None], Document]:
        if array_filters is not None:
            raise NotAvailable("the embedded run database has no array_filters: update by index")
        condition, changes = queries.checked_filter(filter), updates.check_update(update)
        return lambda document: updates.apply_update(document, condition, changes)

    def _update(
        self,
        filter: Mapping[str, Any],
        apply: Callable[[Document | None], Document],
        upsert: bool,
        limit: int,
    ) -> "UpdateResult":
        from pymongo.results import UpdateResult  # slow to import

        with self.database.client._transaction() as connection:
            found = self._select(connection, filter, None, limit)
            modified = sum(self._store(connection, *item, apply(item[1])) for item in found)
            raw: Document = {"n": len(found), "nModified": modified}
            if upsert and not found:
                made = apply(None)
                self._insert(connection, made)
                raw = {"n": 1, "nModified": 0, "upserted": made["_id"]}
        return UpdateResult(raw, True)

    def _delete(self, filter: Mapping[str, Any], limit: int) -> "DeleteResult":
        from pymongo.results import DeleteResult  # slow to import

        with self.database.client._transaction() as connection:
            found = self._select(connection, filter, {"_id"}, limit)
            connection.executemany(
                "DELETE FROM documents WHERE seq = ?", [(seq,) for seq, _ in found]
            )
        return DeleteResult({"n": len(found)}, True)

    def _insert(self, connection: sqlite3.Connection, document: Document) -> None:
        from pymongo.errors import DuplicateKeyError  # slow to import

        row = row_of({"_id": document["_id"], **document})
        try:
            connection.execute(
                f"INSERT INTO documents (collection, {', '.join(COLUMNS)}) "
                f"VALUES (?{', ?' * len(COLUMNS)})",
                (self.full_name, *row),
            )
        except sqlite3.IntegrityError:
            raise DuplicateKeyError(
                f"{self.full_name} has a document with _id {document['_id']!r} already",
                11000,
                {"keyValue": {"_id": document["_id"]}},
            ) from None

    def _store(
        self, connection: sqlite3.Connection, seq: int, before: Document, after: Document
    ) -> bool:
        """Write a changed document; return whether it has changed."""
        from pymongo.errors import WriteError  # slow to import

        row, old = row_of(after), row_of(before)
        if row == old:
            return False
        if row[0] != old[0]:
            raise WriteError(f"the _id of a document ({before['_id']!r}) cannot be changed", 66)
        connection.execute(
            f"UPDATE documents SET {' = ?, '.join(COLUMNS)} = ? WHERE seq = ?",
            (*row, seq),
        )
        return True

    def _select(
        self,
        connection: sqlite3.Connection,
        filter: Mapping[str, Any],
        fields: set[str] | None,
        limit: int = 0,
        order: Sequence[tuple[str, int]] = (),
    ) -> list[tuple[int, Document]]:
        """Return place and document of those that match, within a transaction."""
        lookup = Lookup(self.full_name, queries.checked_filter(filter))

        def read(statement: str, parameters: Sequence[Any]) -> list[tuple]:
            return connection.execute(statement, parameters).fetchall()

        found = lookup.select(read, order, limit=limit)
        return [(seq, queries.decode_fields(body, fields)) for seq, body in found]


class LocalCursor:
    """Documents that match, read in batches while they are iterated over; once."""

    def __init__(
        self,
        collection: LocalCollection,
        filter: Mapping[str, Any] | None,
        projection: Mapping[str, Any] | Iterable[str] | None,
        skip: int,
        limit: int,
        sort: Any,
    ):
        self.collection = collection
        self._condition = queries.checked_filter(filter)
        self._projection = Projection(projection)
        self._skip, self._limit = skip, abs(limit)
        self._order = queries.sort_order(sort or ())
        self._results: Iterator[Document] | None = None

    def sort(self, key_or_list: Any, direction: int | None = None) -> "LocalCursor":
        """Set the order, by a field or several."""
        self._check_not_started()
        self._order = queries.sort_order(key_or_list, direction)
        return self

    def skip(self, skip: int) -> "LocalCursor":
        """Leave the first documents out."""
        self._check_not_started()
        self._skip = skip
        return self

    def limit(self, limit: int) -> "LocalCursor":
        """Set the largest number of documents, 0 for all."""
        self._check_not_started()
        self._limit = abs(limit)
        return self

    def batch_size(self, batch_size: int) -> "LocalCursor":
        """Do nothing: there is no line whose use this could set."""
        return self

    def to_list(self, length: int | None = None) -> list[Document]:
        """Return the documents, or the next `length` of them."""
        return list(islice(self, length))

    def close(self) -> None:
        """End the iteration."""
        self._results = iter(())

    def __enter__(self) -> "LocalCursor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> "LocalCursor":
        return self

    def __next__(self) -> Document:
        if self._results is None:
            self._results = self._run()
        return next(self._results)

    def _check_not_started(self) -> None:
        if self._results is not None:
            from pymongo.errors import InvalidOperation  # slow to import

            raise InvalidOperation("cannot set options after executing query")

    def _run(self) -> Iterator[Document]:
        lookup = Lookup(self.collection.full_name, self._condition)
        client = self.collection.database.client
        wanted = self._projection.fields()
        for _, body in lookup.select(client._read, self._order, self._skip, self._limit):
            yield self._projection(queries.decode_fields(body, wanted))


def _as_stored(document: Document) -> Document:
    return bson.decode(bson.encode(document), queries.CODEC)


class LocalClient:
    """Embedded database in a file, in place of a `pymongo.MongoClient`.

    Parameters
    ----------
    path
        File; it and its folder are made at the first write. Without it, there are no documents.

    Raises
    ------
    LocalDatabaseError
        By all methods, when the file cannot be read or written, or is no run database.
    """

    def __init__(self, path: str | Path):
        self.path = settings.expanded(path).absolute()
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"LocalClient({str(self.path)!r})"

    def __getitem__(self, name: str) -> "LocalDatabase":
        return LocalDatabase(self, name)

    def get_database(self, name: str) -> "LocalDatabase":
        """Return a database; it need not exist."""
        return self[name]

    def list_database_names(self) -> list[str]:
        """Return the names of the databases with documents."""
        return sorted({name.partition(".")[0] for name in self._collections()})

    def close(self) -> None:
        """Close this thread's connection; it is opened again when needed."""
        connection = self._open_connection()
        if connection is not None:
            connection.close()
            self._local.connection = None

    def __enter__(self) -> "LocalClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _collections(self) -> list[str]:
        return [name for (name,) in self._read("SELECT DISTINCT collection FROM documents")]

    def _read(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        with self._errors_named():
            connection = self._connect(create=False)
            if connection is None:
                return []
            return connection.execute(statement, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors_named():
            connection = self._connect(create=True)
            assert connection is not None
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _open_connection(self) -> sqlite3.Connection | None:
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.process != os.getpid():
            _inherited.append(connection)
            connection = self._local.connection = None
        return connection

    def _connect(self, create: bool) -> sqlite3.Connection | None:
        """Return this thread's connection, None when there is no file and none is to be made."""
        connection = self._open_connection()
        if connection is not None:
            if _identity(self.path) == self._local.identity:
                return connection
            # The file has been removed or replaced since
            self.close()
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
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        def is_ready() -> bool:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > _SCHEMA_VERSION and application == _APPLICATION_ID:
                raise LocalDatabaseError(
                    f"{self.path} was written by a newer amstrax (version {version} of the file): "
                    "update amstrax, or name another file"
                )
            if application not in (0, _APPLICATION_ID):
                raise LocalDatabaseError(
                    f"{self.path} is a database, but not of runs: name another file"
                )
            return application == _APPLICATION_ID and version == _SCHEMA_VERSION

        connection.execute("PRAGMA synchronous=FULL")
        if is_ready():
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application == _APPLICATION_ID:
                if not is_ready():
                    _update_file(connection)
            else:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise LocalDatabaseError(
                        f"{self.path} is a database, but not of runs: name another file"
                    )
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            remedy = "check the file and its folder, or name another with AMSTRAX_RUNDB_PATH"
            if "locked" in text:
                remedy = "another process has been writing for long: try again, or end it"
            elif "full" in text:
                remedy = "free some space: nothing has been changed"
            elif isinstance(error, sqlite3.DatabaseError) and "not a database" in text:
                remedy = "name another file with AMSTRAX_RUNDB_PATH"
            raise LocalDatabaseError(f"run database {self.path}: {text}; {remedy}") from error
        except OSError as error:
            raise LocalDatabaseError(
                f"run database {self.path}: {error.strerror or error}; check the file and its "
                "folder, or name another with AMSTRAX_RUNDB_PATH"
            ) from error


class LocalDatabase:
    """Database of a `LocalClient`."""

    def __init__(self, client: LocalClient, name: str):
        self.client, self.name = client, name

    def __repr__(self) -> str:
        return f"{self.client!r}[{self.name!r}]"

    def __getitem__(self, name: str) -> LocalCollection:
        return LocalCollection(self, name)

    def get_collection(self, name: str) -> LocalCollection:
        """Return a collection; it need not exist."""
        return self[name]

    def list_collection_names(self) -> list[str]:
        """Return the names of the collections with documents."""
        names = (name.split(".", 1) for name in self.client._collections())
        return sorted(collection for database, collection in names if database == self.name)


def _update_file(connection: sqlite3.Connection) -> None:
    """Give a file of version 1 the columns and the index that it lacks."""
    for statement in SCHEMA_2.split(";"):
        connection.execute(statement)
    last = -1
    while rows := connection.execute(
        "SELECT seq, odd, body FROM documents WHERE seq > ? ORDER BY seq LIMIT 256", [last]
    ).fetchall():
        for seq, odd, body in rows:
            columns, is_odd = work_of(queries.decode_fields(body, WORK_FIELDS))
            connection.execute(
                "UPDATE documents SET status = ?, tags = ?, made = ?, odd = ? WHERE seq = ?",
                (*columns, odd | 2 * is_odd, seq),
            )
        last = rows[-1][0]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def row_of(document: Document) -> tuple[Any, ...]:
    """Return what is stored of a document, for `COLUMNS`."""
    body = bson.encode(document)
    columns: list[Any] = []
    odd = 0
    for field in ("name", "number"):
        value = document.get(field)
        is_plain = type(value) in (str, int, float, bson.Int64)
        if is_plain and queries.fits(value):
            columns.append(value)
        else:
            columns.append(None)
            odd |= queries.ODD_NAME * (value is not None)
    work, is_odd = work_of(document)
    odd |= queries.ODD_WORK * is_odd
    return queries.id_bytes(document["_id"]), columns[0], columns[1], odd, body, *work


def work_of(document: Document) -> tuple[tuple[str | None, str | None, str | None], bool]:
    """Return the columns status, tags and made for a document, and whether it is odd there."""
    status, tags, data = (document.get(key) for key in ("processing_status", "tags", "data"))
    form, word = AS_WORD, status
    if isinstance(status, dict):
        form, word = AS_DOCUMENT, status.get("status")
    is_odd = not (status is None or is_text(word))
    names = []
    for tag in tags if isinstance(tags, list) else [tags]:
        name = tag.get("name") if isinstance(tag, dict) else tag
        is_odd = is_odd or isinstance(name, list) or (isinstance(name, str) and not is_text(name))
        names.append(name)
    made = set()
    for entry in data if isinstance(data, list) else ():
        if not isinstance(entry, dict):
            is_odd = is_odd or isinstance(entry, list)
            continue
        kind, host = entry.get("type"), entry.get("host")
        if is_text(kind) and is_text(host):
            made.add(f"{kind}\t{host}")
        else:
            is_odd = is_odd or isinstance(kind, (str, list)) or isinstance(host, (str, list))
    columns = (
        f"{form}{word}" if is_text(word) else None,
        _lines([name for name in names if is_text(name)]),
        _lines(sorted(made)),
    )
    return columns, is_odd


def _lines(texts: Iterable[str]) -> str | None:
    text = "\n".join(texts)
    return f"\n{text}\n" if text else None


class Projection:
    """Which fields of a document are wanted.

    Parameters
    ----------
    wanted
        As for pymongo: names, or a mapping of names to 1 (have) or 0 (leave out); None for all.

    Raises
    ------
    NotAvailable
        For operators, which the embedded store does not know.
    ValueError
        When fields are both asked for and left out.
    """

    def __init__(self, wanted: Mapping[str, Any] | Iterable[str] | None):
        if isinstance(wanted, str):
            raise TypeError(f"projection must be names of fields or a mapping, not {wanted!r}")
        if wanted is not None and not isinstance(wanted, Mapping):
            wanted = dict.fromkeys(wanted, 1)
        flags = {}
        for name, flag in (wanted or {}).items():
            if not isinstance(flag, (bool, int, float)) or "$" in name or name[:4] == "_id.":
                raise NotAvailable(
                    f"the embedded run database has no projection {{{name!r}: {flag!r}}}: give "
                    "names of fields with 1, or with 0"
                )
            flags[name] = bool(flag)
        self.with_id = flags.pop("_id", None)
        if len(set(flags.values())) > 1:
            raise ValueError(f"projection {wanted!r} both asks for fields and leaves some out")
        #: True: these and no others; False: all but these
        self.include = next(iter(flags.values()), bool(self.with_id))
        self._tree: Document = {}
        for name in flags:
            if any(other.startswith(f"{name}.") for other in flags):
                raise ValueError(f"projection {wanted!r} asks for {name!r} and for a part of it")
            _grow(self._tree, queries.parts_of(name))

    def fields(self) -> set[str] | None:
        """Return the top-level fields that are needed, None for all."""
        if not self.include:
            return None
        return {*self._tree, "_id"}

    def __call__(self, document: Document) -> Document:
        """Return the wanted part of a document."""
        with_id = True if self.with_id is None else self.with_id
        if not self.include:
            left = _without(document, self._tree) if self._tree else dict(document)
            if not with_id:
                left.pop("_id", None)
            return left
        result = _only(document, self._tree)
        if not with_id or "_id" not in document:
            return result
        return {"_id": document["_id"], **result}


def _grow(tree: Document, path: Sequence[str]) -> None:
    """Add a path to a tree."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = None


def _only(value: Document, tree: Document) -> Document:
    result = {}
    for name, item in value.items():
        if name not in tree:
            continue
        below = tree[name]
        if below is None:
            result[name] = item
        elif isinstance(item, dict):
            result[name] = _only(item, below)
        elif isinstance(item, list):
            result[name] = _in_list(item, partial(_only, tree=below), keep=False)
    return result


def _without(value: Document, tree: Document) -> Document:
    result = {}
    for name, item in value.items():
        if name not in tree:
            result[name] = item
            continue
        below = tree[name]
        if below is None:
            continue
        if isinstance(item, dict):
            item = _without(item, below)
        elif isinstance(item, list):
            item = _in_list(item, partial(_without, tree=below), keep=True)
        result[name] = item
    return result


def _in_list(values: list, function: Callable[[Document], Document], keep: bool) -> list:
    """Apply to the documents in a list, at every depth; other values stay or go."""
    result: list[Any] = []
    for item in values:
        if isinstance(item, dict):
            result.append(function(item))
        elif isinstance(item, list):
            result.append(_in_list(item, function, keep))
        elif keep:
            result.append(item)
    return result
