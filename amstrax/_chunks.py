"""Splitting of chunks, compiled once and for all data types alike.

strax (2.2.3) compiles its function anew in each process and for each data type, seconds each time.
Numba could keep it on disk, and strax has switched that off with reason: a function that returns
structured arrays, compiled in one process for one data type and in another for another, gives both
the type of one of them in a process that loads both (numba 0.68.1), so that raw_records come out
with the columns of records. What is kept here takes and returns plain numbers.
"""

import numba
import numpy as np
import strax


def split_array(
    data: np.ndarray, t: int, allow_early_split: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return what is before and what is behind a time, and where it was split.

    Parameters
    ----------
    data
        Rows with a time and an end, sorted by time.
    t
        Split here [ns since unix epoch].
    allow_early_split
        Where a row is in the way, split before it, as late as can be.

    Raises
    ------
    strax.CannotSplit
        When a row is in the way, unless `allow_early_split`.
    """
    if not len(data):
        return data[:0], data[:0], t
    i, time = _split_point(data["time"], strax.endtime(data), t)
    if time != t and not allow_early_split:
        raise strax.CannotSplit
    return data[:i], data[i:], time


@numba.njit(nogil=True, cache=True)
def _split_point(times, ends, t):
    """Return the first row behind the latest possible split that is not after `t`, and its time."""
    latest_end = times[0]
    before_overlap = 0
    for i in range(len(times)):
        if times[i] >= latest_end:
            before_overlap = i
        if times[i] >= t:
            break
        latest_end = max(latest_end, ends[i])
        if latest_end > t:
            return before_overlap, min(times[before_overlap], t)
    else:
        return len(times), t
    # The rows before `t` have all ended by then
    return i, t


def use_for_chunks() -> None:
    """Let strax split chunks with this."""
    strax.chunk.split_array = split_array
