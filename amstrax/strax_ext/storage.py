"""Chunks, and the folders that store them: failed writes are errors, and writing takes less time.

When strax (2.2.3) writes in other threads it ignores exceptions there: with a full disk it ends
without an error, and the metadata calls the data complete. Compression takes half to three quarters
of the time of strax's (benchmarks/PROFILE.md), and every strax reads the files.
"""

import ast
import copy
import functools
import inspect
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from operator import attrgetter
from pathlib import Path
from typing import Any

import blosc
import lz4.frame
import numpy as np
import strax

from amstrax.exceptions import AmstraxError, UnsupportedStrax
from amstrax.processing.compiled import I64, as_void, column, kernel

#: Versions of strax that amstrax is tested with
TESTED = ("2.2.3",)
_PARSING = threading.Lock()

#: Names of strax that are overridden or called -> their parameters (None: not a function)
HOOKS: dict[str, str | None] = {
    "Chunk.concatenate": "chunks, allow_superrun",
    "Chunk.split": "self, t, allow_early_split",
    "Context._add_saver": "self, savers, d_to_save, run_id, target_plugin, combining",
    "Context._context_hash": "self",
    "Context._fixed_level_cache": None,
    "Context._fixed_plugin_cache": None,
    "Context._get_partial_loader_for": "self, key, time_range, chunk_number, rechunk, "
    "source_size_mb",
    "Context._get_plugins": "self, targets, run_id, chunk_number",
    "Context._make_progress_bar": "self, run_id, targets, progress_bar",
    "Context._plugins_are_cached": "self, targets",
    "Context._plugins_to_cache": "self, plugins",
    "Context._sorted_storage": None,
    "Context.get_data_kinds": "self",
    "Context.get_dependency_plugins": "self, target, run_id, chunk_number",
    "Context.get_metadata": "self, run_id, target, chunk_number, combining",
    "Context.get_source_sf": "self, run_id, target, should_exist, chunk_number",
    "Context.key_for": "self, run_id, target, chunk_number, combining",
    "Context.keys_for_runs": "self, target, run_ids",
    "Context.__init__": "self, storage, config, register, register_all, processors, kwargs",
    "Context.new_context": "self, storage, config, register, register_all, processors, "
    "replace, kwargs",
    "Context.register": "self, plugin_class",
    "Context.run_defaults": "self, run_id",
    "Context.scan_runs": "self, check_available, if_check_available, store_fields",
    "Context.set_config": "self, config, mode",
    "Context.set_context_config": "self, context_config, mode",
    "Context.tree_levels": None,
    "context.TEMP_DATA_TYPE_PREFIX": None,
    "FileSaver._chunk_filename": "self, chunk_info",
    "FileSaver._flush_md_for_every_chunk": None,
    "FileSaver._flush_metadata": "self",
    "FileSaver._save_chunk": "self, data, chunk_info, executor",
    "FileSytemBackend._read_and_format_chunk": "self, args, kwargs",
    "FileSytemBackend._saver": "self, dirname, metadata, kwargs",
    "FileSytemBackend.apply_time_range": "chunk, time_range",
    "FileSytemBackend.get_metadata": "self, backend_key, kwargs",
    "FileSytemBackend.loader": "self, backend_key, time_range, chunk_number, rechunk, "
    "source_size_mb, executor",
    "OverlapWindowPlugin.do_compute": "self, chunk_i, kwargs",
    "Plugin.__copy__": "self, _deep_copy",
    "Plugin._check_dtype": "self, x, d",
    "Plugin._fetch_chunk": "self, d, iters, check_end_not_before",
    "Plugin.chunk": "self, start, end, data, data_type, run_id",
    "Plugin.fix_dtype": "self",
    "Plugin.iter": "self, iters, executor",
    "ProcessorComponents._replace": "self, kwds",
    "Rechunker.flush": "self",
    "Rechunker.get_splits": "data, target_size, min_gap",
    "Rechunker.receive": "self, chunk",
    "SingleThreadProcessor.__init__": "self, components, allow_rechunk, is_superrun, kwargs",
    "SingleThreadProcessor.iter": "self",
    "processors.post_office.PostOffice.register_spy": "self, spy, topic",
    "processors.single_thread.SaverSpy._save_chunk": "self, chunks",
    "processors.single_thread.SaverSpy.close": "self",
}


class DataNotAvailable(AmstraxError, strax.DataNotAvailable):
    """Data of a run is neither stored nor can it be made from what is stored."""


