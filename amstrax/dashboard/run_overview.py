"""List of runs; data of a run that a context can load; redacted document and timeline of a run."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import strax

from amstrax.analyses import tables
from amstrax.exceptions import AmstraxError, InvalidOption, did_you_mean
from amstrax.rundb import documents, stored, transfer
from amstrax.rundb.documents import Filter
from amstrax.rundb.embedded import LocalCollection
from amstrax.strax_ext.context import Context

#: Sort keys of runs -> fields of the document
ORDERS = {
    "number": "number",
    "start": "start",
    "end": "end",
    "mode": "mode",
    "user": "user",
    "status": "processing_status.status",
    "changed": "processing_status.time",
    "failures": "processing_failed",
}
#: Fields in which words are searched
_TEXTS = (
    *("name", "mode", "user", "tags", "tags.name", "tags.comment", "comments.comment"),
    *("comments.text", "processing_status.reason"),
)
#: Replaces a secret
HIDDEN = "(hidden)"
#: Names of fields that hold secrets
_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|^pwd$|secret|token|api_?key|private_?key|credential|_auth$|^auth$",
    re.IGNORECASE,
)
#: User and password in an address, as ``mongodb://user:password@host``; up to the last @, since
#: not all passwords are encoded properly
_LOGIN = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s\"']*@")
#: ``password=...`` in a text
_ASSIGNED = re.compile(r"(?P<name>\b(?:password|passwd|pwd|secret|token)\s*[=:]\s*)\S+", re.I)


@dataclass(frozen=True)
class Search:
    """Selection of runs; by default all."""

    #: Words; each is in the name, mode, user, a tag, a comment or the reason of the status, in any
    #: case, or is the number
    text: str = ""
    statuses: tuple[str, ...] = ()  #: runs in one of these `amstrax.rundb.documents.STATES`
    modes: tuple[str, ...] = ()  #: runs with one of these modes
    tags: tuple[str, ...] = ()  #: runs with all of these tags
    since: date | None = None  #: first day of the start (UTC)
    until: date | None = None  #: last day of the start (UTC)
    first: int | None = None  #: smallest number
    last: int | None = None  #: largest number
    followed: frozenset[str] = frozenset()  #: as of `amstrax.rundb.documents.state_of`

    def filter(self) -> Filter:
        """Return the filter for these runs; raise InvalidOption for an unknown status."""
        conditions: list[Filter] = [_has_word(word) for word in self.text.split()]
        if self.statuses:
            conditions.append(documents.has_state(*self.statuses, followed=self.followed))
        if self.modes:
            conditions.append({"mode": {"$in": list(self.modes)}})
        conditions += [documents.has_tag(tag) for tag in self.tags]
        end = None if self.until is None else _midnight(self.until) + timedelta(days=1)
        conditions += [
            {field: {operator: value}}
            for field, operator, value in (
                ("start", "$gte", None if self.since is None else _midnight(self.since)),
                ("start", "$lt", end),
                ("number", "$gte", self.first),
                ("number", "$lte", self.last),
            )
            if value is not None
        ]
        return {"$and": conditions} if conditions else {}


class Page(NamedTuple):
    """Documents of some runs that a search finds, the total, and how many come before these."""

    runs: list[dict[str, Any]]
    total: int
    skipped: int


def page(
    collection: Any,
    search: Search,
    projection: Any = None,
    order: str = "number",
    descending: bool = True,
    skip: int = 0,
    limit: int = 50,
) -> Page:
    """Return a page of the list of runs; for a `skip` beyond the end, the last page.

    The `order` is one of `ORDERS`; runs with equal values are sorted by number. Raises
    InvalidOption for an unknown order or status.
    """
    if order not in ORDERS:
        raise InvalidOption(f"order {order!r} is unknown{did_you_mean(order, ORDERS)}")
    condition = search.filter()
    way = -1 if descending else 1
    sort = [(ORDERS[order], way)]
    if order != "number":
        sort.append(("number", way))
    if condition and isinstance(collection, LocalCollection):
        # The embedded store scans all documents for a count too, so search only once
        ids = [run["_id"] for run in collection.find(condition, ["_id"], sort=sort)]
        total = len(ids)
    elif condition:
        total = collection.count_documents(condition)
    else:
        total = collection.estimated_document_count()
    limit = max(limit, 1)
    skip = min(max(skip, 0), max(total - 1, 0) // limit * limit)
    if condition and isinstance(collection, LocalCollection):
        by_id = {"_id": {"$in": ids[skip : skip + limit]}}
        found = documents.read(collection, by_id, projection, sort=sort)
    else:
        found = documents.read(collection, condition, projection, sort=sort, skip=skip, limit=limit)
    return Page(found, total, skip)


def modes_and_tags(collection: Any) -> tuple[list[str], list[str]]:
    """Return all modes and all tags of runs, sorted."""
    modes = {mode for mode in collection.distinct("mode") if isinstance(mode, str) and mode}
    tags = set(documents.tags_of({"tags": collection.distinct("tags")}))
    return sorted(modes), sorted(tags)


class LiveTime(NamedTuple):
    """How long runs last together [s]: live time where it is known, and length of the others."""

    live: float
    n_live: int
    length: float
    n_length: int
    n_unknown: int  #: runs of which neither is known


#: Most runs whose live time is read from the metadata of their stored data
_MOST_READ = 100


def live_time(
    collection: Any,
    search: Search,
    known: Mapping[str, float],
    context_of: Callable[[Mapping[str, Any]], strax.Context],
) -> LiveTime:
    """Return how long the runs last that a search finds.

    `known` is the live time by name of the run [s], as of trends. Of up to `_MOST_READ` other runs
    metadata is read, with the context that `context_of` returns for a run document; else runs count
    with their length, from start to end in the document.
    """
    live_times: list[float] = []
    lengths: list[float] = []
    found = documents.read(collection, search.filter(), transfer.SUMMARY_FIELDS)
    for document in found:
        run = transfer.summary(document)
        live = known.get(run.run_id)
        is_here = any(name.startswith(_RAW) for name in run.here)
        if live is None and is_here and len(found) <= _MOST_READ:
            try:
                live = float(tables.livetime(context_of(document), run.run_id)["live"].min()) / 1e9
            except (AmstraxError, strax.DataNotAvailable, strax.DataCorrupted, OSError, ValueError):
                live = None
        if live is not None:
            live_times.append(live)
        elif run.length is not None:
            lengths.append(run.length)
    n_live, n_length = len(live_times), len(lengths)
    n_unknown = len(found) - n_live - n_length
    return LiveTime(sum(live_times), n_live, sum(lengths), n_length, n_unknown)


#: Raw data, and the beginning of other types of it
_RAW = "raw_records"


def availability(
    document: Mapping[str, Any], st: strax.Context | None, targets: Sequence[str]
) -> dict[str, str]:
    """Return for raw data and each target whether it is there: a word for a column of the list.

    These are ``here``, ``elsewhere`` (on another host), ``outdated`` (of another lineage than the
    context would make), ``live`` (raw data as the DAQ wrote it), ``missing``, or empty where the
    context of the run does not make it. What the run document does not name is not searched.

    The `document` has the fields of `transfer.SUMMARY_FIELDS`; with ``data.location``, data of this
    host that is no longer there is left out. `st` None compares no lineages.
    """
    result = {}
    run_id = documents.name_of(document) or ""
    for target in (_RAW, *targets):
        if st is not None and target != _RAW and target not in st._plugin_class_registry:
            result[target] = ""
            continue
        is_raw = target == _RAW
        entries = [
            entry
            for entry in documents.data_of(document)
            if (
                entry.get("type") == target
                or (is_raw and str(entry.get("type") or "").startswith(target))
            )
            and not _is_gone(run_id, entry)
        ]
        hosts = {entry.get("host") for entry in entries}
        word = "here" if documents.this_host() in hosts else "elsewhere" if hosts else "missing"
        if entries and st is not None and not is_raw and run_id:
            current = st.key_for(run_id, target).lineage_hash
            if all(entry.get("lineage_hash") != current for entry in entries):
                word = "outdated"
        if is_raw and not entries and documents.data_of(document, type="live"):
            word = "live"
        result[target] = word
    return result


def _is_gone(run_id: str, entry: Mapping[str, Any]) -> bool:
    """Return whether data of this host is no longer in the folder that a run document names."""
    data = stored.of_entry(run_id, entry) if entry.get("host") == documents.this_host() else None
    return data is not None and not os.path.isdir(data.folder)


def _has_word(word: str) -> Filter:
    pattern = {"$regex": re.escape(word), "$options": "i"}
    options: list[Mapping[str, Any]] = [{field: pattern} for field in _TEXTS]
    if word.isascii() and word.isdigit() and len(word) < 19:
        options.append({"number": int(word)})
    return {"$or": options}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


class State(NamedTuple):
    """Data of one type and lineage, stored or not; what is unknown is empty or None."""

    data_type: str
    lineage_hash: str
    is_current: bool  #: the context would make the same: equal plugins, versions and options
    loadable: bool = False  #: by the context, on this host
    host: str = ""
    folder: str = ""
    chunks: int | None = None
    rows: int | None = None
    n_bytes: int | None = None  #: on disk
    made: datetime | None = None  #: UTC
    amstrax_version: str = ""
    corrections_version: str = ""
    #: Why it cannot be loaded, or how it differs from what the context would make
    reason: str = ""


def states(st: Context, run_id: str, document: Mapping[str, Any]) -> list[State]:
    """Return the states of all data types of a context, also of other lineages.

    Only metadata is read. The run `document` lists data on other hosts.
    """
    st = st._of_run(run_id)
    keys = {data_type: st.key_for(run_id, data_type) for data_type in st._plugin_class_registry}
    places = {data_type: find(st, key) for data_type, key in keys.items()}
    return [
        state
        for data_type, key in keys.items()
        for state in _of_type(st, run_id, key, places, document)
    ]


def _of_type(
    st: strax.Context,
    run_id: str,
    key: strax.DataKey,
    stored: Mapping[str, Path | None],
    document: Mapping[str, Any],
) -> Iterator[State]:
    """Yield the state of what the context loads, of other lineages here, of entries elsewhere."""
    data_type = key.data_type
    entries = documents.data_of(document, type=data_type)
    found = stored[data_type]
    if found is None:
        why = _why_not(st, run_id, entries, key, stored)
        yield State(data_type, key.lineage_hash, True, reason=why)
    else:
        # Data of the other release counts as equal, under its own hash
        is_own = found.name.startswith(str(key))
        lineage_hash = key.lineage_hash if is_own else found.name.rpartition("-")[2]
        yield _stored(found, data_type, lineage_hash, entries, is_current=True)
    seen = set() if found is None else {found.absolute()}
    places = [Path(f.path) for f in st.storage if isinstance(f, strax.DataDirectory)]
    for folder in (f for p in places for f in sorted(p.glob(f"{run_id}-{data_type}-*"))):
        if not folder.name.endswith("_temp") and folder.absolute() not in seen:
            seen.add(folder.absolute())
            yield _other(key, folder, entries)
    for entry in entries:
        where = _folder_of(entry, run_id)
        is_here = entry.get("host") == documents.this_host()
        if where is not None and not (is_here and where.absolute() in seen):
            yield _registered(key, entry, _GONE if is_here else f"on {entry.get('host')}, not here")


def _registered(key: strax.DataKey, entry: Mapping[str, Any], reason: str) -> State:
    """Return the state of data that only the run document tells of."""
    size, chunks = entry.get("size_mb"), entry.get("n_chunks")
    return State(
        key.data_type,
        str(entry.get("lineage_hash") or ""),
        is_current=entry.get("lineage_hash") == key.lineage_hash,
        host=str(entry.get("host") or ""),
        folder=str(entry.get("location") or ""),
        chunks=chunks if isinstance(chunks, int) else None,
        n_bytes=round(size * 1e6) if isinstance(size, (int, float)) else None,
        made=documents.utc_time_of(entry, "time"),
        reason=reason,
        **_versions_of(entry),
    )


_GONE = "registered here, but its folder is not there"


def find(st: strax.Context, key: strax.DataKey) -> Path | None:
    """Find the folder from which a context loads data; return None if it is not stored."""
    for frontend in st._sorted_storage:
        with contextlib.suppress(strax.DataNotAvailable):
            _, place = frontend.find(key, **st._find_options)
            return Path(place)
    return None


def being_made(st: strax.Context, key: strax.DataKey) -> Path | None:
    """Find the folder of data that is being made, or that a dead job left; None without it."""
    for frontend in st.storage:
        path = getattr(frontend, "path", None)
        if path is not None and (folder := Path(path, f"{key}_temp")).is_dir():
            return folder
    return None


def _why_not(
    st: strax.Context,
    run_id: str,
    entries: list[dict[str, Any]],
    key: strax.DataKey,
    stored: Mapping[str, Path | None],
) -> str:
    if being_made(st, key) is not None:
        return "being made now, or left by a job that was ended"
    hosts = {str(e.get("host")) for e in entries if e.get("lineage_hash") == key.lineage_hash}
    others = sorted(hosts - {documents.this_host()})
    if others:
        return f"on {', '.join(others)}, not here"
    if hosts:
        return _GONE
    plugin = st._get_plugins((key.data_type,), run_id)[key.data_type]
    needs = strax.to_str_tuple(plugin.depends_on)
    missing = [kind for kind in needs if stored.get(kind) is None]
    if not needs:
        return "not made: it is made from live data"
    if missing:
        return f"not made: it takes {', '.join(missing)} first"
    return f"not made: it can be made from {', '.join(needs)}"


def _other(key: strax.DataKey, folder: Path, entries: list[dict[str, Any]]) -> State:
    lineage_hash = folder.name.rpartition("-")[2]
    state = _stored(folder, key.data_type, lineage_hash, entries, is_current=False)
    if state.reason:
        return state
    try:
        reason = "; ".join(differences(key.lineage, _metadata(folder)["lineage"])[:4])
    except (strax.DataCorrupted, OSError, ValueError, LookupError, TypeError):
        reason = ""
    return state._replace(loadable=False, reason=f"made otherwise: {reason or 'see its lineage'}")


def _stored(
    folder: Path,
    data_type: str,
    lineage_hash: str,
    entries: list[dict[str, Any]],
    is_current: bool,
) -> State:
    """Return the state of data in a folder on this host."""
    host = documents.this_host()
    state = State(data_type, lineage_hash, is_current, host=host, folder=str(folder))
    try:
        metadata = _metadata(folder)
        n_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except (strax.DataCorrupted, strax.DataNotAvailable, OSError, ValueError) as error:
        return state._replace(reason=f"cannot be read: {error}")
    own = [entry for entry in entries if entry.get("lineage_hash") == lineage_hash]
    here = [entry for entry in own if entry.get("host") == host]
    chunks = metadata.get("chunks") or []
    made = metadata.get("writing_ended")
    reason = ""
    if "exception" in metadata:
        reason = "incomplete: the process that made it failed"
    elif made is None:
        reason = "incomplete: it is being made, or its process was ended"
    return state._replace(
        loadable=not reason,
        chunks=len(chunks),
        rows=sum(chunk.get("n", 0) for chunk in chunks),
        n_bytes=n_bytes,
        made=None if made is None else datetime.fromtimestamp(made, UTC),
        reason=reason,
        **_versions_of(next(iter(here + own), {})),
    )


def _versions_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = ("amstrax_version", "corrections_version")
    return {name: str(entry.get(name) or "") for name in names}


def _metadata(folder: Path) -> dict[str, Any]:
    return strax.FileSytemBackend().get_metadata(str(folder))


def _folder_of(entry: Mapping[str, Any], run_id: str) -> Path | None:
    location, lineage_hash = entry.get("location"), entry.get("lineage_hash")
    if not isinstance(location, str) or not location:
        return None
    if not isinstance(lineage_hash, str):
        return Path(location)
    name = f"{run_id}-{entry.get('type')}-{lineage_hash}"
    return None if "/" in name else Path(location, name)


def differences(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return the differences of a lineage from the wanted one: plugins, versions, options."""
    result = []
    for data_type in dict.fromkeys([*wanted, *there]):
        if data_type not in there:
            result.append(f"it is not made from {data_type}")
            continue
        if data_type not in wanted:
            result.append(f"it is made from {data_type}")
            continue
        name, version, options = there[data_type]
        own_name, own_version, own_options = wanted[data_type]
        if name != own_name:
            result.append(f"{data_type} by {name}, not {own_name}")
        if version != own_version:
            result.append(f"{data_type} of version {version}, not {own_version}")
        for option in dict.fromkeys([*own_options, *options]):
            its, own = options.get(option, "(default)"), own_options.get(option, "(default)")
            if strax.deterministic_hash(its) != strax.deterministic_hash(own):
                result.append(f"{option} = {_short(its)}, not {_short(own)}")
    return list(dict.fromkeys(result))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def without_secrets(value: Any) -> Any:
    """Return a run document, or a part of it, without passwords, tokens and other secrets.

    It holds the settings of the DAQ, which may contain log-ins to other machines.
    """
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if item and _SECRET.search(str(key)) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        text = _LOGIN.sub(rf"\g<scheme>{HIDDEN}@", value)
        return _ASSIGNED.sub(rf"\g<name>{HIDDEN}", text)
    return value


