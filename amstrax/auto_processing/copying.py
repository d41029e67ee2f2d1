"""Copy live data of runs to destinations that lack it, verify and register each copy."""

import argparse
import concurrent.futures
import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os.path import normpath
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from amstrax import rundoc, settings
from amstrax.auto_processing import live_folder, rsync
from amstrax.auto_processing.loop import RetryBackoff, describe_error
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
from amstrax.rundb import documents, leases

log = logging.getLogger("amstrax.copy_live")

Document = Mapping[str, Any]

#: Time after its end when a run without THE_END counts as written, since the DAQ has died
LEFT_OPEN = timedelta(hours=1)
#: Time between two attempts to register a copy while the run database is unreachable [s]
REGISTER_PAUSE = 5.0
#: Time between two progress lines of a copy [s]
LINE_PAUSE = 60.0


@dataclass(frozen=True)
class Destination:
    """Destination of copies of live data.

    Attributes
    ----------
    name
        Name of the host in run documents.
    ssh_host
        Host for ssh, or ``user@host``; None if `folder` is on this machine.
    folder
        Folder that holds RUN_ID/.
    """

    name: str
    ssh_host: str | None
    folder: str


_DESTINATION = re.compile(
    r"(?P<name>[\w.+-]+)\s*=\s*(?:(?P<ssh_host>[\w@.+][\w@.+-]*):)?(?P<folder>/[^,\n]*)", re.ASCII
)


def copy_destinations(detector: str) -> tuple[Destination, ...]:
    """Return the destinations of live data of `detector`, from XAMS_COPY_TO or XAMSL_COPY_TO.

    Raises
    ------
    InvalidOption
        When the setting is invalid, or one folder serves two destinations, or another detector's
        copies or live data.
    """
    found = _destinations(detector)
    for i, destination in enumerate(found):
        for other in found[:i]:
            _check_apart(destination, other, f"{other.name}: two names of one folder are one copy")
    for other_detector in settings.DETECTORS:
        if other_detector == detector:
            continue
        others: list[Destination] = []
        # The other detector's tools report errors in these
        with contextlib.suppress(InvalidOption):
            others += _destinations(other_detector)
        live_data = settings.get(f"{other_detector.upper()}_LIVE_DATA")
        if live_data:
            others.append(Destination("its live data", None, live_data))
        for destination in found:
            for other in others:
                what = f"{other.name} of {other_detector}"
                _check_apart(destination, other, f"{what}: give each detector its own folder")
    return found


def _check_apart(one: Destination, other: Destination, text: str) -> None:
    if (one.ssh_host is None) != (other.ssh_host is None):
        return  # Markers of copies tell, see `amstrax.auto_processing.live_folder`
    if one.ssh_host is None or other.ssh_host is None:
        are_same = live_folder.is_same(one.folder, other.folder)
    else:
        hosts = {host.rpartition("@")[2].lower() for host in (one.ssh_host, other.ssh_host)}
        are_same = len(hosts) == 1 and normpath(one.folder) == normpath(other.folder)
    if are_same:
        raise InvalidOption(f"the folder {one.folder} of destination {one.name} is that of {text}")


def _destinations(detector: str) -> tuple[Destination, ...]:
    """Return the destinations in the setting of a detector."""

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


def delete_after_copies(detector: str) -> tuple[Destination, ...]:
    """Return the copies required before live data of `detector` is deleted; never empty.

    Raises
    ------
    InvalidOption
        When a setting is invalid, or no copies are set.
    """
    setting = f"{detector.upper()}_DELETE_AFTER_COPIES"
    copies = {destination.name: destination for destination in copy_destinations(detector)}
    if not copies:
        raise InvalidOption(
            f"the setting {detector.upper()}_COPY_TO is empty: without copies nothing is deleted"
        )
    names = _parts(setting) or list(copies)
    for name in names:
        if name not in copies:
            raise InvalidOption(
                f"the setting {setting} has {name!r}, which {detector.upper()}_COPY_TO has not"
                f"{did_you_mean(name, copies)}"
            )
    return tuple(copies[name] for name in dict.fromkeys(names))


def _parts(setting: str) -> list[str]:
    return [part.strip() for part in (settings.get(setting) or "").split(",") if part.strip()]


def wanted_destinations(args: argparse.Namespace) -> tuple[Destination, ...]:
    """Return the destinations to copy to.

    Raises
    ------
    UsageError
        For a name in ``args.to`` that the settings do not have.
    InvalidOption
        When the settings are invalid, or have no destination.
    """
    found = {destination.name: destination for destination in copy_destinations(args.detector)}
    if not found:
        raise InvalidOption(
            f"the setting {args.detector.upper()}_COPY_TO is empty: say where copies of live data "
            "go, as NAME=USER@HOST:/FOLDER"
        )
    for name in args.to or ():
        if name not in found:
            raise UsageError(f"--to {name}: no such destination{did_you_mean(name, found)}")
    return tuple(found[name] for name in dict.fromkeys(args.to or found))


