"""Writing files that hold a state, so that neither a kill nor a power cut leaves a part of one."""

import contextlib
import os
import uuid
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file, which takes the place of the one before at once and is on disk then.

    Parameters
    ----------
    path
        File; its folder must exist.
    text
        What it holds.
    mode
        Its permissions, of which the process's umask takes some away.

    Raises
    ------
    OSError
        When it cannot be written; the one before is as it was.
    """
    new = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