def check_strax() -> None:
    """Check the installed strax, and warn about an untested version.

    Raises UnsupportedStrax (an ImportError) when a hook is missing or has other parameters.
    """
    remedy = f"install a tested one (pip install strax=={TESTED[-1]})"
    for name, parameters in HOOKS.items():
        try:
            hook = attrgetter(name)(strax)
        except AttributeError:
            raise UnsupportedStrax(f"strax {strax.__version__} has no {name}: {remedy}") from None
        if parameters is None or strax.__version__ in TESTED:
            continue
        found = ", ".join(inspect.signature(hook).parameters)
        if found != parameters:
            raise UnsupportedStrax(
                f"strax {strax.__version__}: {name} takes {found}, not {parameters}: {remedy}"
            )
    if strax.__version__ not in TESTED:
        warnings.warn(
            f"strax {strax.__version__} is not tested with amstrax: compare results, or {remedy}",
            stacklevel=2,
        )


check_strax()

_NO_ROWS = np.empty(0)
_TIME = np.dtype([("time", np.int64)])


class Chunk(strax.Chunk):
    """Chunk that is split and joined in less time, with the values of `strax.Chunk`.

    strax compiles its split for each data type in each process, copies data to add no rows to it,
    and compares the dtype field by field.
    """

    def __init__(self, *, dtype: Any, data: np.ndarray | None, **kwargs: Any):
        dtype = np.dtype(dtype)
        data = np.empty(0, dtype) if data is None else data
        # strax removes all titles from the dtype, twice, to compare the dtype with itself
        super().__init__(dtype=_TIME, data=data, **kwargs)
        self.dtype = dtype

    @classmethod
    def of(cls, chunk: strax.Chunk) -> strax.Chunk:
        """Return a chunk of strax as one of this class, any other unchanged."""
        if type(chunk) is not strax.Chunk:
            return chunk
        made = cls.__new__(cls)
        made.__dict__.update(chunk.__dict__)
        return made

    def split(self, t: int, allow_early_split: bool = False) -> tuple[strax.Chunk, strax.Chunk]:
        """Return the chunks before and after a time [ns]; parameters are as in strax."""
        if self.subruns or self.superrun != {self.run_id: {"start": self.start, "end": self.end}}:
            return super().split(t, allow_early_split)
        t = max(min(t, self.end), self.start)
        # A view of no rows would keep the memory of all
        if t == self.end:
            return self, self._part(t, t, self.data[:0].copy())
        if t == self.start:
            return self._part(t, t, self.data[:0].copy()), self
        left, right, t = split_array(self.data, t, allow_early_split)
        return self._part(self.start, t, left), self._part(t, self.end, right)

    def _part(self, start: int, end: int, data: np.ndarray) -> "Chunk":
        """Return a part of this chunk, unchecked: this chunk is checked, and `data` was split."""
        part = type(self).__new__(type(self))
        # Plain integers, which JSON takes: an early split is at the time of a row
        times = {"start": int(start), "end": int(end)}
        part.__dict__ |= {**self.__dict__, **times, "data": data, "_superrun": {self.run_id: times}}
        return part

    @classmethod
    def concatenate(
        cls, chunks: Iterable[strax.Chunk | None], allow_superrun: bool = False
    ) -> strax.Chunk:
        """Return chunks as one; parameters are as in strax. Rows of one chunk are not copied."""
        parts = [cls.of(chunk) for chunk in chunks if chunk is not None]
        if len(parts) == 2 and parts[0].start == parts[0].end and _follows(*parts):
            return parts[1]
        filled = [chunk.data for chunk in parts if len(chunk)]
        if len(parts) < 2 or not filled or any(data.dtype != filled[0].dtype for data in filled):
            return super().concatenate(parts, allow_superrun)
        # strax checks the chunks, and joins everything but the data
        emptied = [copy.copy(chunk) for chunk in parts]
        for chunk in emptied:
            # Plain numbers, since numpy looks at each field of what it joins
            chunk.data = _NO_ROWS
        result = super().concatenate(emptied, allow_superrun)
        if len(filled) == 1:
            (result.data,) = filled
        else:
            result.data = np.concatenate([as_void(data) for data in filled]).view(filled[0].dtype)
        return result


def _follows(before: strax.Chunk, after: strax.Chunk) -> bool:
    """Return whether two chunks of a run are adjacent and differ in nothing but rows and times."""
    same = ("run_id", "data_type", "dtype", "target_size_mb", "subruns")
    return before.end == after.start and all(
        getattr(before, name) == getattr(after, name) for name in same
    )


