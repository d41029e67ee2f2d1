"""Plugins of amstrax, and the chunks that they make and take."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.processing.compiled import I64, column, kernel
from amstrax.processing.rows import as_void
from amstrax.strax_ext import check_strax

if TYPE_CHECKING:
    from amstrax.strax_ext.processor import HelperThreads

check_strax()

_NOTHING = np.empty(0)


class Chunk(strax.Chunk):
    """Chunk that strax's functions split and join in less time.

    strax compiles its split for each data type in each process, copies data to add no rows to it,
    and compares the dtype field by field. Values are those of `strax.Chunk`.
    """

    def __init__(self, *, dtype: Any, data: np.ndarray | None, **kwargs: Any):
        dtype = np.dtype(dtype)
        data = np.empty(0, dtype) if data is None else data
        # strax removes all titles from the dtype, twice, to compare the dtype with itself
        super().__init__(dtype=strax.time_fields, data=data, **kwargs)
        self.dtype = dtype

    @classmethod
    def of(cls, chunk: strax.Chunk) -> strax.Chunk:
        """Return a chunk of strax as one of this class; others are returned as they are."""
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
        if t == self.end:
            left, right = self.data, self.data[:0].copy()
        elif t == self.start:
            left, right = self.data[:0].copy(), self.data
        else:
            left, right, t = split_array(self.data, t, allow_early_split)
        return self._part(self.start, t, left), self._part(t, self.end, right)

    def _part(self, start: int, end: int, data: np.ndarray) -> "Chunk":
        return type(self)(
            start=start,
            end=end,
            data=data,
            dtype=self.dtype,
            data_type=self.data_type,
            data_kind=self.data_kind,
            run_id=self.run_id,
            target_size_mb=self.target_size_mb,
        )

    @classmethod
    def concatenate(
        cls, chunks: Iterable[strax.Chunk | None], allow_superrun: bool = False
    ) -> strax.Chunk:
        """Return chunks as one; parameters are as in strax. Rows of one chunk are not copied."""
        parts = [cls.of(chunk) for chunk in chunks if chunk is not None]
        filled = [chunk.data for chunk in parts if len(chunk)]
        if len(parts) < 2 or not filled or any(data.dtype != filled[0].dtype for data in filled):
            return super().concatenate(parts, allow_superrun)
        # strax checks the chunks, and joins everything but the data
        result = super().concatenate([_emptied(chunk) for chunk in parts], allow_superrun)
        if len(filled) == 1:
            (result.data,) = filled
        else:
            result.data = np.concatenate([as_void(data) for data in filled]).view(filled[0].dtype)
        return result


def _emptied(chunk: strax.Chunk) -> strax.Chunk:
    chunk = copy.copy(chunk)
    # Plain numbers, since numpy looks at each field of what it joins
    chunk.data = _NOTHING
    return chunk


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
        Where that would split an element, do so at the nearest possible time before, instead of
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
    """Return where data can be split last, up to `t`, and whether it can be at `t`."""
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


class Plugin(strax.Plugin):
    """Plugin that takes of its inputs the fields that it needs, where that is said.

    strax merges inputs of one kind to one array with all their fields. Peaks have their waveforms
    with them, so for most plugins nearly all of that copy is for nothing.
    """

    #: Data type -> fields that `compute` needs of it, besides those of its times; others are whole.
    #: Holds for the class that sets both, not for subclasses: these may need any field.
    input_fields: Mapping[str, Sequence[str]] = immutabledict()

    #: What the live data of the run lacks, in a reader that is allowed to go without it
    missing_live_data: list[str] | None = None

    #: Threads of the processor, if it has any, that may prepare the next chunk
    helper_threads: "HelperThreads | None" = None

    def iter(self, iters: Mapping[str, Iterator[strax.Chunk]], executor: Any = None) -> Iterator:
        own = vars(type(self))
        narrow = own["input_fields"] if {"input_fields", "compute"} <= own.keys() else {}
        iters = {
            data_type: (
                map(partial(with_fields, fields=narrow[data_type]), chunks)
                if data_type in narrow
                else chunks
            )
            for data_type, chunks in iters.items()
        }
        yield from super().iter(iters, executor=executor)

    @classmethod
    def sets_chunk_size(cls) -> bool:
        """Return whether the class, or one that it inherits from, sets ``chunk_target_size_mb``."""
        above = (c for c in cls.__mro__ if c is not strax.Plugin)
        return (
            any("chunk_target_size_mb" in vars(c) for c in above)
            or cls.chunk_target_size_mb != strax.DEFAULT_CHUNK_SIZE_MB
        )

    def chunk(
        self,
        *,
        start: int,
        end: int,
        data: np.ndarray,
        data_type: str | None = None,
        run_id: str | None = None,
    ) -> strax.Chunk:
        """Return a chunk of data that this plugin provides; parameters are as in strax."""
        if data_type is None:
            if self.multi_output:
                return super().chunk(start=start, end=end, data=data)  # raises
            (data_type,) = self.provides
        return Chunk(
            start=start,
            end=end,
            data=data,
            dtype=self.dtype_for(data_type),
            data_type=data_type,
            data_kind=self.data_kind_for(data_type),
            run_id=self._run_id if run_id is None else run_id,
            target_size_mb=self.chunk_target_size_mb,
        )

    def _check_dtype(self, x: Any, d: str | None = None) -> None:
        # strax compares the fields one by one, without their titles
        if d is None or getattr(x, "dtype", None) != self.dtype_for(d):
            super()._check_dtype(x, d)

    def _fetch_chunk(
        self,
        d: str,
        iters: Mapping[str, Iterator[strax.Chunk]],
        check_end_not_before: int | None = None,
    ) -> bool:
        base = super()._fetch_chunk
        if base.__func__ is not strax.Plugin._fetch_chunk:
            return base(d, iters, check_end_not_before)  # of strax.ExhaustPlugin, for one
        chunk = next(iters[d], None)
        if chunk is None:
            return base(d, {d: iter(())}, check_end_not_before)
        self.input_buffer[d] = Chunk.concatenate([self.input_buffer[d], chunk], self.allow_superrun)
        return True


def dependencies(plugin: strax.Plugin) -> Iterator[strax.Plugin]:
    """Yield the plugins whose data a plugin takes, directly or not; some more than once."""
    for dependency in plugin.deps.values():
        yield dependency
        yield from dependencies(dependency)


class OverlapWindowPlugin(Plugin, strax.OverlapWindowPlugin):
    """Plugin that needs its inputs for some time before and after, see strax."""

    cached_input: dict[str, strax.Chunk]

    def do_compute(self, chunk_i: Any = None, **kwargs: strax.Chunk) -> Any:
        # Joined here, so that strax has nothing left to join
        kwargs = {
            kind: Chunk.concatenate([self.cached_input.get(kind), chunk], self.allow_superrun)
            for kind, chunk in kwargs.items()
        }
        self.cached_input = {}
        return super().do_compute(chunk_i=chunk_i, **kwargs)


def with_fields(chunk: strax.Chunk, fields: Sequence[str]) -> strax.Chunk:
    """Return a chunk with a copy of some fields, and of those that say when things are."""
    old = chunk.data
    wanted = {"time", "endtime", "length", "dt", *fields}
    names = [name for name in old.dtype.names or () if name in wanted]
    dtype = np.dtype([(titled(old.dtype, name), old.dtype[name]) for name in names])
    data = np.empty(len(old), dtype=dtype)
    for name in names:
        data[name] = old[name]
    return Chunk(
        start=chunk.start,
        end=chunk.end,
        data_type=chunk.data_type,
        data_kind=chunk.data_kind,
        dtype=dtype,
        run_id=chunk.run_id,
        data=data,
        subruns=chunk.subruns,
        superrun=chunk.superrun,
        target_size_mb=chunk.target_size_mb,
    )


def titled(dtype: np.dtype, name: str) -> str | tuple[str, str]:
    """Return the name of a field, with its title if it has one, as numpy takes it."""
    _, _, *title = (dtype.fields or {name: (None, 0)})[name]
    return (title[0], name) if title else name
