"""Support of jobs that run strax: sources, locks, data checks, progress, clean-up."""

import argparse
import contextlib
import fcntl
import io
import json
import logging
import os
import resource
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numba.core.event
import psutil
import strax
from tqdm.auto import tqdm

from amstrax import redax, rundoc
from amstrax.commands.base import run_tool
from amstrax.contexts import raw_data_types
from amstrax.exceptions import AlreadyAtWork, AmstraxError, InvalidRunDocument
from amstrax.rundb import documents
from amstrax.rundb.frontend import identity
from amstrax.rundb.leases import Stop
from amstrax.strax_ext.storage import CheckedBackend, DataDirectory

log = logging.getLogger(__name__)


class LogStream(io.TextIOBase):
    """Text stream that writes lines to a log at level DEBUG, for the output of strax."""

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._logger.debug("%s", line)
        return len(text)


@contextlib.contextmanager
def output_to_log(logger: logging.Logger, stop: Stop) -> Iterator[None]:
    """Log the output of strax, and exceptions that end its threads, at level DEBUG.

    The first of those exceptions comes to the main thread when the other threads have ended; so
    `stop` is set, lest one goes on waiting for live data. It also says so when functions are
    compiled.
    """

    def log_exception(args: threading.ExceptHookArgs) -> None:
        stop.event.set()
        if args.exc_value is not None:
            logger.debug("thread %s ended", args.thread, exc_info=args.exc_value)

    before, threading.excepthook = threading.excepthook, log_exception
    notice = CompilationNotice(logger)
    try:
        with (
            contextlib.redirect_stdout(LogStream(logger)),
            numba.core.event.install_listener("numba:compile", notice),
        ):
            yield
    finally:
        threading.excepthook = before


class CompilationNotice(numba.core.event.Listener):
    """Reports once that numba compiles, since the first job on a machine is silent for long."""

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._said = False

    def on_start(self, event: numba.core.event.Event) -> None:
        if not self._said:
            self._said = True
            self._logger.info(
                "compiling functions, which are kept for later: this takes up to a minute"
            )

    def on_end(self, event: numba.core.event.Event) -> None:
        pass


def run_strax_tool(
    args: argparse.Namespace,
    logger: logging.Logger,
    work: Callable[[Stop], str | None],
    what: str,
    folder: object,
    option: str = "--output",
    log_name: str | None = None,
) -> int:
    """Do the work of a command that runs strax, and return its exit status, as `base.run_tool`.

    The output of strax is logged at level DEBUG, see `output_to_log`.
    """
    return run_tool(
        args,
        logger,
        work,
        what,
        folder,
        option,
        log_name,
        around=lambda stop: output_to_log(logger, stop),
    )


class Source:
    """Input of a target: stored data, live data, or both.

    Parameters
    ----------
    st
        Context.
    run_id
        Run to process.
    target
        Data type to make; not stored.
    """

    def __init__(self, st: strax.Context, run_id: str, target: str):
        self._st = st
        self._run_id = run_id
        self._raw_types = raw_data_types(st)
        self.stored: list[str] = []
        self.needs_live_data = False
        self.on_raw_data: Callable[[int], None] = lambda n_bytes: None
        self._look_at(target, set())
        self._chunks = [
            (chunk["end"], chunk["nbytes"])
            for data_type in self.stored
            for chunk in st.get_metadata(run_id, data_type)["chunks"]
        ]
        self._chunks.sort(reverse=True)

    def _look_at(self, data_type: str, seen: set[str]) -> None:
        if data_type in seen:
            return
        seen.add(data_type)
        if self._st.is_stored(self._run_id, data_type):
            self.stored.append(data_type)
        elif data_type in self._raw_types:
            self.needs_live_data = True
        else:
            plugin = self._st._plugin_class_registry[data_type]()
            for dependency in plugin.depends_on:
                self._look_at(dependency, seen)

    def time_range(self) -> tuple[int, float | None]:
        """Return the start of the run [ns since unix epoch], and its duration [s] where known."""
        if not self.needs_live_data:
            chunks = self._st.get_metadata(self._run_id, self.stored[0])["chunks"]
            return chunks[0]["start"], (chunks[-1]["end"] - chunks[0]["start"]) / 1e9
        config = self._st.config
        start = int(config["run_start_time"]) * 1_000_000_000
        run_dir = Path(config["daq_input_dir"])
        if not redax.run_has_ended(run_dir, config["readout_threads"]):
            return start, None
        length, overlap = config["daq_chunk_duration"], config["daq_overlap_chunk_duration"]
        return start, (redax.last_chunk(run_dir) + 1) * (length + overlap) / 1e9

    def report_stored_until(self, end: int) -> None:
        """Report to ``on_raw_data`` stored data of chunks that end at `end` [ns] or before."""
        while self._chunks and self._chunks[-1][0] <= end:
            self.on_raw_data(self._chunks.pop()[1])

    def meter_reader(self, timeout: float, stop: Stop) -> None:
        """Make the context's reader report what it reads, and give up when told, or after a time.

        It reads ahead, where the processor has helper threads (`amstrax.strax_ext.processor`).

        Parameters
        ----------
        timeout
            Wait for new live data this long [s].
        stop
            When this is set, waiting and reading end.
        """
        source = self
        base = self._st._plugin_class_registry[self._raw_types[0]]

        class MeteredReader(base):  # type: ignore[valid-type, misc]
            input_timeout = timeout
            stop_waiting = stop.event

            def is_ready(self, chunk_i):
                threads = self.helper_threads
                is_ahead = threads is not None and threads.is_ahead(chunk_i)
                return is_ahead or super().is_ready(chunk_i)

            def compute(self, chunk_i):
                stop.check()
                read, threads = super().compute, self.helper_threads
                if threads is None:
                    result = read(chunk_i)
                else:
                    result = threads.take(chunk_i, read)
                    for next_i in range(chunk_i + 1, chunk_i + 1 + threads.n_ahead):
                        # The last chunk of a run has no overlap behind it: it is not read ahead
                        if not self.is_complete(next_i):
                            break
                        threads.read_ahead(next_i, read)
                source.on_raw_data(sum(chunk.nbytes for chunk in result.values()))
                return result

        # Part of the lineage, and of messages
        MeteredReader.__name__ = base.__name__
        self._st.register(MeteredReader)


