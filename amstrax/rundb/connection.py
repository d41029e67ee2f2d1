"""Connect to the run database and get its collections, with errors that name a remedy.

The settings (see `amstrax.settings`) select the first of: a connection string in AMSTRAX_MONGO_URI,
MongoDB on the host DAQ_HOST through an SSH tunnel, the embedded store in a file. Each process has
one client and one tunnel per database. A collection connects at its first use, and again in a child
process.

Calls time out after AMSTRAX_RUNDB_TIMEOUT. While a connection that has worked is down, calls wait
for it. Unanswered requests are sent again if that is safe: reads, and idempotent writes that
identify their document. Callers that know other writes to be idempotent use `resilient`.
"""

import atexit
import functools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from amstrax import settings
from amstrax.exceptions import (
    RunDatabaseNotSet,
    RunDatabaseRefused,
    RunDatabaseUnreachable,
    UnknownDetector,
)
from amstrax.settings import RunDatabase

# pymongo and paramiko take 0.1 s each to import: deferred to their first use
if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    from amstrax.rundb.tunnel import Tunnel

log = logging.getLogger(__name__)

#: Collection of run documents of each detector, in the database `run`
COLLECTIONS = {"xams": "runs_gas", "xamsl": "runs_new"}
DATABASE = "run"
PAUSE = 0.3  # between two attempts [s]
# Default of the documented signature; never filled
_UNSET: dict[str, Any] = {}

T = TypeVar("T")

# Embedded stores whose use has been reported
_announced: set[Path] = set()
#: Methods of `Collection`, as in pymongo; the first group returns a cursor
CURSORS = frozenset({"find", "aggregate", "list_indexes"})
READS = CURSORS | {
    "count_documents",
    "distinct",
    "estimated_document_count",
    "find_one",
    "index_information",
}
WRITES = frozenset(
    {
        "bulk_write",
        "create_index",
        "delete_many",
        "delete_one",
        "drop",
        "drop_index",
        "find_one_and_delete",
        "find_one_and_replace",
        "find_one_and_update",
        "insert_many",
        "insert_one",
        "replace_one",
        "update_many",
        "update_one",
    }
)
SERVER_TIME = "server_time"
#: Idempotent update operators, and fields that identify a document
REPEATABLE = frozenset({"$set", "$unset", "$addToSet", "$pull", "$pullAll", "$max", "$min"})
IDENTITY = frozenset({"_id", "name", "number"})
_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13


def get_mongo_client(
    daq_host: str = "",
    daq_user: str = "",
    secret_serving_port: dict[str, Any] = _UNSET,
) -> "MongoClient":
    """Return the connected client of the run database; each process has one.

    Parameters
    ----------
    daq_host, daq_user
        Host and user of the SSH tunnel, by default those of the settings.
    secret_serving_port
        Dictionary that gets the local port of the tunnel, under ``"rundb"``.

    Returns
    -------
    client
        A pymongo.MongoClient; without settings an `amstrax.rundb.embedded.LocalClient`, which has
        the part of that interface that amstrax uses.

    Raises
    ------
    RunDatabaseError
        One of RunDatabaseNotSet, RunDatabaseUnreachable, RunDatabaseRefused, HostKeyRefused.
    """
    config = settings.run_database(daq_host, daq_user)
    if is_embedded(config):
        return _embedded(config)
    connection = open_connection(config)
    connection.ensure()
    if connection.tunnel is not None and secret_serving_port is not _UNSET:
        secret_serving_port["rundb"] = connection.tunnel.address[1]
    return connection.client


def get_mongo_collection(detector: str = "xams", runcolname: str = DATABASE, **kwargs: Any) -> Any:
    """Return the collection of run documents of a detector, see `get_collection`.

    Parameters
    ----------
    detector
        ``"xams"`` or ``"xamsl"``.
    runcolname
        Database of the collection.
    **kwargs
        Other parameters of `get_collection`.

    Raises
    ------
    UnknownDetector
        A NameError, for another detector.
    """
    if detector not in COLLECTIONS:
        raise UnknownDetector(
            f"no detector {detector!r} in the run database: take one of {', '.join(COLLECTIONS)}"
        )
    return get_collection(runcolname, COLLECTIONS[detector], **kwargs)


