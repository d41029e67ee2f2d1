"""Copy live data of runs to destinations that lack it; verify and register each copy.

The marker of a copy is a file that identifies its run, written before all other files. Readers of
live data ignore it. Without it, or with that of another run, a destination is neither overwritten
nor counted as a copy. Its random id distinguishes two copies from one folder reached by two paths.
"""

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from amstrax import rundoc, settings
from amstrax.auto_processing import rsync
from amstrax.auto_processing.rsync import Place
from amstrax.commands.base import RetryBackoff, describe_error
from amstrax.exceptions import (
    AmstraxError,
    CopyDiffers,
    CopyFailed,
    CopyRefused,
    DestinationUnusable,
    InvalidOption,
    InvalidRunDocument,
    RunDatabaseError,
    RunDatabaseUnreachable,
    Stopped,
    UsageError,
    did_you_mean,
)
from amstrax.rundb import connection, documents, leases

log = logging.getLogger("amstrax.copy_live")

Document = Mapping[str, Any]
Marker = dict[str, Any]

#: Time after its end when a run without THE_END counts as complete: the DAQ has crashed
LEFT_OPEN = timedelta(hours=1)
#: Time between two attempts to register a copy while the run database is unreachable [s]
REGISTER_PAUSE = 5.0
#: Time between two progress lines of a copy [s]
LINE_PAUSE = 60.0

#: Fields of run documents by which runs are selected
_FIELDS = (
    *("name", "number", "start", "end", "tags", "data", "deleted_data", "copy_claim"),
    *("processing_status", "processing_claim"),
)
_DESTINATION = re.compile(
    r"(?P<name>[\w.+-]+)\s*=\s*(?:(?P<ssh_host>[\w@.+][\w@.+-]*):)?(?P<folder>/[^,\n]*)", re.ASCII
)


# Destinations


class Destination(NamedTuple):
    """Destination of copies: its name as a host in run documents, and the folder for RUN_ID/.

    `ssh_host` is the host for ssh, or ``user@host``; None if the folder is on this machine.
    """

    name: str
    ssh_host: str | None
    folder: str


def copy_destinations(detector: str) -> tuple[Destination, ...]:
    """Return the destinations of live data of `detector`, from XAMS_COPY_TO or XAMSL_COPY_TO.

    Raises InvalidOption when the setting is empty or invalid, or one folder serves two
    destinations, or another detector's copies or live data.
    """
    found = _destinations(detector)
    if not found:
        raise InvalidOption(
            f"the setting {detector.upper()}_COPY_TO is empty: without destinations, as "
            "NAME=USER@HOST:/FOLDER, nothing is copied or deleted"
        )
    taken: dict[object, str] = {}
    for other_detector in settings.DETECTORS:
        if other_detector == detector:
            continue
        others: list[Destination] = []
        # The other detector's tools report errors in its settings
        with contextlib.suppress(InvalidOption):
            others += _destinations(other_detector)
        live_data = settings.get(f"{other_detector.upper()}_LIVE_DATA")
        if live_data:
            others.append(Destination("its live data", None, live_data))
        for other in others:
            key = _folder_key(other.folder, other.ssh_host)
            taken[key] = f"{other.name} of {other_detector}: give each detector its own folder"
    for destination in found:
        key = _folder_key(destination.folder, destination.ssh_host)
        if key in taken:
            raise InvalidOption(
                f"the folder {destination.folder} of destination {destination.name} is that of "
                f"{taken[key]}"
            )
        taken[key] = f"{destination.name}: two names of one folder are one copy"
    return found


def _folder_key(folder: str | Path, ssh_host: str | None = None) -> object:
    """Return a key that is equal for all paths of a folder, including links and mounts.

    Paths by ssh are compared as written; the markers of copies detect equal folders there.
    """
    if ssh_host is not None:
        return ssh_host.rpartition("@")[2].lower(), os.path.normpath(folder)
    real = os.path.realpath(folder)
    try:
        state = os.stat(real)
    except OSError:
        return real
    return state.st_dev, state.st_ino


