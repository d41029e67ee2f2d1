"""Removing the folder of a run, and never anything else; what was broken off can be told apart.

A folder is first given another name beside the old one: whatever was verified of it before can then
be looked at again, while nobody finds it any more. Its own name can be given back.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from amstrax.exceptions import DeletionRefused

_SUFFIX = ".being_deleted"
_SET_ASIDE = re.compile(rf"\.(?P<name>[^/]+){re.escape(_SUFFIX)}")


def aside(run_dir: Path) -> Path:
    """Return the name under which the folder of a run is set aside."""
    return run_dir.with_name(f".{run_dir.name}{_SUFFIX}")


def set_aside_in(parent: Path) -> list[Path]:
    """Return the folders of runs, by their own names, that are set aside in a folder."""
    matches = (_SET_ASIDE.fullmatch(name) for name in sorted(os.listdir(parent)))
    return [parent / match["name"] for match in matches if match]


def set_aside(run_dir: Path) -> Path:
    """Give the folder of a run another name, and return that.

    Raises
    ------
    DeletionRefused
        When it is none, is in use as the place of another disk, or there is one set aside already.
    """
    new = aside(run_dir)
    with _opened(run_dir.parent) as parent:
        _check(run_dir, parent)
        if _exists(new.name, parent):
            raise DeletionRefused(
                f"{new} is there already, of the same run: look which of the two is needed, and "
                "remove the other"
            )
        _rename(run_dir.name, new.name, parent)
    return new


def put_back(run_dir: Path) -> None:
    """Give a folder that was set aside its own name again.

    Raises
    ------
    DeletionRefused
        When there is another one of that name.
    """
    with _opened(run_dir.parent) as parent:
        if _exists(run_dir.name, parent):
            raise DeletionRefused(
                f"{aside(run_dir)} cannot be called {run_dir.name} again, which there is too: look "
                "which of the two is needed, and remove the other"
            )
        _rename(aside(run_dir).name, run_dir.name, parent)


def remove(run_dir: Path) -> None:
    """Remove a folder that was set aside, for good.

    Raises
    ------
    DeletionRefused
        As of `set_aside`.
    """
    old = aside(run_dir)
    with _opened(run_dir.parent) as parent:
        _check(old, parent)
        # Goes from folder to folder by open descriptors, so that it follows no link
        shutil.rmtree(old.name, dir_fd=parent)
        os.fsync(parent)


def check(run_dir: Path) -> None:
    """Check that a folder may be removed, as far as its own name and disks tell.

    Raises
    ------
    DeletionRefused
        When it is no folder, a link, or another disk is mounted in it.
    """
    with _opened(run_dir.parent) as parent:
        _check(run_dir, parent)


def _check(path: Path, parent: int) -> None:
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
    finally:
        os.close(descriptor)
    if mounted := mounted_in(whole):
        raise DeletionRefused(
            f"something is mounted at {mounted}, which is of {path}: nothing is deleted"
        )


def mounted_in(folder: Path) -> Path | None:
    """Find where a disk, or a part of one, is mounted at a folder or below, given without links."""
    return next((p for p in _mount_points() if p.is_relative_to(folder)), None)


def _mount_points() -> list[Path]:
    """Return where disks, or parts of them, are mounted; `os.path.ismount` misses the latter."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    points = (line.split()[4] for line in text.splitlines())
    return [Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), p)) for p in points]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _rename(old: str, new: str, parent: int) -> None:
    os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)
    # On disk, before the run database is told of anything
    os.fsync(parent)
