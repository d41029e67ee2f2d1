"""Which data of a run there is, what of it a context can load, and why it cannot load the rest."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import strax

from amstrax.rundb import documents, shown

log = logging.getLogger(__name__)


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
    # Of others, which this context does not load, what is here, and what is said to be elsewhere
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
        shown.time_of(entry, "time"),
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
