"""Delete live data of runs in steps that may be interrupted at any point.

1. Every required copy is compared with the live data: names, sizes, checksums.
2. The folder is renamed. If its content or the list of a copy has changed since step 1, it is
   renamed back. This detects a "copy" that is the folder itself, reached by another path.
3. In the run document the entry is moved to deleted_data.
4. The folder is removed.

A renamed folder at the start of a round was left by a process that died or lost the run database.
The document then shows whether step 3 was done; if not, the folder is renamed back.

A folder is first renamed within its parent folder, so that it can be checked again while no other
program finds it. The renaming can be undone.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from amstrax import rundoc, settings
from amstrax.auto_processing import copying, rsync
from amstrax.auto_processing.copying import Destination, Document
from amstrax.commands.base import RetryBackoff, describe_error
from amstrax.exceptions import (
    AmstraxError,
    CopyDiffers,
    DeletionRefused,
    DestinationUnusable,
    InvalidRunDocument,
    RunDatabaseError,
    Stopped,
)
from amstrax.rundb import documents, leases, stored

log = logging.getLogger("amstrax.delete_live")


@dataclass
class Deletions:
    """Result of a round: deleted runs, their size [bytes], number of failures."""

    runs: list[str] = field(default_factory=list)
    n_bytes: int = 0
    problems: int = 0

    def describe(self, delete: bool) -> str:
        """Return a one-line summary."""
        done = "deleted" if delete else "would be deleted"
        return (
            f"{len(self.runs)} runs {done}, {self.n_bytes / 1e6:.1f} MB; {self.problems} could not "
            "be deleted"
        )


@dataclass(frozen=True)
class DeleteOptions:
    """What a `Deleter` deletes, and when."""

    #: Folders that may be deleted from, without links
    folders: Sequence[Path]
    #: Required copies
    required: Sequence[Destination]
    #: Delete these runs; if empty, all that may be deleted
    run_ids: Sequence[str] = ()
    #: Time since the end of a run [days], and largest number of runs at a time
    min_age: float = 30.0
    max_runs: int | None = None
    #: Delete; otherwise only verify the copies
    delete: bool = False


def why_not(document: Document, options: DeleteOptions) -> str | None:
    """Return why live data of a run is not deleted; None if only verification remains."""
    try:
        copying.run_name(document)
        end = rundoc.end_time(document)
        folders = _locations(document, options.folders)
    except AmstraxError as error:
        return str(error)
    tags = documents.tags_of(document)
    for tag in (documents.ABANDON, documents.PROCESS):
        if tag in tags:
            return f"it has the tag {tag!r}"
    if end is None:
        return "it is still being taken"
    if datetime.now(UTC) - end < timedelta(days=options.min_age):
        return f"it ended less than {options.min_age:g} days ago (--min_age)"
    status = documents.status_of(document).status
    if status in ("submitted", "running") or documents.is_claimed(document):
        return "it is being processed"
    if not folders:
        return (
            f"its document has no live data on host {documents.this_host()}: check its data, and "
            "the setting AMSTRAX_HOST, which names this machine"
        )
    for destination in options.required:
        if not documents.data_of(document, type="live", host=destination.name):
            return f"it has no copy at {destination.name}: copy_live makes one"
    return None


def _locations(document: Document, folders: Sequence[Path]) -> list[Path]:
    """Return the folders of a run's live data on this machine, all of which are in `folders`."""
    found = []
    for entry in documents.data_of(document, type="live", host=documents.this_host()):
        folder = copying.folder_of(entry)
        if folder not in folders:
            raise DeletionRefused(
                f"its live data is in {folder}, which is not among the folders that may be "
                f"deleted from ({', '.join(map(str, folders))}): see --live_data"
            )
        found.append(folder)
    return list(dict.fromkeys(found))


