"""Parts of processing a run with strax: output, source, locks, data checks, progress."""

import argparse
import contextlib
import fcntl
import functools
import gc
import io
import logging
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numba.core.event
import psutil
import strax
from tqdm import tqdm

from amstrax import redax, rundoc
from amstrax.commands import base
from amstrax.contexts import raw_data_types
from amstrax.exceptions import AlreadyAtWork, AmstraxError, InvalidRunDocument
from amstrax.processing.compiled import Kernel
from amstrax.rundb import documents, leases
from amstrax.rundb.frontend import identity
from amstrax.rundb.leases import Stop
from amstrax.rundb.stored import is_complete
from amstrax.strax_ext.context import Context
from amstrax.strax_ext.storage import CheckedBackend, DataDirectory

log = logging.getLogger(__name__)


class _LogStream(io.TextIOBase):
    """Text stream that logs lines at level DEBUG, for the output of strax."""

    def __init__(self, logger: logging.Logger):
        self._logger, self._line = logger, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._logger.debug("%s", line)
        return len(text)


#: Memory that a job keeps for its next chunk [bytes]
_KEPT = 1 << 30


def retain_freed_memory() -> None:
    """Keep up to 1 GiB of freed memory for later use.

    By default glibc returns freed arrays of more than 32 MB, and free memory at the end of its
    heap, to the system. To map it again, page by page, for each chunk takes a quarter of the time
    of a job on dense data (benchmarks/PROFILE.md).
    """
    base.libc("mallopt", base.M_TRIM_THRESHOLD, _KEPT)
    base.libc("mallopt", base.M_MMAP_THRESHOLD, _KEPT)
    # One heap, since those of other threads are limited to 64 MB
    base.libc("mallopt", base.M_ARENA_MAX, 1)


@contextlib.contextmanager
def existing_objects_frozen() -> Iterator[None]:
    """Hide existing objects from the garbage collector within the context.

    More than 100,000 objects belong to imported modules, and would be visited again and again.
    Objects that are hidden already stay so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _CompilationNotice(numba.core.event.Listener):
    """Logs once that numba compiles, which makes the first job on a machine slow."""

    def __init__(self, logger: logging.Logger):
        self._logger, self._is_logged = logger, False

    def on_start(self, event: numba.core.event.Event) -> None:
        if not self._is_logged:
            self._is_logged = True
            self._logger.info(
                "compiling functions (once, about a minute); later jobs use the cache"
            )

    def on_end(self, event: numba.core.event.Event) -> None:
        pass


class _Compilation(numba.core.event.Listener):
    """Time that numba has spent on compiling [s], and number of functions; may show a bar."""

    def __init__(self, show_bar: bool):
        self.seconds, self.n = 0.0, 0
        self._show_bar, self._depth, self._began = show_bar, 0, 0.0
        self._bar: tqdm | None = None
        self._total = 0

    def on_start(self, event: numba.core.event.Event) -> None:
        # Functions that a function calls are compiled within
        if self._depth == 0:
            self._began = time.monotonic()
            if self._bar is None:
                self._total = self._total or sum(k.needs_compiling() for k in Kernel.known)
                self._bar = tqdm(
                    total=self._total,
                    desc="compiling (once, about a minute)",
                    unit="functions",
                    disable=not self._show_bar,
                    leave=False,
                    bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}]",
                )
        self._depth += 1

    def on_end(self, event: numba.core.event.Event) -> None:
        self._depth -= 1
        if self._depth:
            return
        self.seconds += time.monotonic() - self._began
        self.n += 1
        # Functions of strax are not in the total, and not all of ours may be needed
        if self._bar is not None and self._bar.n < self._total:
            self._bar.update()

    def close_bar(self) -> None:
        """Remove the bar until more is compiled."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def _output_to_log(logger: logging.Logger, stop: Stop) -> Iterator[None]:
    """Log the output of strax, and exceptions that end its threads, at level DEBUG.

    strax raises the first exception in the main thread only after all threads have ended. So
    `stop` is set, as another thread may wait for live data.
    """

    def log_exception(args: threading.ExceptHookArgs) -> None:
        stop.event.set()
        if args.exc_value is not None:
            logger.debug("thread %s ended", args.thread, exc_info=args.exc_value)

    before, threading.excepthook = threading.excepthook, log_exception
    try:
        with (
            contextlib.redirect_stdout(_LogStream(logger)),
            numba.core.event.install_listener("numba:compile", _CompilationNotice(logger)),
        ):
            yield
    finally:
        threading.excepthook = before


