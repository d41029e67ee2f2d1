"""Lists of runs, what of a run's data a context can load, and what happened to a run.

`page` gives a page of the list of runs; `states` what data of a run there is, and why a context
cannot load the rest; `timeline` what happened to a run; `without_secrets` what may be shown of its
document.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import strax

from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.rundb import documents
from amstrax.rundb.documents import Filter
from amstrax.rundb.embedded import LocalCollection

#: What runs can be put in order by -> the field of the document
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
#: Fields that a text is looked for in
_TEXTS = ("name", "mode", "user", "tags", "tags.name", "comments.comment")
#: What takes the place of a secret
HIDDEN = "(hidden)"
#: Fields that hold secrets, by their names
_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|^pwd$|secret|token|api_?key|private_?key|credential|_auth$|^auth$",
    re.IGNORECASE,
)
#: User and password in an address, as ``mongodb://user:password@host``, up to the last @, since
#: passwords are not always encoded as they should be
_LOGIN = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s\"']*@")
#: ``password=...`` in a text
_ASSIGNED = re.compile(r"(?P<name>\b(?:password|passwd|pwd|secret|token)\s*[=:]\s*)\S+", re.I)


@dataclass(frozen=True)
class Search:
    """Which runs to list; what is not given leaves none out.

    Attributes
    ----------
    text
        Words, each of which is in the name, mode, user, a tag or a comment of the run; or is its
        number. Upper case is as lower case.
    statuses
        Of one of these, see `amstrax.rundb.documents.STATUSES`.
    modes
        Of one of these modes.
    tags
        With each of these tags.
    since, until
        Begun on one of these days, or between them (UTC).
    first, last
        With these numbers, or between them.
    """

    text: str = ""
    statuses: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    first: int | None = None
    last: int | None = None

    def filter(self) -> Filter:
        """Return the filter for these runs.

        Raises
        ------
        InvalidOption
            When there is no such status.
        """
        conditions: list[Filter] = [_has_word(word) for word in self.text.split()]
        for status in self.statuses:
            if status not in documents.STATUSES:
                raise InvalidOption(
                    f"status {status!r} is unknown{did_you_mean(status, documents.STATUSES)}"
                )
        if self.statuses:
            conditions.append(documents.has_status(*self.statuses))
        if self.modes:
            conditions.append({"mode": {"$in": list(self.modes)}})
        conditions += [documents.has_tag(tag) for tag in self.tags]
        if self.since is not None:
            conditions.append({"start": {"$gte": _midnight(self.since)}})
        if self.until is not None:
            conditions.append({"start": {"$lt": _midnight(self.until) + timedelta(days=1)}})
        if self.first is not None:
            conditions.append({"number": {"$gte": self.first}})
        if self.last is not None:
            conditions.append({"number": {"$lte": self.last}})
        return {"$and": conditions} if conditions else {}


class Page(NamedTuple):
    """Some of the runs that a search finds.

    Attributes
    ----------
    runs
        Their documents, with the fields asked for.
    total
        How many runs the search finds.
    skipped
        How many of those come before these.
    """

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
    """Return a page of the list of runs; the last one for what is beyond it.

    Parameters
    ----------
    collection
        Collection of run documents.
    search
        Which runs.
    projection
        Fields to have, as for pymongo; ``_id`` is one of them.
    order
        One of `ORDERS`; runs that are alike in it come by number.
    descending
        The last in that order first.
    skip, limit
        So many are left out, and so many are read.

    Raises
    ------
    InvalidOption
        For an unknown order or status.
    """
    if order not in ORDERS:
        raise InvalidOption(f"order {order!r} is unknown{did_you_mean(order, ORDERS)}")
    condition = search.filter()
    way = -1 if descending else 1
    sort = [(ORDERS[order], way)]
    if order != "number":
        sort.append(("number", way))
    if condition and isinstance(collection, LocalCollection):
        # It looks at every document for either
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
    """Return the modes of runs, and the tags, that there are, in order."""
    modes = {mode for mode in collection.distinct("mode") if isinstance(mode, str) and mode}
    tags = set(documents.tags_of({"tags": collection.distinct("tags")}))
    return sorted(modes), sorted(tags)


def _has_word(word: str) -> Filter:
    """Return a filter for runs with a text in their name, mode, user, tags or comments."""
    pattern = {"$regex": re.escape(word), "$options": "i"}
    options: list[Mapping[str, Any]] = [{field: pattern} for field in _TEXTS]
    if word.isascii() and word.isdigit() and len(word) < 19:
        options.append({"number": int(word)})
    return {"$or": options}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


class State(NamedTuple):
    """Data of one type and lineage, that there is, or that the context would make.

    Attributes
    ----------
    data_type, lineage_hash
        What it is.
    is_current
        Whether the context would make it so: same plugins, versions and options.
    loadable
        Whether the context can load it here and now.
    host, folder
        Where it is; empty where it is nowhere.
    chunks, rows, n_bytes
        How much it is [bytes on disk]; None where that is not known.
    made
        When it was made (UTC).
    amstrax_version, corrections_version
        What it was made with; empty where nothing says so.
    reason
        Why it cannot be loaded, or how it differs from what the context would make.
    """

    data_type: str
    lineage_hash: str
    is_current: bool
    loadable: bool
    host: str = ""
    folder: str = ""
    chunks: int | None = None
    rows: int | None = None
    n_bytes: int | None = None
    made: datetime | None = None
    amstrax_version: str = ""
    corrections_version: str = ""
    reason: str = ""


def states(st: strax.Context, run_id: str, document: Mapping[str, Any]) -> list[State]:
    """Return the state of each data type of a context, of other lineages too, in their order.

    Nothing is made, and no data is read but its metadata.

    Parameters
    ----------
    st
        Context.
    run_id
        Run.
    document
        Its document, from which it is known what is where on other machines.
    """
    result: list[State] = []
    for data_type in st._plugin_class_registry:
        result += _of_type(st, run_id, data_type, document)
    return result


def _of_type(
    st: strax.Context, run_id: str, data_type: str, document: Mapping[str, Any]
) -> Iterator[State]:
    key = st.key_for(run_id, data_type)
    entries = documents.data_of(document, type=data_type)
    own = [entry for entry in entries if entry.get("lineage_hash") == key.lineage_hash]
    found = find(st, key)
    seen: set[Path] = set()
    if found is not None and not found.name.startswith(str(key)):
        # Of the other release, and equal
        seen.add(found.absolute())
        lineage_hash = found.name.rpartition("-")[2]
        entry = next((e for e in entries if e.get("lineage_hash") == lineage_hash), {})
        yield _stored(found, data_type, lineage_hash, entry, is_current=True)
    elif found is not None:
        seen.add(found.absolute())
        entry = next(
            (e for e in own if e.get("host") == documents.this_host()), own[0] if own else {}
        )
        yield _stored(found, data_type, key.lineage_hash, entry, is_current=True)
    else:
        yield State(data_type, key.lineage_hash, True, False, reason=_why_not(st, run_id, own, key))
    # Data of other lineages: first the folders on this host, then the entries for other places
    for folder in _others(st, run_id, data_type):
        if folder.absolute() not in seen:
            seen.add(folder.absolute())
            yield _other(st, key, folder, entries)
    for entry in entries:
        where = _folder_of(entry, run_id)
        here = entry.get("host") == documents.this_host()
        if where is None or (here and (where.absolute() in seen)):
            continue
        if here:
            reason = "registered here, but its folder is not there"
        else:
            reason = f"on {entry.get('host')}, not here"
        is_current = entry.get("lineage_hash") == key.lineage_hash
        yield _registered(entry, data_type, is_current, reason)


def find(st: strax.Context, key: strax.DataKey) -> Path | None:
    """Return the folder from which a context loads data, None where it finds none."""
    for frontend in st._sorted_storage:
        with contextlib.suppress(strax.DataNotAvailable):
            _, place = frontend.find(key, **st._find_options)
            return Path(place)
    return None


def being_made(st: strax.Context, key: strax.DataKey) -> Path | None:
    """Return the folder in which data is being made, or was when a job ended; None without one."""
    for frontend in st.storage:
        path = getattr(frontend, "path", None)
        if path is not None and (folder := Path(path, f"{key}_temp")).is_dir():
            return folder
    return None


def _why_not(st: strax.Context, run_id: str, own: list[dict[str, Any]], key: strax.DataKey) -> str:
    if being_made(st, key) is not None:
        return "being made now, or left by a job that was ended"
    if own:
        hosts = sorted({str(entry.get("host")) for entry in own} - {documents.this_host()})
        if hosts:
            return f"on {', '.join(hosts)}, not here"
        return "registered here, but its folder is not there"
    needed = st._plugin_class_registry[key.data_type].depends_on
    needs = strax.to_str_tuple(needed)
    missing = [kind for kind in needs if find(st, st.key_for(run_id, kind)) is None]
    if not needs:
        return "not made: it is made from live data"
    if missing:
        return f"not made: it takes {', '.join(missing)} first"
    return f"not made: it can be made from {', '.join(needs)}"


def _others(st: strax.Context, run_id: str, data_type: str) -> Iterator[Path]:
    for frontend in st.storage:
        if isinstance(frontend, strax.DataDirectory):
            folders = Path(frontend.path).glob(f"{run_id}-{data_type}-*")
            yield from (path for path in sorted(folders) if not path.name.endswith("_temp"))


def _other(
    st: strax.Context, key: strax.DataKey, folder: Path, entries: list[dict[str, Any]]
) -> State:
    lineage_hash = folder.name.rpartition("-")[2]
    entry = next((e for e in entries if e.get("lineage_hash") == lineage_hash), {})
    state = _stored(folder, key.data_type, lineage_hash, entry, is_current=False)
    if not state.reason:
        try:
            lineage = _metadata(folder)["lineage"]
            reason = "; ".join(differences(key.lineage, lineage)[:4])
        except (strax.DataCorrupted, OSError, ValueError, LookupError, TypeError):
            reason = ""
        state = state._replace(reason=f"made otherwise: {reason or 'see its lineage'}")
    return state._replace(loadable=False)


def _stored(
    folder: Path, data_type: str, lineage_hash: str, entry: Mapping[str, Any], is_current: bool
) -> State:
    try:
        metadata = _metadata(folder)
        sizes = [file.stat() for file in folder.iterdir() if file.is_file()]
    except (strax.DataCorrupted, strax.DataNotAvailable, OSError, ValueError) as error:
        return State(
            data_type,
            lineage_hash,
            is_current,
            False,
            documents.this_host(),
            str(folder),
            reason=f"cannot be read: {error}",
        )
    chunks = metadata.get("chunks") or []
    made = metadata.get("writing_ended")
    reason = ""
    if "exception" in metadata:
        reason = "incomplete: what made it has failed"
    elif made is None:
        reason = "incomplete: it is being made, or what made it was ended"
    return State(
        data_type,
        lineage_hash,
        is_current,
        not reason,
        documents.this_host(),
        str(folder),
        len(chunks),
        sum(chunk.get("n", 0) for chunk in chunks),
        sum(size.st_size for size in sizes),
        None if made is None else datetime.fromtimestamp(made, UTC),
        str(entry.get("amstrax_version") or ""),
        str(entry.get("corrections_version") or ""),
        reason,
    )


def _registered(entry: Mapping[str, Any], data_type: str, is_current: bool, reason: str) -> State:
    size = entry.get("size_mb")
    chunks = entry.get("n_chunks")
    return State(
        data_type,
        str(entry.get("lineage_hash") or ""),
        is_current,
        False,
        str(entry.get("host") or ""),
        str(entry.get("location") or ""),
        chunks if isinstance(chunks, int) else None,
        None,
        round(size * 1e6) if isinstance(size, (int, float)) else None,
        documents.utc_time_of(entry, "time"),
        str(entry.get("amstrax_version") or ""),
        str(entry.get("corrections_version") or ""),
        reason,
    )


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
    """Return in which plugins, versions and options a lineage differs from the one wanted."""
    result = []
    for data_type in dict.fromkeys([*wanted, *there]):
        if data_type not in there:
            result.append(f"it is not made from {data_type}")
            continue
        if data_type not in wanted:
            result.append(f"it is made from {data_type}")
            continue
        (name, version, options), (own_name, own_version, own_options) = (
            there[data_type],
            wanted[data_type],
        )
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
    """Return a run document, or a part of it, without passwords, tokens and the like.

    The DAQ's settings are part of the document, and may say how it logs in to other machines.
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
    """Something that happened to a run: when (UTC), what, and more about it."""

    time: datetime
    what: str
    detail: str = ""


