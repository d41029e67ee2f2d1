"""`RunDB`: strax frontend that finds runs and data in the run database, and registers new data."""

import copy
import logging
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import strax

import amstrax
from amstrax import settings
from amstrax.exceptions import InvalidOption, RunDatabaseUnreachable, RunNotFound
from amstrax.rundb import connection, documents, stored
from amstrax.rundoc import MISSING_LIVE_DATA
from amstrax.strax_ext.storage import CheckedBackend, CheckedSaver

log = logging.getLogger(__name__)

#: Pause after a failure before the run database is tried again [s]
PAUSE = 60.0
#: Largest number of runs queried by name; for more, all documents with the data are fetched
_MOST_ASKED_FOR = 50
_ENTRY_FIELDS = ("type", "host", "location", "lineage_hash")
_RUN_COLUMNS = ("name", "number", "mode", "start", "end", "tags", "livetime", "processing_status")
#: Largest number of messages on missing live data in an entry
_MOST_MISSING = 20


class _NoMetadata(strax.RunMetadataNotAvailable, strax.DataNotAvailable):
    """strax's error for unknown runs; as DataNotAvailable, a context tries its next frontend."""


class RegisteringSaver(CheckedSaver):
    """Saver that registers complete data, and removes data that could not be completed."""

    # The registering frontend holds a connection
    allow_fork = False

    def __init__(self, *args: Any, register: Callable[[dict], None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._register = register

    def close(self, wait_for: list | tuple = ()) -> None:
        if self.closed:
            # strax calls close again after it failed
            return
        try:
            super().close(wait_for)
        except BaseException:
            shutil.rmtree(self.tempdirname, ignore_errors=True)
            raise
        if "exception" in self.md or self.got_exception is not None:
            shutil.rmtree(self.dirname, ignore_errors=True)
        else:
            self._register(self.md)


class RegisteringBackend(CheckedBackend):
    """Backend that saves with `RegisteringSaver`."""

    saver_class = RegisteringSaver


class RunDB(strax.StorageFrontend):
    """Frontend that searches the run database for runs and data.

    The run database is first queried when needed. While it cannot be reached, the frontend finds no
    runs and data, with one warning, and tries again after `PAUSE`. Unusable settings, a refused
    log-in and an unknown host key are errors.

    Parameters
    ----------
    mongo_dbname, mongo_collname
        Database and collection of the run documents.
    runid_field
        Field of a document that is the run id: ``"name"``, or ``"number"`` converted to text.
    local_only
        Find only data that is registered for this machine: for its host name, the name in
        AMSTRAX_HOST, or an alias in `hosts`. Otherwise also find data of other hosts, if its
        registered folder exists on this machine.
    new_data_path
        Folder for new data; None if nothing is to be written.
    reader_ini_name_is_mode
        Read the mode of a run from the field ``reader.ini.name`` of its document.
    readonly
        Write no data.
    args, kwargs
        Passed to `strax.StorageFrontend`, after its `readonly`.
    client
        Client in place of that of the settings, as returned by `amstrax.rundb.get_mongo_client`.
    collection
        Collection in place of `client`, `mongo_dbname` and `mongo_collname`.

    Raises
    ------
    InvalidOption
        For an unknown `runid_field`, and when data is to be written without a folder.
    """

    provide_run_metadata = True
    #: Names of hosts in run documents -> regular expression for the host names of machines with
    #: access to their files
    hosts = {"dali": r"^dali.*rcc.*"}  # noqa: RUF012

    def __init__(
        self,
        mongo_dbname: str = "admin",
        mongo_collname: str = "runs_gas",
        runid_field: str = "name",
        local_only: bool = True,
        new_data_path: str | Path | None = None,
        reader_ini_name_is_mode: bool = False,
        readonly: bool = True,
        *args: Any,
        client: Any = None,
        collection: Any = None,
        **kwargs: Any,
    ):
        super().__init__(readonly, *args, **kwargs)
        if runid_field not in ("name", "number"):
            raise InvalidOption(f"runid_field is {runid_field!r}: it must be 'name' or 'number'")
        if new_data_path is None and not readonly:
            raise InvalidOption("RunDB(readonly=False) needs a new_data_path to write to")
        self.mongo_dbname, self.mongo_collname = mongo_dbname, mongo_collname
        self.runid_field = runid_field
        self.local_only = local_only
        self.new_data_path = None if new_data_path is None else Path(new_data_path).absolute()
        self.reader_ini_name_is_mode = reader_ini_name_is_mode
        #: Version of the corrections, recorded in entries of new data; set by contexts
        self.corrections_version: str | None = None
        self.backends = [RegisteringBackend()]
        self._client = client
        #: Shared with those of `of_run`
        self._shared = SimpleNamespace(collection=collection, not_before=0.0, is_away=False)
        # Runs already reported as having unregistered data
        self._reported: set[str] = set()
        # Run whose documents are read once, and these
        self._run: str | None = None
        self._of_run: list[dict[str, Any]] | None = None

    def of_run(self, run_id: str) -> "RunDB":
        """Return a frontend for one call, which reads the entries of a run once."""
        new = copy.copy(self)
        new._run, new._of_run = run_id, None
        return new

    @property
    def is_away(self) -> bool:
        """Whether the last attempt to reach the run database failed."""
        return self._shared.is_away

    @property
    def collection(self) -> Any:
        """Collection of run documents."""
        if self._shared.collection is None:
            names = self.mongo_dbname, self.mongo_collname
            if self._client is None:
                self._shared.collection = connection.get_collection(*names)
            else:
                self._shared.collection = self._client[names[0]][names[1]]
        return self._shared.collection

    def host_names(self) -> list[str]:
        """Return the names of this machine in run documents."""
        names = [documents.this_host(), socket.gethostname(), socket.gethostname().split(".")[0]]
        for alias, pattern in self.hosts.items():
            if re.match(pattern, socket.gethostname()) or re.match(pattern, _full_name()):
                names.append(alias)
        return list(dict.fromkeys(names))

    # Methods that strax calls

    def find_several(self, keys: Sequence[strax.DataKey], **kwargs: Any) -> list:
        """Find data for several keys; return its backend and folder for each key, or False.

        One query serves all keys of a data type. Options are those of `find`.
        """
        found: dict[int, tuple[str, str]] = {}
        groups: dict[tuple[str, str], list[strax.DataKey]] = {}
        for key in keys:
            if self._we_take(key.data_type) and self._support_superruns(key.run_id):
                groups.setdefault((key.data_type, key.lineage_hash), []).append(key)
        for group in groups.values():
            found |= self._find_group(group, **kwargs)
        return [found.get(id(key), False) for key in keys]

    def run_metadata(
        self, run_id: str, projection: str | Iterable[str] | Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the document of a run.

        `projection` is the name or names of the fields to return, or a projection as for pymongo;
        None for all.

        Raises
        ------
        strax.RunMetadataNotAvailable
            For an unknown run, and when the run database cannot be reached.
        RunDatabaseError
            For unusable settings or a refused log-in.
        """
        fields = [projection] if isinstance(projection, str) else projection
        with self._reading(_NoMetadata):
            document = self._documents(run_id, fields)
        if not document:
            raise _NoMetadata(f"run {run_id} is not in the run database ({self._place()})")
        metadata = document[0]
        if fields is None:
            metadata.setdefault("name", documents.name_of(metadata))
        for field in ("start", "end"):
            if field in metadata:
                metadata[field] = time_of(metadata, field)
                # strax handles a missing time, so drop an invalid one
                if projection == field and metadata[field] is None:
                    del metadata[field]
        return metadata

    def run_document(self, run_id: str, fields: Iterable[str] | None = None) -> dict | None:
        """Fetch some fields of the document of a run; None for an unknown run.

        An unreachable run database raises `RunDatabaseUnreachable`.
        """
        with self._reading(RunDatabaseUnreachable):
            return next(iter(self._documents(run_id, fields)), None)

    def documents_with(self, field: str, run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Fetch a field of the documents of those runs that have it, with one query.

        An unreachable run database raises `RunDatabaseUnreachable`.
        """
        with self._reading(RunDatabaseUnreachable):
            condition, fields = {field: {"$exists": True}}, ["name", "number", field]
            found = documents.read(self.collection, condition, fields)
        known = {self._run_id_of(document): document for document in found}
        asked = {run: self._run_id_of({"name": run, "number": run}) for run in run_ids}
        return {run: known[its] for run, its in asked.items() if its is not None and its in known}

    def remove(self, key: strax.DataKey) -> None:
        """Remove the registration of data in `new_data_path`; the files stay."""
        assert self.new_data_path is not None
        entry = identity(key, self.new_data_path)
        documents.remove_data(
            self.collection, self._typed_run_id(key.run_id), entry, settings.login_name()
        )

    def saver(self, key: strax.DataKey, metadata: dict, **kwargs: Any) -> RegisteringSaver:
        """Return a saver that registers the data in the run document when it is complete."""
        return super().saver(key, metadata, register=partial(self._register, key), **kwargs)

    def _scan_runs(self, store_fields: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield a dictionary for each run, with the requested fields that its document has."""
        wanted = list(dict.fromkeys(["name", "number", *store_fields]))
        projection = {"_id": 0} | {field: 1 for field in _no_nested(wanted)}
        if self.reader_ini_name_is_mode:
            projection["reader.ini.name"] = 1
        show = sys.stderr.isatty() or "ipykernel" in sys.modules
        found: list[dict[str, Any]] = []
        with suppress(strax.DataNotAvailable), self._reading():
            bar = partial(
                strax.utils.tqdm,
                total=self.collection.estimated_document_count() if show else None,
                desc="Fetching run info from MongoDB",
                disable=not show,
            )
            found = documents.read(self.collection, {}, projection, watch=bar)
        count = 0
        for document in found:
            if documents.name_of(document) is None or self._run_id_of(document) is None:
                log.info("skipped a run document without %s", self.runid_field)
                continue
            count += 1
            yield self._row(document, wanted)
        if not self.is_away:
            log.info("%d runs in the run database (%s)", count, self._place())

    def _row(self, document: dict[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
        """Return a row of the run table, without invalid fields of the document."""
        row = {key: value for key, value in document.items() if key not in _RUN_COLUMNS}
        mode = document.get("mode")
        if self.reader_ini_name_is_mode:
            reader = row.pop("reader", None)
            ini = reader.get("ini") if isinstance(reader, Mapping) else None
            mode = ini.get("name") if isinstance(ini, Mapping) else mode
        number, name = documents.number_of(document), documents.name_of(document)
        start, end = time_of(document, "start"), time_of(document, "end")
        columns = {
            "name": f"{number:06d}" if self.runid_field == "number" else name,
            # strax requires it
            "number": -1 if number is None else number,
            "mode": "" if mode is None else mode if isinstance(mode, (str, list)) else str(mode),
            "start": start,
            "end": end,
            "tags": documents.tags_of(document),
            "livetime": None if start is None or end is None else end - start,
            "processing_status": None,
        }
        if document.get("processing_status") is not None:
            columns["processing_status"] = documents.status_of(document).status
        asked_for = {"name", "number", "mode", "tags", *wanted}
        return {key: value for key, value in columns.items() if key in asked_for} | row

    def _find(self, key: strax.DataKey, write: bool, **options: Any) -> tuple[str, str]:
        if write:
            return self._where_to_write(key)
        found = self._find_group([key], check_broken=False, **options)
        if not found:
            raise strax.DataNotAvailable
        return found[id(key)]

    # Reading

    @contextmanager
    def _reading(self, error_class: type[Exception] = strax.DataNotAvailable) -> Iterator[None]:
        """Turn errors of the run database into one warning, and into `error_class`."""
        if time.monotonic() < self._shared.not_before:
            raise error_class("the run database cannot be reached")
        try:
            yield
        except Exception as error:
            if not _is_unreachable(error):
                raise
            self._shared.not_before = time.monotonic() + PAUSE
            if not self.is_away:
                self._shared.is_away = True
                log.warning("working without the run database: %s", error)
            raise error_class(f"the run database cannot be reached: {error}") from error
        if self.is_away:
            self._shared.is_away = False
            log.info("the run database is reachable again")

    def _documents(
        self, run_id: str, fields: Iterable[str] | Mapping[str, Any] | None
    ) -> list[dict[str, Any]]:
        """Fetch the documents of a run, normally one."""
        for run_filter in self._run_filters(run_id):
            found = documents.read(self.collection, run_filter, fields)
            if found:
                return found
        return []

    def _run_filters(self, run_id: str) -> list[dict[str, Any]]:
        filters = documents.run_filters(run_id, self.runid_field)
        if self.runid_field == "name":
            # Documents without a name are named by their number
            filters += [{**f, "name": None} for f in documents.run_filters(run_id, "number")]
        return filters

    def _typed_run_id(self, run_id: str) -> str | int:
        return int(run_id) if self.runid_field == "number" else run_id

    def _find_group(
        self,
        keys: Sequence[strax.DataKey],
        allow_incomplete: bool = False,
        fuzzy_for: tuple = (),
        fuzzy_for_options: tuple = (),
        check_broken: bool = True,
        **_unused: Any,
    ) -> dict[int, tuple[str, str]]:
        """Find data for keys that differ only in the run; return backend and folder by `id` of key.

        While the run database cannot be reached, new data is still found in its folder.
        """
        fuzzy = (fuzzy_for, fuzzy_for_options) if fuzzy_for or fuzzy_for_options else None
        entries = self._registered(keys, fuzzy is not None)
        result: dict[int, tuple[str, str]] = {}
        gone: list[Path] = []
        for key in keys:
            asked = self._run_id_of({"name": key.run_id, "number": key.run_id})
            path = self._find_folder(key, entries.get(asked, ()), fuzzy, gone)
            if path is None:
                path = self._find_unregistered(key, allow_incomplete)
            if path and (not check_broken or stored.is_complete(path, allow_incomplete)):
                result[id(key)] = self._backend_key(path)
        data_type = keys[0].data_type
        if len(keys) == 1:
            for path in gone:
                log.info("%s of run %s is not at %s", data_type, keys[0].run_id, path)
        elif gone:
            log.info(
                "skipped %d entries of %s whose files are gone, such as %s",
                len(gone),
                data_type,
                gone[0],
            )
        return result

    def _registered(
        self, keys: Sequence[strax.DataKey], any_lineage: bool
    ) -> dict[Any, list[dict[str, Any]]]:
        """Read the entries for keys that differ only in the run: run -> entries.

        Empty while the run database cannot be reached.
        """
        data_type = keys[0].data_type
        entry: dict[str, Any] = {"type": data_type}
        if not any_lineage:
            entry["lineage_hash"] = {"$in": [keys[0].lineage_hash, None]}
        hosts = self.host_names() if self.local_only else None
        if hosts is not None:
            entry["host"] = {"$in": hosts}
        is_of_run = [key.run_id for key in keys] == [self._run]
        condition: dict[str, Any] = {} if is_of_run else {"data": {"$elemMatch": entry}}
        if len(keys) <= _MOST_ASKED_FOR:
            condition |= self._runs_filter(keys)
        fields = ["name", "number", *(f"data.{field}" for field in _ENTRY_FIELDS)]
        if any_lineage or len(keys) == 1:
            fields.append("data.meta.lineage")
        found = self._of_run if is_of_run else None
        if found is None:
            with suppress(strax.DataNotAvailable), self._reading():
                found = documents.read(self.collection, condition, fields)
            if is_of_run:
                self._of_run = found
        entries: dict[Any, list[dict[str, Any]]] = {}
        for document in found or ():
            registered = documents.data_of(document, type=data_type)
            if hosts is not None:
                registered = [e for e in registered if e.get("host") in hosts]
            entries.setdefault(self._run_id_of(document), []).extend(registered)
        return entries

    def _runs_filter(self, keys: Iterable[strax.DataKey]) -> dict[str, Any]:
        filters = [f for key in keys for f in self._run_filters(key.run_id)]
        alone = [f[self.runid_field] for f in filters if f.keys() == {self.runid_field}]
        others = [f for f in filters if f.keys() != {self.runid_field}]
        asked = {self.runid_field: {"$in": alone}}
        return {"$or": [asked, *others]} if others else asked

    def _run_id_of(self, document: Mapping[str, Any]) -> str | int | None:
        """Return the run id of a document, as name or number."""
        if self.runid_field == "number":
            return documents.number_of({"number": document.get("number")})
        return documents.name_of(document)

    def _place(self) -> str:
        return f"{self.mongo_dbname}.{self.mongo_collname}"

    # Folders

    def _find_folder(
        self,
        key: strax.DataKey,
        entries: Iterable[Mapping[str, Any]],
        fuzzy: tuple[tuple, tuple] | None,
        gone: list[Path],
    ) -> Path | None:
        """Return the first existing folder of entries with the data; add missing ones to `gone`."""
        for entry in entries:
            location, lineage_hash = entry.get("location"), entry.get("lineage_hash")
            if not isinstance(location, str) or not location:
                continue
            # The location of an older entry, without hash, is the folder of the data itself
            path = Path(location)
            if isinstance(lineage_hash, str):
                if fuzzy is None and lineage_hash != key.lineage_hash:
                    continue
                name = f"{key.run_id}-{key.data_type}-{lineage_hash}"
                path = path if path.name == name else path / name
            if not path.is_dir():
                gone.append(path)
                continue
            is_sure = fuzzy is None and path.name.endswith(f"-{key.data_type}-{key.lineage_hash}")
            if is_sure or self._has_lineage(entry, key, path, fuzzy or ((), ())):
                return path
        return None

    def _has_lineage(
        self, entry: Mapping[str, Any], key: strax.DataKey, path: Path, fuzzy: tuple[tuple, tuple]
    ) -> bool:
        """Return whether data has a lineage, according to its entry or else its metadata."""
        meta = entry.get("meta")
        lineage = meta.get("lineage") if isinstance(meta, Mapping) else None
        try:
            if not isinstance(lineage, Mapping) or not lineage:
                lineage = self.backends[0].get_metadata(str(path))["lineage"]
            # Compare hashes, since JSON does not distinguish lists and tuples
            compared = [self._filter_lineage(x, *fuzzy) for x in (key.lineage, lineage)]
            return len({strax.deterministic_hash(x) for x in compared}) == 1
        except (strax.DataCorrupted, AttributeError, LookupError, TypeError, ValueError) as error:
            log.info("skipped %s, whose lineage cannot be read: %s", path, error)
            return False

    def _backend_key(self, path: Path) -> tuple[str, str]:
        return type(self.backends[0]).__name__, str(path)

    # Writing

    def _where_to_write(self, key: strax.DataKey) -> tuple[str, str]:
        assert self.new_data_path is not None
        try:
            with self._reading():
                documents.find_run(self.collection, key.run_id, self.runid_field, ["_id"])
        except RunNotFound as error:
            log.warning("%s is not stored with the run database: %s", key, error)
            raise strax.DataNotAvailable(str(error)) from error
        except strax.DataNotAvailable:
            log.debug("%s is stored without asking the run database", key)
        path = self.new_data_path / str(key)
        if path.exists() and self.overwrite == "never":
            raise strax.DataExistsError(at=str(path), message=f"{path} exists already")
        return self._backend_key(path)

    def _register(self, key: strax.DataKey, metadata: Mapping[str, Any]) -> None:
        """Add complete data to the run document.

        If the run database cannot be reached, or does not have the run, a warning names the remedy;
        the data is registered at the next search for it.
        """
        assert self.new_data_path is not None
        self._of_run = None
        entry = new_entry(key, self.new_data_path, metadata, self.corrections_version)
        try:
            with self._reading():
                documents.add_data(self.collection, self._typed_run_id(key.run_id), entry)
        except (RunNotFound, strax.DataNotAvailable) as error:
            log.log(
                logging.DEBUG if key.run_id in self._reported else logging.WARNING,
                "data of run %s in %s is not registered (%s): to register it later, call "
                "st.is_stored(%r, %r) with this RunDB",
                key.run_id,
                self.new_data_path,
                error,
                key.run_id,
                key.data_type,
            )
            self._reported.add(key.run_id)
            return
        log.info("%s is registered in the run database", key)

    def _find_unregistered(self, key: strax.DataKey, allow_incomplete: bool) -> Path | None:
        """Find unregistered data in `new_data_path`, register it, and return its folder."""
        if self.new_data_path is None:
            return None
        path = self.new_data_path / str(key)
        if stored.is_complete(path):
            if not self.readonly and not self.is_away:
                self._register(key, self.backends[0].get_metadata(str(path)))
            return path
        being_written = path.with_name(f"{path.name}_temp")
        return being_written if allow_incomplete and being_written.is_dir() else None


# Documented name of the class
RunDB.__module__ = "amstrax.rundb"


def _is_unreachable(error: Exception) -> bool:
    """Return whether an error means an unreachable run database, not a misuse."""
    from pymongo.errors import ConnectionFailure, PyMongoError  # slow to import

    kinds = (RunDatabaseUnreachable, ConnectionFailure)
    return isinstance(error, kinds) or (isinstance(error, PyMongoError) and error.timeout)


_full_names: dict[str, str] = {}
_lock = threading.Lock()


def _full_name() -> str:
    """Return the full name of this host, queried from the name server once per process."""
    name = socket.gethostname()
    with _lock:
        if name not in _full_names:
            _full_names[name] = socket.getfqdn()
    return _full_names[name]


def _renew_lock() -> None:
    # A thread of the parent process may have held the lock
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _no_nested(fields: Iterable[str]) -> list[str]:
    """Return fields without those contained in others, which MongoDB refuses in a projection."""
    fields = set(fields)
    return sorted(
        f for f in fields if not any(f.startswith(f"{other}.") for other in fields if other != f)
    )


def time_of(document: Mapping[str, Any], field: str) -> datetime | None:
    """Return a time in UTC without time zone, as pymongo does; None if it is missing or invalid."""
    value = documents.utc_time_of(document, field)
    return value and value.replace(tzinfo=None)


def identity(key: strax.DataKey, location: Path) -> dict[str, Any]:
    """Return the fields that identify the entry of data in a folder of this machine."""
    return {
        "type": key.data_type,
        "host": documents.this_host(),
        "location": str(location),
        "lineage_hash": key.lineage_hash,
    }


def new_entry(
    key: strax.DataKey,
    location: Path,
    metadata: Mapping[str, Any],
    corrections_version: str | None = None,
    is_online: bool = False,
    amstrax_path: str | None = None,
) -> dict[str, Any]:
    """Return the entry for complete data; files that cannot be read raise `OSError`.

    `location` is the folder that contains the folder of the data; `corrections_version` that of the
    data, if any; `is_online` tells whether the loop that follows the DAQ made it, `amstrax_path` in
    which folder that amstrax is installed, None for this one.
    """
    size = sum(file.stat().st_size for file in (location / str(key)).iterdir())
    missing = list(metadata.get(MISSING_LIVE_DATA) or ())
    if len(missing) > _MOST_MISSING:
        missing[_MOST_MISSING:] = [f"and {len(missing) - _MOST_MISSING} more, see the metadata"]
    now = datetime.now(UTC)
    return identity(key, location) | {
        "n_chunks": len(metadata.get("chunks") or ()),
        "size_mb": round(size / 1e6, 3),
        "amstrax_version": amstrax.__version__,
        "corrections_version": corrections_version,
        "user": settings.login_name(),
        "amstrax_path": amstrax_path or settings.amstrax_path(),
        "is_online": is_online,
        "time": now,
        "updated_at": now,
        **({MISSING_LIVE_DATA: missing} if missing else {}),
    }