class Deleter:
    """Deletes live data of runs, and keeps the back-off of failed ones between rounds.

    `stopped` is called at intervals; when it returns True, deleting ends.
    """

    def __init__(self, collection: Any, options: DeleteOptions, stopped: Callable[[], bool] = bool):
        if not options.required:
            raise DeletionRefused("no copies are required: nothing is deleted")
        self._collection = collection
        self._options = options
        self._stopped = stopped
        self._backoff = RetryBackoff()

    def find(self) -> list[dict[str, Any]]:
        """Find the documents of the runs to delete, oldest first, as `copying.find_runs`."""
        options = self._options
        hosts = [documents.this_host(), *(copy.name for copy in options.required)]
        has_data = [documents.has_data("live", host=host) for host in hosts]
        before = datetime.now(UTC) - timedelta(days=options.min_age)
        condition = {"$and": [*has_data, {"end": {"$lte": before}}]}

        def reason(document: Document) -> str | None:
            # For a run requested by name, deleting reports the reason
            return None if options.run_ids else why_not(document, options)

        limits = self._backoff, options.max_runs
        return copying.find_runs(self._collection, options.run_ids, condition, 1, reason, *limits)

    def settle(self) -> int:
        """Settle interrupted deletions; return the number that could not be settled."""
        problems = 0
        for folder in self._options.folders:
            for run_dir in set_aside_in(folder):
                try:
                    self._settle(run_dir)
                except (RunDatabaseError, Stopped):
                    raise
                except Exception as error:
                    log.error("%s is left as it is: %s", aside(run_dir), describe_error(error))
                    problems += 1
        return problems

    def _settle(self, run_dir: Path) -> None:
        name = aside(run_dir)
        if not self._options.delete:
            log.info("dry run: would settle %s, which was left by another process", name)
            return
        document = copying.find_again(self._collection, run_dir.name)
        with leases.held(self._collection, document) as claim:
            if claim is None:
                log.info("%s is left to another process, which works on it", name)
                return
            if not name.exists():
                return
            if self._is_recorded(run_dir):
                self._verify_rest(document, run_dir)
                remove_folder(run_dir)
                log.info("%s, left by an interrupted deletion, is removed", name)
            else:
                put_back(run_dir)
                log.info("%s is restored after an interrupted deletion", run_dir)

    def _verify_rest(self, document: Document, run_dir: Path) -> None:
        """Check that the copies have all that is left of a folder whose removal was interrupted."""
        there = aside(run_dir)
        rest = rsync.inventory(there)
        for place in self._places(document, run_dir.name).values():
            of_copy = rsync.listing(place, self._stopped) or {}
            wrong = [n for n, size in rsync.sizes(rest).items() if of_copy.get(n) != size]
            wrong = wrong or rsync.differences(there, place, self._stopped, of_source_only=True)
            if wrong:
                raise CopyDiffers(
                    f"its copy {place} lacks {copying.some(wrong)}, or has other content: "
                    "check which of the two is needed"
                )
        self._check_markers(document, there)

    def _check_markers(self, document: Document, there: Path, add: bool = False) -> None:
        """Check that the copies are of this run, and separate from each other and from `there`.

        With `add`, a verified copy without marker gets one.
        """
        identity = copying.run_identity(self._collection, document)
        known: dict[str, str] = {}
        for name, place in self._places(document, copying.run_name(document)).items():
            marker = copying.find_marker(place, identity)
            if marker is None and add:
                marker = copying.add_marker(place, identity)
            copying.check_apart(there, place, marker)
            same = known.setdefault(marker["copy"], name) if marker else name
            if same != name:
                raise DeletionRefused(
                    f"its copies at {same} and {name} are one folder, {place}: that is one copy; "
                    f"correct the settings, or remove a {rsync.MARKER} that was copied along"
                )

    def _is_recorded(self, run_dir: Path) -> bool:
        """Return whether the run document says that live data has been deleted."""
        document = copying.find_again(self._collection, run_dir.name)
        if _entries(document.get("data"), run_dir):
            return False
        if _entries(document.get("deleted_data"), run_dir):
            return True
        raise DeletionRefused(
            f"the document of run {run_dir.name} has neither this live data nor its "
            "deletion: check whether it is needed"
        )

    def handle(self, rundocs: Sequence[Document]) -> Deletions:
        """Delete live data of runs; log errors and continue with the next run."""
        tally = Deletions()
        for document in rundocs:
            if self._stopped():
                break
            run_id = documents.name_of(document) or "?"
            try:
                copying.run_name(document)
                n_bytes = self._handle_run(document, run_id)
            except (RunDatabaseError, Stopped):
                if self._stopped():
                    break
                raise
            except Exception as error:
                log.error("run %s is not deleted: %s", run_id, describe_error(error))
                tally.problems += 1
                self._backoff.note(run_id, failed=not isinstance(error, DestinationUnusable))
                continue
            self._backoff.note(run_id, failed=False)
            if n_bytes is not None:
                tally.runs.append(run_id)
                tally.n_bytes += n_bytes
        return tally

    def _handle_run(self, document: Document, run_id: str) -> int | None:
        """Delete a run and return its size [bytes]; None if another process has its lease."""
        if not self._options.delete:
            reason = why_not(documents.merge_tags(self._collection, document), self._options)
            if reason is not None:
                raise DeletionRefused(reason)
            found = [folder / run_id for folder in _locations(document, self._options.folders)]
            if any(aside(run_dir).exists() for run_dir in found):
                return None  # To be settled first
            return sum(self._verify(document, run_dir, self._stopped)[1] for run_dir in found)
        with leases.held(self._collection, document) as claim:
            if claim is None:
                log.info("run %s is being copied, or deleted, by another process", run_id)
                return None

            def stopped() -> bool:
                return self._stopped() or claim.lost.is_set()

            def check() -> Document:
                fresh = copying.find_again(self._collection, run_id)
                reason = why_not(fresh, self._options)
                if reason is not None:
                    raise DeletionRefused(reason)
                return fresh

            fresh = check()
            n_bytes = 0
            for folder in _locations(fresh, self._options.folders):
                run_dir = folder / run_id
                known, size = self._verify(fresh, run_dir, stopped)
                # Verification may have taken long
                check()
                if not claim.check():
                    raise DeletionRefused("another process has claimed it meanwhile")
                self._set_aside(fresh, run_dir, known, stopped)
                self._record(run_id, run_dir)
                remove_folder(run_dir)
                log.info("run %s: %s is deleted, %.1f MB", run_id, run_dir, size / 1e6)
                n_bytes += size
            return n_bytes

    def _verify(
        self, document: Document, run_dir: Path, stopped: Callable[[], bool]
    ) -> tuple[rsync.Inventory, int]:
        """Compare all copies with live data; return its files and their size [bytes]."""
        with _opened(run_dir.parent) as parent:
            _check_removable(run_dir, parent)
        known = rsync.inventory(run_dir)
        n_files, n_bytes = rsync.count(known)
        if n_files == 0:
            raise DeletionRefused(f"{run_dir} has no files: find out what removed them")
        for place in self._places(document, run_dir.name).values():
            wrong = copying.compare(run_dir, place, known, stopped)
            if wrong:
                raise CopyDiffers(
                    f"its copy {place} differs in {copying.some(wrong)}: repair it with "
                    f"copy_live --run_id {run_dir.name} --again"
                )
        self._check_markers(document, run_dir)
        log.info(
            "run %s: %d files, %.1f MB, verified at %s",
            run_dir.name,
            n_files,
            n_bytes / 1e6,
            ", ".join(destination.name for destination in self._options.required),
        )
        return known, n_bytes

    def _places(self, document: Document, run_id: str) -> dict[str, rsync.Place]:
        """Return the folders of the required copies of a run, by name of the copy."""
        places = {}
        for destination in self._options.required:
            entries = documents.data_of(document, type="live", host=destination.name)
            there = [str(rundoc.check_location(entry.get("location"))) for entry in entries]
            if not there:
                raise DeletionRefused(f"it has no copy at {destination.name}: copy_live makes one")
            location = destination.folder if destination.folder in there else there[0]
            places[destination.name] = rsync.Place(location, destination.ssh_host) / run_id
        return places

    def _set_aside(
        self,
        document: Document,
        run_dir: Path,
        known: rsync.Inventory,
        stopped: Callable[[], bool],
    ) -> None:
        """Rename live data and check that it is unchanged; otherwise rename it back."""
        there = set_aside(run_dir)
        try:
            if rsync.inventory(there) != known:
                raise DeletionRefused(f"{run_dir} has changed since its copies were verified")
            for place in self._places(document, run_dir.name).values():
                if rsync.listing(place, stopped) != rsync.sizes(known):
                    raise DeletionRefused(
                        f"its copy {place} changes when {run_dir} is renamed, so both may be one "
                        "folder: correct the setting for the destination"
                    )
            self._check_markers(document, there, add=True)
        except BaseException:
            put_back(run_dir)
            raise

    def _record(self, run_id: str, run_dir: Path) -> None:
        """Move all entries of the live data to deleted_data.

        After a RunDatabaseError the outcome is unknown: `settle` checks it.
        """
        try:
            document = copying.find_again(self._collection, run_id)
            for entry in _entries(document.get("data"), run_dir):
                one = {key: entry[key] for key in ("type", "host", "location")}
                documents.remove_data(
                    self._collection, run_id, one, f"{settings.login_name()} with delete_live"
                )
        except RunDatabaseError:
            raise
        except Exception:
            # An invalid document cannot record the deletion
            put_back(run_dir)
            raise
        if not self._is_recorded(run_dir):
            put_back(run_dir)
            raise DeletionRefused("the run document does not record the deletion")


