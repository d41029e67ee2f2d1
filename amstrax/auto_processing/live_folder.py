"""Folders of live data and their copies: content, and the run that they belong to.

The marker of a copy is a file that identifies its run, written before all other files. Readers of
live data ignore it. Without it, or with that of another run, a destination is neither overwritten
nor counted as a copy. Its random id distinguishes two copies from one folder reached by two paths.
"""

import json
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import rundoc, settings
from amstrax.auto_processing import rsync
from amstrax.auto_processing.rsync import Place
from amstrax.exceptions import (
    CopyRefused,
    InvalidRunDocument,
    LiveDataCorrupted,
    LiveDataNotFound,
    UsageError,
)
from amstrax.rundb import connection, documents


class FileState(NamedTuple):
    """Properties that show whether a file has changed; a folder has size -1 [bytes] and no time."""

    size: int
    changed: int = 0
    inode: int = 0

    @property
    def is_file(self) -> bool:
        """Whether it is one, not a folder."""
        return self.size >= 0


Inventory = dict[str, FileState]


def run_name(document: Mapping) -> str:
    """Return the name of a run, which is that of its folder.

    Raises
    ------
    InvalidRunDocument
        When the run has no name, or one that is invalid for a folder.
    """
    return rundoc.check_run_name(documents.name_of(document))