def _destinations(detector: str) -> tuple[Destination, ...]:
    setting = f"{detector.upper()}_COPY_TO"
    found: dict[str, Destination] = {}
    for part in _parts(setting):
        match = _DESTINATION.fullmatch(part)
        problem = None
        if match is None:
            problem = "is no destination"
        elif match["name"] in found:
            problem = "is given twice"
        elif match["name"] == documents.this_host():
            problem = "is this machine, where live data is copied from"
        if match is None or problem is not None:
            raise InvalidOption(
                f"the setting {setting} has {part!r}, which {problem}: write "
                "NAME=USER@HOST:/FOLDER, or NAME=/FOLDER for one of this machine, with commas "
                "between them"
            )
        folder = re.sub("/+", "/", match["folder"]).rstrip("/") or "/"
        found[match["name"]] = Destination(match["name"], match["ssh_host"], folder)
    return tuple(found.values())


def _parts(setting: str) -> list[str]:
    return [part.strip() for part in (settings.get(setting) or "").split(",") if part.strip()]


def delete_after_copies(detector: str) -> tuple[Destination, ...]:
    """Return the copies required before live data of `detector` is deleted; never empty.

    Raises InvalidOption when the setting has another name, and as `copy_destinations`.
    """
    setting = f"{detector.upper()}_DELETE_AFTER_COPIES"
    source = f"the setting {setting} has"
    return _select_destinations(detector, _parts(setting), InvalidOption, source)


def wanted_destinations(detector: str, names: Sequence[str] = ()) -> tuple[Destination, ...]:
    """Return the destinations of these names, by default all of `detector`.

    Raises UsageError for a name that the settings do not have; InvalidOption as
    `copy_destinations`.
    """
    return _select_destinations(detector, names, UsageError, "--to has")


def _select_destinations(
    detector: str, names: Sequence[str], error: type[AmstraxError], text: str
) -> tuple[Destination, ...]:
    found = {destination.name: destination for destination in copy_destinations(detector)}
    for name in names:
        if name not in found:
            setting = f"{detector.upper()}_COPY_TO"
            raise error(f"{text} {name!r}, which {setting} lacks{did_you_mean(name, found)}")
    return tuple(found[name] for name in dict.fromkeys(names or found))


# Folders of runs


def run_name(document: Document) -> str:
    """Return the name of a run and its folder; raise InvalidRunDocument if it is invalid."""
    return rundoc.check_run_name(documents.name_of(document))


def allowed_folders(detector: str, given: Iterable[Path] | None = None) -> tuple[Path, ...]:
    """Return the folders that live data may be copied and deleted from, without links.

    By default the folder of the settings.

    Raises UsageError when there is none, or one does not exist.
    """
    setting = f"{detector.upper()}_LIVE_DATA"
    wanted = [*given] if given else [Path(value) for value in [settings.get(setting)] if value]
    if not wanted:
        raise UsageError(f"no folder of live data is set: name it in {setting} or --live_data")
    folders = [settings.expanded(folder).resolve() for folder in wanted]
    for folder in folders:
        if not folder.is_dir() or folder.parent == folder:
            raise UsageError(f"{folder} is no folder of live data: check {setting} or --live_data")
    return tuple(dict.fromkeys(folders))


def folder_of(entry: Mapping[str, Any]) -> Path:
    """Return the folder that an entry of data names, without links.

    Raises InvalidRunDocument when it names no folder.
    """
    try:
        return rundoc.check_location(entry.get("location")).resolve()
    except (OSError, RuntimeError) as error:
        raise InvalidRunDocument(str(error)) from None