def run_strax_tool(
    args: argparse.Namespace,
    logger: logging.Logger,
    work: Callable[[Stop], str | None],
    what: str,
    folder: object,
    option: str,
) -> int:
    """Do the work of a command that runs strax as `base.run_tool`; log output of strax as DEBUG."""
    around = functools.partial(_output_to_log, logger)
    return base.run_tool(args, logger, work, what, folder, option, around=around)


class Source:
    """Input of a target of a run that is not stored: stored data, live data, or both."""

    def __init__(self, st: Context, run_id: str, target: str):
        self._st = st
        self._run_id = run_id
        self._raw_types = raw_data_types(st)
        self.stored: list[str] = []
        self.needs_live_data = False
        #: Called with the size of raw data that has been read [bytes]
        self.on_raw_data: Callable[[int], None] = lambda n_bytes: None
        self._find_inputs(st._of_run(run_id), target, set())
        self._chunks = [
            (chunk["end"], chunk["nbytes"])
            for data_type in self.stored
            for chunk in st.get_metadata(run_id, data_type)["chunks"]
        ]
        self._chunks.sort(reverse=True)

    def _find_inputs(self, st: Context, data_type: str, seen: set[str]) -> None:
        if data_type in seen:
            return
        seen.add(data_type)
        if st.is_stored(self._run_id, data_type):
            self.stored.append(data_type)
        elif data_type in self._raw_types:
            self.needs_live_data = True
        else:
            for dependency in st._plugin_class_registry[data_type]().depends_on:
                self._find_inputs(st, dependency, seen)

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
        """Make the context's reader report its progress, read ahead, and end with `stop`.

        It gives up after `timeout` [s] without new live data. It reads ahead if the processor has
        helper threads.
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

    The operating system releases the lock when the process ends or is killed. Raises AlreadyAtWork
    when another process holds it.
    """
    path = folder / leases.LOCK_FILE
    is_new = not path.exists()
    with path.open("a") as file:
        if is_new:
            os.fchmod(file.fileno(), 0o666)  # other users may write to the folder too
        try:
            # Each run has a byte of the file, which may lie beyond its end
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, leases.lock_place(run_id))
        except (BlockingIOError, PermissionError):
            raise AlreadyAtWork(
                f"another process is at work on run {run_id} in {folder}: wait until it has ended, "
                "or set another --output_folder"
            ) from None
        except OSError as error:
            log.warning("%s: this file system has no locks (%s)", folder, error)
        yield


def remove_incomplete(folder: Path, run_id: str) -> None:
    """Remove data of a run that strax could not finish writing; complete data stays.

    Such data has a temporary name, or metadata with an exception or without end.
    """
    for path in folder.glob(f"{run_id}-*-*"):
        # Data whose metadata cannot be read may be complete
        is_broken = path.name.endswith("_temp") or is_complete(path) is False
        if is_broken and path.is_dir():
            log.debug("removing incomplete %s", path)
            shutil.rmtree(path, ignore_errors=True)


#: Accuracy of the start and end of a run in its document [ns]
_TIME_ACCURACY = 1_000_000_000
#: Errors of data that cannot be loaded
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, strax.DataCorrupted, strax.DataNotAvailable)


class DataIncomplete(AmstraxError):
    """Written data is incomplete or damaged."""