@contextlib.contextmanager
def sole_worker(folder: Path, run_id: str) -> Iterator[None]:
    """Hold the lock for writing data of a run into a folder, in a with block.

    The operating system releases the lock when the process ends, in whatever way.

    Raises
    ------
    AlreadyAtWork
        When another process holds it.
    """
    path = folder / ".amstraxer.lock"
    is_new = not path.exists()
    with path.open("a") as file:
        if is_new:
            os.fchmod(file.fileno(), 0o666)  # others may work in the folder too
        try:
            # A byte of the file, empty as it is, for each run
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, zlib.crc32(run_id.encode()))
        except (BlockingIOError, PermissionError):
            raise AlreadyAtWork(
                f"another process is at work on run {run_id} in {folder}: wait until it has ended, "
                "or set another --output_folder"
            ) from None
        except OSError as error:
            log.warning("%s: this file system has no locks (%s)", folder, error)
        yield


def remove_incomplete(folder: Path, run_id: str) -> None:
    """Remove data of a run that strax could not finish writing.

    That is what it has marked so in the metadata, and folders with a temporary name. Complete data
    is not touched.
    """
    for path in folder.glob(f"{run_id}-*-*"):
        if not path.is_dir():
            continue
        if path.name.endswith("_temp") or _is_broken(path):
            log.debug("removing incomplete %s", path)
            shutil.rmtree(path, ignore_errors=True)


