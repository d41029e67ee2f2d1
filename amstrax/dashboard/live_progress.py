"""How far a run is while it is taken and processed, chunk by chunk, and the log of its job."""

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import strax

from amstrax import redax, rundoc, settings
from amstrax.auto_processing import copying
from amstrax.dashboard import run_overview
from amstrax.exceptions import (
    AmstraxError,
    InvalidRunDocument,
    LiveDataCorrupted,
    LiveDataNotFound,
    NotAvailable,
)
from amstrax.rundb import documents


class Live(NamedTuple):
    """Live data of a run on this machine: its folder, number of chunks, size, and whether all."""

    folder: Path
    chunks: int
    n_bytes: int
    is_closed: bool


class Chunk(NamedTuple):
    """A stored chunk: start and end [ns since unix epoch], rows, and size in memory [bytes]."""

    start: int
    end: int
    rows: int
    n_bytes: int


class Growing(NamedTuple):
    """Data of a type that is stored, or being made."""

    data_type: str
    is_complete: bool
    chunks: list[Chunk]

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return sum(chunk.rows for chunk in self.chunks)


def find_live(
    document: Mapping[str, Any], detector: str, live_data_dir: Path | None = None
) -> Live | None:
    """Return how much live data there is of a run; None where it is not on this machine.

    Parameters
    ----------
    document
        Run document.
    detector
        Detector, whose folder of the settings is looked in too.
    live_data_dir
        Folder with the runs' folders, before that of the settings.
    """
    try:
        name = copying.run_name(document)
    except AmstraxError:
        return None
    usual = live_data_dir or settings.live_data(detector)
    entries = documents.data_of(document, type="live", host=documents.this_host())
    here = [entry.get("location") for entry in entries]
    folders = [Path(usual)] if usual else []
    for location in (*here, *rundoc.live_folders(document)):
        with contextlib.suppress(InvalidRunDocument):
            folders.append(rundoc.check_location(location))
    for folder in folders:
        run_dir = folder / name
        if not run_dir.is_dir():
            continue
        try:
            chunks = redax.last_chunk(run_dir) + 1
            _, n_bytes = copying.count(copying.inventory(run_dir))
        except (OSError, LiveDataNotFound, LiveDataCorrupted):
            continue
        return Live(run_dir, chunks, n_bytes, copying.is_closed(run_dir))
    return None


def find_stored(st: strax.Context, run_id: str) -> list[Growing]:
    """Return the data types of a context that are stored or being made, with their chunks.

    Nothing is read but metadata.
    """
    result = []
    for data_type in st._plugin_class_registry:
        key = st.key_for(run_id, data_type)
        found = run_overview.find(st, key)
        folder = found or run_overview.being_made(st, key)
        if folder is None:
            continue
        chunks = _chunks(folder)
        if chunks is not None:
            is_complete = found is not None and not folder.name.endswith("_temp")
            result.append(Growing(data_type, is_complete, chunks))
    return result


def _chunks(folder: Path) -> list[Chunk] | None:
    """Return the chunks that metadata tells of; None where it is being written, or gone."""
    found: dict[int, Mapping[str, Any]] = {}
    try:
        for name in sorted(os.listdir(folder)):
            # One for all; and of forked processes, one for each chunk
            if name.endswith("-metadata.json"):
                of_all = json.loads((folder / name).read_text(encoding="utf-8")).get("chunks") or ()
                found |= {chunk["chunk_i"]: chunk for chunk in of_all}
            elif name.startswith("metadata_") and name.endswith(".json"):
                chunk = json.loads((folder / name).read_text(encoding="utf-8"))
                found[chunk["chunk_i"]] = chunk
        return [
            Chunk(chunk["start"], chunk["end"], chunk["n"], chunk["nbytes"])
            for _, chunk in sorted(found.items())
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


#: So much of the end of a log is read [bytes]
TAIL = 64_000


class Log(NamedTuple):
    """The end of a log.

    Attributes
    ----------
    path
        Its file.
    text
        What it says at its end.
    skipped
        How much of its beginning is left out [bytes].
    """

    path: Path
    text: str
    skipped: int


def read_log(document: Mapping[str, Any], log_folder: Path, most: int = TAIL) -> Log:
    """Return the end of the log of a run's last job.

    The document says which file that is; but anybody who can write documents could name any file
    there, so it must be a plain one in the log folder, and not by way of a link.

    Parameters
    ----------
    document
        Run document.
    log_folder
        Folder of logs.
    most
        So much of its end [bytes].

    Raises
    ------
    NotAvailable
        When there is no such log, or it is elsewhere.
    OSError
        When it cannot be read.
    """
    job = documents.job_of(document)
    name = job.get("log")
    if not isinstance(name, str) or not name:
        raise NotAvailable(
            "no log is known of this run: it was not submitted as a job, or its job was found later"
        )
    path, folder = Path(name), log_folder.absolute()
    if job.get("host") not in (None, documents.this_host()) and not path.exists():
        raise NotAvailable(f"the log is on {job['host']}: {name}")
    real, real_folder = path.resolve(), folder.resolve()
    if not real.is_relative_to(real_folder) or real.suffix != ".log":
        raise NotAvailable(
            f"the log {name} is not in the log folder {folder}: start the dashboard with its "
            "--log_folder to see it"
        )
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotAvailable(f"there is no log yet: {name}") from None
    with open(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise NotAvailable(f"{name} is no file")
        skipped = max(state.st_size - most, 0)
        file.seek(skipped)
        data = file.read(most)
    if skipped:
        # From the next whole line
        start = data.find(b"\n") + 1
        skipped, data = skipped + start, data[start:]
    return Log(path, data.decode("utf-8", "replace"), skipped)
