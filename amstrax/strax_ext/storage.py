"""Folders of data, as strax stores it: failed writes are errors, and writing takes less time.

When strax (2.2.3) writes in other threads it ignores exceptions there: with a full disk it ends
without an error, and the metadata calls the data complete. Compression takes half to three quarters
of the time of strax's (benchmarks/PROFILE.md), and every strax reads the files. Metadata is written
less often.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import blosc
import lz4.frame
import numpy as np
import strax

from amstrax.strax_ext.plugin import Chunk

#: How often metadata is written while chunks come fast, after the first few [s]; and what that may
#: take of the time of one of a job's dozen savers, where the list of chunks is long
_SECONDS_BETWEEN, _SHARE_OF_TIME, _FIRST_CHUNKS = 1.0, 0.005, 3


class CheckedSaver(strax.FileSaver):
    """Saver that fails, as strax's do without threads, when a chunk could not be written.

    The list of chunks grows with each, and strax writes it after each, over the one before. Here it
    is put in place whole, so that who reads along with a live run finds no half of it, and is left
    out while chunks come faster than one a second.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # Writing of a chunk, in the background -> what metadata says of that chunk
        self._writes: dict[Future, dict] = {}
        self._next_flush = 0.0
        super().__init__(*args, **kwargs)

    @property
    def _flush_md_for_every_chunk(self) -> bool:
        is_time = time.monotonic() >= self._next_flush
        return is_time or len(self.md["chunks"]) <= _FIRST_CHUNKS

    def _flush_metadata(self) -> None:
        began = time.thread_time()
        self._look_at_writes()
        # Without chunks that are not on disk yet, or come after such a one
        n_written = min((chunk["chunk_i"] for chunk in self._writes.values()), default=None)
        # Indented only at the end: that is left to slower code of the library
        options = self.json_options if self.closed else {"sort_keys": True}
        text = json.dumps({**self.md, "chunks": self.md["chunks"][:n_written]}, **options)
        path = Path(self.tempdirname, self.metadata_json)
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
        # Not by the clock: a process that is paused would then write nothing for long
        took = time.thread_time() - began
        self._next_flush = time.monotonic() + max(_SECONDS_BETWEEN, took / _SHARE_OF_TIME)

    def _save_chunk(
        self, data: np.ndarray, chunk_info: dict, executor: Executor | None = None
    ) -> tuple[dict, Future | None]:
        self._look_at_writes()
        filename = self._chunk_filename(chunk_info)
        path = os.path.join(self.tempdirname, filename)
        arguments = {"data": data, "compressor": self.md["compressor"]}
        if executor is None:
            return {"filename": filename, "filesize": save_file(path, **arguments)}, None
        write = executor.submit(save_file, path, **arguments)
        self._writes[write] = chunk_info
        return {"filename": filename}, write

    def _look_at_writes(self, wait: bool = False) -> None:
        """Note the sizes of what has been written, and raise what a write has raised."""
        for write in [write for write in self._writes if wait or write.done()]:
            chunk = self._writes.pop(write)
            chunk["filesize"] = write.result(self.timeout)

    def close(self, wait_for: list | tuple = ()) -> None:
        """Close the files; what a write has raised is in ``got_exception`` and the metadata."""
        if self.closed and strax.formatted_exception():
            return  # strax closes all savers then, also closed ones
        try:
            self._look_at_writes(wait=True)
        except Exception as error:
            self._writes = {}
            self.got_exception = error
            # strax puts the exception that is being handled into the metadata
            super().close(wait_for)
        else:
            super().close(wait_for)


class CheckedBackend(strax.FileSytemBackend):
    """Backend that saves with `CheckedSaver`, and loads chunks as `Chunk`."""

    saver_class: type[CheckedSaver] = CheckedSaver

    def _read_and_format_chunk(self, *args: Any, **kwargs: Any) -> strax.Chunk:
        return Chunk.of(super()._read_and_format_chunk(*args, **kwargs))

    @staticmethod
    def apply_time_range(chunk: strax.Chunk, time_range: tuple[int, int]) -> strax.Chunk:
        """Return the part of a chunk in a time range [ns]."""
        return strax.FileSytemBackend.apply_time_range(Chunk.of(chunk), time_range)

    def _saver(self, dirname: str, metadata: dict, **kwargs: Any) -> CheckedSaver:
        parent = Path(dirname).absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise strax.DataNotAvailable(f"cannot write {dirname}: {error}") from error
        if not os.access(parent, os.W_OK):
            raise strax.DataNotAvailable(f"cannot write {dirname}: no permission in {parent}")
        return self.saver_class(dirname, metadata=metadata, **kwargs)


