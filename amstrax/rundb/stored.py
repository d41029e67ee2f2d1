"""Stored data of runs, by run documents and folders of this host, and old versions of it."""

import contextlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import rundoc
from amstrax.exceptions import InvalidRunDocument
from amstrax.rundb import documents

if TYPE_CHECKING:
    from amstrax.strax_ext.context import Context

#: Fields of run documents that are read
FIELDS = (
    *("name", "number", "mode", rundoc.OPTIONS_FIELD),
    *(f"data.{name}" for name in ("type", "host", "location", "lineage_hash", "size_mb")),
)
#: Names of runs, data types and lineages, in the name of a folder of data
_WORD = re.compile(r"[A-Za-z0-9]\w*", re.ASCII)


class Stored(NamedTuple):
    """Data of one type and lineage of a run, in one place.

    Attributes
    ----------
    run_id, data_type, lineage_hash
        What it is; live data, and data of old entries, have no hash.
    host, folder
        Where it is: host, and the folder of the data itself.
    n_bytes
        Size on disk [bytes]; None if unknown.
    """

    run_id: str
    data_type: str
    lineage_hash: str
    host: str
    folder: str
    n_bytes: int | None = None


def stored(document: Mapping[str, Any]) -> list[Stored]:
    """Return the data in a run document with `FIELDS`, without invalid entries."""
    run_id = documents.name_of(document)
    if run_id is None or not _WORD.fullmatch(run_id):
        return []
    found = []
    for entry in documents.data_of(document):
        data_type, host, lineage_hash = (
            entry.get(name) for name in ("type", "host", "lineage_hash")
        )
        lineage_hash = lineage_hash or ""
        if not isinstance(host, str) or not isinstance(lineage_hash, str):
            continue
        if not isinstance(data_type, str) or not _WORD.fullmatch(data_type):
            continue
        location = entry.get("location")
        folder = _folder(location) if isinstance(location, str) else None
        if folder is None or (lineage_hash and not _WORD.fullmatch(lineage_hash)):
            continue
        name = run_id if data_type == "live" else f"{run_id}-{data_type}-{lineage_hash}"
        if (lineage_hash or data_type == "live") and not folder.endswith(f"/{name}"):
            folder = f"{folder}/{name}"
        size = entry.get("size_mb")
        is_known = isinstance(size, (int, float)) and 0 <= size < float("inf")
        n_bytes = round(size * 1e6) if is_known else None  # type: ignore[operator]
        found.append(Stored(run_id, data_type, lineage_hash, host, folder, n_bytes))
    return found


@lru_cache(maxsize=1024)
def _folder(location: str) -> str | None:
    """Return the folder in an entry; None if it is invalid."""
    try:
        return str(rundoc.check_location(location))
    except InvalidRunDocument:
        return None


def old_versions(
    st: "Context",
    runs: Iterable[Mapping[str, Any]],
    found: Iterable[Stored] | None = None,
) -> list[Stored]:
    """Return stored data that newer data replaces: of another lineage than the context makes.

    Data counts as replaced only if the run has the same data type, of the lineage of the context,
    on the same host. Data that the context loads in place of its own (`EquivalentData`) and data
    without a lineage hash are left out, as are runs with invalid options.

    Parameters
    ----------
    st
        Context that processes these runs.
    runs
        Run documents, with `FIELDS`.
    found
        Data of these runs; by default that in their documents.
    """
    # Runs with equal options have equal lineages; strax asks for run 0 where there is no run
    alike: dict[str, str] = {repr({}): "0"}
    groups: dict[str, str] = {}
    documents_of = {documents.name_of(document) or "": document for document in runs}
    for run_id, document in documents_of.items():
        with contextlib.suppress(InvalidRunDocument):
            groups[run_id] = alike.setdefault(repr(rundoc.options(document)), run_id)
    if found is None:
        found = (each for run_id in groups for each in stored(documents_of[run_id]))
    made = st._plugin_class_registry
    entries = [x for x in found if x.lineage_hash and x.run_id in groups and x.data_type in made]
    own: dict[tuple[str, str], str] = {}
    equal: dict[tuple[str, str], str] = {}
    for each in entries:
        at = groups[each.run_id], each.data_type
        if at not in own:
            own[at] = equal[at] = ""
            with contextlib.suppress(InvalidRunDocument):
                key = st.key_for(*at)
                other = st._equivalent_data.key_for(key)
                own[at], equal[at] = key.lineage_hash, other.lineage_hash if other else ""
    present = {
        (each.run_id, each.data_type, each.host)
        for each in entries
        if each.lineage_hash == own[groups[each.run_id], each.data_type]
    }
    return sorted(
        {
            each
            for each in entries
            if (each.run_id, each.data_type, each.host) in present
            and each.lineage_hash != own[at := (groups[each.run_id], each.data_type)]
            and each.lineage_hash != equal[at]
        },
        key=lambda each: each[:5],
    )
