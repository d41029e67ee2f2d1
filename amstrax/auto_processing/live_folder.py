"""The folder of a run's live data: what is in it, and whether it is what it seems to be."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from amstrax import redax, rundoc
from amstrax.exceptions import LiveDataCorrupted, LiveDataNotFound
from amstrax.rundb import documents


class FileState(NamedTuple):
    """What tells whether a file has changed; a folder has -1 as its size [bytes], and no time."""

    size: int
    changed: int = 0
    inode: int = 0


Inventory = dict[str, FileState]


def run_name(document: Mapping) -> str:
    """Return the name of a run, by which its folder is called.

    Raises
    ------
    InvalidRunDocument
        When it has none, or one that a folder cannot have.
    """
    return rundoc.check_run_name(documents.name_of(document))


def inventory(run_dir: Path) -> Inventory:
    """Return the files and folders in the folder of a run, by their names within it.

    Raises
    ------
    LiveDataNotFound
        When there is no such folder, or it is a link.
    LiveDataCorrupted
        When there is something in it that is neither file nor folder, or on another disk.
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
            f"{error.filename} vanished while {run_dir} was looked at: somebody removes it"
        ) from None


def _walk(folder: Path, prefix: str, device: int) -> Iterator[tuple[str, FileState]]:
    with os.scandir(folder) as entries:
        for entry in entries:
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
    """Return how many files there are, and their size [bytes]."""
    files = [state.size for state in found.values() if state.size >= 0]
    return len(files), sum(files)


def is_closed(run_dir: Path) -> bool:
    """Return whether the DAQ has written all of a run."""
    return (run_dir / redax.THE_END).is_dir() and not any(run_dir.glob("*_TEMP"))
