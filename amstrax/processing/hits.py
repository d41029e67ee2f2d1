"""Hits: intervals of records above a threshold. And the order of whatever has a time."""

import numba
import numpy as np
import strax
from numba import types

from amstrax.processing.compiled import BOOL, F64, I64, column, kernel, output, row
from amstrax.processing.rows import plain

#: Samples are of 16 bits
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
#: Columns of records that are read, of what `_find_edges` returns, and of hits
_SEARCHED: dict[str, types.Type] = {
    "time": I64,
    "length": types.int32,
    "dt": types.int16,
    "channel": types.int16,
    "baseline_rms": types.float32,
}
_MEASURED: dict[str, types.Type] = {"dt": types.int16, "baseline": types.float32}
_EDGES: tuple[types.Type, ...] = (types.int32, types.int16, types.int16, I64, types.int16, F64)
_FILLED: dict[str, types.Type] = {
    "time": I64,
    "length": types.int32,
    "dt": types.int16,
    "channel": types.int16,
    "area": types.float32,
    "left": types.int16,
    "right": types.int16,
    "left_integration": types.int16,
    "right_integration": types.int16,
    "record_i": types.int32,
    "threshold": types.float32,
    "height": types.float32,
    "max_time": I64,
}


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
    by_time: bool = False,
) -> np.ndarray:
    """Return the intervals in which samples reach the threshold.

    They are those that `strax.find_hits` returns. An interval ends at the end of its record.

    Parameters
    ----------
    records
        Baselined records, `strax.record_dtype`, shape (n,).
    min_amplitude
        Threshold [ADC counts above baseline], one or one for each channel.
    min_height_over_noise
        The same [rms of the baseline]; the higher of both counts.
    by_time
        Return them in the order of `sort_by_time`, not in that of the records.

    Returns
    -------
    Array of `strax.hit_dtype`; areas and heights hold the part of the baseline behind the point.

    Raises
    ------
    ValueError
        When there are records of channels without a threshold, or longer than their data.
    """
    # One threshold for each channel, or one for all
    per_channel = [np.size(x) for x in (min_amplitude, min_height_over_noise) if np.ndim(x)]
    n_channels = max(per_channel, default=1)
    *edges, bad = _find_edges(
        *(records[field] for field in _SEARCHED),
        records["data"],
        *(
            np.array(np.broadcast_to(x, n_channels), dtype=np.float64)
            for x in (min_amplitude, min_height_over_noise)
        ),
        bool(per_channel),
    )
    if bad >= 0:
        _raise_for(records[bad], n_channels)
    *_, time, channel, _ = edges
    order = time_order(time, channel) if by_time else None
    hits = np.empty(len(time), dtype=strax.hit_dtype)
    _fill_hits(
        np.arange(len(time)) if order is None else order,
        *edges,
        *(records[field] for field in _MEASURED),
        records["data"],
        *(hits[field] for field in _FILLED),
    )
    return hits


def _raise_for(record: np.void, n_channels: int) -> None:
    if record["length"] > len(record["data"]):
        raise ValueError(
            f"a record of {record['length']} samples, but there is room for "
            f"{len(record['data'])}: the live data is not what redax writes"
        )
    raise ValueError(
        f"records of channel {record['channel']}, but thresholds for {n_channels} channels: give "
        "one for each"
    )