def _is_broken(path: Path) -> bool:
    prefix = path.name.partition("-")[2]
    try:
        metadata = json.loads((path / f"{prefix}-metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return "exception" in metadata or "writing_ended" not in metadata


log = logging.getLogger(__name__)

#: Start and end of a run are known to the DAQ no better than this [ns]
_CLOCKS = 1_000_000_000


class DataIncomplete(AmstraxError):
    """Written data is incomplete or damaged."""


def check_data(
    path: Path,
    raw_range: tuple[int, int],
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Load all of some data, compare it with what its metadata says, and return that.

    Parameters
    ----------
    path
        Folder of the data.
    raw_range
        Start and end of the run's raw data [ns since unix epoch], which it must have too.
    watch
        Called before each chunk; may raise.

    Raises
    ------
    DataIncomplete
        When the data cannot be loaded, or is incomplete or damaged.
    """
    backend = CheckedBackend()
    try:
        metadata = backend.get_metadata(str(path))
        chunks = list(_chunks(backend, path, metadata, watch))
    except (
        OSError,
        ValueError,
        RuntimeError,
        strax.DataCorrupted,
        strax.DataNotAvailable,
    ) as error:
        raise DataIncomplete(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error
    for (_, before), (after, _) in zip(chunks, chunks[1:], strict=False):
        if before != after:
            raise DataIncomplete(f"{path} has a gap, from {before} to {after} ns since 1970")
    if (chunks[0][0], chunks[-1][1]) != tuple(raw_range):
        raise DataIncomplete(
            f"{path} is from {chunks[0][0]} to {chunks[-1][1]} ns since 1970, but the raw data of "
            f"the run from {raw_range[0]} to {raw_range[1]}"
        )
    return metadata


def _chunks(
    backend: CheckedBackend, path: Path, metadata: Mapping[str, Any], watch: Callable[[], None]
) -> Iterator[tuple[int, int]]:
    """Load chunk by chunk, and yield start and end of each."""
    n_rows = [chunk["n"] for chunk in metadata["chunks"]]
    found = 0
    for chunk in backend.loader(str(path)):
        watch()
        if len(chunk) != n_rows[found]:
            raise DataIncomplete(
                f"chunk {found} of {path} has {len(chunk)} rows, its metadata says {n_rows[found]}"
            )
        found += 1
        yield chunk.start, chunk.end
    if found != len(n_rows):
        raise DataIncomplete(f"{path} has {found} chunks, its metadata says {len(n_rows)}")


def check_covers_run(raw_range: tuple[int, int], document: Mapping[str, Any], what: str) -> None:
    """Check that raw data begins and ends where its run does.

    The DAQ writes live data in chunks, so that may differ by one, with its overlap.

    Parameters
    ----------
    raw_range
        Start and end of the raw data [ns since unix epoch].
    document
        Document of the run.
    what
        Name of the data in messages.

    Raises
    ------
    DataIncomplete
        When it begins or ends at another time.
    """
    start, end = rundoc.start_time(document), rundoc.end_time(document)
    assert end is not None
    tolerance = _CLOCKS + _chunk_length(document)
    begins = raw_range[0] - start.timestamp() * 1e9
    ends = raw_range[1] - end.timestamp() * 1e9
    for word, difference in (("begins", begins), ("ends", ends)):
        if abs(difference) > tolerance:
            when = "after" if difference > 0 else "before"
            raise DataIncomplete(
                f"{what} {word} {abs(difference) / 1e9:.1f} s {when} the run does, as its document "
                "says: is all of its live data there? --any_length takes it as it is"
            )


def _chunk_length(document: Mapping[str, Any]) -> int:
    """Return the length of a chunk of live data with its overlap [ns]."""
    try:
        config = rundoc.reader_config(document)
    except InvalidRunDocument:
        # Existing raw data needs no settings of the DAQ
        return round((rundoc.CHUNK_LENGTH_S + rundoc.CHUNK_OVERLAP_S) * 1e9)
    return config["daq_chunk_duration"] + config["daq_overlap_chunk_duration"]


def _set_aside(path: Path) -> Path:
    """Rename the folder of invalid data, replacing an older such folder; return its new path."""
    aside = path.with_name(f".broken_{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


def check_written(
    st: strax.Context,
    run_id: str,
    document: Mapping[str, Any],
    places: tuple[Path, Path],
    any_length: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[strax.DataKey, Path, dict[str, Any]]]:
    """Check stored data that is not in the run document; yield key, folder and metadata of each.

    Invalid data is set aside, so that it is made again when the run is processed again.

    Parameters
    ----------
    st
        Context that finds the data.
    run_id
        Run.
    document
        Run document.
    places
        Folder for raw data, and folder for all other data.
    any_length
        Accept raw data that does not cover the run.
    watch
        As of `check_data`.

    Raises
    ------
    DataIncomplete
        When data is incomplete or damaged, or new raw data does not cover the run.
    """
    raw_types = raw_data_types(st)
    new = []
    for data_type in st._plugin_class_registry:
        key, place = st.key_for(run_id, data_type), places[data_type not in raw_types]
        is_known = documents.data_of(document, **identity(key, place))
        if (place / str(key)).is_dir() and not is_known:
            new.append((key, place))
    stored = [d for d in raw_types if st.is_stored(run_id, d)]
    if not stored:
        raise DataIncomplete(f"run {run_id} has no raw data to compare its other data with")
    chunks = st.get_metadata(run_id, stored[0])["chunks"]
    raw_range = (int(chunks[0]["start"]), int(chunks[-1]["end"]))
    if not any_length and stored[0] in {key.data_type for key, _ in new}:
        try:
            check_covers_run(raw_range, document, f"{stored[0]} of run {run_id}")
        except DataIncomplete:
            for key, place in new:
                _set_aside(place / str(key))
            raise
    for key, place in new:
        path = place / str(key)
        try:
            metadata = check_data(path, raw_range, watch)
        except DataIncomplete as error:
            raise DataIncomplete(
                f"{error}. It is now {_set_aside(path).name}; process the run again to make it "
                "again"
            ) from error
        yield key, place, metadata


log = logging.getLogger(__name__)


@contextlib.contextmanager
def from_scratch(
    st: strax.Context, run_id: str, output: Path, remake_raw: bool = False
) -> Iterator[None]:
    """Hide stored data of a run, and replace it by new data at the end of a with block.

    New data is written to a temporary folder. After an error it is removed, and stored data is
    unchanged.

    Parameters
    ----------
    st
        Context whose storage is changed meanwhile.
    run_id
        Run that is processed.
    output
        Folder of the context's storage that data is written to.
    remake_raw
        Hide stored raw data too.
    """
    prefix = f".from_scratch_{run_id}_"
    for left_behind in output.glob(f"{prefix}*"):
        # Left by a killed process: this is the only process working on the run
        shutil.rmtree(left_behind, ignore_errors=True)
    folder, storage = Path(tempfile.mkdtemp(dir=output, prefix=prefix)), st.storage
    raw_types = raw_data_types(st)
    stored = [] if remake_raw else [_only(frontend, raw_types) for frontend in storage]
    st.storage = [*stored, DataDirectory(str(folder))]
    try:
        yield
        for new in sorted(folder.glob(f"{run_id}-*-*")):
            with contextlib.suppress(FileNotFoundError):
                os.rename(output / new.name, folder / f"old_{new.name}")
            os.rename(new, output / new.name)
            log.debug("replaced %s", output / new.name)
    finally:
        st.storage = storage
        shutil.rmtree(folder, ignore_errors=True)


def _only(frontend: strax.StorageFrontend, data_types: tuple[str, ...]) -> strax.StorageFrontend:
    """Return a frontend on the same folder that is limited to some data types."""
    if not isinstance(frontend, strax.DataDirectory):
        return frontend
    return DataDirectory(frontend.path, readonly=True, take_only=data_types)


log = logging.getLogger(__name__)

_MIB = 2**20
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc}: {n:.1f} s [{elapsed}{postfix}]"


class Progress:
    """Report the progress of processing a run.

    Parameters
    ----------
    what
        What is made of which run.
    start
        Start of the run [ns since unix epoch].
    duration
        Duration of the run [s]; None while that is not known.
    show_bar
        Show a bar instead of lines.
    """

    def __init__(self, what: str, start: int, duration: float | None, show_bar: bool):
        self.what = what
        self.start = start
        self.duration = duration
        self.raw_bytes = 0
        self.rows = 0
        self.n_chunks = 0
        self.seconds = 0.0
        self._began = time.monotonic()
        self._bar = tqdm(
            total=duration,
            desc=what,
            unit="s",
            disable=not show_bar,
            bar_format=_BAR if duration else _BAR_WITHOUT_END,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exception) -> None:
        self._bar.close()

    def add_raw(self, n_bytes: int) -> None:
        """Count raw data that has been read."""
        self.raw_bytes += n_bytes

    def add_chunk(self, end: int, rows: int) -> None:
        """Count a chunk of the target: where it ends [ns since unix epoch], and its rows."""
        self.n_chunks += 1
        self.rows += rows
        before, self.seconds = self.seconds, max(self.seconds, (end - self.start) / 1e9)
        memory = psutil.Process().memory_info().rss // _MIB
        if self._bar.disable:
            log.info(
                "%s: chunk %d, %.1f s into the run, %.1f MB/s, %d MiB%s",
                self.what,
                self.n_chunks - 1,
                self.seconds,
                self.rate(),
                memory,
                self._time_left(),
            )
            return
        if self._bar.total:
            self._bar.total = max(self._bar.total, self.seconds)
        self._bar.set_postfix_str(f"{self.rate():.1f} MB/s, {memory} MiB", refresh=False)
        self._bar.update(self.seconds - before)

    def elapsed(self) -> float:
        """Return seconds since the start of the work."""
        return time.monotonic() - self._began

    def rate(self) -> float:
        """Return MB/s of raw data so far."""
        return self.raw_bytes / 1e6 / max(self.elapsed(), 1e-9)

    def totals(self) -> str:
        """Return a line with the totals."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return (
            f"{self.what}: {self.rows} rows in {self.n_chunks} chunks, {self.seconds:.1f} s of "
            f"data in {self.elapsed():.1f} s, {self.raw_bytes / 1e6:.1f} MB of raw data at "
            f"{self.rate():.1f} MB/s, at most {peak:.0f} MiB of memory"
        )

    def _time_left(self) -> str:
        if not self.duration or self.seconds <= 0:
            return ""
        left = self.elapsed() * max(self.duration - self.seconds, 0) / self.seconds
        return f", {left:.0f} s left"