def get_trends_collection(detector: str = "xams") -> Any:
    """Return the collection of trends of a detector, next to that of its run documents.

    Raises UnknownDetector as `get_mongo_collection`.
    """
    runs = get_mongo_collection(detector).name
    return get_collection(DATABASE, runs.replace("runs", "trends", 1))


def get_collection(
    database: str,
    collection: str,
    daq_host: str = "",
    daq_user: str = "",
    secret_serving_port: dict[str, Any] | None = None,
) -> Any:
    """Return a collection of a database: a `Collection`, or that of the embedded store.

    It connects at its first use. The other parameters are those of `get_mongo_client`.
    """
    if secret_serving_port is not None:
        get_mongo_client(daq_host, daq_user, secret_serving_port)
    config = settings.run_database(daq_host, daq_user)
    if is_embedded(config):
        return _embedded(config)[database][collection]
    return Collection(config, database, collection, (daq_host, daq_user))


def is_embedded(config: RunDatabase) -> bool:
    """Return whether the settings select the embedded store.

    Raises RunDatabaseNotSet when MongoDB or its tunnel has settings, but no address.
    """
    if config.uri or config.daq_host:
        return False
    given = [name for name in config.given if name.startswith(("DAQ_", "MONGO_"))]
    if given:
        # Name a password first: it tells best which address is missing
        first = min(given, key=lambda name: (name not in settings.SECRETS, name))
        more = f" (and {len(given) - 1} more settings)" if len(given) > 1 else ""
        raise RunDatabaseNotSet(
            f"{first} is set{more}, but DAQ_HOST is not: set DAQ_HOST too, or unset these settings "
            "to use the embedded run database"
        )
    return True


def retry(
    function: Callable[[], T],
    patience: float,
    errors: tuple[type[Exception], ...] = (RunDatabaseUnreachable,),
    pause: float = PAUSE,
    wait: Callable[[float], Any] | None = None,
    on_error: Callable[[Any, float], Any] = lambda _error, _left: None,
) -> T:
    """Call an idempotent function, retry while it raises one of `errors`, and return its result.

    The error is raised after `patience` [s]. Between two attempts `wait` is called with `pause`
    [s]; by default it is `time.sleep`. `on_error` is called with each error and the time left for
    retries [s], 0 before giving up; it may log, or raise to give up.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return function()
        except errors as error:
            left = end - time.monotonic()
            on_error(error, left if left >= pause else 0.0)
            if left < pause:
                raise
        (wait or time.sleep)(pause)


def resilient(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function, retry while the run database is unreachable, and return its result.

    Use it for writes that are idempotent in effect and return value, such as one that claims a run
    for an owner if it is free *or claimed by that owner*. RunDatabaseUnreachable is raised after
    AMSTRAX_RUNDB_TIMEOUT.
    """
    return retry(lambda: function(*args, **kwargs), settings.run_database().timeout)


def _embedded(config: RunDatabase) -> Any:
    # Deferred: SQLite and bson take 0.1 s to import
    from amstrax.rundb.embedded import LocalClient

    if config.path not in _announced:
        _announced.add(config.path)
        log.info(
            "neither DAQ_HOST nor AMSTRAX_MONGO_URI is set: using the embedded run database %s",
            config.path,
        )
    return LocalClient(config.path)


class Connection:
    """A client of MongoDB, with its tunnel if it needs one; connects at first use.

    Raises RunDatabaseNotSet when the settings are invalid.
    """

    def __init__(self, config: RunDatabase):
        self.config = config
        #: Whether a request has ever succeeded
        self.was_used = False
        self.tunnel: Tunnel | None = None
        if not config.uri:
            from amstrax.rundb import tunnel

            self.tunnel = tunnel.Tunnel(config)
        try:
            self.client = _make_client(config, self.tunnel)
        except BaseException:
            if self.tunnel is not None:
                self.tunnel.close()
            raise

    @property
    def place(self) -> str:
        """Address of the database, for messages."""
        config = self.config
        if config.uri:
            return "MongoDB at AMSTRAX_MONGO_URI"
        return f"MongoDB at {config.mongo_host}:{config.mongo_port} of {config.daq_host}"

    def ensure(self) -> None:
        """Open the tunnel if it is needed and down."""
        if self.tunnel is not None:
            self.tunnel.ensure()

    def close(self) -> None:
        """Close the client, then the tunnel."""
        import pymongo

        # Closing sends a message to the server, and the connection may be down
        with pymongo.timeout(1):
            self.client.close()
        if self.tunnel is not None:
            self.tunnel.close()


