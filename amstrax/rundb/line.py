"""Line to MongoDB: a client, the tunnel that it goes through, and what its errors mean.

There is one line per process and database, made by `open_line` without touching the network. A
child process starts without any, and makes its own.
"""

import atexit
import os
import re
import threading
from typing import TYPE_CHECKING, Any

from amstrax.exceptions import RunDatabaseNotSet, RunDatabaseRefused, RunDatabaseUnreachable
from amstrax.rundb.tunnel import Tunnel
from amstrax.settings import RunDatabase

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13


class Line:
    """A client of MongoDB, and the tunnel that it goes through, if there is one.

    Parameters
    ----------
    link
        Settings of the database.

    Raises
    ------
    RunDatabaseError
        When the settings make no sense. Nothing is connected yet.
    """

    def __init__(self, link: RunDatabase):
        self.link = link
        #: Whether anything has ever gone well
        self.was_used = False
        self.tunnel = None if link.uri else Tunnel(link)
        try:
            self.client = _make_client(link, self.tunnel)
        except BaseException:
            if self.tunnel is not None:
                self.tunnel.close()
            raise

    @property
    def place(self) -> str:
        """Where the database is, in words, for messages."""
        if self.link.uri:
            return "MongoDB at AMSTRAX_MONGO_URI"
        return f"MongoDB at {self.link.mongo_host}:{self.link.mongo_port} of {self.link.daq_host}"

    def ensure(self) -> None:
        """Make the tunnel where it is needed and down."""
        if self.tunnel is not None:
            self.tunnel.ensure()

    def close(self) -> None:
        """Close the client, and then the tunnel."""
        import pymongo

        # It says good-bye to the server, and the line may be down
        with pymongo.timeout(1):
            self.client.close()
        if self.tunnel is not None:
            self.tunnel.close()


# Lines of this process, by their settings; those of a parent are kept, and left alone
_lines: dict[RunDatabase, Line] = {}
_inherited: list[dict[RunDatabase, Line]] = []
_lock = threading.Lock()
_hooks_are_set = False


def open_line(link: RunDatabase) -> Line:
    """Return the line of this process to a database; a new one is not connected yet."""
    with _lock:
        line = _lines.get(link)
        if line is None:
            line = _lines[link] = Line(link)
            _set_hooks()
        return line


def close_all() -> None:
    """Close all lines of this process."""
    with _lock:
        lines = list(_lines.values())
        _lines.clear()
    for line in lines:
        line.close()


def translated(
    error: "PyMongoError", line: Line, method: str, collection: str, is_write: bool = False
) -> Exception:
    """Return the error to raise for one of pymongo: itself, unless it is about the way there."""
    from pymongo import errors

    link = line.link
    user = link.mongo_user or "this user"
    code = getattr(error, "code", None)
    if code == _AUTHENTICATION_FAILED or "authentication failed" in str(error).lower():
        what = "AMSTRAX_MONGO_URI" if link.uri else "MONGO_USER, MONGO_PASSWORD and MONGO_AUTH_DB"
        # Else the client would go on trying, and say something else next time
        _forget(line)
        return RunDatabaseRefused(f"{line.place} refuses the log-in of {user}: check {what}")
    if code == _UNAUTHORIZED:
        if not link.uri and not link.mongo_user:
            return RunDatabaseRefused(
                f"{line.place} wants a log-in: set MONGO_USER and MONGO_PASSWORD"
            )
        return RunDatabaseRefused(
            f"{user} may not call {method} on {collection} of {line.place}: ask who runs it for "
            f"the role {'readWrite' if is_write else 'read'} there"
        )
    if isinstance(error, errors.ConfigurationError) and _is_of_dns(error.__cause__):
        return RunDatabaseUnreachable(
            f"{line.place} is not found ({error}): check its host, and whether this machine is "
            "online"
        )
    if isinstance(error, errors.ConnectionFailure) or error.timeout:
        tunnel_error = line.tunnel.error if line.tunnel is not None else None
        if tunnel_error is not None:
            return type(tunnel_error)(*tunnel_error.args)
        reason = str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
        is_sent = not isinstance(error, errors.ServerSelectionTimeoutError)
        again = "; whether it was written is not known" if is_write and is_sent else ""
        return RunDatabaseUnreachable(
            f"{line.place} does not answer {method} on {collection} within {link.timeout:g} s or "
            f"the line dropped ({reason}){again}: try again later, or see `amstrax rundb check`"
        )
    return error


def _is_of_dns(cause: BaseException | None) -> bool:
    """Return whether it is about the name server, which ``mongodb+srv://`` asks first."""
    return type(cause).__module__.startswith("dns.")


def _forget(line: Line) -> None:
    with _lock:
        if _lines.get(line.link) is not line:
            return
        del _lines[line.link]
    line.close()


def _set_hooks() -> None:
    # After those of the tunnel, which is thus closed after its client
    global _hooks_are_set
    if not _hooks_are_set:
        _hooks_are_set = True
        atexit.register(close_all)
        os.register_at_fork(after_in_child=_start_anew)


def _start_anew() -> None:
    global _lines, _lock
    _inherited.append(_lines)
    _lines = {}
    _lock = threading.Lock()


def _make_client(link: RunDatabase, tunnel: Tunnel | None) -> "MongoClient":
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    milliseconds = round(link.timeout * 1000)
    options: dict[str, Any] = {
        "appname": "amstrax",
        "timeoutMS": milliseconds,
        "serverSelectionTimeoutMS": milliseconds,
        "connectTimeoutMS": milliseconds,
        # Not before it is used: the tunnel says what is wrong, and does so once
        "connect": False,
        # What Python or UTF-8 cannot hold in one document must not keep others from being read
        "datetime_conversion": "DATETIME_AUTO",
        "unicode_decode_error_handler": "replace",
    }
    if tunnel is not None:
        if bool(link.mongo_user) != bool(link.mongo_password):
            there, missing = ("USER", "PASSWORD") if link.mongo_user else ("PASSWORD", "USER")
            raise RunDatabaseNotSet(f"MONGO_{there} is set, but not MONGO_{missing}: set both")
        host, port = tunnel.address
        # What MongoDB says of its own address holds on the DAQ host alone
        options |= {"host": host, "port": port, "directConnection": True}
        if link.mongo_user:
            options |= {
                "username": link.mongo_user,
                "password": link.mongo_password,
                "authSource": link.mongo_auth_db,
            }
        return MongoClient(**options)
    set_there = {name.lower() for name in re.findall(r"[?&](\w+)=", link.uri)}
    options = {name: value for name, value in options.items() if name.lower() not in set_there}
    try:
        return MongoClient(link.uri, **options)
    except (PyMongoError, ValueError) as error:
        # Their messages quote the string, and it may hold a password
        raise RunDatabaseNotSet(
            f"AMSTRAX_MONGO_URI is not a connection string of MongoDB ({type(error).__name__}): "
            "write mongodb://USER:PASSWORD@HOST:PORT/?authSource=admin, with :/?#[]@% in user "
            "and password percent-encoded"
        ) from None
