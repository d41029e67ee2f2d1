"""Stored data of runs, by run documents and folders of this host, and old versions of it."""

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
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
    """Data of one type and lineage of a run, on a host, with the folder of the data itself.

    Live data, and data of old entries, have no lineage hash. `n_bytes` is the size on disk [bytes];
    None if unknown.
    """

    run_id: str
    data_type: str
    lineage_hash: str
    host: str
    folder: str
    n_bytes: int | None = None


def is_word(text: str) -> bool:
    """Return whether a text may be part of the name of a folder of data."""
    return _WORD.fullmatch(text) is not None


def stored(document: Mapping[str, Any]) -> list[Stored]:
    """Return the data in a run document with `FIELDS`, without invalid entries."""
    run_id = documents.name_of(document)
    if run_id is None or not _WORD.fullmatch(run_id):
        return []
    found = (of_entry(run_id, entry) for entry in documents.data_of(document))
    return [each for each in found if each is not None]


def of_entry(run_id: str, entry: Mapping[str, Any]) -> Stored | None:
    """Return the data that an entry of a run document names; None if the entry is invalid."""
    words = [entry.get("type"), entry.get("host"), entry.get("lineage_hash") or ""]
    if not all(isinstance(word, str) for word in words):
        return None
    data_type, host, lineage_hash = map(str, words)
    location = entry.get("location")
    folder = _folder(location) if isinstance(location, str) else None
    if folder is None or not _WORD.fullmatch(data_type):
        return None
    if lineage_hash and not _WORD.fullmatch(lineage_hash):
        return None
    name = run_id if data_type == "live" else f"{run_id}-{data_type}-{lineage_hash}"
    if (lineage_hash or data_type == "live") and not folder.endswith(f"/{name}"):
        folder = f"{folder}/{name}"
    size = documents.megabytes_of(entry)
    n_bytes = None if size is None else round(size * 1e6)
    return Stored(run_id, data_type, lineage_hash, host, folder, n_bytes)


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
    without a lineage hash are left out, as are runs with invalid options. `runs` are documents with
    `FIELDS`; `found` is data of these runs, by default that in their documents.
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

    @cache
    def own_hashes(run_id: str, data_type: str) -> tuple[str, str]:
        """Return the lineage hashes of what the context makes, and of what it loads instead."""
        with contextlib.suppress(InvalidRunDocument):
            key = st.key_for(run_id, data_type)
            other = st._equivalent_data.key_for(key)
            return key.lineage_hash, other.lineage_hash if other else ""
        return "", ""

    own = {each: own_hashes(groups[each.run_id], each.data_type) for each in entries}
    present = {
        (each.run_id, each.data_type, each.host)
        for each, hashes in own.items()
        if each.lineage_hash == hashes[0]
    }
    old = [
        each
        for each, hashes in own.items()
        if (each.run_id, each.data_type, each.host) in present and each.lineage_hash not in hashes
    ]
    return sorted(old, key=lambda each: each[:5])


class Place(NamedTuple):
    """Folder of data on a host: its content, and the free space of its disk [bytes]."""

    host: str
    folder: str
    n_runs: int
    n_bytes: int
    #: Number of data of unknown size
    n_unknown: int
    #: Free space and size of the disk; None on other hosts
    free: int | None = None
    total: int | None = None


class Amount(NamedTuple):
    """Data of one type: its number of runs, size [bytes], and number of data of unknown size."""

    data_type: str
    n_runs: int
    n_bytes: int
    n_unknown: int


class Storage(NamedTuple):
    """What is stored, see `find_storage`: all data, and its sums by folder and by data type.

    `old` is data that newer data replaces, see `old_versions`; `n_gone` the number of entries of
    run documents whose folders on this host are gone; `unread` has folders of this host that cannot
    be read, with the reason: sizes are without them.
    """

    data: list[Stored]
    places: list[Place]
    types: list[Amount]
    old: list[Stored]
    n_gone: int
    unread: Mapping[str, str] = MappingProxyType({})

    def of_runs(
        self, run_ids: Iterable[str] = (), most: int = 50
    ) -> list[tuple[str, list[Amount]]]:
        """Return the amounts of each data type of some runs; by default of `most` largest ones."""
        asked = {each for run in run_ids for f in documents.run_filters(run) for each in f.values()}
        asked |= {f"{each:06d}" for each in asked if isinstance(each, int)}
        by_run: dict[str, list[Stored]] = {}
        for each in self.data:
            if not asked or each.run_id in asked:
                by_run.setdefault(each.run_id, []).append(each)
        if not asked:
            sizes = {run: sum(x.n_bytes or 0 for x in its) for run, its in by_run.items()}
            largest = sorted(sizes, key=lambda run: (-sizes[run], run))[:most]
            return [(run, _amounts(by_run[run])) for run in largest]
        return [(run, _amounts(its)) for run, its in sorted(by_run.items())]

    def commands(self, detector: str, most: int | None = None) -> dict[str, list[str]]:
        """Return the commands that remove old data, by the host on which to run them.

        With `most`, return so many for each host.
        """
        found: dict[str, list[str]] = {}
        for each in self.old:
            if most is not None and len(found.get(each.host, ())) >= most:
                continue
            words = ["amstrax", "rundb", "--detector", detector, "delete-data"]
            words += [each.run_id, each.data_type, each.lineage_hash]
            words += ["--folder", os.path.dirname(each.folder), "--yes"]
            found.setdefault(each.host, []).append(shlex.join(words))
        return dict(sorted(found.items()))


