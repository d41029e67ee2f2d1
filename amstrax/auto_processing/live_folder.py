"""The folder of a run's live data: what is in it, and whether it is what it seems to be."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from amstrax import redax, rundoc, settings
from amstrax.auto_processing import rsync
from amstrax.exceptions import LiveDataCorrupted, LiveDataNotFound, UsageError
from amstrax.rundb import documents


class FileState(NamedTuple):
    """What tells whether a file has changed; a folder has -1 as its size [bytes], and no time."""

    size: int
    changed: int = 0
    inode: int = 0

    @property
    def is_file(self) -> bool:
        """Whether it is one, not a folder."""
        return self.size >= 0


Inventory = dict[str, FileState]


def run_name(document: Mapping) -> str:
    """Return the name of a run, by which its folder is called.

    Raises
    ------
    InvalidRunDocument
        When it has none, or one that a folder cannot have.
    """
    return rundoc.check_run_name(documents.name_of(document))


def is_same(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths lead to one folder, by links or mounts too."""
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
        Folders to take instead of that of the settings.

    Raises
    ------
    UsageError
        When there is none, or one is not there.
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
    """Return how many files there are, and their size [bytes]."""
    files = [state.size for state in found.values() if state.size >= 0]
    return len(files), sum(files)


def some(names: Sequence[str]) -> str:
    """Return the first of many names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def is_closed(run_dir: Path) -> bool:
    """Return whether the DAQ has written all of a run."""
    return (run_dir / redax.THE_END).is_dir() and not any(run_dir.glob("*_TEMP"))
