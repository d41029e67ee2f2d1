"""Hits: intervals of records in which samples reach a threshold."""

import numpy as np
import strax

from amstrax.processing.compiled import BOOL, F64, column, columns, kernel, output
from amstrax.processing.rows import sort_by_time

_Records = columns(
    __name__,
    "_Records",
    strax.record_dtype(),
    column,
    *("time", "length", "dt", "channel", "baseline", "baseline_rms", "data"),
)
_Hits = columns(__name__, "_Hits", strax.hit_dtype, output)


def find_hits(
    records: np.ndarray,
    min_amplitude: float | np.ndarray = 15,
    min_height_over_noise: float | np.ndarray = 0,
    by_time: bool = False,
) -> np.ndarray:
    """Return the intervals in which samples reach the threshold, as `strax.find_hits` does.

    An interval ends at the end of its record.

    Parameters
    ----------
    records
        Baselined records, `strax.record_dtype`, shape (n,).
    min_amplitude
        Threshold [ADC counts above baseline], one value or one per channel.
    min_height_over_noise
        Threshold [rms of the baseline], likewise; the higher of both counts.
    by_time
        Return hits in the order of `sort_by_time` instead of that of the records.

    Returns
    -------
    Array of `strax.hit_dtype`; areas and heights include the fractional part of the baseline.

    Raises
    ------
    ValueError
        When a record's channel has no threshold, or a record is longer than its data.
    """
    thresholds = min_amplitude, min_height_over_noise
    per_channel = [np.size(x) for x in thresholds if np.ndim(x)]
    n_channels = max(per_channel, default=1)
    arguments = (
        _Records.of(records),
        *(np.array(np.broadcast_to(x, n_channels), dtype=np.float64) for x in thresholds),
        bool(per_channel),
    )
    room = 4 * len(records)
    hits = np.empty(room, dtype=strax.hit_dtype)
    n = _find_hits(*arguments, _Hits.of(hits))
    if n < 0:
        _raise_for(records[-1 - n], n_channels)
    if n > room:
        hits = np.empty(n, dtype=strax.hit_dtype)
        _find_hits(*arguments, _Hits.of(hits))
    return sort_by_time(hits[:n]) if by_time else hits[:n]


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


@kernel(_Records, column(F64), column(F64), BOOL, _Hits)
def _find_hits(records, min_amplitude, over_noise, per_channel, hits):
    """Fill `hits` as far as there is room; return their number, or -1 - (index of a bad record)."""
    n = 0
    for i in range(len(records.time)):
        channel = records.channel[i] if per_channel else 0
        length = np.int64(records.length[i])
        if length > records.data.shape[1] or not 0 <= channel < len(min_amplitude):
            return -1 - i
        threshold = max(min_amplitude[channel], records.baseline_rms[i] * over_noise[channel])
        if not threshold <= 2**15 - 1:
            continue
        lowest = np.int16(max(np.ceil(threshold), -(2**15)))
        samples = records.data[i]
        baseline = np.float64(records.baseline[i])
        fraction = baseline - np.floor(baseline)
        j = 0
        while j < length:
            if samples[j] < lowest:
                j += 1
                continue
            left = highest = j
            area = height = np.int64(0)
            while j < length and samples[j] >= lowest:
                x = np.int64(samples[j])
                area += x
                if x > height:
                    height, highest = x, j
                j += 1
            if n < len(hits.time):
                hits.time[n] = records.time[i] + left * records.dt[i]
                hits.length[n] = j - left
                hits.dt[n] = records.dt[i]
                hits.channel[n] = records.channel[i]
                hits.area[n] = area + (j - left) * fraction
                hits.left[n], hits.right[n] = left, j
                hits.left_integration[n] = hits.right_integration[n] = 0
                hits.record_i[n] = i
                hits.threshold[n] = threshold
                hits.height[n] = height + fraction
                hits.max_time[n] = records.time[i] + highest * records.dt[i]
            n += 1
    return n