class Moment(NamedTuple):
    """An event in the history of a run: time (UTC), kind, and details."""

    time: datetime
    what: str
    detail: str = ""


def timeline(document: Mapping[str, Any]) -> list[Moment]:
    """Return the history of a run in its document, sorted by time.

    Start and end, copies and deletions, jobs and failures, tags and comments.
    """
    moments: list[Moment] = []

    def add(holder: Any, field: str, what: str, detail: str = "") -> None:
        time = documents.utc_time_of(holder, field)
        if time is not None:
            moments.append(Moment(time, what, detail))

    def items(field: str) -> list[Mapping[str, Any]]:
        found = document.get(field)
        return [i for i in found if isinstance(i, Mapping)] if isinstance(found, list) else []

    add(document, "start", "begun")
    add(document, "end", "ended")
    for entry in documents.data_of(document):
        add(entry, "time", "copied" if entry.get("type") == "live" else "made", _data(entry))
    for entry in documents.data_of({"data": document.get("deleted_data")}):
        who = entry.get("deleted_by") or "an unknown user"
        add(entry, "deleted_at", "data deleted", f"{_data(entry)}, by {who}")
    job = documents.job_of(document)
    name = f"job {job.get('job_id') or '(not known)'} ({job.get('engine')})"
    add(job, "time", "submitted", f"{name} on {job.get('host')}")
    failures = items("processing_failures")
    for failure in failures:
        add(failure, "time", "failed", _reason(failure))
    status = documents.status_of(document)
    cancelled_by = documents.cancelled_by(document)
    if cancelled_by is not None:
        add(status._asdict(), "time", "cancelled", f"by {cancelled_by}")
    # The last failure is its status too
    elif not (status.status == "failed" and failures):
        add(status._asdict(), "time", f"status {status.status}", _reason(status._asdict()))
    for field, what in (("tags", "tagged"), ("comments", "comment")):
        for item in items(field):
            by = f" ({item['user']})" if item.get("user") else ""
            texts = (item.get("name"), item.get("comment") or item.get("text"))
            add(item, "date", what, f"{': '.join(str(text) for text in texts if text)}{by}")
    return sorted(moments, key=lambda moment: moment.time)


def _data(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('type')} on {entry.get('host')}, {entry.get('location')}"


def _reason(status: Mapping[str, Any]) -> str:
    parts = (f"on {status['host']}" if status.get("host") else "", str(status.get("reason") or ""))
    return ": ".join(part for part in parts if part)
