"""Hits: intervals of records above a threshold. And the order of whatever has a time."""

import numpy as np
import strax
from numba import types

from amstrax.processing.compiled import F64, column, kernel

_HIGHEST_SAMPLE = np.iinfo(np.int16).max


def sort_by_time(things: np.ndarray) -> np.ndarray:
    """Return things sorted by time, then by channel if they have one; the same array if they are.

    The order is that of `strax.sort_by_time`: of equal ones, what came first stays first.

    Parameters
    ----------
    things
        Structured array with ``time`` [ns] and perhaps ``channel``, shape (n,).
    """
    if len(things) < 2:
        return things
    key = np.ascontiguousarray(things["time"])
    if "channel" in (things.dtype.names or ()):
        channel = things["channel"].astype(np.int64)
        lowest, n_channels = min(channel.min(), 0), 1 + channel.max() - min(channel.min(), 0)
        first, last = key.min(), key.max()
        if int(last) - int(first) >= np.iinfo(np.int64).max // int(n_channels):
            return strax.sort_by_time(things)  # years between them: no key of 64 bits
        key = (key - first) * n_channels + (channel - lowest)
    if (key[1:] >= key[:-1]).all():
        return things
    order = np.argsort(key, kind="stable")
    # As plain bytes: numpy copies structured rows field by field
    rows = np.ascontiguousarray(things).view(np.dtype((np.void, things.dtype.itemsize)))
    return rows[order].view(things.dtype)


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
        [len(x) for x in (min_amplitude, min_height_over_noise) if np.ndim(x)]
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
    record_i, left, right, area, height, highest, threshold = _find_hits(
        records["channel"],
        records["length"],
        records["baseline"],
        records["baseline_rms"],
        records["data"],
        amplitude,
        over_noise,
    )
    hits = np.zeros(len(record_i), dtype=strax.hit_dtype)
    dt = records["dt"][record_i]
    start = records["time"][record_i]
    hits["time"] = start + left.astype(np.int64) * dt
    hits["length"] = right - left
    hits["dt"] = dt
    hits["channel"] = records["channel"][record_i]
    hits["area"] = area
    hits["left"] = left
    hits["right"] = right
    hits["threshold"] = threshold
    hits["record_i"] = record_i
    hits["height"] = height
    hits["max_time"] = start + highest.astype(np.int64) * dt
    return hits


@kernel(
    column(types.int16),
    column(types.int32),
    column(types.float32),
    column(types.float32),
    column(types.int16, 2),
    column(F64),
    column(F64),
)
def _find_hits(channel, length, baseline, baseline_rms, data, min_amplitude, over_noise):
    """Return columns of hits: record, left, right, area, height, highest sample, threshold."""
    room = max(1000, len(channel) + len(channel) // 4)
    integers = np.empty((room, 4), dtype=np.int32)
    reals = np.empty((room, 3), dtype=np.float32)
    n = 0
    for i in range(len(channel)):
        threshold = max(min_amplitude[channel[i]], baseline_rms[i] * over_noise[channel[i]])
        if not threshold <= _HIGHEST_SAMPLE:
            continue
        lowest = np.int64(np.ceil(threshold))
        fraction = np.float64(baseline[i]) % 1
        n_samples = length[i]
        j = 0
        while j < n_samples:
            if data[i, j] < lowest:
                j += 1
                continue
            start = highest = j
            area = height = np.int64(0)
            while j < n_samples and data[i, j] >= lowest:
                x = np.int64(data[i, j])
                area += x
                if x > height:
                    height = x
                    highest = j
                j += 1
            if n == room:
                room *= 2
                more_integers = np.empty((room, 4), dtype=np.int32)
                more_reals = np.empty((room, 3), dtype=np.float32)
                # In loops: for an array set to a slice numba compiles seconds of error messages
                for k in range(n):
                    for f in range(4):
                        more_integers[k, f] = integers[k, f]
                    for f in range(3):
                        more_reals[k, f] = reals[k, f]
                integers, reals = more_integers, more_reals
            integers[n, 0] = i
            integers[n, 1] = start
            integers[n, 2] = j
            integers[n, 3] = highest
            reals[n, 0] = area + (j - start) * fraction
            reals[n, 1] = height + fraction
            reals[n, 2] = threshold
            n += 1
    return (
        integers[:n, 0],
        integers[:n, 1],
        integers[:n, 2],
        reals[:n, 0],
        reals[:n, 1],
        integers[:n, 3],
        reals[:n, 2],
    )