@kernel(*map(column, _SEARCHED.values()), column(types.int16, 2), column(F64), column(F64), BOOL)
def _find_edges(
    time, length, dt, channel, baseline_rms, data, min_amplitude, over_noise, per_channel
):
    """Return of each hit record, first sample, sample behind the last, time, channel, threshold.

    And the index of a record that cannot be, or -1.
    """
    n_samples = data.shape[1]
    room = max(1000, 2 * len(channel))
    record = np.empty(room, dtype=np.int32)
    left = np.empty(room, dtype=np.int16)
    right = np.empty(room, dtype=np.int16)
    hit_time = np.empty(room, dtype=np.int64)
    hit_channel = np.empty(room, dtype=np.int16)
    hit_threshold = np.empty(room, dtype=np.float64)
    # Samples above threshold, with one that is not at both ends, eight to a word at the least
    n_words = (n_samples + 8) // 8
    above = np.zeros(8 * n_words + 1, dtype=np.uint8)
    crosses = np.zeros(8 * n_words, dtype=np.uint8)
    words = crosses.view(np.uint64)
    edges = np.empty(8 * n_words + 8, dtype=np.int16)
    one, eight = np.uint64(1), np.uint64(8)
    n, bad = 0, -1
    for i in range(len(channel)):
        c = channel[i] if per_channel else 0
        if length[i] > n_samples or not 0 <= c < len(min_amplitude):
            n, bad = 0, i
            break
        threshold = max(min_amplitude[c], baseline_rms[i] * over_noise[c])
        if not threshold <= _HIGHEST:
            continue
        lowest = np.int16(max(np.ceil(threshold), _LOWEST))
        samples = row(data, i)
        end = np.uint64(max(length[i], 0))
        # Each of these loops is done many samples at a time
        for j in range(end):
            above[j + one] = samples[j] >= lowest
        for j in range(end, np.uint64(n_samples)):
            above[j + one] = 0
        for j in range(np.uint64(8 * n_words)):
            crosses[j] = above[j] ^ above[j + one]
        # Where they begin and end: without a branch, which would be mispredicted often
        n_edges = np.uint64(0)
        for w in range(np.uint64(n_words)):
            if words[w] == 0:
                continue
            for j in range(eight * w, eight * w + eight):
                edges[n_edges] = j
                n_edges += np.uint64(crosses[j])
        if n + n_samples > room:
            room = 2 * room + n_samples
            record, left, right = _longer(record, room), _longer(left, room), _longer(right, room)
            hit_time, hit_channel = _longer(hit_time, room), _longer(hit_channel, room)
            hit_threshold = _longer(hit_threshold, room)
        for e in range(np.uint64(0), n_edges, np.uint64(2)):
            record[n] = i
            left[n] = edges[e]
            right[n] = edges[e + one]
            hit_time[n] = time[i] + np.int64(edges[e]) * dt[i]
            hit_channel[n] = channel[i]
            hit_threshold[n] = threshold
            n += 1
    return record[:n], left[:n], right[:n], hit_time[:n], hit_channel[:n], hit_threshold[:n], bad


@numba.njit(nogil=True)
def _longer(array, n):
    longer = np.empty(n, dtype=array.dtype)
    # In a loop: for an array set to a slice numba compiles seconds of error messages
    for i in range(len(array)):
        longer[i] = array[i]
    return longer


@kernel(
    column(I64),
    *map(column, _EDGES),
    *map(column, _MEASURED.values()),
    column(types.int16, 2),
    *map(output, _FILLED.values()),
)
def _fill_hits(
    order,
    record,
    left,
    right,
    time,
    channel,
    threshold,
    dt,
    baseline,
    data,
    hit_time,
    hit_length,
    hit_dt,
    hit_channel,
    hit_area,
    hit_left,
    hit_right,
    hit_left_integration,
    hit_right_integration,
    hit_record,
    hit_threshold,
    hit_height,
    hit_max_time,
):
    for h in range(len(order)):
        k = order[h]
        r = record[k]
        start, stop = np.int64(left[k]), np.int64(right[k])
        samples = row(data, r)
        area = height = np.int64(0)
        for j in range(np.uint64(start), np.uint64(stop)):
            x = np.int64(samples[j])
            area += x
            height = max(height, x)
        highest = start
        if height > 0:
            while samples[highest] != height:
                highest += 1
        fraction = np.float64(baseline[r]) - np.floor(np.float64(baseline[r]))
        hit_time[h] = time[k]
        hit_length[h] = stop - start
        hit_dt[h] = dt[r]
        hit_channel[h] = channel[k]
        hit_area[h] = area + (stop - start) * fraction
        hit_left[h], hit_right[h] = start, stop
        hit_left_integration[h] = hit_right_integration[h] = 0
        hit_record[h] = r
        hit_threshold[h] = threshold[k]
        hit_height[h] = height + fraction
        hit_max_time[h] = time[k] + (highest - start) * dt[r]