def check_data(
    path: Path, raw_range: tuple[int, int], watch: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Load all data in a folder, compare it with its metadata, and return the metadata.

    `raw_range` is the start and end of the run's raw data [ns since unix epoch], which the data
    must have too; `watch` is called before each chunk, and may raise. Raises DataIncomplete when
    the data cannot be loaded, or is incomplete or damaged.
    """
    backend = CheckedBackend()
    chunks: list[tuple[int, int]] = []
    try:
        metadata = backend.get_metadata(str(path))
        n_rows = [chunk["n"] for chunk in metadata["chunks"]]
        for chunk in backend.loader(str(path)):
            watch()
            n = n_rows[len(chunks)]
            if len(chunk) != n:
                raise DataIncomplete(
                    f"chunk {len(chunks)} of {path} has {len(chunk)} rows, its metadata says {n}"
                )
            chunks.append((chunk.start, chunk.end))
    except _LOAD_ERRORS as error:
        raise DataIncomplete(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error
    if len(chunks) != len(n_rows):
        raise DataIncomplete(f"{path} has {len(chunks)} chunks, its metadata says {len(n_rows)}")
    for (_, before), (after, _) in zip(chunks, chunks[1:], strict=False):
        if before != after:
            raise DataIncomplete(f"{path} has a gap, from {before} to {after} ns since 1970")
    if (chunks[0][0], chunks[-1][1]) != tuple(raw_range):
        raise DataIncomplete(
            f"{path} is from {chunks[0][0]} to {chunks[-1][1]} ns since 1970, but the raw data of "
            f"the run from {raw_range[0]} to {raw_range[1]}"
        )
    return metadata


def _check_covers_run(raw_range: tuple[int, int], document: Mapping[str, Any], what: str) -> None:
    """Check that raw data begins and ends with its run, within a chunk of live data."""
    start, end = rundoc.start_time(document), rundoc.end_time(document)
    assert end is not None
    # Existing raw data needs no settings of the DAQ
    length = round((rundoc.CHUNK_LENGTH_S + rundoc.CHUNK_OVERLAP_S) * 1e9)
    with contextlib.suppress(InvalidRunDocument):
        config = rundoc.reader_config(document)
        length = config["daq_chunk_duration"] + config["daq_overlap_chunk_duration"]
    begins = raw_range[0] - start.timestamp() * 1e9
    ends = raw_range[1] - end.timestamp() * 1e9
    for word, difference in (("start", begins), ("end", ends)):
        if abs(difference) > _TIME_ACCURACY + length:
            when = "after" if difference > 0 else "before"
            raise DataIncomplete(
                f"the {word} of {what} is {abs(difference) / 1e9:.1f} s {when} that of the run in "
                "its document: check its live data, or accept this with --any_length"
            )


def _set_aside(path: Path) -> Path:
    """Rename the folder of invalid data, replacing an older such folder; return its new path."""
    aside = path.with_name(f".broken_{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


def check_written(
    st: Context,
    run_id: str,
    document: Mapping[str, Any],
    places: tuple[Path, Path],
    any_length: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[strax.DataKey, Path, dict[str, Any]]]:
    """Check stored data that is not in the run document; yield key, folder and metadata of each.

    Invalid data is set aside, so that it is made again when the run is processed again. Raises
    DataIncomplete when data is incomplete or damaged, or new raw data does not cover the run, which
    `any_length` accepts. `st` is a context that finds the data, `places` are the folders for raw
    data and for all other data, `watch` is as of `check_data`.
    """
    # With the options of this moment, which are compared only once then
    st, raw_types = st._of_run(run_id), raw_data_types(st)
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
            _check_covers_run(raw_range, document, f"{stored[0]} of run {run_id}")
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


@contextlib.contextmanager
def from_scratch(
    st: strax.Context, run_id: str, output: Path, remake_raw: bool = False
) -> Iterator[None]:
    """Hide stored data of a run in a with block, and replace it by new data at its end.

    New data is written to a temporary folder in `output`, the context's folder to write to. After
    an error it is removed, and stored data is unchanged. Raw data is hidden with `remake_raw`.
    """
    prefix = f".from_scratch_{run_id}_"
    for left_behind in output.glob(f"{prefix}*"):
        # Left by a killed process: this is the only process working on the run
        shutil.rmtree(left_behind, ignore_errors=True)
    folder, storage = Path(tempfile.mkdtemp(dir=output, prefix=prefix)), st.storage
    raw_types = raw_data_types(st)
    with_raw_data = [
        DataDirectory(frontend.path, readonly=True, take_only=raw_types)
        if isinstance(frontend, strax.DataDirectory)
        else frontend
        for frontend in ([] if remake_raw else storage)
    ]
    st.storage = [*with_raw_data, DataDirectory(str(folder))]
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


_MIB = 2**20
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc}: {n:.1f} s [{elapsed}{postfix}]"


class Progress:
    """Report the progress of processing a run, and that functions are compiled.

    Speed and time left do not count the time of compiling. `what` names data type and run; `start`
    is that of the run [ns since unix epoch], `duration` its duration [s], None if unknown. With
    `show_bar`, a bar replaces log lines.
    """

    def __init__(self, what: str, start: int, duration: float | None, show_bar: bool):
        self._what, self._start, self._duration = what, start, duration
        self._raw_bytes = self._rows = self._n_chunks = 0
        self._seconds = 0.0
        self._began = time.monotonic()
        self._bar = tqdm(
            total=duration,
            desc=what,
            unit="s",
            disable=not show_bar,
            bar_format=_BAR if duration else _BAR_WITHOUT_END,
        )

        self._compilation = _Compilation(show_bar)
        self._reported_compiling = 0.0
        self._listening = numba.core.event.install_listener("numba:compile", self._compilation)

    def __enter__(self) -> "Progress":
        self._listening.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._listening.__exit__(*exception)
        self._compilation.close_bar()
        self._bar.close()

    def add_raw(self, n_bytes: int) -> None:
        """Count raw data that has been read."""
        self._raw_bytes += n_bytes

    def add_chunk(self, end: int, rows: int) -> None:
        """Count a chunk of the target: its end [ns since unix epoch], and its rows."""
        self._n_chunks += 1
        self._rows += rows
        before, self._seconds = self._seconds, max(self._seconds, (end - self._start) / 1e9)
        elapsed, rate = self._elapsed_and_rate()
        self._report_compiling()
        memory = psutil.Process().memory_info().rss // _MIB
        if not self._bar.disable:
            if self._bar.total:
                self._bar.total = max(self._bar.total, self._seconds)
            self._bar.set_postfix_str(f"{rate:.1f} MB/s, {memory} MiB", refresh=False)
            self._bar.update(self._seconds - before)
            return
        left = ""
        if self._duration and self._seconds > 0:
            seconds = elapsed * max(self._duration - self._seconds, 0) / self._seconds
            left = f", {seconds:.0f} s left"
        log.info(
            "%s: chunk %d, %.1f s into the run, %.1f MB/s, %d MiB%s",
            self._what,
            self._n_chunks - 1,
            self._seconds,
            rate,
            memory,
            left,
        )

    def _report_compiling(self) -> None:
        new = self._compilation.seconds - self._reported_compiling
        if new == 0:
            return
        self._reported_compiling += new
        self._compilation.close_bar()
        if self._bar.disable:
            log.info("compiled %d functions in %.0f s", self._compilation.n, new)
        else:
            self._bar.start_t += new

    def _elapsed_and_rate(self) -> tuple[float, float]:
        """Return the time of the work without compiling [s], and the rate of raw data [MB/s]."""
        elapsed = time.monotonic() - self._began - self._compilation.seconds
        return elapsed, self._raw_bytes / 1e6 / max(elapsed, 1e-9)

    def totals(self) -> str:
        """Return a line with the totals."""
        unit = 1 if sys.platform == "darwin" else 1024  # bytes in macOS, kB in Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
        elapsed, rate = self._elapsed_and_rate()
        return (
            f"{self._what}: {self._rows} rows in {self._n_chunks} chunks, {self._seconds:.1f} s of "
            f"data in {elapsed:.1f} s, {self._raw_bytes / 1e6:.1f} MB of raw data at {rate:.1f} "
            f"MB/s, at most {peak:.0f} MiB of memory"
        )
