"""Hits: intervals of records in which samples reach a threshold."""

import numpy as np
import strax

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import BOOL, F64, I32, I64, column, columns, kernel, output, row
from amstrax.processing.rows import check_bounds, sort_by_time

_Records = columns(
    __name__,
    "_Records",
    strax.record_dtype(),
    column,
    *("time", "length", "dt", "channel", "baseline", "baseline_rms", "data"),
)
_Hits = columns(__name__, "_Hits", strax.hit_dtype, output)

#: Index that stands for no record, as in `waveforms.record_links`
_NO_RECORD = -1


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


def integrate_hits(
    hits: np.ndarray,
    records: np.ndarray,
    links: tuple[np.ndarray, np.ndarray],
    left: int,
    right: int,
) -> None:
    """Fill, in place, integration bounds and areas of hits, with the samples around them.

    Bounds are at most `left` [ns] before and `right` [ns] behind the hit, within the pulse. They do
    not overlap: samples between two hits of a channel that are nearer belong to the earlier one as
    far as `right` reaches, the others to the later one. ``time`` and ``length`` stay those of the
    hit; ``left_integration`` and ``right_integration`` count from the start of the record, and may
    lie in the records before and behind it.

    Parameters
    ----------
    hits
        `strax.hit_dtype`, sorted by time, shape (m,).
    records
        Records of the hits, shape (r,).
    links
        From `waveforms.record_links`.

    Raises
    ------
    InvalidOption
        When a margin is negative, or longer than a record.
    IndexOutOfBounds
        (a ValueError) for hits of unknown records or samples, and links to unknown records.
    """
    if not len(hits):
        return
    dt = int(hits["dt"][0])
    n_samples = records["data"].shape[1]
    for name, margin in (("hit_left_margin", left), ("hit_right_margin", right)):
        if not 0 <= margin <= n_samples * dt:
            raise InvalidOption(
                f"{name}={margin!r}: give a time between 0 and that of a record, {n_samples * dt} "
                "[ns]"
            )
    mixed = "hits are not of these records; make both again"
    check_bounds("record_i", hits["record_i"], 0, len(records), mixed, hits["time"])
    check_bounds("channel", hits["channel"], 0, 2**15, mixed, hits["time"])
    for field in ("left", "right"):
        check_bounds(field, hits[field], 0, n_samples + 1, mixed, hits["time"])
    check_bounds(
        "length", records["length"], 0, n_samples + 1, "make records again", records["time"]
    )
    for link in links:
        check_bounds("link", np.asarray(link), _NO_RECORD, len(records), mixed, records["time"])
    _integrate_hits(
        _Hits.of(hits),
        _Records.of(records),
        *(np.asarray(link, dtype=np.int32) for link in links),
        int(hits["channel"].max()) + 1,
        int(left) // dt,
        int(right) // dt,
    )


@kernel(_Hits, _Records, column(I32), column(I32), I64, I64, I64)
def _integrate_hits(hits, records, before, behind, n_channels, left, right):
    """Fill bounds and areas; margins are in samples."""
    n_samples = records.data.shape[1]
    # Hit that follows in the channel, and the first sample that is not in the one before [ns]
    following = np.full(len(hits.time), _NO_RECORD, dtype=np.int64)
    latest = np.full(n_channels, _NO_RECORD, dtype=np.int64)
    free_from = np.full(n_channels, -(2**62), dtype=np.int64)
    for h in range(len(hits.time)):
        c = hits.channel[h]
        if latest[c] != _NO_RECORD:
            following[latest[c]] = h
        latest[c] = h
    for h in range(len(hits.time)):
        c, r, dt = hits.channel[h], hits.record_i[h], np.int64(hits.dt[h])
        start = records.time[r]
        first = np.int64(hits.left[h]) - left
        if before[r] == _NO_RECORD:
            first = max(first, np.int64(0))
        first = max(first, -n_samples)
        if free_from[c] > start + first * dt:
            first = (free_from[c] - start) // dt
        beyond = np.int64(hits.right[h]) + right
        if following[h] != _NO_RECORD:
            beyond = min(beyond, (hits.time[following[h]] - start) // dt)
        last = np.int64(records.length[r])
        if behind[r] != _NO_RECORD:
            last = n_samples + np.int64(records.length[behind[r]])
        # A hit is always in its bounds
        first = min(first, np.int64(hits.left[h]))
        beyond = max(min(beyond, last), np.int64(hits.right[h]))
        free_from[c] = start + beyond * dt
        hits.left_integration[h], hits.right_integration[h] = first, beyond
        baseline = np.float64(records.baseline[r])
        total = np.int64(0)
        # Samples of the record before, of the hit's own, and of the one behind
        for k in range(-1, 2):
            low = max(first - k * n_samples, np.int64(0))
            high = min(beyond - k * n_samples, n_samples)
            if low >= high:
                continue
            samples = row(records.data, before[r] if k < 0 else behind[r] if k > 0 else r)
            for j in range(np.uint64(low), np.uint64(high)):
                total += samples[j]
        hits.area[h] = total + (beyond - first) * (baseline - np.floor(baseline))
