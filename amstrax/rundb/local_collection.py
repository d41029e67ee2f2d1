"""Collections of the embedded run database, see `amstrax.rundb.local`, and cursors over them."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from amstrax.exceptions import NotAvailable
from amstrax.rundb import queries
from amstrax.rundb.lookup import COLUMNS, Lookup, row_of
from amstrax.rundb.queries import Document, Projection

if TYPE_CHECKING:
    from pymongo.results import DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

    from amstrax.rundb.local import LocalDatabase


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
        from pymongo.results import InsertOneResult

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
        from bson import ObjectId
        from pymongo.results import InsertManyResult

        ids = []
        with self.database.client._transaction() as connection:
            for document in documents:
                if "_id" not in document:
                    document["_id"] = ObjectId()
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
                made = queries.apply_update(None, queries.checked_filter(filter), {"$set": _id})
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
        condition, changes = queries.checked_filter(filter), queries.check_update(update)
        return lambda document: queries.apply_update(document, condition, changes)

    def _update(
        self,
        filter: Mapping[str, Any],
        apply: Callable[[Document | None], Document],
        upsert: bool,
        limit: int,
    ) -> "UpdateResult":
        from pymongo.results import UpdateResult

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
        from pymongo.results import DeleteResult

        with self.database.client._transaction() as connection:
            found = self._select(connection, filter, {"_id"}, limit)
            connection.executemany(
                "DELETE FROM documents WHERE seq = ?", [(seq,) for seq, _ in found]
            )
        return DeleteResult({"n": len(found)}, True)

    def _insert(self, connection: sqlite3.Connection, document: Document) -> None:
        from pymongo.errors import DuplicateKeyError

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
        from pymongo.errors import WriteError

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
            from pymongo.errors import InvalidOperation

            raise InvalidOperation("cannot set options after executing query")

    def _run(self) -> Iterator[Document]:
        lookup = Lookup(self.collection.full_name, self._condition)
        client = self.collection.database.client
        wanted = self._projection.fields()
        for _, body in lookup.select(client._read, self._order, self._skip, self._limit):
            yield self._projection(queries.decode_fields(body, wanted))


def _as_stored(document: Document) -> Document:
    import bson

    return bson.decode(bson.encode(document), queries.CODEC)