# Connections of this process, by settings. Those inherited by a fork are kept unused: garbage
# collection could deadlock on locks that threads of the parent held
_connections: dict[RunDatabase, Connection] = {}
_inherited: list[dict[RunDatabase, Connection]] = []
_lock = threading.Lock()
_hooks_are_set = False


def open_connection(config: RunDatabase) -> Connection:
    """Return the connection of this process to a database; a new one connects at first use."""
    global _hooks_are_set
    with _lock:
        connection = _connections.get(config)
        if connection is None:
            connection = _connections[config] = Connection(config)
            # Registered after paramiko's hook, which ends all sessions, and so called before it
            if not _hooks_are_set:
                _hooks_are_set = True
                atexit.register(close)
                os.register_at_fork(after_in_child=_abandon_inherited)
        return connection


def is_tunnel_down() -> bool:
    """Return whether the run database has a tunnel that is down, as far as known."""
    connection = _connections.get(settings.run_database())
    return (
        connection is not None and connection.tunnel is not None and not connection.tunnel.is_active
    )


def close() -> None:
    """Close all clients and tunnels of this process; later calls make new ones."""
    with _lock:
        connections = list(_connections.values())
        _connections.clear()
    for connection in connections:
        connection.close()


def _abandon_inherited() -> None:
    global _connections, _lock
    for connection in _connections.values():
        if connection.tunnel is not None:
            connection.tunnel.abandon()
    _inherited.append(_connections)
    _connections, _lock = {}, threading.Lock()


def _forget(connection: Connection) -> None:
    with _lock:
        if _connections.get(connection.config) is not connection:
            return
        del _connections[connection.config]
    connection.close()


def translated(
    error: "PyMongoError",
    connection: Connection,
    method: str,
    collection: str,
    is_write: bool = False,
) -> Exception:
    """Return the amstrax error for a failed connection; other errors of pymongo unchanged."""
    from pymongo import errors

    config, place = connection.config, connection.place
    user = config.mongo_user or "this user"
    code = getattr(error, "code", None)
    if code == _AUTHENTICATION_FAILED or "authentication failed" in str(error).lower():
        what = "AMSTRAX_MONGO_URI" if config.uri else "MONGO_USER, MONGO_PASSWORD and MONGO_AUTH_DB"
        # The client would retry, and report another error next time
        _forget(connection)
        return RunDatabaseRefused(f"{place} refuses the log-in of {user}: check {what}")
    if code == _UNAUTHORIZED:
        if not config.uri and not config.mongo_user:
            return RunDatabaseRefused(
                f"{place} requires a log-in: set MONGO_USER and MONGO_PASSWORD"
            )
        return RunDatabaseRefused(
            f"{user} may not call {method} on {collection} of {place}: ask its "
            f"administrator for the role {'readWrite' if is_write else 'read'}"
        )
    is_of_dns = type(error.__cause__).__module__.startswith("dns.")
    if isinstance(error, errors.ConfigurationError) and is_of_dns:
        return RunDatabaseUnreachable(
            f"{place} is not found ({error}): check its host, and whether this machine is online"
        )
    if isinstance(error, errors.ConnectionFailure) or error.timeout:
        tunnel_error = connection.tunnel.error if connection.tunnel is not None else None
        if tunnel_error is not None:
            return type(tunnel_error)(*tunnel_error.args)
        reason = str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
        is_sent = not isinstance(error, errors.ServerSelectionTimeoutError)
        note = "; the write may have been applied" if is_write and is_sent else ""
        return RunDatabaseUnreachable(
            f"{place} does not answer {method} on {collection} within {config.timeout:g} s or the "
            f"connection dropped ({reason}){note}: try again later, or see `amstrax rundb check`"
        )
    return error