def some(names: Iterable[str]) -> str:
    """Return the first names of a long list, for messages."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def is_closed(run_dir: Path) -> bool:
    """Return whether the DAQ has written all of a run."""
    from amstrax import redax  # imports numpy, which no tool that copies needs at its start

    return (run_dir / redax.THE_END).is_dir() and not any(run_dir.glob("*_TEMP"))


# Markers of copies


def run_identity(collection: Any, document: Document) -> Marker:
    """Return the identity of a run among the runs of both detectors."""
    detectors = {name: detector for detector, name in connection.COLLECTIONS.items()}
    try:
        start = rundoc.to_json(rundoc.start_time(document))["$date"]
    except InvalidRunDocument:
        start = None
    return {
        "detector": detectors.get(collection.name, collection.name),
        "number": documents.number_of(document),
        "start": start,
        "document": str(document.get("_id")),
    }


def find_marker(place: Place, identity: Mapping[str, Any]) -> Marker | None:
    """Return the marker of a copy; None if it is missing or does not name this document.

    Raises CopyRefused when the marker is that of another run.
    """
    marker = _read_marker(place)
    if marker is None:
        return None
    different = {key for key, value in identity.items() if key in marker and marker[key] != value}
    # A document that was exported and imported may have another _id: then the files decide, as
    # without marker
    if different - {"document"}:
        raise CopyRefused(
            f"{place} holds another run ({_describe_marker(marker)}; this is "
            f"{_describe_marker(identity)}): move that away, correct the destination or, if it is "
            f"this run, remove {rsync.MARKER}"
        )
    is_whole = identity.keys() <= marker.keys() and isinstance(marker.get("copy"), str)
    return marker if is_whole and not different else None


def _read_marker(place: Place) -> Marker | None:
    try:
        marker = json.loads(rsync.fetch(place / rsync.MARKER, most=100_000))
    except (ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) else None


def _describe_marker(marker: Mapping[str, Any]) -> str:
    shown = [str(marker.get(key))[:40] for key in ("detector", "number", "start") if key in marker]
    return " ".join(shown) if shown else str(marker.get("source"))[:80]


def add_marker(place: Place, identity: Mapping[str, Any]) -> Marker:
    """Write a marker unless another process has just done so; return the marker in place.

    Raises CopyRefused when that is of another run.
    """
    source = {"host": documents.this_host(), "time": rundoc.to_json(datetime.now(UTC))["$date"]}
    new = {**source, **identity, "copy": uuid.uuid4().hex}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, rsync.MARKER)
        file.write_text(json.dumps(new, indent=1), encoding="utf-8")
        file.chmod(0o644)
        rsync.send(file, place)
        found = find_marker(place, identity)
        if found is None:
            # An unreadable marker, as after a power cut
            rsync.send(file, place, replace=True)
            found = find_marker(place, identity)
    if found is None:
        raise CopyRefused(f"{place / rsync.MARKER} cannot be replaced: check who owns it")
    return found


def check_apart(run_dir: Path, place: Place, marker: Mapping[str, Any] | None = None) -> None:
    """Check that a copy is not the live data itself, as through a mount.

    The live data has the `marker` of the copy too if both are the same folder. Raises CopyRefused
    then, and when something is mounted in a copy on this machine.
    """
    folder = Path(place.folder)
    if place.ssh_host is None and (mounted := rsync.mounted_in(folder.resolve())):
        raise CopyRefused(
            f"something is mounted at {mounted}, so {place} may be no copy: unmount that, or "
            "correct the destination"
        )
    own = _read_marker(Place(str(run_dir))) if marker else None
    if marker and own and own.get("copy") == marker["copy"]:
        raise CopyRefused(
            f"{place} is {run_dir} itself, by another path: correct the destination, or remove a "
            f"{rsync.MARKER} that was copied into it"
        )


def _check_copy_place(
    run_dir: Path, place: Place, known: rsync.Inventory, identity: Mapping[str, Any]
) -> list[str]:
    """Check that copying loses nothing at the destination; return names of leftovers of rsync."""
    listed = rsync.listing(place)
    if listed is None:
        return []
    check_apart(run_dir, place)
    odd = [name for name, size in listed.items() if size == rsync.ODD]
    if odd:
        raise CopyRefused(f"{place} has {some(odd)}, neither file nor folder: move it away")
    has_marker = find_marker(place, identity) is not None
    leftovers = _leftovers(known, listed)
    is_file = {name: size >= 0 for name, size in listed.items() if name not in leftovers}
    wrong = [n for n in is_file if n in known and is_file[n] != (known[n].size >= 0)]
    if not has_marker:
        # Every file must be the run's own
        wrong += [name for name in is_file if is_file[name] and name not in known]
        if not wrong and any(is_file.values()):
            wrong = [n for n in rsync.differences(run_dir, place) if is_file.get(n)]
    if wrong:
        raise CopyRefused(
            f"{place} has {some(wrong)}, unlike this run{'' if has_marker else ', and no marker'}: "
            "move that folder away, and copy again"
        )
    return leftovers


def _leftovers(known: rsync.Inventory, names: Iterable[str]) -> list[str]:
    """Return the names that only an interrupted rsync of amstrax can have left in a copy."""
    return [name for name in names if name not in known and _is_leftover(name, known)]


def _is_leftover(name: str, known: rsync.Inventory) -> bool:
    *folders, last = name.split("/")
    if rsync.PARTIAL in (*folders, last) or last == rsync.OLD_PARTIAL:
        return True
    if match := rsync.TEMPORARY.fullmatch(last):
        last = match["name"]
    elif folders[-1:] == [rsync.OLD_PARTIAL]:
        folders.pop()
    else:
        return False
    return known.get("/".join([*folders, last]), rsync.FileState(rsync.FOLDER)).size >= 0


# One copy


class Copied(NamedTuple):
    """Content of a verified copy: number of files, their size [bytes], and the id of the copy."""

    n_files: int
    n_bytes: int
    copy_id: str = ""


def copy_data(
    run_id: str,
    live_data_path: str | Path,
    location: str,
    hostname: str,
    production: bool,
    ssh_host: str | None = None,
    bandwidth: int | None = None,
    stopped: Callable[[], bool] = bool,
    on_bytes: Callable[[int], None] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Copied | None:
    """Copy the live data of a run, and verify the copy by checksum.

    Only a copy of this run is written to. Files and parts of files that were transferred before are
    not sent again. A copy that then differs is repeated once, by checksum. The run database is not
    changed.

    Parameters
    ----------
    run_id
        Name of the run.
    live_data_path
        Folder on this machine that holds RUN_ID/.
    location
        Folder at the destination, which must exist.
    hostname
        Name of the destination, for the log.
    production
        Copy; otherwise log what would be done, and return None.
    ssh_host
        Host for ssh, or ``user@host``; None for a folder on this machine.
    bandwidth, stopped, on_bytes
        As of `amstrax.auto_processing.rsync.copy`.
    identity
        Identity of the run, from `run_identity`; by default its name and source folder.

    Raises
    ------
    LiveDataNotFound, LiveDataCorrupted
        When the live data does not exist, or contains something else than files and folders.
    CopyFailed
        When it cannot be copied; subclasses are DestinationUnusable, CopyDiffers and CopyRefused.
    Stopped
        When `stopped` returned True.
    """
    run_dir = Path(live_data_path) / run_name({"name": run_id})
    folder = Place(location, ssh_host)
    place = folder / run_dir.name
    what = f"run {run_id} to {hostname} ({place})"
    before = rsync.inventory(run_dir)
    copied = Copied(*rsync.count(before))
    if ssh_host is None:
        source = _folder_key(live_data_path)
        if _folder_key(location) == source:
            raise InvalidOption(f"{what}: that is the live data itself: correct the destination")
        folders = [Path(location).resolve(), *Path(location).resolve().parents]
        if any(f.name.isdigit() and _folder_key(f.parent) == source for f in folders):
            raise InvalidOption(
                f"{what}: that is in the live data of a run: correct the destination"
            )
    if identity is None:
        folder_name = f"{documents.this_host()}:{Path(live_data_path).resolve()}"
        identity = {"name": run_id, "source": folder_name}
    left = _check_copy_place(run_dir, place, before, identity)
    if not production:
        rsync.check_folder(folder)
        n = rsync.to_copy(run_dir, place)
        log.info("dry run: would copy %s, %d of %d files and folders", what, n, len(before))
        return None
    log.info("copying %s, %d files, %.1f MB", what, copied.n_files, copied.n_bytes / 1e6)
    marker = find_marker(place, identity) or add_marker(place, identity)
    check_apart(run_dir, place, marker)
    rsync.copy(run_dir, place, bandwidth, False, stopped, on_bytes, left)
    wrong = compare(run_dir, place, before, stopped)
    if wrong:
        log.warning("the copy of %s differs in %s: copying that again", what, some(wrong))
        left = _leftovers(before, wrong)
        rsync.copy(run_dir, place, bandwidth, True, stopped, on_bytes, left)
        wrong = compare(run_dir, place, before, stopped)
    if rsync.inventory(run_dir) != before:
        raise CopyFailed(f"{run_dir} has changed while it was copied to {hostname}: try again")
    if wrong:
        raise CopyDiffers(
            f"the copy of {what} differs in {some(wrong)}, twice: check the disk there, and other "
            "programs that write to it"
        )
    if find_marker(place, identity) != marker:
        raise CopyFailed(f"{place} was changed by others while {what} was copied: copy it again")
    return copied._replace(copy_id=marker["copy"])


def compare(
    run_dir: Path, place: Place, known: rsync.Inventory, stopped: Callable[[], bool] = bool
) -> list[str]:
    """Return the names of entries that differ between live data and a copy, by list and checksum.

    `known` is the content of the folder of the run; `stopped` as of `rsync.copy`.

    Raises CopyFailed or Stopped when the copy cannot be read, or `stopped` returned True.
    """
    here, there = rsync.sizes(known), rsync.listing(place, stopped)
    if there is None:
        return ["all files, since it does not exist"]
    by_list = [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]
    return by_list or rsync.differences(run_dir, place, stopped)


# Copies of many runs


def why_not(document: Document, to: Sequence[Destination], folders: Sequence[Path]) -> str | None:
    """Return why a run is not copied (yet) to these destinations; None if it is.

    Live data is copied from `folders` and folders below them.
    """
    if not to:
        return "it has all its copies"
    try:
        end = rundoc.end_time(document)
        if documents.ABANDON in documents.tags_of(document):
            return "it has the tag 'abandon': remove that to copy it"
        if end is None:
            return "it is still being taken: it is copied when it has ended"
        run_dir = source_folder(document, folders) / run_name(document)
    except AmstraxError as error:
        return str(error)
    is_written = is_closed(run_dir) or not run_dir.is_dir()
    if not is_written and datetime.now(UTC) - end < LEFT_OPEN:
        return f"the DAQ has not written all of it yet: there is no THE_END in {run_dir}"
    return None


def source_folder(document: Document, folders: Sequence[Path]) -> Path:
    """Return the folder of live data on this machine that a run is in, without links.

    Raises CopyFailed when the document names no folder in or below `folders`.
    """
    host = documents.this_host()
    problem = (
        f"its document has no live data on host {host}: check its data, and the setting "
        "AMSTRAX_HOST, which names this machine"
    )
    for entry in documents.data_of(document, type="live", host=host):
        try:
            folder = folder_of(entry)
        except InvalidRunDocument as error:
            problem = str(error)
            continue
        if any(folder.is_relative_to(allowed) for allowed in folders):
            return folder
        problem = (
            f"its live data is in {folder}, which is not among the folders that may be copied from "
            f"({', '.join(map(str, folders))}): see --live_data"
        )
    raise CopyFailed(problem)


def find_runs(
    collection: Any,
    run_ids: Sequence[str],
    condition: Mapping[str, Any],
    order: int,
    why_not: Callable[[Document], str | None],
    backoff: RetryBackoff,
    most: int | None,
) -> list[dict[str, Any]]:
    """Find the documents of at most `most` runs that are ready, without those that are backed off.

    These are the runs `run_ids`, or if that is empty those that meet `condition`, by increasing
    (`order` 1) or decreasing (-1) number. `why_not` returns why a run is not ready. A run that it
    cannot judge is included: the work on it reports the error.

    Raises RunNotFound when a run of `run_ids` is unknown.
    """
    if run_ids:
        found = [documents.find_run(collection, run_id, None, _FIELDS) for run_id in run_ids]
    else:
        found = documents.read(collection, condition, _FIELDS, sort=[("number", order)])
    wanted, backed_off = [], backoff.names()
    for document in found:
        name, reason = documents.name_of(document), None
        with contextlib.suppress(Exception):
            reason = why_not(document)
        if reason is not None:
            log.debug("run %s is left alone: %s", name, reason)
        elif name not in backed_off:
            wanted.append(document)
    return wanted[:most]


def find_again(collection: Any, run_id: str) -> dict[str, Any]:
    """Fetch the present document of a run, with the tags of all documents of its number.

    Raises InvalidRunDocument when its number leads to the document of another run.
    """
    document = documents.find_run(collection, run_id)
    if documents.name_of(document) != run_id:
        raise InvalidRunDocument(
            f"run {run_id} is called {documents.name_of(document)!r} in the first document of its "
            "number: correct the documents"
        )
    return documents.merge_tags(collection, document)


@dataclass(frozen=True)
class CopyOptions:
    """What a `Copier` copies, and how."""

    destinations: tuple[Destination, ...]
    #: Folders that may be copied from, without links
    folders: tuple[Path, ...]
    #: Copy these runs; if empty, all that lack a copy
    run_ids: Sequence[str] = ()
    #: Smallest run number, and largest number of runs at a time, of those that lack a copy
    min_run_number: int = 0
    max_runs: int | None = None
    #: Verify registered copies too, and repair them
    again: bool = False
    #: Copy; otherwise log what would be copied
    production: bool = False
    #: Number of runs copied at the same time, and the largest bandwidth of each [kB/s]
    workers: int = 1
    bandwidth: int | None = None
    #: Show progress as a bar; otherwise log lines. None for a bar in a terminal.
    progress: bool | None = None


@dataclass
class Copies:
    """Result of a round: numbers of copies and failures, copied runs, and size [bytes]."""

    copies: int = 0
    n_bytes: int = 0
    problems: int = 0
    runs: set[str] = field(default_factory=set)

    @property
    def all(self) -> int:
        """Number of attempted copies."""
        return self.copies + self.problems

    def add(self, other: "Copies") -> None:
        """Add the copies of other runs."""
        self.copies += other.copies
        self.n_bytes += other.n_bytes
        self.problems += other.problems
        self.runs |= other.runs

    def describe(self, production: bool) -> str:
        """Return a one-line summary."""
        made = "made" if production else "would be made"
        return (
            f"{self.copies} copies of {len(self.runs)} runs {made}, {self.n_bytes / 1e6:.1f} MB; "
            f"{self.problems} could not be made"
        )


class Copier:
    """Copies runs, and keeps the back-off of failed ones between rounds.

    `stopped` is called at intervals; when it returns True, copying ends.
    """

    def __init__(self, collection: Any, options: CopyOptions, stopped: Callable[[], bool] = bool):
        self._collection = collection
        self._options = options
        self._stopped = stopped
        self._lock = threading.Lock()
        self._unusable: set[str] = set()
        self._reported: dict[str, str] = {}
        self._backoff = RetryBackoff()
        self._show_bar = sys.stderr.isatty() if options.progress is None else options.progress

    def find(self) -> list[dict[str, Any]]:
        """Find the documents of the runs to copy, newest first, as `find_runs`."""
        options = self._options
        lacks = [
            {"data": {"$not": {"$elemMatch": {"type": "live", "host": destination.name}}}}
            for destination in options.destinations
        ]
        condition = {
            "$and": [
                documents.has_data("live", host=documents.this_host()),
                {"end": {"$ne": None}},
                documents.lacks_tag(documents.ABANDON),
                {"number": {"$gte": options.min_run_number}} if options.min_run_number else {},
                {"$or": lacks},
            ]
        }

        def reason(document: Document) -> str | None:
            to = self._missing(document)
            # For a run requested by name, copying reports the reason
            return None if options.run_ids and to else why_not(document, to, options.folders)

        limits = self._backoff, options.max_runs
        return find_runs(self._collection, options.run_ids, condition, -1, reason, *limits)

    def handle(self, rundocs: Sequence[Document]) -> Copies:
        """Copy runs, as `amstrax.auto_processing.copy_live.handle_runs` says."""
        self._unusable.clear()
        tally = Copies()
        with concurrent.futures.ThreadPoolExecutor(self._options.workers, "copy") as pool:
            futures = [pool.submit(self._handle_one, document) for document in rundocs]
            try:
                for future in concurrent.futures.as_completed(futures):
                    tally.add(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return tally

    def _missing(self, document: Document) -> list[Destination]:
        """Return the destinations where a run lacks a copy; with `again`, all of them."""
        return [
            destination
            for destination in self._options.destinations
            if self._options.again
            or not documents.data_of(document, type="live", host=destination.name)
        ]

    def _handle_one(self, document: Document) -> Copies:
        """Copy a run; errors in it or its document count as its failure."""
        try:
            return self._handle_run(document)
        except (RunDatabaseError, Stopped):
            raise
        except Exception as error:
            run_id = documents.name_of(document) or "?"
            log.error("run %s is not copied: %s", run_id, describe_error(error))
            self._backoff.note(run_id, failed=True)
            return Copies(problems=max(len(self._missing(document)), 1))

    def _handle_run(self, document: Document) -> Copies:
        to = self._missing(document)
        if self._stopped() or all(destination.name in self._unusable for destination in to):
            return Copies(problems=len(to))
        run_id = run_name(document)
        if not self._options.production:
            document = documents.merge_tags(self._collection, document)
            return self._copy_to_all(document, run_id, self._stopped)
        with leases.held(self._collection, document) as claim:
            if claim is None:
                log.info("run %s is being copied, or deleted, by another process", run_id)
                return Copies()
            # The document may have changed since the query
            document = find_again(self._collection, run_id)
            return self._copy_to_all(
                document, run_id, lambda: self._stopped() or claim.lost.is_set()
            )

    def _copy_to_all(self, document: Document, run_id: str, stopped: Callable[[], bool]) -> Copies:
        tally, failed = Copies(), False
        to = self._missing(document)
        reason = why_not(document, to, self._options.folders)
        if reason is not None:
            if self._options.run_ids:
                raise CopyFailed(reason)
            log.info("run %s is not copied: %s", run_id, reason)
            return tally
        copies = {
            entry["copy_id"]: str(entry.get("host"))
            for entry in documents.data_of(document, type="live")
            if isinstance(entry.get("copy_id"), str)
        }
        for destination in to:
            if destination.name in self._unusable:
                tally.problems += 1
                continue
            try:
                tally.n_bytes += self._copy(document, run_id, destination, stopped, copies)
            except (RunDatabaseError, Stopped):
                # The next destination would fail for the same reason
                if not stopped():
                    raise
                tally.problems += 1
                return tally
            except Exception as error:
                failed = failed or not isinstance(error, DestinationUnusable)
                self._note(run_id, destination, error)
                tally.problems += 1
            else:
                self._note(run_id, destination, None)
                tally.copies += 1
                tally.runs.add(run_id)
        self._backoff.note(run_id, failed)
        return tally

    def _note(self, run_id: str, destination: Destination, error: Exception | None) -> None:
        """Log errors; errors of a destination once, and again when they are over."""
        name, text = destination.name, describe_error(error) if error else ""
        with self._lock:
            if isinstance(error, DestinationUnusable):
                self._unusable.add(name)
                if self._reported.get(name) != text:
                    self._reported[name] = text
                    log.error("nothing can be copied to %s: %s", name, text)
            elif error is not None:
                log.error("run %s is not copied to %s: %s", run_id, name, text)
            elif self._reported.pop(name, None):
                log.info("copying to %s works again", name)

    def _copy(
        self,
        document: Document,
        run_id: str,
        destination: Destination,
        stopped: Callable[[], bool],
        copies: dict[str, str],
    ) -> int:
        """Make a copy, verify and register it; return its size [bytes].

        `copies` has the ids of known copies with their hosts.
        """
        began = time.monotonic()
        with self._progress(f"run {run_id} to {destination.name}") as on_bytes:
            copied = copy_data(
                run_id,
                source_folder(document, self._options.folders),
                destination.folder,
                destination.name,
                self._options.production,
                destination.ssh_host,
                self._options.bandwidth,
                stopped,
                on_bytes,
                run_identity(self._collection, document),
            )
        if copied is None:
            return 0
        same = copies.setdefault(copied.copy_id, destination.name)
        if same != destination.name:
            raise CopyRefused(
                f"the folder {destination.folder} of {destination.name} is that of {same}: two "
                "names of one folder are one copy: correct the settings, or remove a "
                f"{rsync.MARKER} that was copied from there"
            )
        entry = {
            "type": "live",
            "host": destination.name,
            "location": destination.folder,
            "user": settings.login_name(),
            "n_files": copied.n_files,
            "size_mb": round(copied.n_bytes / 1e6, 3),
            "time": datetime.now(UTC),
            "copy_id": copied.copy_id,
        }
        self._register(run_id, entry, stopped)
        log.info(
            "run %s: copy to %s verified and registered, %.1f MB in %.1f s",
            run_id,
            destination.name,
            copied.n_bytes / 1e6,
            time.monotonic() - began,
        )
        return copied.n_bytes

    def _register(self, run_id: str, entry: Mapping[str, Any], stopped: Callable[[], bool]) -> None:
        """Add an entry of data; retry while the run database is unreachable, until stopped."""
        reported: list[Exception] = []

        def on_error(error: RunDatabaseUnreachable, _left: float) -> None:
            if stopped():
                raise error
            if not reported:
                log.warning("run %s is copied, not registered; trying again: %s", run_id, error)
                reported.append(error)

        connection.retry(
            lambda: documents.add_data(self._collection, run_id, entry),
            math.inf,
            pause=REGISTER_PAUSE,
            on_error=on_error,
        )

    @contextlib.contextmanager
    def _progress(self, what: str) -> Iterator[Callable[[int], None]]:
        """Show the progress of a copy, with a bar or with lines at intervals."""
        last = time.monotonic()
        with tqdm(
            desc=what, unit="B", unit_scale=True, disable=not self._show_bar, leave=False
        ) as bar:

            def on_bytes(n: int) -> None:
                nonlocal last
                bar.update(max(n - bar.n, 0))
                if bar.disable and time.monotonic() - last > LINE_PAUSE:
                    last = time.monotonic()
                    log.info("%s: %.1f MB copied", what, n / 1e6)

            yield on_bytes
