"""Hits: intervals of records above a threshold. And the order of whatever has a time."""

import numpy as np
import strax
from numba import types

from amstrax.processing.compiled import F64, I64, column, kernel
from amstrax.processing.rows import plain

_HIGHEST_SAMPLE = np.iinfo(np.int16).max
_RECORD_FIELDS = ("time", "length", "dt", "channel", "baseline", "baseline_rms")
#: Columns of what `_find_hits` returns
_TIMES = ("time", "max_time")
_INTEGERS = ("record_i", "left", "right", "dt", "channel")
_REALS = ("area", "height", "threshold")


def sort_by_time(things: np.ndarray) -> np.ndarray:
    """Return things sorted by time, then by channel if they have one; the same array if they are.

    The order is that of `strax.sort_by_time`: of equal ones, what came first stays first.

    Parameters
    ----------
    things
        Structured array with ``time`` [ns] and perhaps ``channel``, shape (n,).
    """
    channel = things["channel"] if "channel" in (things.dtype.names or ()) else None
    order = time_order(things["time"], channel)
    if order is None:
        return things
    return plain(things)[order].view(things.dtype)


def time_order(time: np.ndarray, channel: np.ndarray | None = None) -> np.ndarray | None:
    """Return indices that sort by time [ns], then by channel; None where that is so already.

    Of equal ones, what comes first stays first. Shapes (n,).
    """
    if len(time) < 2:
        return None
    if channel is None:
        key = time
    else:
        channel = channel.astype(np.int64)
        channel -= min(channel.min(), 0)
        n_channels = int(channel.max()) + 1
        first, last = time.min(), time.max()
        if int(last) - int(first) >= np.iinfo(np.int64).max // n_channels:
            return np.lexsort((channel, time))  # years between them: no key of 64 bits
        key = (time - first) * n_channels + channel
    if (key[1:] >= key[:-1]).all():
        return None
    return np.argsort(key, kind="stable")


def find_hits(
    records: np.ndarray,
    min_amplitude: float | np.ndarray = 15,
    min_height_over_noise: float | np.ndarray = 0,
) -> np.ndarray:
    """Return the intervals in which samples reach the threshold, in the order of the records.

    They are those that `strax.find_hits` returns. An interval ends at the end of its record.

    Parameters
    ----------
    records
        Baselined records, `strax.record_dtype`, shape (n,).
    min_amplitude
        Threshold [ADC counts above baseline], one or one for each channel.
    min_height_over_noise
        The same [rms of the baseline]; the higher of both counts.

    Returns
    -------
    Array of `strax.hit_dtype`; areas and heights hold the part of the baseline behind the point.

    Raises
    ------
    ValueError
        When there are records of channels without a threshold, or longer than their data.
    """
    if not len(records):
        return np.zeros(0, dtype=strax.hit_dtype)
    n_channels = max(
        [np.size(x) for x in (min_amplitude, min_height_over_noise) if np.ndim(x)]
        or [records["channel"].max() + 1]
    )
    amplitude, over_noise = (
        np.array(np.broadcast_to(x, n_channels), dtype=np.float64)
        for x in (min_amplitude, min_height_over_noise)
    )
    if records["channel"].max() >= n_channels:
        raise ValueError(
            f"records of channel {records['channel'].max()}, but thresholds for {n_channels} "
            "channels: give one for each"
        )
    if records["length"].max() > records["data"].shape[1]:
        raise ValueError(
            f"a record of {records['length'].max()} samples, but there is room for "
            f"{records['data'].shape[1]}: the live data is not what redax writes"
        )
    times, integers, reals = _find_hits(
        *(records[field] for field in _RECORD_FIELDS), records["data"], amplitude, over_noise
    )
    hits = np.zeros(len(times), dtype=strax.hit_dtype)
    for column_of, fields in ((times, _TIMES), (integers, _INTEGERS), (reals, _REALS)):
        for i, field in enumerate(fields):
            hits[field] = column_of[:, i]
    hits["length"] = integers[:, _INTEGERS.index("right")] - integers[:, _INTEGERS.index("left")]
    return hits


@kernel(
    column(I64),
    column(types.int32),
    *[column(types.int16)] * 2,
    *[column(types.float32)] * 2,
    column(types.int16, 2),
    *[column(F64)] * 2,
)
def _find_hits(time, length, dt, channel, baseline, baseline_rms, data, min_amplitude, over_noise):
    """Return rows of _TIMES, of _INTEGERS and of _REALS."""
    room = max(1000, len(channel) + len(channel) // 4)
    times = np.empty((room, 2), dtype=np.int64)
    integers = np.empty((room, 5), dtype=np.int32)
    reals = np.empty((room, 3), dtype=np.float32)
    edges = np.empty(data.shape[1] + 2, dtype=np.int64)
    n = 0
    for i in range(len(channel)):
        threshold = max(min_amplitude[channel[i]], baseline_rms[i] * over_noise[channel[i]])
        if not threshold <= _HIGHEST_SAMPLE:
            continue
        lowest = np.int64(np.ceil(threshold))
        fraction = np.float64(baseline[i]) % 1
        # Where samples cross the threshold: without a branch, which would be mispredicted often
        n_edges = 0
        was_above = False
        for j in range(length[i]):
            above = data[i, j] >= lowest
            edges[n_edges] = j
            n_edges += above != was_above
            was_above = above
        if was_above:
            edges[n_edges] = length[i]
            n_edges += 1
        for edge in range(0, n_edges, 2):
            start, stop = edges[edge], edges[edge + 1]
            highest = start
            area = height = np.int64(0)
            for j in range(start, stop):
                x = np.int64(data[i, j])
                area += x
                if x > height:
                    height = x
                    highest = j
            if n == room:
                room *= 2
                more_times = np.empty((room, 2), dtype=np.int64)
                more_integers = np.empty((room, 5), dtype=np.int32)
                more_reals = np.empty((room, 3), dtype=np.float32)
                # In loops: for an array set to a slice numba compiles seconds of error messages
                for k in range(n):
                    for f in range(2):
                        more_times[k, f] = times[k, f]
                    for f in range(5):
                        more_integers[k, f] = integers[k, f]
                    for f in range(3):
                        more_reals[k, f] = reals[k, f]
                times, integers, reals = more_times, more_integers, more_reals
            times[n, 0] = time[i] + start * dt[i]
            times[n, 1] = time[i] + highest * dt[i]
            integers[n, 0] = i
            integers[n, 1] = start
            integers[n, 2] = stop
            integers[n, 3] = dt[i]
            integers[n, 4] = channel[i]
            reals[n, 0] = area + (stop - start) * fraction
            reals[n, 1] = height + fraction
            reals[n, 2] = threshold
            n += 1
    return times[:n], integers[:n], reals[:n]