def _make_client(config: RunDatabase, tunnel: "Tunnel | None") -> "MongoClient":
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    milliseconds = round(config.timeout * 1000)
    options: dict[str, Any] = {
        "appname": "amstrax",
        "timeoutMS": milliseconds,
        "serverSelectionTimeoutMS": milliseconds,
        "connectTimeoutMS": milliseconds,
        # Connects at first use: the tunnel reports errors, and only once
        "connect": False,
        # Values that Python or UTF-8 cannot hold must not prevent reading other documents
        "datetime_conversion": "DATETIME_AUTO",
        "unicode_decode_error_handler": "replace",
    }
    if tunnel is not None:
        if bool(config.mongo_user) != bool(config.mongo_password):
            given, missing = ("USER", "PASSWORD") if config.mongo_user else ("PASSWORD", "USER")
            raise RunDatabaseNotSet(f"MONGO_{given} is set, but not MONGO_{missing}: set both")
        host, port = tunnel.address
        # The address that MongoDB announces is valid only on the DAQ host
        options |= {"host": host, "port": port, "directConnection": True}
        if config.mongo_user:
            options |= {
                "username": config.mongo_user,
                "password": config.mongo_password,
                "authSource": config.mongo_auth_db,
            }
        return MongoClient(**options)
    set_there = {name.lower() for name in re.findall(r"[?&](\w+)=", config.uri)}
    options = {name: value for name, value in options.items() if name.lower() not in set_there}
    try:
        return MongoClient(config.uri, **options)
    except (PyMongoError, ValueError) as error:
        # Their messages quote the string, which may contain a password
        raise RunDatabaseNotSet(
            f"AMSTRAX_MONGO_URI is not a connection string of MongoDB ({type(error).__name__}): "
            "write mongodb://USER:PASSWORD@HOST:PORT/?authSource=admin, with :/?#[]@% in user "
            "and password percent-encoded"
        ) from None


class Collection:
    """Collection of MongoDB that reconnects, with pymongo's interface.

    It has pymongo's methods `READS` and `WRITES`. Each times out as the settings say, raises a
    `RunDatabaseError` if the connection fails, and is retried if that is safe. Errors about the
    request itself are pymongo's. Pickles contain the names and `given`, the host and user that
    override the settings, but no settings.
    """

    def __init__(
        self, config: RunDatabase, database: str, name: str, given: tuple[str, str] = ("", "")
    ):
        self._config = config
        self._given = given
        self._database = database
        self.name = name
        self.full_name = f"{database}.{name}"

    def __repr__(self) -> str:
        config = self._config
        where = config.daq_host and f"{config.mongo_host}:{config.mongo_port} of {config.daq_host}"
        return f"Collection({self.full_name!r} at {where or 'AMSTRAX_MONGO_URI'})"

    def __reduce__(self) -> tuple[Callable, tuple]:
        return get_collection, (self._database, self.name, *self._given)

    def __bool__(self) -> bool:
        raise NotImplementedError("a collection is neither true nor false: compare it with None")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in READS and method not in WRITES:
            raise AttributeError(
                f"a collection of the run database has no {method!r}: it has "
                f"{', '.join(sorted(READS | WRITES))}"
            )
        return lambda *args, **kwargs: self._call(method, args, kwargs)

    def server_time(self) -> datetime:
        """Return the time of the database server [UTC]."""
        return self._call(SERVER_TIME, (), {})

    def _call(self, method: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        import pymongo
        from pymongo.errors import PyMongoError, ServerSelectionTimeoutError

        repeatable = method in READS or method == SERVER_TIME or is_repeatable(method, args, kwargs)
        end = time.monotonic() + self._config.timeout

        def attempt() -> Any:
            connection = open_connection(self._config)
            connection.ensure()
            collection = connection.client[self._database][self.name]
            try:
                with pymongo.timeout(max(end - time.monotonic(), PAUSE)):
                    if method == SERVER_TIME:
                        answer = connection.client.admin.command("hello")
                        return answer["localTime"].replace(tzinfo=UTC)
                    result = getattr(collection, method)(*args, **kwargs)
            except PyMongoError as error:
                is_write = method in WRITES
                raise translated(error, connection, method, self.full_name, is_write) from error
            connection.was_used = True
            return Cursor(result, connection, self.full_name) if method in CURSORS else result

        def on_error(error: RunDatabaseUnreachable, _left: float) -> None:
            cause = error.__cause__
            if isinstance(cause, PyMongoError):
                # Nothing was sent if no server was selected
                may_repeat = repeatable or isinstance(cause, ServerSelectionTimeoutError)
            else:
                # Do not wait for a connection that was never up: this machine may be offline
                may_repeat = open_connection(self._config).was_used
            if not may_repeat:
                raise error

        return retry(attempt, self._config.timeout, on_error=on_error)


class Cursor(AbstractContextManager, Iterator[Any]):
    """Cursor of pymongo that raises the errors of `Collection`."""

    def __init__(self, cursor: Any, connection: Connection, collection: str):
        self._cursor = cursor
        self._connection = connection
        self._collection = collection

    def __next__(self) -> Any:
        # Hot loop: most of the time of a long list is spent here
        try:
            return next(self._cursor)
        except StopIteration:
            raise
        except Exception as error:
            self._raise(error)

    def __getitem__(self, index: Any) -> Any:
        return self._call(self._cursor.__getitem__, index)

    def __exit__(self, *_exception: Any) -> None:
        self._cursor.close()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cursor, name)
        return functools.partial(self._call, value) if callable(value) else value

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            result = method(*args, **kwargs)
        except Exception as error:
            self._raise(error)
        return self if result is self._cursor else result

    def _raise(self, error: Exception) -> NoReturn:
        from pymongo.errors import PyMongoError

        if isinstance(error, PyMongoError):
            raise translated(error, self._connection, "find", self._collection) from error
        raise error