def is_same(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths lead to the same folder, also by links or mounts."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def is_in_run(folder: str | Path, live_data: str | Path) -> bool:
    """Return whether a folder is that of a run in a folder of live data, or below one."""
    real = Path(folder).resolve()
    return any(
        path.name.isdigit() and is_same(path.parent, live_data) for path in (real, *real.parents)
    )


def allowed_folders(detector: str, given: Iterable[Path] | None = None) -> tuple[Path, ...]:
    """Return the folders that live data may be copied and deleted from, without links.

    Parameters
    ----------
    detector
        Whose live data.
    given
        Folders that replace that of the settings.

    Raises
    ------
    UsageError
        When there is none, or one does not exist.
    """
    setting = f"{detector.upper()}_LIVE_DATA"
    wanted = [*given] if given else [Path(value) for value in [settings.get(setting)] if value]
    if not wanted:
        raise UsageError(f"where is live data? Name its folder in {setting}, or with --live_data")
    folders = [settings.expanded(folder).resolve() for folder in wanted]
    for folder in folders:
        if not folder.is_dir() or folder.parent == folder:
            raise UsageError(f"{folder} is no folder of live data: check {setting} or --live_data")
    return tuple(dict.fromkeys(folders))


def inventory(run_dir: Path) -> Inventory:
    """Return the files and folders in the folder of a run, by their names within it.

    Raises
    ------
    LiveDataNotFound
        When the folder does not exist, or is a link.
    LiveDataCorrupted
        When an entry is neither file nor folder, or is on another disk.
    """
    try:
        state = os.lstat(run_dir)
    except FileNotFoundError:
        raise _no_folder(run_dir) from None
    if not stat.S_ISDIR(state.st_mode):
        raise LiveDataNotFound(f"{run_dir} is no folder, but {_kind(state)}: it is left alone")
    try:
        return dict(_walk(run_dir, "", state.st_dev))
    except FileNotFoundError as error:
        raise LiveDataNotFound(
            f"{error.filename} vanished while {run_dir} was read: find out what removes it"
        ) from None


def _walk(folder: Path, prefix: str, device: int) -> Iterator[tuple[str, FileState]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not prefix and entry.name == rsync.MARKER:
                continue  # This is a copy itself
            state = entry.stat(follow_symlinks=False)
            name = f"{prefix}{entry.name}"
            if state.st_dev != device:
                raise LiveDataCorrupted(f"{entry.path} is on another disk: the run is left alone")
            if stat.S_ISDIR(state.st_mode):
                yield name, FileState(-1)
                yield from _walk(Path(entry.path), f"{name}/", device)
            elif stat.S_ISREG(state.st_mode):
                yield name, FileState(state.st_size, state.st_mtime_ns, state.st_ino)
            else:
                raise LiveDataCorrupted(
                    f"{entry.path} is {_kind(state)}, which is no live data: the run is left alone"
                )


def _no_folder(run_dir: Path) -> LiveDataNotFound:
    return LiveDataNotFound(
        f"there is no {run_dir}: has the run's live data been moved? Correct its entry in the run "
        "document"
    )


def _kind(state: os.stat_result) -> str:
    if stat.S_ISLNK(state.st_mode):
        return "a symbolic link"
    return "a file" if stat.S_ISREG(state.st_mode) else "a device, pipe or socket"


def sizes(found: Inventory) -> dict[str, int]:
    """Return the sizes [bytes] of files, -1 for folders, as `rsync.listing` does of a copy."""
    return {name: state.size for name, state in found.items()}


def count(found: Inventory) -> tuple[int, int]:
    """Return the number of files and their size [bytes]."""
    files = [state.size for state in found.values() if state.size >= 0]
    return len(files), sum(files)


def some(names: Sequence[str]) -> str:
    """Return the first names of a long list, for messages."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def is_closed(run_dir: Path) -> bool:
    """Return whether the DAQ has written all of a run."""
    from amstrax import redax  # imports numpy, which no tool that copies needs at its start

    return (run_dir / redax.THE_END).is_dir() and not any(run_dir.glob("*_TEMP"))


#: A larger file is no marker [bytes]
_LARGEST_MARKER = 100_000

Marker = dict[str, Any]


def run_identity(collection: Any, document: Mapping[str, Any]) -> Marker:
    """Return the identity of a run among the runs of both detectors.

    Parameters
    ----------
    collection
        Collection of run documents.
    document
        Run document.
    """
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


def find_marker(place: Place, of_run: Mapping[str, Any]) -> Marker | None:
    """Return the marker of a copy; None if it is missing or does not name this document.

    Raises
    ------
    CopyRefused
        When the marker is that of another run.
    """
    marker = _read_marker(place)
    if marker is None:
        return None
    different = {key for key, value in of_run.items() if key in marker and marker[key] != value}
    # A document that was exported and imported may have another _id: then the files decide, as
    # without marker
    if different - {"document"}:
        raise CopyRefused(
            f"{place} holds another run ({_describe_marker(marker)}; this is "
            f"{_describe_marker(of_run)}): move that away, correct the destination or, if it is "
            f"this run, remove {rsync.MARKER}"
        )
    is_whole = (
        not different and of_run.keys() <= marker.keys() and isinstance(marker.get("copy"), str)
    )
    return marker if is_whole else None


def _read_marker(place: Place) -> Marker | None:
    try:
        marker = json.loads(rsync.fetch(place / rsync.MARKER, _LARGEST_MARKER))
    except (ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) else None


def check_apart(run_dir: Path, place: Place, marker: Mapping[str, Any] | None = None) -> None:
    """Check that a copy is not the live data itself, as through a mount.

    Parameters
    ----------
    run_dir
        Folder of the run.
    place
        Folder of its copy.
    marker
        Marker of the copy; one that was written there is found in `run_dir` if both are the same.

    Raises
    ------
    CopyRefused
        When it is the live data, or something is mounted in a copy on this machine.
    """
    folder = Path(place.folder)
    if place.ssh_host is None and (mounted := mounted_in(folder.resolve())):
        raise CopyRefused(
            f"something is mounted at {mounted}, so {place} may be no copy: unmount that, or "
            "correct the destination"
        )
    own = _read_marker(Place(str(run_dir))) if marker else None
    if marker and own and own.get("copy") == marker["copy"]:
        raise CopyRefused(
            f"{place} is {run_dir} itself, by another way: correct the destination, or remove a "
            f"{rsync.MARKER} that was copied into the latter"
        )


def add_marker(place: Place, of_run: Mapping[str, Any]) -> Marker:
    """Write a marker unless another process has just done so; return the marker in place.

    Raises
    ------
    CopyRefused
        When that is of another run.
    """
    source = {"host": documents.this_host(), "time": rundoc.to_json(datetime.now(UTC))["$date"]}
    new = {**source, **of_run, "copy": uuid.uuid4().hex}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, rsync.MARKER)
        file.write_text(json.dumps(new, indent=1), encoding="utf-8")
        file.chmod(0o644)
        rsync.send(file, place)
        found = find_marker(place, of_run)
        if found is None:
            # An unreadable marker, as after a power cut
            rsync.send(file, place, replace=True)
            found = find_marker(place, of_run)
    if found is None:
        raise CopyRefused(f"no marker can be written to {place / rsync.MARKER}: look at that")
    return found


def check_copy_place(
    run_dir: Path, place: Place, known: Inventory, of_run: Mapping[str, Any]
) -> list[str]:
    """Check that copying loses nothing at the destination; return names of leftovers of rsync.

    Parameters
    ----------
    run_dir
        Folder of the run.
    place
        Folder of its copy.
    known
        Content of `run_dir`.
    of_run
        As from `identity`.

    Raises
    ------
    CopyRefused
        When the destination has something else than a copy of this run or a part of one.
    """
    there = rsync.listing(place)
    if there is None:
        return []
    check_apart(run_dir, place)
    wrong = [name for name, size in there.items() if size == rsync.ODD]
    if wrong:
        raise CopyRefused(f"{place} has {_some(wrong)}, neither file nor folder: move it away")
    is_whole = find_marker(place, of_run) is not None
    left = leftovers(known, there)
    files = {name for name, size in there.items() if size >= 0 and name not in left}
    kinds = {name for name in there.keys() & known.keys() if (name in files) != known[name].is_file}
    # Without a marker every file must be the run's own
    foreign = files - known.keys() if not is_whole else set()
    wrong = sorted(kinds | foreign)
    if files and not wrong and not is_whole:
        wrong = [name for name in rsync.differences(run_dir, place) if name in files]
    if wrong:
        raise CopyRefused(
            f"{place} has {_some(wrong)}, unlike this run{'' if is_whole else ', and no marker'}: "
            "move that folder away, and copy again"
        )
    return left


def leftovers(known: Inventory, names: Mapping[str, int] | list[str]) -> list[str]:
    """Return the names that only an interrupted rsync of amstrax can have left in a copy.

    Parameters
    ----------
    known
        Content of the folder of the run.
    names
        Names of the entries of the copy.
    """
    return [name for name in names if name not in known and _is_left(name, known)]


def _is_left(name: str, known: Inventory) -> bool:
    *folders, last = name.split("/")
    if rsync.PARTIAL in (*folders, last) or last == rsync.OLD_PARTIAL:
        return True
    if match := rsync.TEMPORARY.fullmatch(last):
        last = match["name"]
    elif folders[-1:] == [rsync.OLD_PARTIAL]:
        folders.pop()
    else:
        return False
    original = "/".join([*folders, last])
    return original in known and known[original].is_file


def _describe_marker(marker: Mapping[str, Any]) -> str:
    shown = [str(marker.get(key))[:40] for key in ("detector", "number", "start") if key in marker]
    return " ".join(shown) if shown else str(marker.get("source"))[:80]


def _some(names: list[str]) -> str:
    return some(sorted(names))


def mounted_in(folder: Path) -> Path | None:
    """Find where a disk, or a part of one, is mounted at a folder or below, given without links."""
    return next((p for p in _mount_points() if p.is_relative_to(folder)), None)


def _mount_points() -> list[Path]:
    """Return where disks, or parts of them, are mounted; `os.path.ismount` misses the latter."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    points = (line.split()[4] for line in text.splitlines())
    return [Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), p)) for p in points]