def delete_data(
    collection: Any,
    run_id: str,
    data_type: str,
    lineage_hash: str,
    folders: Sequence[Path],
    only: Path | None = None,
) -> int:
    """Delete data of one lineage from this machine, and return its size [bytes].

    It is deleted in all folders that the run document names and in `folders`, or in `only`. An
    interrupted deletion is completed by the next call. Raises DeletionRefused when the data is not
    on this machine, the run is being processed, or no other lineage of the data type is stored
    here.
    """
    its = f"{data_type} {lineage_hash} of run {run_id}"
    if not all(map(stored.is_word, (run_id, data_type, lineage_hash))):
        raise DeletionRefused(f"{its} cannot be the name of data: see `amstrax rundb storage`")
    document = copying.find_again(collection, run_id)
    prefix = f"{run_id}-{data_type}-"
    name = f"{prefix}{lineage_hash}"
    here = [x for x in stored.stored(document) if x.host == documents.this_host()]
    parents = {Path(x.folder).parent for x in here if Path(x.folder).name.startswith(prefix)}
    parents |= {folder.absolute() for folder in (*folders, *((only,) if only else ()))}
    chosen = [only.absolute()] if only else sorted(parents)
    places = [p / name for p in chosen if (p / name).is_dir() or aside(p / name).is_dir()]
    if not places:
        raise DeletionRefused(f"{its} is not on this machine: see `amstrax rundb storage`")
    status = documents.status_of(document).status
    if status in ("submitted", "running") or documents.is_claimed(document):
        raise DeletionRefused(f"run {run_id} is being processed: try again later")
    with leases.held(collection, document) as claim:
        if claim is None:
            raise DeletionRefused(f"run {run_id} is being copied, or deleted: try again later")
        # Another process may have deleted others just before
        others = (x for p in parents for x in p.glob(f"{prefix}*") if x.name != name)
        if not any(map(stored.is_complete, others)):
            raise DeletionRefused(f"{its} is the only {data_type} of the run here: it is kept")
        n_bytes = 0
        for place in places:
            if place.is_dir():
                set_aside(place)
            n_bytes += stored.size_of(str(aside(place))) or 0
        who = f"{settings.login_name()} with amstrax rundb delete-data"
        for entry in documents.data_of(
            document, type=data_type, host=documents.this_host(), lineage_hash=lineage_hash
        ):
            its_place = stored.of_entry(run_id, entry)
            if its_place is not None and Path(its_place.folder) in places:
                one = {key: entry.get(key) for key in ("type", "host", "location", "lineage_hash")}
                documents.remove_data(collection, run_id, one, who)
        for place in places:
            remove_folder(place)
        return n_bytes


