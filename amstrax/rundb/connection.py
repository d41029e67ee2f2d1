"""The run database: where it is, and its collections.

Settings say where it is (see `amstrax.settings`): a connection string in AMSTRAX_MONGO_URI, or else
MongoDB on the host DAQ_HOST through an SSH tunnel, or else, with neither, the embedded store in a
file. There is one client and one tunnel per process and database.

`get_mongo_collection` gives the collection of run documents, `get_collection` one of any database.
To get one costs no network: the connection is made when it is first used, anew in a child process.
What goes wrong, and what is tried again by itself, is in `amstrax.rundb.collection`.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amstrax import settings
from amstrax.exceptions import RunDatabaseNotSet, RunDatabaseUnreachable, UnknownDetector
from amstrax.rundb.collection import Collection
from amstrax.rundb.line import close_all, open_line
from amstrax.settings import RunDatabase

if TYPE_CHECKING:
    from pymongo import MongoClient

log = logging.getLogger(__name__)

#: Collection of run documents of each detector, in the database `run`
COLLECTIONS = {"xams": "runs_gas", "xamsl": "runs_new"}
DATABASE = "run"

PAUSE = 0.3  # between two attempts [s]
# The documented default, an empty dictionary, which stays empty
_NOBODYS: dict[str, Any] = {}

T = TypeVar("T")

# Stores of which it has been said that they are used
_announced: set[Path] = set()


def get_mongo_client(
    daq_host: str = "",
    daq_user: str = "",
    secret_serving_port: dict[str, Any] = _NOBODYS,
) -> "MongoClient":
    """Return a client of the run database, connected; the same one at each call in a process.

    Parameters
    ----------
    daq_host, daq_user
        Host of the SSH tunnel and the user there, if not those of the settings.
    secret_serving_port
        A dictionary of your own gets the local port of the tunnel, as ``"rundb"``.

    Returns
    -------
    client
        A pymongo.MongoClient; with no settings an `amstrax.rundb.local.LocalClient`, which has the
        part of its interface that amstrax uses.

    Raises
    ------
    RunDatabaseError
        Of a kind that says what is wrong: RunDatabaseNotSet, RunDatabaseUnreachable,
        RunDatabaseRefused, HostKeyRefused.
    """
    link = settings.run_database(daq_host, daq_user)
    if is_embedded(link):
        return _embedded(link)
    line = open_line(link)
    line.ensure()
    if line.tunnel is not None and secret_serving_port is not _NOBODYS:
        secret_serving_port["rundb"] = line.tunnel.address[1]
    return line.client


def get_mongo_collection(
    detector: str = "xams", runcolname: str = DATABASE, **link_kwargs: Any
) -> Any:
    """Return the collection of run documents of a detector. It connects when it is first used.

    Parameters
    ----------
    detector
        ``"xams"`` or ``"xamsl"``.
    runcolname
        Database that the collection is in.
    **link_kwargs
        As of `get_mongo_client`.

    Returns
    -------
    collection
        A `Collection`, or that of the embedded store.

    Raises
    ------
    UnknownDetector
        A NameError, for another detector.
    """
    if detector not in COLLECTIONS:
        raise UnknownDetector(
            f"no detector {detector!r} in the run database: take one of {', '.join(COLLECTIONS)}"
        )
    return get_collection(runcolname, COLLECTIONS[detector], **link_kwargs)


def get_collection(
    database: str,
    collection: str,
    daq_host: str = "",
    daq_user: str = "",
    secret_serving_port: dict[str, Any] | None = None,
) -> Any:
    """Return a collection of a database, as `get_mongo_collection` does.

    Parameters
    ----------
    database, collection
        Names, such as ``"daq"`` and ``"processing"``.
    daq_host, daq_user, secret_serving_port
        As of `get_mongo_client`.
    """
    if secret_serving_port is not None:
        get_mongo_client(daq_host, daq_user, secret_serving_port)
    link = settings.run_database(daq_host, daq_user)
    if is_embedded(link):
        return _embedded(link)[database][collection]
    return Collection(link, database, collection, (daq_host, daq_user))


def is_embedded(link: RunDatabase) -> bool:
    """Return whether the embedded store is what is meant.

    Raises
    ------
    RunDatabaseNotSet
        When anything is set for MongoDB or its tunnel, but not where it is.
    """
    if link.uri or link.daq_host:
        return False
    given = [name for name in link.given if name.startswith(("DAQ_", "MONGO_"))]
    if given:
        # A password tells most of what was meant
        first = min(given, key=lambda name: (name not in settings.SECRETS, name))
        more = f" (as are {len(given) - 1} more settings)" if len(given) > 1 else ""
        raise RunDatabaseNotSet(
            f"{first} is set, but not for which host{more}: set DAQ_HOST too, or unset what is set "
            "to use the embedded run database"
        )
    return True


def resilient(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return what a function returns, called again while the run database cannot be reached.

    For writes that their caller knows to be idempotent, in effect and in what they return, such as
    one that claims a run for an owner if nobody *or that owner* has it.

    Raises
    ------
    RunDatabaseUnreachable
        When it is not reached within AMSTRAX_RUNDB_TIMEOUT.
    """
    end = time.monotonic() + settings.run_database().timeout
    while True:
        try:
            return function(*args, **kwargs)
        except RunDatabaseUnreachable:
            if time.monotonic() + PAUSE > end:
                raise
            time.sleep(PAUSE)


def close() -> None:
    """Close all clients and tunnels of this process; whoever goes on gets new ones."""
    close_all()


def _embedded(link: RunDatabase) -> Any:
    from amstrax.rundb.local import LocalClient

    if link.path not in _announced:
        _announced.add(link.path)
        log.info(
            "no run database is set (DAQ_HOST or AMSTRAX_MONGO_URI): the embedded one in %s is "
            "used",
            link.path,
        )
    return LocalClient(link.path)
