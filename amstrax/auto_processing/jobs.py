"""What a job that processes a run needs around strax: logging, signals, sources, tidying up."""

import argparse
import contextlib
import fcntl
import io
import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numba.core.event
import strax

from amstrax import redax
from amstrax.auto_processing import tools
from amstrax.auto_processing.tools import stop_on_signals
from amstrax.contexts import raw_data_types
from amstrax.exceptions import AlreadyAtWork
from amstrax.rundb.leases import Stop

__all__ = ["Stop", "output_to_log", "run_tool", "sole_worker", "stop_on_signals"]

log = logging.getLogger(__name__)


class LogStream(io.TextIOBase):
    """A text stream that writes lines to a log, at level DEBUG: for what strax prints."""

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
    """Log, at level DEBUG, what strax prints, and exceptions that end its threads.

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
    """Says, once, that numba compiles: the first job on a machine is silent for long otherwise."""

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


def run_tool(
    args: argparse.Namespace,
    logger: logging.Logger,
    work: Callable[[Stop], str | None],
    what: str,
    folder: object,
    option: str = "--output",
    log_name: str | None = None,
) -> int:
    """Do the work of a command that runs strax, and return its exit status, as `tools.run_tool`.

    What strax prints goes to the log, at level DEBUG, see `output_to_log`.
    """
    return tools.run_tool(
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
    """What a target is made from: stored data, or live data, or some of each.

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
            Wait and read no more when this is set.
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
    """Hold, within it, the right to write data of a run into a folder.

    The lock is the system's: it is gone with the process, however that ends.

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