def _entries(data: object, run_dir: Path) -> list[dict[str, Any]]:
    """Return the entries of live data that name the folder above `run_dir`, however spelled."""
    found = []
    for entry in documents.data_of({"data": data}, type="live", host=documents.this_host()):
        with contextlib.suppress(InvalidRunDocument):
            if copying.folder_of(entry) == run_dir.parent:
                found.append(entry)
    return found


_SUFFIX = ".being_deleted"
_SET_ASIDE = re.compile(rf"\.(?P<name>[^/]+){re.escape(_SUFFIX)}")


def aside(run_dir: Path) -> Path:
    """Return the name under which the folder of a run is set aside."""
    return run_dir.with_name(f".{run_dir.name}{_SUFFIX}")


def set_aside_in(parent: Path) -> list[Path]:
    """Return the original paths of the folders set aside in a folder."""
    matches = (_SET_ASIDE.fullmatch(name) for name in sorted(os.listdir(parent)))
    return [parent / match["name"] for match in matches if match]


def set_aside(run_dir: Path) -> Path:
    """Rename the folder of a run to set it aside, and return its new path.

    Raises DeletionRefused when it is not a folder, is a mount point, or another one is set aside
    already.
    """
    new = aside(run_dir)
    with _opened(run_dir.parent) as parent:
        _check_removable(run_dir, parent)
        _rename(run_dir, new, parent, f"{new} exists already, of the same run")
    return new