def is_repeatable(method: str, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a write is idempotent, in effect and in answer.

    The filter may only identify the document, and the update may only set values that do not depend
    on the old ones.
    """
    if method == "create_index":
        return True
    names = {"update_one": ("filter", "update"), "replace_one": ("filter", "replacement")}
    if method not in names or kwargs.get("upsert") or len(args) > 2:
        return False
    given = {**dict(zip(names[method], args, strict=False)), **kwargs}
    condition, change = (given.get(name) for name in names[method])
    if not isinstance(condition, Mapping) or not isinstance(change, Mapping):
        return False
    if not condition or not condition.keys() <= IDENTITY:
        return False
    if any(isinstance(value, Mapping | re.Pattern) for value in condition.values()):
        return False
    if method == "replace_one":
        return all(change.get(key, value) == value for key, value in condition.items())
    return change.keys() <= REPEATABLE and not any(
        IDENTITY & set(fields) for fields in change.values()
    )


def save_trend(trends: Any, row: Mapping[str, Any]) -> None:
    """Store a row of trends instead of that of the same run and lineage.

    `trends` is the collection of `get_trends_collection`; run documents stay as they are. The row
    has ``name`` and ``lineage``; that of a run that failed before has the lineage "", and is
    removed when the run has another.
    """
    name, lineage = row["name"], row["lineage"]
    new = {**row, "_id": f"{name}-{lineage}"}
    # Idempotent: the _id tells the row
    resilient(trends.replace_one, {"_id": new["_id"]}, new, upsert=True)
    if lineage:
        resilient(trends.delete_one, {"_id": f"{name}-"})


def read_trends(
    trends: Any, run_ids: Iterable[str] | None = None, flagged: bool = False
) -> list[dict[str, Any]]:
    """Return rows of trends by the number of the run, then the time of the row; see `save_trend`.

    `run_ids` are names of runs, None for all; with `flagged`, only runs that broke a limit or
    failed.
    """
    conditions: list[dict[str, Any]] = [] if run_ids is None else [{"name": {"$in": list(run_ids)}}]
    if flagged:
        conditions.append({"is_flagged": True})
    found = list(trends.find({"$and": conditions} if conditions else {}))
    return sorted(found, key=lambda row: (row["number"], row["time"]))