def missing(
    document: Document, destinations: Sequence[Destination], again: bool = False
) -> list[Destination]:
    """Return the destinations where a run lacks a copy; with `again`, all of them."""

    return [
        destination
        for destination in destinations
        if again or not documents.data_of(document, type="live", host=destination.name)
    ]


def why_not(document: Document, to: Sequence[Destination], folders: Sequence[Path]) -> str | None:
    """Return why a run is not copied (yet) to these destinations; None if it is.

    Parameters
    ----------
    document
        Run document.
    to
        Destinations that lack a copy of the run.
    folders
        Folders that may be copied from.
    """
    if not to:
        return "it has all its copies"
    try:
        end = rundoc.end_time(document)
        if documents.ABANDON in documents.tags_of(document):
            return "it has the tag 'abandon': remove that to copy it"
        if end is None:
            return "it is still being taken: it is copied when it has ended"
        run_dir = source_folder(document, folders) / live_folder.run_name(document)
    except AmstraxError as error:
        return str(error)
    is_written = live_folder.is_closed(run_dir) or not run_dir.is_dir()
    if not is_written and datetime.now(UTC) - end < LEFT_OPEN:
        return f"the DAQ has not written all of it yet: there is no THE_END in {run_dir}"
    return None


def source_folder(document: Document, folders: Sequence[Path]) -> Path:
    """Return the folder of live data on this machine that a run is in, without links.

    Raises
    ------
    CopyFailed
        When the document names no folder in or below `folders`.
    """
    host = documents.this_host()
    problem = ""
    for entry in documents.data_of(document, type="live", host=host):
        try:
            folder = rundoc.check_location(entry.get("location")).resolve()
        except (InvalidRunDocument, OSError, RuntimeError) as error:
            problem = str(error)
            continue
        if any(folder.is_relative_to(allowed) for allowed in folders):
            return folder
        problem = (
            f"its live data is in {folder}, which is not among the folders that may be copied from "
            f"({', '.join(map(str, folders))}): see --live_data"
        )
    raise CopyFailed(
        problem
        or f"its document has no live data on host {host}: is that what run documents call this "
        "machine? (setting AMSTRAX_HOST)"
    )


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

    Only a copy of this run is written to, see `amstrax.auto_processing.live_folder`.

    Files and parts of files that were transferred before are not sent again. A copy that then
    differs is repeated once, by checksum. The run database is not changed.

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
        Identity of the run, from `live_folder.run_identity`; by default its name and source folder.

    Returns
    -------
    copied
        Content of the copy.

    Raises
    ------
    LiveDataNotFound, LiveDataCorrupted
        When the live data does not exist, or contains something else than files and folders.
    CopyFailed
        When it cannot be copied; subclasses are DestinationUnusable, CopyDiffers and CopyRefused.
    Stopped
        When `stopped` said so.
    """
    run_dir = Path(live_data_path) / live_folder.run_name({"name": run_id})
    folder = rsync.Place(location, ssh_host)
    place = folder / run_dir.name
    what = f"run {run_id} to {hostname} ({place})"
    before = live_folder.inventory(run_dir)
    copied = Copied(*live_folder.count(before))
    if ssh_host is None and live_folder.is_same(location, live_data_path):
        raise InvalidOption(f"{what}: that is where it is: correct the destination")
    if ssh_host is None and live_folder.is_in_run(location, live_data_path):
        raise InvalidOption(f"{what}: that is in the live data of a run: correct the destination")
    if identity is None:
        source = f"{documents.this_host()}:{Path(live_data_path).resolve()}"
        identity = {"name": run_id, "source": source}
    left = live_folder.check_copy_place(run_dir, place, before, identity)
    if not production:
        rsync.check_folder(folder)
        n = rsync.to_copy(run_dir, place)
        log.info("dry run: would copy %s, %d of %d files and folders", what, n, len(before))
        return None
    log.info("copying %s, %d files, %.1f MB", what, copied.n_files, copied.n_bytes / 1e6)
    marker = live_folder.find_marker(place, identity) or live_folder.add_marker(place, identity)
    live_folder.check_apart(run_dir, place, marker)
    rsync.copy(run_dir, place, bandwidth, False, stopped, on_bytes, left)
    wrong = compare(run_dir, place, before, stopped)
    if wrong:
        log.warning(
            "the copy of %s differs in %s: copying that again", what, live_folder.some(wrong)
        )
        left = live_folder.leftovers(before, wrong)
        rsync.copy(run_dir, place, bandwidth, True, stopped, on_bytes, left)
        wrong = compare(run_dir, place, before, stopped)
    if live_folder.inventory(run_dir) != before:
        raise CopyFailed(f"{run_dir} has changed while it was copied to {hostname}: try again")
    if wrong:
        raise CopyDiffers(
            f"the copy of {what} differs in {live_folder.some(wrong)}, twice: look at the disk "
            "there, and for other programs that write to it"
        )
    if live_folder.find_marker(place, identity) != marker:
        raise CopyFailed(f"{place} was changed by others while {what} was copied: copy it again")
    return copied._replace(copy_id=marker["copy"])


def compare(
    run_dir: Path,
    place: rsync.Place,
    known: live_folder.Inventory,
    stopped: Callable[[], bool] = bool,
) -> list[str]:
    """Return the names of entries that differ between live data and a copy, by list and checksum.

    Parameters
    ----------
    run_dir, place
        Folder of the run, and of its copy.
    known
        Content of the folder of the run.
    stopped
        As of `amstrax.auto_processing.rsync.copy`.

    Raises
    ------
    CopyFailed, Stopped
        When the copy cannot be read, or `stopped` returned True.
    """
    here, there = live_folder.sizes(known), rsync.listing(place, stopped)
    if there is None:
        return ["all of it, which is not there"]
    by_list = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    return sorted(by_list) or rsync.differences(run_dir, place, stopped)


@dataclass
class Copies:
    """Result of a round: numbers of copies.

    Attributes
    ----------
    copies
        Copies made, or to be made in a dry run.
    runs
        Runs with these copies.
    n_bytes
        Their size [bytes].
    problems
        Copies that failed.
    """

    copies: int = 0
    n_bytes: int = 0
    problems: int = 0
    runs: set[str] = field(default_factory=set)

    @property
    def all(self) -> int:
        """Number of attempted copies."""
        return self.copies + self.problems

    def describe(self, production: bool) -> str:
        """Return a line."""
        made = "made" if production else "would be made"
        return (
            f"{self.copies} copies of {len(self.runs)} runs {made}, {self.n_bytes / 1e6:.1f} MB; "
            f"{self.problems} could not be made"
        )


class Copier:
    """Copies runs, and keeps the back-off of failed ones between rounds.

    Parameters
    ----------
    collection
        Collection of run documents.
    args
        As from `copy_live.parse_args`.
    stopped
        Called at intervals; when it returns True, copying ends.
    """

    def __init__(
        self, collection: Any, args: argparse.Namespace, stopped: Callable[[], bool] = bool
    ):
        self._collection = collection
        self._args = args
        self._stopped = stopped
        self._destinations = wanted_destinations(args)
        self._folders = live_folder.allowed_folders(args.detector, args.live_data)
        # Check now, since a copy that is made must be registered
        self._user = settings.login_name()
        self._lock = threading.Lock()
        self._unusable: set[str] = set()
        self._said: dict[str, str] = {}
        self.backoff = RetryBackoff()
        show = getattr(args, "progress", None)
        self._show_bar = sys.stderr.isatty() if show is None else show

    def handle(self, rundocs: Sequence[Mapping[str, Any]]) -> Copies:
        """Copy runs, as `copy_live.handle_runs` says."""
        self._unusable.clear()
        tally = Copies()
        with concurrent.futures.ThreadPoolExecutor(self._args.workers, "copy") as pool:
            futures = [pool.submit(self._handle_one, document, tally) for document in rundocs]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return tally

    def _missing(self, document: Mapping[str, Any]) -> list[Destination]:
        return missing(document, self._destinations, self._args.again)

    def _handle_one(self, document: Mapping[str, Any], tally: Copies) -> None:
        """Copy a run; errors in it or its document count as its failure."""
        try:
            self._handle_run(document, tally)
        except (RunDatabaseError, Stopped):
            raise
        except Exception as error:
            run_id = documents.name_of(document) or "?"
            log.error("run %s is not copied: %s", run_id, describe_error(error))
            self.backoff.note(run_id, failed=True)
            with self._lock:
                tally.problems += max(len(self._missing(document)), 1)

    def _handle_run(self, document: Mapping[str, Any], tally: Copies) -> None:
        to = self._missing(document)
        if self._stopped() or all(destination.name in self._unusable for destination in to):
            with self._lock:
                tally.problems += len(to)
            return
        run_id = live_folder.run_name(document)
        if not self._args.production:
            reason = why_not(documents.merge_tags(self._collection, document), to, self._folders)
            if self._is_refused(run_id, reason):
                return
            self._copy_to_all(document, run_id, to, tally, self._stopped)
            return
        with leases.held(self._collection, document) as claim:
            if claim is None:
                log.info("run %s is being copied, or deleted, by another process", run_id)
                return
            # The document may have changed since the query
            fresh = documents.merge_tags(
                self._collection, documents.find_run(self._collection, run_id)
            )
            if documents.name_of(fresh) != run_id:
                raise InvalidRunDocument(
                    f"run {run_id} is called {documents.name_of(fresh)!r} in the first document of "
                    "its number: correct the documents"
                )
            to = self._missing(fresh)
            reason = why_not(fresh, to, self._folders)
            if self._is_refused(run_id, reason):
                return
            self._copy_to_all(
                fresh, run_id, to, tally, lambda: self._stopped() or claim.lost.is_set()
            )

    def _is_refused(self, run_id: str, reason: str | None) -> bool:
        """Return whether a run is skipped; raise CopyFailed if it was requested by name."""
        if reason is not None and self._args.run_id:
            raise CopyFailed(reason)
        if reason is not None:
            log.info("run %s is not copied: %s", run_id, reason)
        return reason is not None

    def _copy_to_all(
        self,
        document: Mapping[str, Any],
        run_id: str,
        to: Sequence[Destination],
        tally: Copies,
        stopped: Callable[[], bool],
    ) -> None:
        failed = False
        copies = {
            entry["copy_id"]: str(entry.get("host"))
            for entry in documents.data_of(document, type="live")
            if isinstance(entry.get("copy_id"), str)
        }
        for destination in to:
            if destination.name in self._unusable:
                with self._lock:
                    tally.problems += 1
                continue
            try:
                n_bytes = self._copy(document, run_id, destination, stopped, copies)
            except (RunDatabaseError, Stopped):
                # The next destination would fail for the same reason
                with self._lock:
                    tally.problems += 1
                if stopped():
                    return
                raise
            except Exception as error:
                failed = failed or not isinstance(error, DestinationUnusable)
                self._note(run_id, destination, error)
                with self._lock:
                    tally.problems += 1
            else:
                self._note(run_id, destination, None)
                with self._lock:
                    tally.copies += 1
                    tally.n_bytes += n_bytes
                    tally.runs.add(run_id)
        self.backoff.note(run_id, failed)

    def _note(self, run_id: str, destination: Destination, error: Exception | None) -> None:
        """Log errors; those of a destination when they begin and when they are over."""
        with self._lock:
            if isinstance(error, DestinationUnusable):
                self._unusable.add(destination.name)
                text = describe_error(error)
                if self._said.get(destination.name) != text:
                    self._said[destination.name] = text
                    log.error("nothing can be copied to %s: %s", destination.name, text)
            elif error is not None:
                log.error(
                    "run %s is not copied to %s: %s",
                    run_id,
                    destination.name,
                    describe_error(error),
                )
            elif self._said.pop(destination.name, None):
                log.info("copying to %s works again", destination.name)

    def _copy(
        self,
        document: Mapping[str, Any],
        run_id: str,
        destination: Destination,
        stopped: Callable[[], bool],
        copies: dict[str, str],
    ) -> int:
        """Make a copy, verify and register it; return its size [bytes].

        `copies` has the ids of known copies with their hosts.
        """
        began = time.monotonic()
        entry: dict[str, Any] = {
            "type": "live",
            "host": destination.name,
            "location": destination.folder,
            "user": self._user,
        }
        with self._progress(run_id, destination) as on_bytes:
            copied = copy_data(
                run_id,
                source_folder(document, self._folders),
                destination.folder,
                destination.name,
                self._args.production,
                destination.ssh_host,
                self._args.bandwidth,
                stopped,
                on_bytes,
                live_folder.run_identity(self._collection, document),
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
        entry |= {
            "n_files": copied.n_files,
            "size_mb": round(copied.n_bytes / 1e6, 3),
            "time": datetime.now(UTC),
            "copy_id": copied.copy_id,
        }
        self._register(run_id, entry, stopped)
        seconds = time.monotonic() - began
        log.info(
            "run %s: copy to %s verified and registered, %.1f MB in %.1f s",
            run_id,
            destination.name,
            copied.n_bytes / 1e6,
            seconds,
        )
        return copied.n_bytes

    def _register(self, run_id: str, entry: Mapping[str, Any], stopped: Callable[[], bool]) -> None:
        """Add an entry of data; retry while the run database is unreachable, until stopped."""
        said = False
        while True:
            try:
                documents.add_data(self._collection, run_id, entry)
                return
            except RunDatabaseUnreachable as error:
                if stopped():
                    raise
                if not said:
                    log.warning("run %s is copied; to register it, waiting: %s", run_id, error)
                    said = True
            time.sleep(REGISTER_PAUSE)

    @contextmanager
    def _progress(self, run_id: str, destination: Destination) -> Iterator[Callable[[int], None]]:
        """Show the progress of a copy, with a bar or with lines at intervals."""
        what = f"run {run_id} to {destination.name}"
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