def put_back(run_dir: Path) -> None:
    """Restore the name of a folder that was set aside.

    Raises DeletionRefused when another folder has that name.
    """
    old = aside(run_dir)
    with _opened(run_dir.parent) as parent:
        problem = f"{old} cannot be renamed back, since {run_dir} exists too"
        _rename(old, run_dir, parent, problem)


def remove_folder(run_dir: Path) -> None:
    """Permanently remove a folder that was set aside.

    Raises DeletionRefused as `set_aside`.
    """
    old = aside(run_dir)
    with _opened(run_dir.parent) as parent:
        _check_removable(old, parent)
        # Uses open directory descriptors, so that it follows no link
        shutil.rmtree(old.name, dir_fd=parent)
        os.fsync(parent)


def _check_removable(path: Path, parent: int) -> None:
    """Check that an entry of an open folder is a folder without links and mounts."""
    name = path.name
    if not name or name in (".", "..") or "/" in name or not path.is_absolute():
        raise DeletionRefused(f"{str(path)!r} is no folder of a run: nothing is deleted")
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        raise DeletionRefused(
            f"{path} is no folder, or a link ({error.strerror}): nothing is deleted"
        ) from None
    try:
        whole = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError as error:
        raise DeletionRefused(
            f"the path of {path} cannot be resolved in /proc ({error.strerror}): nothing is "
            "deleted; delete on a machine with Linux"
        ) from None
    finally:
        os.close(descriptor)
    if mounted := rsync.mounted_in(whole):
        raise DeletionRefused(f"something is mounted at {mounted}, in {path}: nothing is deleted")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _rename(old: Path, new: Path, parent: int, problem: str) -> None:
    """Rename an entry of an open folder; raise DeletionRefused with `problem` if `new` exists."""
    if new.name in os.listdir(parent):
        raise DeletionRefused(f"{problem}: check which of the two is needed, and remove the other")
    os.rename(old.name, new.name, src_dir_fd=parent, dst_dir_fd=parent)
    # Flush to disk before the run database is changed
    os.fsync(parent)
