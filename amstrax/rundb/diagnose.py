"""``amstrax rundb check``: print the settings and test each step to the run documents.

The steps are name, port, host key, log-in, tunnel, MongoDB's log-in, collection and rights. The
first step that fails prints a remedy. Values of secrets are never shown.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo.errors import PyMongoError

from amstrax import settings
from amstrax.exceptions import AmstraxError, RunDatabaseRefused
from amstrax.rundb import documents, embedded, known_hosts, ssh_config, tunnel
from amstrax.rundb.connection import COLLECTIONS, DATABASE, Connection, is_embedded, translated
from amstrax.settings import RunDatabase

#: Names of the steps to the embedded store, through the tunnel, and to MongoDB. Generators yield
#: the result of each as text, or raise its error
_LOCAL = ("file", "collection")
_TUNNEL = ("name", "port", "host key", "log-in", "tunnel")
_MONGO = ("MongoDB log-in", "collection", "rights")


def check(detector: str = "xams") -> int:
    """Print the settings of the run database and the result of each step to it.

    The run documents of `detector`, ``"xams"`` or ``"xamsl"``, are searched. Returns the exit
    status: 0, or 1 if a step has failed.
    """
    try:
        print(described_settings())
        print(described_releases())
        config = settings.run_database()
        has_file = is_embedded(config)
    except AmstraxError as error:
        print(f"FAILED   {'settings':15s}{error}")
        return 1
    names: tuple[str, ...]
    results: Iterator[str]
    with contextlib.ExitStack() as stack:
        if has_file:
            print(f"\nNo host is set: the run database is the file {config.path}\n")
            names, results = _LOCAL, _local_steps(config, detector)
        elif config.uri:
            print("\nThe run database is MongoDB as AMSTRAX_MONGO_URI says\n")
            names, results = _MONGO, _mongo_steps(config, detector, stack)
        else:
            print(
                f"\nThe run database is MongoDB at {config.mongo_host}:{config.mongo_port} of "
                f"{config.daq_host}, through an SSH tunnel\n"
            )
            names = (*_TUNNEL, *_MONGO)
            results = chain(_tunnel_steps(config, stack), _mongo_steps(config, detector, stack))
        failed = False
        for name in names:
            if failed:
                print(f"-        {name:15s}not tried")
                continue
            try:
                print(f"ok       {name:15s}{next(results)}", flush=True)
            except AmstraxError as error:
                failed = True
                print(f"FAILED   {name:15s}{error}", flush=True)
    return int(failed)


def described_settings() -> str:
    """Return a line for each setting, with its origin and, unless it is secret, its value."""
    defaults = {
        "AMSTRAX_RUNDB_PATH": str(settings.rundb_path()),
        "AMSTRAX_HOST": socket.gethostname(),
        "DAQ_USER": settings.login_name(),
    }
    lines = [f"Settings, from the environment or from {settings.config_path()}:"]
    shared = {"AMSTRAX_SSH_CONFIG": settings.COPY["AMSTRAX_SSH_CONFIG"]}
    for name, (meaning, default) in (settings.RUN_DATABASE | shared).items():
        value, source = settings.find(name)
        if value:
            shown = "(set, not shown)" if name in settings.SECRETS else value
        else:
            shown = defaults.get(name, default) or "-"
            source = "default" if shown != "-" else ""
        lines.append(f"  {name:22s} {shown:26s} {source:12s} {meaning}")
    return "\n".join(lines)


def described_releases() -> str:
    """Return lines on the lab's releases that have stored raw data in the folders of the settings.

    If the newest run is of another release than that in AMSTRAX_RELEASE, the last line proposes a
    value.
    """
    from amstrax.strax_ext.equivalents import stored_releases  # strax takes seconds to import

    folders = {settings.raw_data("xams"), settings.processed_data("xams"), Path("strax_data")}
    lines: list[str] = []
    newest = ("", "")
    for folder in sorted(folder for folder in folders if folder is not None and folder.is_dir()):
        try:
            stored = stored_releases(folder)
        except OSError as error:
            lines.append(f"  {folder} cannot be read: {error.strerror}")
            continue
        part = "" if stored.is_all else f" (among {stored.n_entries} entries; others not read)"
        if part and not stored.found:
            lines.append(f"  {folder}: no raw data{part}")
        for release, (number, run_id) in sorted(stored.found.items()):
            lines.append(f"  {folder}: {number} of release {release}, newest run {run_id}{part}")
            newest = max(newest, (run_id, release))
    if not lines:
        return "Releases: no raw data of XAMS in the folders of the settings"
    if newest[1]:
        release_set = settings.release()
        advice = f"as in AMSTRAX_RELEASE={release_set}"
        if newest[1] != release_set:
            advice = f"and AMSTRAX_RELEASE is {release_set}: set AMSTRAX_RELEASE={newest[1]}"
        lines.append(f"  the newest run, {newest[0]}, is of release {newest[1]}, {advice}")
    return "\n".join(["Releases, by the hashes of stored raw data:", *lines])


def _tunnel_steps(config: RunDatabase, stack: contextlib.ExitStack) -> Iterator[str]:
    to = ssh_config.destination(config)
    alias = "" if to.host == config.daq_host else f", by ssh's settings {to.host}"
    addresses = [] if to.proxy else tunnel.resolve(to)
    if to.proxy:
        yield f"{config.daq_host}{alias}, through {' '.join(to.proxy)}"
    else:
        yield f"{config.daq_host} is {', '.join(addresses)}{alias}"
    connection = tunnel.dial(to, addresses)
    stack.callback(connection.close)
    transport = tunnel.greet(to, connection)
    stack.callback(transport.close)
    yield f"port {to.port} answers, {transport.remote_version}"
    key = transport.get_remote_server_key()
    place = known_hosts.verify(to, key)
    yield f"{key.get_name()} {key.fingerprint}, as in known_hosts ({place})"
    transport, how = tunnel.log_in(to, transport)
    stack.callback(transport.close)
    yield f"as {to.user}, with {how}"
    tunnel.open_channel(config, transport).close()
    yield f"{config.mongo_host}:{config.mongo_port} accepts connections"


def _mongo_steps(config: RunDatabase, detector: str, stack: contextlib.ExitStack) -> Iterator[str]:
    connection, name = Connection(config), COLLECTIONS[detector]
    stack.callback(connection.close)
    connection.ensure()

    def call(function: Callable[[Any], Any], method: str, is_write: bool = False) -> Any:
        try:
            return function(connection.client[DATABASE][name])
        except PyMongoError as error:
            problem = translated(error, connection, method, f"{DATABASE}.{name}", is_write)
            if isinstance(problem, AmstraxError):
                raise problem from error
            raise RunDatabaseRefused(f"{connection.place} fails at {method}: {error}") from error

    version = call(lambda c: c.database.client.server_info(), "server_info")["version"]
    call(lambda c: c.database.client["admin"].command("ping"), "ping")
    who = f"as {config.mongo_user}" if config.mongo_user else "without a user"
    yield f"{'as AMSTRAX_MONGO_URI says' if config.uri else who}; version {version}"
    yield described_documents(call, detector)
    # Updating a missing document needs the rights, and changes nothing
    nothing = {"_id": ObjectId()}
    try:
        call(lambda c: c.update_one(nothing, {"$set": {"check": 1}}), "update_one", True)
    except RunDatabaseRefused:
        yield "may read but not write: enough for notebooks, not for processing tools"
    else:
        yield "may read and write"


def _local_steps(config: RunDatabase, detector: str) -> Iterator[str]:
    if config.path.exists():
        yield f"{config.path}, {config.path.stat().st_size / 1e6:.1f} MB"
    else:
        yield f"{config.path} does not exist yet; the first document makes it"
    with embedded.LocalClient(config.path) as client:
        found = client[DATABASE][COLLECTIONS[detector]]
        yield described_documents(lambda function, _: function(found), detector)


def described_documents(call: Callable[..., Any], detector: str) -> str:
    """Return the number of run documents of a detector, and the last run.

    `call` takes a function of the collection and the name of a method, and calls the function.
    """
    name = f"{DATABASE}.{COLLECTIONS[detector]}"
    found = call(lambda c: list(c.find({}, {"number": 1, "name": 1})), "find")
    if not found:
        return f"{name} has no documents"
    numbers = [n for document in found if (n := documents.number_of(document)) is not None]
    last = max(numbers, default="?")
    text = f"{name} has {len(found)} run documents, the last of run {last}"
    twice = duplicates(found)
    if not twice:
        return text
    shown = ", ".join(twice[:5]) + (" ..." if len(twice) > 5 else "")
    return f"{text}; {len(twice)} runs have more than one ({shown}): remove all but one of each"


def duplicates(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of runs that have several of the given documents."""
    names: Counter[str] = Counter()
    for document in found:
        number = {"number": documents.number_of(document)}
        names[documents.name_of(number) or str(documents.name_of(document))] += 1
    return [name for name, n in names.items() if n > 1]