class DataDirectory(strax.DataDirectory):
    """Folder of data; parameters are those of `strax.DataDirectory`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.backends = [CheckedBackend()]

    def _scan_runs(self, store_fields: Any) -> Iterator[dict[str, Any]]:
        for run in super()._scan_runs(store_fields):
            name = str(run.get("name"))
            if "number" not in run and not name.startswith("_") and not name.isdigit():
                # strax makes a number of every other name
                run["number"] = -1
            yield run


def save_file(path: str, data: np.ndarray, compressor: str) -> int:
    """Write an array to a compressed file, as `strax.save_file`, and return its size [bytes]."""
    if compressor not in _COMPRESS:
        return strax.save_file(path, data=data, compressor=compressor)
    compressed = _COMPRESS[compressor](data)
    temporary = Path(f"{path}_temp")
    temporary.write_bytes(compressed)
    temporary.rename(path)
    return len(compressed)


def compress_lz4(data: np.ndarray) -> bytes:
    """Return data as one frame of lz4: 1 % larger than strax's, for raw records."""
    return lz4.frame.compress(data, compression_level=-5)


def compress_blosc(data: np.ndarray) -> bytes:
    """Return an array compressed with blosc: 2 to 4 % smaller than strax's, whose codec is slower.

    Raises
    ------
    ValueError
        When it is too large for blosc.
    """
    if data.nbytes >= blosc.MAX_BUFFERSIZE:
        raise ValueError(
            f"{data.nbytes / 1e9:.1f} GB are more than blosc can compress at once: let the chunks "
            "be smaller (chunk_target_size_mb)"
        )
    return blosc.compress(data, shuffle=blosc.NOSHUFFLE, cname="lz4", clevel=9)


_COMPRESS = {"lz4": compress_lz4, "blosc": compress_blosc}


class Rechunker(strax.Rechunker):
    """Joins chunks to those that strax's rechunker makes, once there are enough rows.

    strax joins every chunk that comes with all that it keeps, and compiles the search for gaps for
    each data type.
    """

    def __init__(self, rechunk: bool = False, run_id: str | None = None):
        super().__init__(rechunk, run_id)
        self.cache: strax.Chunk | None = None
        self._waiting: list[strax.Chunk] = []

    def receive(self, chunk: strax.Chunk) -> list[strax.Chunk]:
        """Take a chunk, and return those that are large enough now."""
        if not self.rechunk or self.is_superrun:
            return super().receive(chunk)
        if self.cache is not None:
            self._waiting.append(self.cache)
            self.cache = None
        self._waiting.append(chunk)
        # strax splits nothing that has no more rows than a chunk may have
        allowed = max(c.target_size_mb for c in self._waiting) * 1e6 // chunk.data.itemsize
        if sum(map(len, self._waiting)) <= allowed:
            return []
        chunks = super().receive(self._join())
        if chunks and self.cache is not None:
            # Without all the memory of which it is a part
            self.cache.data = self.cache.data.copy()
        return chunks

    def flush(self) -> list[strax.Chunk]:
        """Return the chunk that is left, if any."""
        if self._waiting:
            self.cache = self._join()
        return super().flush()

    def _join(self) -> strax.Chunk:
        chunks, self._waiting = self._waiting, []
        return Chunk.concatenate(chunks)

    @staticmethod
    def get_splits(data: np.ndarray, target_size: float, min_gap: int = 1000) -> np.ndarray:
        """Return indices at which to split data, as strax's function of that name."""
        intervals = np.empty(len(data), dtype=strax.time_fields)
        intervals["time"] = data["time"]
        intervals["endtime"] = strax.endtime(data)
        n_rows = target_size // data.itemsize
        return strax.Rechunker.get_splits(intervals, n_rows * intervals.itemsize, min_gap)


def warm_up() -> None:
    """Compile what strax needs only where a data type is large enough for a second chunk."""
    Rechunker.get_splits(np.zeros(2, dtype=strax.time_fields), 1e6)
