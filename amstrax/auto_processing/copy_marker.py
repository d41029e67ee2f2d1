"""The marker of a copy of live data: a file that says which run it is, written before all others.

Readers of live data ignore its name. Without it, or with that of another run, nothing at a
destination is overwritten, nor counted as a copy. Its random id tells two copies from one folder
that is reached by two ways.
"""

import json
import tempfile
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amstrax import rundoc
from amstrax.auto_processing import live_folder, removal, rsync
from amstrax.auto_processing.live_folder import Inventory
from amstrax.auto_processing.rsync import Place
from amstrax.exceptions import CopyRefused, InvalidRunDocument
from amstrax.rundb import connection, documents

#: A larger file is no marker [bytes]
_LARGEST = 100_000

Marker = dict[str, Any]


def identity(collection: Any, document: Mapping[str, Any]) -> Marker:
    """Return what tells a run from all others, of either detector.

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


def find(place: Place, of_run: Mapping[str, Any]) -> Marker | None:
    """Return the marker of a copy; None where it has none, or one that does not name this document.

    Raises
    ------
    CopyRefused
        When it is that of another run.
    """
    marker = _read(place)
    if marker is None:
        return None
    different = {key for key, value in of_run.items() if key in marker and marker[key] != value}
    # A document that was exported and imported may have another _id: then the files decide, as
    # where there is no marker
    if different - {"document"}:
        raise CopyRefused(
            f"{place} holds another run ({_describe(marker)}; this is {_describe(of_run)}): move "
            f"that away, correct the destination or, if it is this run, remove {rsync.MARKER}"
        )
    is_whole = (
        not different and of_run.keys() <= marker.keys() and isinstance(marker.get("copy"), str)
    )
    return marker if is_whole else None


def _read(place: Place) -> Marker | None:
    try:
        marker = json.loads(rsync.fetch(place / rsync.MARKER, _LARGEST))
    except (ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) else None


def check_apart(run_dir: Path, place: Place, marker: Mapping[str, Any] | None = None) -> None:
    """Check that a copy is no live data itself, as by a mount: all files are the same then.

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
        When it is, or something is mounted in a copy on this machine.
    """
    folder = Path(place.folder)
    if place.ssh_host is None and (mounted := removal.mounted_in(folder.resolve())):
        raise CopyRefused(
            f"something is mounted at {mounted}, so {place} may be no copy: unmount that, or "
            "correct the destination"
        )
    own = _read(Place(str(run_dir))) if marker else None
    if marker and own and own.get("copy") == marker["copy"]:
        raise CopyRefused(
            f"{place} is {run_dir} itself, by another way: correct the destination, or remove a "
            f"{rsync.MARKER} that was copied into the latter"
        )


def add(place: Place, of_run: Mapping[str, Any]) -> Marker:
    """Write a marker, unless somebody else has just done so, and return the one that is there.

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
        found = find(place, of_run)
        if found is None:
            # One that cannot be read, as after a power cut
            rsync.send(file, place, replace=True)
            found = find(place, of_run)
    if found is None:
        raise CopyRefused(f"no marker can be written to {place / rsync.MARKER}: look at that")
    return found


def check(run_dir: Path, place: Place, known: Inventory, of_run: Mapping[str, Any]) -> list[str]:
    """Check that nothing at the place of a copy would be lost, and return what rsync left there.

    Parameters
    ----------
    run_dir
        Folder of the run.
    place
        Folder of its copy.
    known
        What is in `run_dir`.
    of_run
        As from `identity`.

    Raises
    ------
    CopyRefused
        When something else than a copy of this run, or a part of one, lies there.
    """
    there = rsync.listing(place)
    if there is None:
        return []
    check_apart(run_dir, place)
    wrong = [name for name, size in there.items() if size == rsync.ODD]
    if wrong:
        raise CopyRefused(f"{place} has {_some(wrong)}, neither file nor folder: move it away")
    is_whole = find(place, of_run) is not None
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
    """Return the names that only an rsync of ours, broken off, can have left at a copy.

    Parameters
    ----------
    known
        What is in the folder of the run.
    names
        Names of what is in the copy.
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


def _describe(marker: Mapping[str, Any]) -> str:
    shown = [str(marker.get(key))[:40] for key in ("detector", "number", "start") if key in marker]
    return " ".join(shown) if shown else str(marker.get("source"))[:80]


def _some(names: list[str]) -> str:
    return live_folder.some(sorted(names))
