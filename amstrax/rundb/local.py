"""The embedded run database: a file for those who have no MongoDB.

`LocalClient` and its collections have the part of pymongo's interface that amstrax uses, with
pymongo's names, arguments and results. What they understand of filters, projections and updates is
in `amstrax.rundb.queries`; anything else is refused.

Documents are kept as BSON in one SQLite file. Every write is a transaction of its own that holds
the file's write lock from its first read, so that of several processes one at a time decides what
it changes; it is on disk when the call returns. ``name`` and ``number`` of documents are indexed,
and so are their status, tags, and types and hosts of their data.

The file must be on a local disk: SQLite cannot keep several hosts apart on a network file system.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amstrax import settings
from amstrax.exceptions import LocalDatabaseError
from amstrax.rundb.local_collection import LocalCollection as LocalCollection
from amstrax.rundb.local_collection import LocalCursor as LocalCursor
from amstrax.rundb.lookup import SCHEMA, SCHEMA_2, WORK_FIELDS, work_of
from amstrax.rundb.queries import decode_fields

#: How long a call waits for other processes' writes [s]
LOCK_TIMEOUT = 60.0

#: Version of the tables below, in the file's user_version
_SCHEMA_VERSION = 2
#: "amst", marks the file as ours
_APPLICATION_ID = 0x616D7374

# Connections of a process that this one was forked from: using or closing them here would harm it
_inherited: list[sqlite3.Connection] = []


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
            columns, is_odd = work_of(decode_fields(body, WORK_FIELDS))
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
