"""Parts of strax (2.2.3) that the contexts use in a quicker form, which gives the same.

What is here takes the place of strax's own, in the whole process, once a context is made:

- ``strax.chunk.split_array``: compiled by strax for every data type, in every process
- ``strax.Chunk.concatenate``: copies data to add nothing to it, for each chunk that a plugin gets,
  and else field by field
- ``strax.Rechunker``: joins, for each chunk that comes, all that it keeps to those before it, and
  has strax look for gaps in that, with a function that is compiled for every data type
- ``strax.remove_titles_from_dtype``: done twice for each chunk
- compressors ``lz4`` and ``blosc``: the same formats, which take half to three quarters of the time
  to write (benchmarks/PROFILE.md); what reads them is as it was
"""

import copy
import functools
from collections.abc import Iterable
from typing import Any

import blosc
import lz4.frame
import numpy as np
import strax

from amstrax.processing.compiled import I64, column, kernel
from amstrax.processing.rows import plain

#: As strax has them
_remove_titles = strax.remove_titles_from_dtype
_split_array = strax.chunk.split_array


@functools.lru_cache(maxsize=1000)
def _without_titles(dtype: np.dtype) -> np.dtype:
    return _remove_titles(dtype)


def remove_titles_from_dtype(dtype: Any) -> np.dtype:
    """Return the dtype without titles of its fields, as strax's function of that name."""
    return _without_titles(np.dtype(dtype))


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


_concatenate = strax.Chunk.concatenate.__func__
_NOTHING = np.empty(0)


def concatenate(
    cls: type[strax.Chunk], chunks: Iterable[strax.Chunk | None], allow_superrun: bool = False
) -> strax.Chunk:
    """Return chunks joined to one, as `strax.Chunk.concatenate`, without a copy if one has rows."""
    parts = [chunk for chunk in chunks if chunk is not None]
    filled = [chunk.data for chunk in parts if len(chunk)]
    if len(parts) < 2 or not filled or any(data.dtype != filled[0].dtype for data in filled):
        return _concatenate(cls, parts, allow_superrun)
    # Strax checks what the chunks are, and joins everything but the data
    result = _concatenate(cls, [_emptied(chunk) for chunk in parts], allow_superrun)
    if len(filled) == 1:
        (result.data,) = filled
    else:
        result.data = np.concatenate([plain(data) for data in filled]).view(filled[0].dtype)
    return result


def _emptied(chunk: strax.Chunk) -> strax.Chunk:
    chunk = copy.copy(chunk)
    # Plain numbers, since numpy looks at each field of what it joins
    chunk.data = _NOTHING
    return chunk


_Rechunker = strax.Rechunker

#: Stored chunks are no larger than this, whatever a plugin allows (strax: 200 MB). A job holds as
#: much of each data type, and once more of the one that it joins.
LARGEST_CHUNK_MB = 50


class Rechunker(strax.Rechunker):  # type: ignore[misc, valid-type]
    """Joins chunks to larger ones, as strax does, but once, when they are enough.

    Of those the largest have `LARGEST_CHUNK_MB`.
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
        chunk = copy.copy(chunk)  # which others get, too
        chunk.target_size_mb = min(chunk.target_size_mb, LARGEST_CHUNK_MB)
        self._waiting.append(chunk)
        # Strax splits nothing that has no more rows than a chunk may have
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
        return strax.Chunk.concatenate(chunks)

    @staticmethod
    def get_splits(data: np.ndarray, target_size: float, min_gap: int = 1000) -> np.ndarray:
        """Return indices at which to split data, as strax's function of that name."""
        intervals = np.empty(len(data), dtype=strax.time_fields)
        intervals["time"] = data["time"]
        intervals["endtime"] = strax.endtime(data)
        n_rows = target_size // data.itemsize
        return _Rechunker.get_splits(intervals, n_rows * intervals.itemsize, min_gap)


def compress_lz4(data: Any) -> bytes:
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


def warm_up() -> None:
    """Compile what strax needs only where a data type is large enough for a second chunk."""
    Rechunker.get_splits(np.zeros(2, dtype=strax.time_fields), 1e6)


def install() -> None:
    """Let strax use what is here."""
    strax.remove_titles_from_dtype = remove_titles_from_dtype
    strax.chunk.split_array = strax.split_array = split_array
    strax.Chunk.concatenate = classmethod(concatenate)
    strax.Rechunker = strax.chunk.Rechunker = Rechunker
    strax.io.COMPRESSORS["lz4"]["compress"] = compress_lz4
    strax.io.COMPRESSORS["blosc"]["compress"] = compress_blosc
