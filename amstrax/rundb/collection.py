"""Collection of MongoDB that outlives its connection.

No call takes longer than AMSTRAX_RUNDB_TIMEOUT, and what goes wrong on the way is a
`RunDatabaseError` that says what to do. While a line that has worked is down, calls wait for it
within that time. What was sent, but not answered, is sent again where that does no harm: reads, and
those writes that say which document they are about, and in which twice is as good as once. What
else may be repeated, only its caller can know: see `amstrax.rundb.connection.resilient`.
"""

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from amstrax.exceptions import RunDatabaseUnreachable
from amstrax.rundb.line import Line, open_line, translated
from amstrax.settings import RunDatabase

#: Methods of `Collection`, which are those of pymongo's; a cursor is what the first group returns
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
#: Changes that are the same once and twice, and fields that tell one document from all others
REPEATABLE = frozenset({"$set", "$unset", "$addToSet", "$pull", "$pullAll", "$max", "$min"})
IDENTITY = frozenset({"_id", "name", "number"})


_PAUSE = 0.3  # between two attempts [s]


class Collection:
    """Collection of MongoDB: pymongo's, for as long as the process lives.

    It has pymongo's methods `READS` and `WRITES`. Each is given up after the time-out of the
    settings, raises a `RunDatabaseError` for what is wrong on the way to the database, and is
    repeated where that is safe. Errors about the request itself are pymongo's.

    Parameters
    ----------
    link
        Settings of the database.
    database, name
        Names of the database and of the collection in it.
    link_arguments
        What was given of host and user beside the settings. A pickle holds these, and no settings.
    """

    def __init__(
        self,
        link: RunDatabase,
        database: str,
        name: str,
        link_arguments: tuple[str, str] = ("", ""),
    ):
        self._link = link
        self._link_arguments = link_arguments
        self._database = database
        self.name = name
        self.full_name = f"{database}.{name}"

    def __repr__(self) -> str:
        link = self._link
        where = link.daq_host and f"{link.mongo_host}:{link.mongo_port} of {link.daq_host}"
        return f"Collection({self.full_name!r} at {where or 'AMSTRAX_MONGO_URI'})"

    def __reduce__(self) -> tuple[Callable, tuple]:
        from amstrax.rundb.connection import get_collection

        return get_collection, (self._database, self.name, *self._link_arguments)

    def __bool__(self) -> bool:
        raise NotImplementedError("a collection is neither true nor false: compare it with None")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in READS and method not in WRITES:
            raise AttributeError(
                f"a collection of the run database has no {method!r}: there are "
                f"{', '.join(sorted(READS | WRITES))}"
            )

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(method, args, kwargs)

        call.__name__ = method
        return call

    def server_time(self) -> datetime:
        """Return the time of the database server [UTC]."""
        return self._call(SERVER_TIME, (), {})

    def _call(self, method: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        import pymongo
        from pymongo.errors import PyMongoError, ServerSelectionTimeoutError

        repeatable = method in READS or method == SERVER_TIME or is_repeatable(method, args, kwargs)
        end = time.monotonic() + self._link.timeout
        while True:
            line = open_line(self._link)
            try:
                line.ensure()
                collection = line.client[self._database][self.name]
                with pymongo.timeout(max(end - time.monotonic(), _PAUSE)):
                    if method == SERVER_TIME:
                        answer = line.client.admin.command("hello")
                        return answer["localTime"].replace(tzinfo=UTC)
                    result = getattr(collection, method)(*args, **kwargs)
                line.was_used = True
                return Cursor(result, line, self.full_name) if method in CURSORS else result
            except PyMongoError as error:
                problem = translated(error, line, method, self.full_name, method in WRITES)
                if not isinstance(problem, RunDatabaseUnreachable):
                    raise problem from error
                # Of the latter kind, nothing was sent
                may_repeat = repeatable or isinstance(error, ServerSelectionTimeoutError)
                if not may_repeat or time.monotonic() + _PAUSE > end:
                    raise problem from error
            except RunDatabaseUnreachable:
                # What was never up is not waited for: this machine may just be offline
                if not line.was_used or time.monotonic() + _PAUSE > end:
                    raise
            time.sleep(_PAUSE)


class Cursor:
    """Cursor of pymongo whose errors are those of `Collection`."""

    def __init__(self, cursor: Any, line: Line, collection: str):
        self._cursor = cursor
        self._line = line
        self._collection = collection

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        # Most of the time of a long list goes into this: no more than it needs
        try:
            return next(self._cursor)
        except StopIteration:
            raise
        except Exception as error:
            self._raise(error)

    def __getitem__(self, index: Any) -> Any:
        return self._call(self._cursor.__getitem__, index)

    def __enter__(self) -> "Cursor":
        return self

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
            raise translated(error, self._line, "find", self._collection) from error
        raise error


def is_repeatable(method: str, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a write has the same effect, and the same answer, when it is sent twice.

    That is so where the filter says which document is meant, and nothing else, and the update sets
    things to values that do not depend on what was there.
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