def timeline(document: Mapping[str, Any]) -> list[Moment]:
    """Return what happened to a run, as its document says, in order.

    It was begun and ended, copied and deleted, submitted and processed, failed, tagged and
    commented on.
    """
    return sorted(_moments(document), key=lambda moment: moment.time)


def _moments(document: Mapping[str, Any]) -> Iterator[Moment]:
    for field, what in (("start", "begun"), ("end", "ended")):
        time = documents.utc_time_of(document, field)
        if time is not None:
            yield Moment(time, what)
    for entry in documents.data_of(document):
        yield from _of_data(entry, "time")
    deleted = document.get("deleted_data")
    for entry in documents.data_of({"data": deleted}):
        time = documents.utc_time_of(entry, "deleted_at")
        if time is not None:
            detail = f"{_data(entry)}, by {entry.get('deleted_by') or 'nobody knows whom'}"
            yield Moment(time, "data deleted", detail)
    job = documents.job_of(document)
    time = documents.utc_time_of(job, "time")
    if time is not None:
        where = f"job {job.get('job_id') or '(not known)'} ({job.get('engine')})"
        yield Moment(time, "submitted", f"{where} on {job.get('host')}")
    failures = document.get("processing_failures")
    for failure in failures if isinstance(failures, list) else ():
        if (
            isinstance(failure, Mapping)
            and (time := documents.utc_time_of(failure, "time")) is not None
        ):
            yield Moment(time, "failed", _reason(failure))
    status = documents.status_of(document)
    time = documents.utc_time_of({"time": status.time}, "time")
    who = documents.cancelled_by(document)
    if time is not None and who is not None:
        yield Moment(time, "cancelled", f"by {who}")
    # The last failure is its status too
    elif time is not None and not (status.status == "failed" and failures):
        yield Moment(time, f"status {status.status}", _reason(status._asdict()))
    for field, what, name in (("tags", "tagged", "name"), ("comments", "comment", "comment")):
        items = document.get(field)
        for item in items if isinstance(items, list) else ():
            if (
                isinstance(item, Mapping)
                and (time := documents.utc_time_of(item, "date")) is not None
            ):
                by = f" ({item['user']})" if item.get("user") else ""
                yield Moment(time, what, f"{item.get(name)}{by}")


def _of_data(entry: Mapping[str, Any], field: str) -> Iterator[Moment]:
    time = documents.utc_time_of(entry, field)
    if time is not None:
        what = "copied" if entry.get("type") == "live" else "made"
        yield Moment(time, what, _data(entry))


def _data(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('type')} on {entry.get('host')}, {entry.get('location')}"


def _reason(said: Mapping[str, Any]) -> str:
    parts = (f"on {said['host']}" if said.get("host") else "", str(said.get("reason") or ""))
    return ": ".join(part for part in parts if part)