def split_array(
    data: np.ndarray, t: int, allow_early_split: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return data left of a time [ns], data right of it, and the time, as `strax.split_array`.

    Parameters
    ----------
    data
        Sorted by time, shape (n,).
    t
        Where to split.
    allow_early_split
        If an element extends over `t`, split at the latest possible time before it instead of
        raising `strax.CannotSplit`.
    """
    if not len(data):
        return data[:0], data[:0], t
    starts = data["time"]
    i, can_split = _split_index(starts, strax.endtime(data), t)
    if not can_split:
        if not allow_early_split:
            raise strax.CannotSplit
        t = min(starts[i], t)
    return data[:i], data[i:], t


@kernel(column(I64), column(I64), I64)
def _split_index(start, end, t):
    """Return the last index, up to `t`, at which data can be split; and whether `t` can be it."""
    latest_end = np.int64(-1)
    index = 0
    for i in range(len(start)):
        if start[i] >= latest_end:
            index = i
        if start[i] >= t:
            return index, index == i and latest_end <= t
        latest_end = max(latest_end, end[i])
        if latest_end > t:
            return index, False
    return len(start), True


#: Shortest time between two writes of the metadata, after the first few chunks [s], and the largest
#: share of the time that a job's dozen savers may spend on them
_SECONDS_BETWEEN, _SHARE_OF_TIME, _FIRST_CHUNKS = 1.0, 0.005, 3


class CheckedSaver(strax.FileSaver):
    """Saver that fails, as strax's do without threads, when a chunk could not be written.

    strax rewrites the metadata in place after each chunk. Here the file is replaced, so readers of
    a live run never find half of it, and at most once a second.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # Write in progress -> entry of its chunk in the metadata
        self._writes: dict[Future, dict] = {}
        self._next_flush = 0.0
        super().__init__(*args, **kwargs)

    @property
    def _flush_md_for_every_chunk(self) -> bool:
        # A live run may have no second chunk for long
        is_time = time.monotonic() >= self._next_flush
        return is_time or len(self.md["chunks"]) <= _FIRST_CHUNKS

    def _flush_metadata(self) -> None:
        began = time.thread_time()
        self._check_writes()
        # Without chunks that are not on disk yet, or follow such a chunk
        n_written = min((chunk["chunk_i"] for chunk in self._writes.values()), default=None)
        # Only the last write is indented: json has slower code for that
        options = self.json_options if self.closed else {"sort_keys": True}
        text = json.dumps({**self.md, "chunks": self.md["chunks"][:n_written]}, **options)
        _write_whole(os.path.join(self.tempdirname, self.metadata_json), text.encode())
        # Time of this thread: by the clock, a paused process would not write for long
        took = time.thread_time() - began
        self._next_flush = time.monotonic() + max(_SECONDS_BETWEEN, took / _SHARE_OF_TIME)

    def _save_chunk(
        self, data: np.ndarray, chunk_info: dict, executor: Executor | None = None
    ) -> tuple[dict, Future | None]:
        self._check_writes()
        filename = self._chunk_filename(chunk_info)
        path = os.path.join(self.tempdirname, filename)
        arguments = {"data": data, "compressor": self.md["compressor"]}
        if executor is None:
            return {"filename": filename, "filesize": save_file(path, **arguments)}, None
        write = executor.submit(save_file, path, **arguments)
        self._writes[write] = chunk_info
        return {"filename": filename}, write

    def _check_writes(self, wait: bool = False) -> None:
        """Record the sizes of finished writes, and raise the exceptions of failed ones."""
        for write in [write for write in self._writes if wait or write.done()]:
            chunk = self._writes.pop(write)
            chunk["filesize"] = write.result(self.timeout)

    def close(self, wait_for: list | tuple = ()) -> None:
        """Close the files; the exception of a failed write is in ``got_exception`` and metadata."""
        if self.closed and strax.formatted_exception():
            return  # strax closes all savers then, also closed ones
        try:
            self._check_writes(wait=True)
        except Exception as error:
            self._writes = {}
            self.got_exception = error
            # strax puts the exception that is being handled into the metadata
            super().close(wait_for)
        else:
            super().close(wait_for)


@functools.cache
def _parsed(dtype: str) -> ast.Expression:
    """Return a dtype in metadata as an expression of which `ast.literal_eval` is the dtype."""
    # In Python before 3.11.8, parsing in two threads at once can raise a SystemError
    with _PARSING:
        return ast.Expression(ast.Constant(np.dtype(ast.literal_eval(dtype))))


class CheckedBackend(strax.FileSytemBackend):
    """Backend that saves with `CheckedSaver`, and loads chunks as `Chunk`."""

    saver_class: type[CheckedSaver] = CheckedSaver

    def loader(self, *args: Any, **kwargs: Any) -> Iterator:
        """Return an iterator over chunks; parameters are as in strax."""

        def get_metadata(*args: Any, **kwargs: Any) -> dict:
            metadata = self.get_metadata(*args, **kwargs)
            if isinstance(metadata.get("dtype"), str):
                metadata["dtype"] = _parsed(metadata["dtype"])
            return metadata

        backend = copy.copy(self)
        backend.get_metadata = get_metadata  # type: ignore[method-assign]
        return super(CheckedBackend, backend).loader(*args, **kwargs)

    def _read_and_format_chunk(
        self, *, dtype: Any, chunk_construction_kwargs: dict, **kwargs: Any
    ) -> strax.Chunk:
        # As in `Chunk`
        made_of = {**chunk_construction_kwargs, "dtype": _TIME}
        read = super()._read_and_format_chunk
        chunk = Chunk.of(read(dtype=dtype, chunk_construction_kwargs=made_of, **kwargs))
        chunk.dtype = np.dtype(dtype)
        return chunk

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

    #: strax writes definitions of superruns into the folder, and by default does not read them
    provide_run_metadata = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.backends = [CheckedBackend()]

    def run_metadata(self, run_id: str, projection: Any = None) -> dict[str, Any]:
        """Return the metadata of a run, or the definition of a superrun, that is in the folder.

        Raises
        ------
        strax.DataNotAvailable
            Without such a file: strax's context then asks the next frontend.
        """
        try:
            return super().run_metadata(run_id, projection)
        except strax.RunMetadataNotAvailable as error:
            raise strax.DataNotAvailable(str(error)) from None

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
    _write_whole(path, compressed)
    return len(compressed)


def _write_whole(path: str, content: bytes) -> None:
    """Write a file that others never find half-written."""
    temporary = f"{path}_temp"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def _compress_blosc(data: np.ndarray) -> bytes:
    if data.nbytes >= blosc.MAX_BUFFERSIZE:
        raise ValueError(
            f"{data.nbytes / 1e9:.1f} GB are more than blosc can compress at once: let the chunks "
            "be smaller (chunk_target_size_mb)"
        )
    # 2 to 4 % smaller than strax's, whose codec is slower
    return blosc.compress(data, shuffle=blosc.NOSHUFFLE, cname="lz4", clevel=9)


_COMPRESS: dict[str, Callable[[np.ndarray], bytes]] = {
    # One frame: 1 % larger than strax's, for raw records
    "lz4": functools.partial(lz4.frame.compress, compression_level=-5),
    "blosc": _compress_blosc,
}


class Rechunker(strax.Rechunker):
    """Joins chunks to those that strax's rechunker makes, once they have enough rows.

    strax joins every incoming chunk with all that it keeps, and compiles the search for gaps for
    each data type.
    """

    def __init__(self, rechunk: bool = False, run_id: str | None = None):
        super().__init__(rechunk, run_id)
        self.cache: strax.Chunk | None = None
        self._waiting: list[strax.Chunk] = []

    def receive(self, chunk: strax.Chunk) -> list[strax.Chunk]:
        """Add a chunk, and return the chunks that are large enough now."""
        if not self.rechunk or self.is_superrun:
            return super().receive(chunk)
        if self.cache is not None:
            self._waiting.append(self.cache)
            self.cache = None
        self._waiting.append(chunk)
        # strax does not split data with at most this number of rows
        allowed = max(c.target_size_mb for c in self._waiting) * 1e6 // chunk.data.itemsize
        if sum(map(len, self._waiting)) <= allowed:
            return []
        chunks = super().receive(self._join())
        if chunks and self.cache is not None:
            # A view would keep the memory of the whole array
            self.cache.data = self.cache.data.copy()
        return chunks

    def flush(self) -> list[strax.Chunk]:
        """Return the remaining chunk, if any."""
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
    """Compile the strax functions that run only for data types with more than one chunk."""
    Rechunker.get_splits(np.zeros(2, dtype=strax.time_fields), 1e6)