def find_storage(
    collection: Any,
    context_of: Callable[[Mapping[str, Any]], "Context"],
    folders: Iterable[Path],
    run_ids: Sequence[str] = (),
) -> Storage:
    """Return the sizes of stored data, the space left for it, and what newer data replaces.

    Sizes are those in run documents, and on this host those of folders without one. Besides
    `folders`, folders of this host that documents name are searched. `context_of` returns the
    context that processes a run, the same object for equal contexts. Only `run_ids` are looked at
    if there are any.
    """
    asked = [f for run_id in run_ids for f in documents.run_filters(run_id)]
    runs = documents.read(collection, {"$or": asked} if asked else {}, FIELDS)
    here = documents.this_host()
    # An old entry may have the same location as those of other data
    known: dict[tuple[str, ...], Stored] = {}
    for document in runs:
        for each in stored(document):
            at = _key(each)
            if at not in known or known[at].n_bytes is None:
                known[at] = each
    own = {each.folder for each in known.values() if each.host == here}
    parents = {*map(os.path.dirname, own), *(str(folder) for folder in folders)}
    there: set[str] = set()
    unread: dict[str, str] = {}
    names = {documents.name_of(document) for document in runs}
    for parent in sorted(parents):
        try:
            for path, found in _in_folder(parent, here):
                there.add(path)
                if found is None or (run_ids and found.run_id not in names):
                    continue
                before = known.get(_key(found))
                if before is None or before.n_bytes is None:
                    known[_key(found)] = found._replace(n_bytes=size_of(path))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            unread[parent] = error.strerror or type(error).__name__
    gone = {folder for folder in own - there if os.path.dirname(folder) not in unread}
    data = [each for each in known.values() if each.host != here or each.folder not in gone]
    groups: dict[int, tuple[Context, list[Mapping[str, Any]]]] = {}
    for document in runs:
        st = context_of(document)
        groups.setdefault(id(st), (st, []))[1].append(document)
    old = [each for st, its in groups.values() for each in old_versions(st, its, data)]
    by_place: dict[tuple[str, str], list[Stored]] = {
        (here, str(folder)): [] for folder in folders if os.path.isdir(folder)
    }
    for each in data:
        by_place.setdefault((each.host, os.path.dirname(each.folder)), []).append(each)
    places = []
    for (host, folder), its in sorted(by_place.items()):
        place = Place(host, folder, *_amount("", its)[1:])
        with contextlib.suppress(OSError):
            if host == here:
                usage = shutil.disk_usage(folder)
                place = place._replace(free=usage.free, total=usage.total)
        places.append(place)
    old.sort(key=lambda x: x[:5])
    return Storage(data, places, _amounts(data), old, len(gone), unread)


def _key(data: Stored) -> tuple[str, ...]:
    return data.host, data.folder, data.run_id, data.data_type


def _in_folder(parent: str, host: str) -> Iterable[tuple[str, Stored | None]]:
    """Yield the folders in a folder, and what each holds by its name, without its size."""
    with os.scandir(parent) as entries:
        for entry in entries:
            if not entry.is_dir():
                continue
            path = f"{parent.rstrip('/')}/{entry.name}"
            run_id, *rest = entry.name.split("-")
            is_run = _WORD.fullmatch(run_id)
            if is_run and len(rest) == 2 and all(map(_WORD.fullmatch, rest)):
                data_type, lineage_hash = rest
                if not lineage_hash.endswith("_temp"):
                    yield path, Stored(run_id, data_type, lineage_hash, host, path)
                    continue
            elif run_id.isdecimal() and not rest:
                yield path, Stored(run_id, "live", "", host, path)
                continue
            yield path, None


def is_complete(folder: Path, may_be_written: bool = False) -> bool | None:
    """Return whether data was written to its end; None if its metadata cannot be read.

    With `may_be_written`, data that is still being written, without an error so far, counts too.
    """
    name = folder.name.removesuffix("_temp")
    file = folder / f"{name.partition('-')[2]}-metadata.json"
    if not file.exists():
        file = folder / "metadata.json"  # its name in early versions of strax
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict):
        return None
    has_ended = "writing_ended" in metadata and folder.name == name
    return "exception" not in metadata and (may_be_written or has_ended)


def size_of(folder: str) -> int | None:
    """Return the size of the files in a folder and its folders [bytes]; None if unreadable."""
    total, left = 0, [folder]
    try:
        while left:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return None
    return total


def _amount(data_type: str, data: Sequence[Stored]) -> Amount:
    sizes = [each.n_bytes for each in data]
    known = [size for size in sizes if size is not None]
    n_runs = len({each.run_id for each in data})
    return Amount(data_type, n_runs, sum(known), len(sizes) - len(known))


def _amounts(data: Iterable[Stored]) -> list[Amount]:
    """Return the amount of each data type, the largest first."""
    by_type: dict[str, list[Stored]] = {}
    for each in data:
        by_type.setdefault(each.data_type, []).append(each)
    found = [_amount(data_type, its) for data_type, its in by_type.items()]
    return sorted(found, key=lambda amount: (-amount.n_bytes, amount.data_type))
