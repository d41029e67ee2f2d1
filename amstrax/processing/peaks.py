"""Hits and peaks: finding, clipping, properties from hits, classification and positions.

Peaks are of `strax.peak_dtype`, or columns of it; ``n`` is the number of peaks, ``c`` that of
channels.
"""

import numpy as np
import strax

from amstrax.exceptions import IndexOutOfBounds, InvalidOption
from amstrax.processing.compiled import (
    BOOL,
    F32,
    F64,
    I16,
    I32,
    I64,
    check_bounds,
    column,
    columns,
    kernel,
    output,
    row,
    sort_by_time,
)
from amstrax.processing.waveforms import NO_RECORD

_Hits = columns(__name__, "_Hits", strax.hit_dtype, column, "time length dt channel area")

_Records = columns(
    __name__,
    "_Records",
    strax.record_dtype(),
    column,
    "time length dt channel baseline baseline_rms data",
)
_NewHits = columns(__name__, "_NewHits", strax.hit_dtype, output)

UNKNOWN, S1, S2 = 0, 1, 2
#: Stored as the channel of a peak
SUM_OF_CHANNELS = -1

#: Columns of ``width`` that hold the range of the central 50 % and 90 % of the area
RANGE_50P, RANGE_90P = 5, 9
#: Column of ``area_decile_from_midpoint`` of the 10 % area quantile
DECILE_10P = 1


def gains(
    gain_to_pe_array, n_channels: int, origin: str = "the option gain_to_pe_array"
) -> np.ndarray:
    """Return `gain_to_pe_array` [PE per ADC count x sample], or ones for None.

    Raises InvalidOption, naming `origin`, for fewer than `n_channels` entries or values that are
    not finite numbers.
    """
    if gain_to_pe_array is None:
        return np.ones(n_channels)
    try:
        to_pe = np.asarray(gain_to_pe_array)
    except ValueError:  # lists of different lengths
        to_pe = np.empty(0, dtype=object)
    is_list = to_pe.ndim == 1 and to_pe.dtype.kind in "iuf"
    if not is_list or len(to_pe) < n_channels or not np.isfinite(to_pe).all():
        raise InvalidOption(
            f"gain_to_pe_array {gain_to_pe_array!r:.50}, of shape {to_pe.shape}, must be a list of "
            f"at least {n_channels} finite numbers, one for each channel: correct {origin}"
        )
    return to_pe.astype(np.float64)


def find_hits(
    records: np.ndarray,
    min_amplitude: float | np.ndarray = 15,
    min_height_over_noise: float | np.ndarray = 0,
    by_time: bool = False,
) -> np.ndarray:
    """Return the intervals in which samples reach the threshold, as `strax.find_hits` does.

    An interval ends at the end of its record. Areas and heights include the fractional part of the
    baseline. Hits are in the order of the records, or with `by_time` in that of `sort_by_time`.
    Raises ValueError when a record's channel has no threshold, or a record is longer than its data.

    Parameters
    ----------
    records
        Baselined records, `strax.record_dtype`, shape (n,).
    min_amplitude, min_height_over_noise
        Thresholds [ADC counts above baseline] and [rms of the baseline], one value or one per
        channel; the higher of both counts.
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
    n = _find_hits(*arguments, _NewHits.of(hits))
    if n < 0:
        bad = records[-1 - n]
        if bad["length"] > len(bad["data"]):
            raise ValueError(
                f"a record of {bad['length']} samples, but there is room for {len(bad['data'])}: "
                "the live data is not what redax writes"
            )
        raise ValueError(
            f"records of channel {bad['channel']}, but thresholds for {n_channels} channels: give "
            "one for each"
        )
    if n > room:
        hits = np.empty(n, dtype=strax.hit_dtype)
        _find_hits(*arguments, _NewHits.of(hits))
    return sort_by_time(hits[:n]) if by_time else hits[:n]


@kernel(_Records, column(F64), column(F64), BOOL, _NewHits)
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
    widen: bool = False,
) -> None:
    """Fill, in place, integration bounds and areas of hits, with the samples around them.

    Bounds are at most `left` [ns] before and `right` [ns] behind the hit, within the pulse. They do
    not overlap: samples between two hits of a channel that are nearer belong to the earlier one as
    far as `right` reaches, the others to the later one. ``time`` and ``length`` stay those of the
    hit, or with `widen` cover the bounds as in `widen_hits`; ``left_integration`` and
    ``right_integration`` count from the start of the record, and may lie in those before and behind
    it. `hits`, shape (m,), of each channel are sorted by time; `links` of their `records`, shape
    (r,), are from `waveforms.record_links`.

    Raises InvalidOption when a margin is negative or longer than a record, and IndexOutOfBounds (a
    ValueError) for hits of unknown records or samples, and links to unknown records.
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
    channel = np.ascontiguousarray(hits["channel"])
    check_bounds("channel", channel, 0, 2**15, mixed, hits["time"])
    for link in links:
        check_bounds("link", np.asarray(link), NO_RECORD, len(records), mixed, records["time"])
    good = len(links[0]) == len(links[1]) == len(records) and _integrate_hits(
        _NewHits.of(hits),
        _Records.of(records),
        *(np.asarray(link, dtype=np.int32) for link in links),
        channel,
        int(channel.max()) + 1,
        int(left) // dt,
        int(right) // dt,
        bool(widen),
    )
    if not good:
        check_bounds("record_i", hits["record_i"], 0, len(records), mixed, hits["time"])
        for field in ("left", "right"):
            check_bounds(field, hits[field], 0, n_samples + 1, mixed, hits["time"])
        remedy = "make records again"
        check_bounds("length", records["length"], 0, n_samples + 1, remedy, records["time"])
        raise IndexOutOfBounds(
            f"links of {len(links[0])} and {len(links[1])} records, but there are {len(records)}: "
            "take those that record_links returns for these records"
        )


@kernel(_NewHits, _Records, column(I32), column(I32), column(I16), I64, I64, I64, BOOL)
def _integrate_hits(hits, records, before, behind, channel, n_channels, left, right, widen):
    """Fill bounds and areas; margins are in samples. Return False at an index out of bounds."""
    n_samples = records.data.shape[1]
    # Hit that follows in the channel, and the first sample that is not in the one before [ns]
    following = np.full(len(hits.time), NO_RECORD, dtype=np.int64)
    latest = np.full(n_channels, NO_RECORD, dtype=np.int64)
    free_from = np.full(n_channels, -(2**62), dtype=np.int64)
    for h in range(len(channel)):
        c = channel[h]
        if latest[c] != NO_RECORD:
            following[latest[c]] = h
        latest[c] = h
    for h in range(len(channel)):
        c, r, dt = channel[h], hits.record_i[h], np.int64(hits.dt[h])
        if not (
            0 <= r < len(records.time)
            and 0 <= hits.left[h] <= n_samples
            and 0 <= hits.right[h] <= n_samples
            and 0 <= records.length[r] <= n_samples
            and (behind[r] == NO_RECORD or 0 <= records.length[behind[r]] <= n_samples)
        ):
            return False
        start = records.time[r]
        first = np.int64(hits.left[h]) - left
        if before[r] == NO_RECORD:
            first = max(first, np.int64(0))
        first = max(first, -n_samples)
        if free_from[c] > start + first * dt:
            first = (free_from[c] - start) // dt
        beyond = np.int64(hits.right[h]) + right
        if following[h] != NO_RECORD:
            beyond = min(beyond, (hits.time[following[h]] - start) // dt)
        last = np.int64(records.length[r])
        if behind[r] != NO_RECORD:
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
        if widen:
            hits.time[h] -= (np.int64(hits.left[h]) - first) * dt
            hits.length[h] = beyond - first
    return True


def find_peaks(
    hits: np.ndarray,
    to_pe: np.ndarray,
    dtype: np.dtype,
    gap_threshold: int,
    left_extension: int,
    right_extension: int,
    min_area: float,
    min_channels: int,
    max_duration: int = 10_000_000,
) -> np.ndarray:
    """Return peaks around groups of hits, as `strax.find_peaks` does, without waveforms.

    Raises InvalidOption when peaks with such options would overlap or need no channel, or for
    missing gains, ValueError for hits that differ in ``dt`` or have none, or a peak without length,
    and IndexOutOfBounds (a ValueError) when `dtype` has no entry for the channel of a hit.

    Parameters
    ----------
    hits
        Sorted by time, all with the same sample width, shape (m,).
    to_pe
        PE per ADC count x sample of each channel.
    dtype
        Type of the result, as of `strax.peak_dtype`.
    gap_threshold, max_duration
        An interval this long without hits ends a peak, and so does a hit that would make it longer
        than this [ns].
    left_extension, right_extension
        Time added before the first and after the last hit of a peak [ns].
    min_area, min_channels
        Least area of the hits of a peak [PE], and number of channels with an area other than 0.
    """
    if gap_threshold <= left_extension + right_extension:
        raise InvalidOption(
            f"peak_gap_threshold={gap_threshold} must be above the sum of peak_left_extension="
            f"{left_extension} and peak_right_extension={right_extension}, or peaks overlap"
        )
    if min_channels < 1:
        raise InvalidOption(f"peak_min_pmts={min_channels}: a peak has at least 1 channel")
    if not len(hits):
        return np.zeros(0, dtype=dtype)
    n_channels = np.dtype(dtype)["area_per_channel"].shape[0]
    check_bounds(
        "channel",
        hits["channel"],
        0,
        n_channels,
        "peaks have no such channel; raise n_tpc_pmts, n_ext_pmts of peaks_ext, or n_sipms of "
        "peaks_sipm",
        hits["time"],
    )
    if hits["channel"].max() >= len(to_pe):
        raise InvalidOption(
            f"hits in channel {hits['channel'].max()}, but gains for {len(to_pe)} channels: "
            "give gain_to_pe_array one for each"
        )
    hit_dt = hits["dt"]
    if hit_dt[0] <= 0 or hit_dt.min() != hit_dt.max():
        i = int(np.argmax((hit_dt <= 0) | (hit_dt != hit_dt[0])))
        raise ValueError(
            f"the hit in row {i} at {hits['time'][i]} ns has samples of {hit_dt[i]} ns, the first "
            f"one of {hit_dt[0]} ns: find peaks in records of one digitizer at a time"
        )
    time, length, n_hits, max_gap, area, area_per_channel = _find_peaks(
        _Hits.of(hits),
        np.asarray(to_pe, dtype=np.float64),
        n_channels,
        int(gap_threshold),
        int(left_extension),
        int(right_extension),
        float(min_area),
        int(min_channels),
        int(max_duration),
    )
    if len(length) and length.min() <= 0:
        bad = int(np.argmin(length))
        raise ValueError(
            f"the peak at {time[bad]} ns has {length[bad]} samples: are its hits sorted?"
        )
    peaks = np.zeros(len(time), dtype=dtype)
    peaks["time"], peaks["length"], peaks["dt"] = time, length, hit_dt[0]
    peaks["channel"] = SUM_OF_CHANNELS
    peaks["area"], peaks["area_per_channel"] = area, area_per_channel
    peaks["n_hits"], peaks["max_gap"] = n_hits, max_gap
    return peaks


@kernel(_Hits, column(F64), I64, I64, I64, I64, F64, I64, I64)
def _find_peaks(
    hits, to_pe, n_channels, gap_threshold, left, right, min_area, min_channels, max_duration
):
    """Return columns of peaks: time, length, n_hits, max_gap, area, area_per_channel."""
    room = len(hits.time)
    times = np.empty(room, dtype=np.int64)
    lengths = np.empty(room, dtype=np.int32)
    n_hits = np.empty(room, dtype=np.int32)
    max_gaps = np.empty(room, dtype=np.int32)
    area = np.empty(room, dtype=np.float32)
    areas = np.empty((room, n_channels), dtype=np.float32)
    n = 0
    in_peak = False
    end = np.int64(0)
    for h in range(len(hits.time)):
        hit_end = hits.time[h] + np.int64(hits.length[h]) * hits.dt[h]
        if in_peak:
            max_gaps[n] = max(np.int64(max_gaps[n]), hits.time[h] - end)
        else:
            times[n] = hits.time[h] - left
            n_hits[n] = max_gaps[n] = 0
            area[n] = 0
            areas[n] = 0
            end = hit_end
            in_peak = True
        n_hits[n] += 1
        end = max(end, hit_end)
        in_pe = hits.area[h] * to_pe[hits.channel[h]]
        areas[n, hits.channel[h]] += in_pe
        area[n] += in_pe
        if h + 1 < len(hits.time):
            next_time = hits.time[h + 1]
            duration = next_time - times[n] + np.int64(hits.length[h + 1]) * hits.dt[h + 1]
            if next_time - end < gap_threshold and (duration + left + right <= max_duration):
                continue
        in_peak = False
        seen = 0
        for c in range(n_channels):
            seen += areas[n, c] != 0
        if area[n] >= min_area and seen >= min_channels:
            lengths[n] = np.int32((end - times[n] + right) / hits.dt[h])
            n += 1
    return times[:n], lengths[:n], n_hits[:n], max_gaps[:n], area[:n], areas[:n]


def clip_peaks(peaks: np.ndarray, start: int, end: int) -> None:
    """Shorten, in place, peaks that stick out of their chunk [start, end) [ns since unix epoch].

    Only whole samples are cut, since the samples of peaks stay aligned with those of records.
    """
    dt = peaks["dt"].astype(np.int64)
    before = np.maximum(-((peaks["time"] - start) // dt), 0)
    peaks["time"] += before * dt
    peaks["length"] -= before
    beyond = -((end - strax.endtime(peaks)) // dt)
    peaks["length"] -= np.maximum(beyond, 0)


def between_peaks(peaks: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return the intervals between, before and after the peaks of a chunk [start, end) [ns].

    `peaks` are sorted and do not overlap, shape (n,). The result has ``time`` and ``endtime``,
    shape (n + 1,).
    """
    result = np.zeros(len(peaks) + 1, dtype=strax.time_fields)
    result["time"] = np.concatenate([[start], strax.endtime(peaks)])
    result["endtime"] = np.concatenate([peaks["time"], [end]])
    return result


def widen_hits(hits: np.ndarray) -> np.ndarray:
    """Return hits whose time and length cover their integration bounds, instead of the hit."""
    result = hits.copy()
    shift = hits["left"].astype(np.int64) - hits["left_integration"]
    result["time"] -= shift * hits["dt"]
    result["length"] = hits["right_integration"].astype(np.int64) - hits["left_integration"]
    return result


def count_touching(hits: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return how many hits lie between the first and the last that overlap with each peak.

    Both are sorted by start time; shapes (m,) and (n,). The count includes hits in between that end
    before the peak, as after a longer hit.
    """
    latest_end = np.maximum.accumulate(strax.endtime(hits))
    first = np.searchsorted(latest_end, peaks["time"], side="right")
    beyond = np.searchsorted(hits["time"], strax.endtime(peaks))
    return (beyond - first).astype(np.int32)


def in_no_peak(hits: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return which hits overlap with no peak, shape (m,), bool.

    A hit across the border of two parts of a split peak is in both. `peaks` are sorted and do not
    overlap, shape (n,).
    """
    if not len(peaks):
        return np.ones(len(hits), dtype=bool)
    last = np.searchsorted(peaks["time"], strax.endtime(hits)) - 1
    return (last < 0) | (strax.endtime(peaks)[last] <= hits["time"])


def set_hit_features(peaks: np.ndarray, hits: np.ndarray, window: float) -> None:
    """Fill, in place, the properties of peaks that come from hits.

    - tight_coincidence: number of channels with a hit whose largest sample is at most `window` [ns]
      from that of the sum waveform. Hits outside the peak count, as in straxen.
    - first_channel, last_channel: channels of the first and the last hit whose largest sample is in
      the peak; -1 without one
    - min_diff, max_diff: shortest and longest time between the largest samples of successive hits
      [ns]; -1 for less than two hits
    - n_hits, where it is 0 (parts of split peaks): number of hits that overlap with the peak
    - max_gap, where it is -1: longest time without any of these hits [ns]; -1 without a hit

    `peaks`, shape (n,), have sum waveforms, and are sorted without overlaps; `hits`, shape (m,),
    have ``max_time`` and are sorted by start.
    """
    for field in ("first_channel", "last_channel", "min_diff", "max_diff"):
        peaks[field] = -1
    peaks["tight_coincidence"] = 0
    if not len(peaks) or not len(hits):
        return
    order = np.argsort(hits["max_time"], kind="stable")
    apex, channel = hits["max_time"][order], hits["channel"][order]
    start, end = peaks["time"], strax.endtime(peaks)
    # Hits `first` to `beyond` have their largest sample in the peak
    first, beyond = np.searchsorted(apex, start), np.searchsorted(apex, end)
    some = np.flatnonzero(beyond > first)
    peaks["first_channel"][some] = channel[first[some]]
    peaks["last_channel"][some] = channel[beyond[some] - 1]
    several = np.flatnonzero(beyond - first > 1)
    wait = np.diff(apex)
    for field, function in (("min_diff", np.minimum), ("max_diff", np.maximum)):
        peaks[field][several] = over_ranges(function, wait, first[several], beyond[several] - 1)
    set_tight_coincidence(peaks, hits, window)
    _set_hits_of_parts(peaks, hits["time"], strax.endtime(hits))


def set_tight_coincidence(peaks: np.ndarray, hits: np.ndarray, window: float) -> None:
    """Fill tight_coincidence as `set_hit_features` does, whose parameters these are."""
    if not len(hits):
        peaks["tight_coincidence"] = 0
        return
    channel = np.ascontiguousarray(hits["channel"])
    check_bounds("channel", channel, 0, 2**15, "make hits again", hits["time"])
    start, apex = (np.ascontiguousarray(hits[name]) for name in ("time", "max_time"))
    found = np.zeros(len(peaks), dtype=np.int64)
    _count_coincident(
        peaks["time"],
        peaks["length"],
        peaks["dt"],
        peaks["data"],
        start,
        apex,
        channel,
        float(window),
        int((apex - start).max()),
        int(channel.max()) + 1,
        found,
    )
    peaks["tight_coincidence"] = found


# numpy takes 22 ms for 250,000 hits, 8 % of the lab's whole chain, and this 2 ms
@kernel(
    column(I64),
    column(I32),
    column(I32),
    column(F32, 2),
    column(I64),
    column(I64),
    column(I16),
    F64,
    I64,
    I64,
    output(I64),
)
def _count_coincident(
    start, length, dt, data, hit_start, apex, channel, window, longest_rise, n_channels, result
):
    """Fill `result`; hits reach their largest sample at most `longest_rise` after their start."""
    seen = np.full(n_channels, -1, dtype=np.int64)
    # Times since unix epoch have a precision of 256 ns as floats
    reach = np.int64(np.ceil(min(window, 2.0**61)))
    for i in range(len(start)):
        samples = row(data, i)
        highest = 0
        for j in range(1, min(np.int64(length[i]), len(samples))):
            if samples[j] > samples[highest]:
                highest = j
        summit = start[i] + highest * np.int64(dt[i])
        h = np.searchsorted(hit_start, summit - reach - longest_rise)
        while h < len(hit_start) and hit_start[h] - summit <= reach:
            if abs(apex[h] - summit) <= window and seen[channel[h]] != i:
                seen[channel[h]] = i
                result[i] += 1
            h += 1


def _set_hits_of_parts(peaks: np.ndarray, hit_start: np.ndarray, hit_end: np.ndarray) -> None:
    """Fill n_hits and max_gap of peaks without them."""
    start, end = peaks["time"], strax.endtime(peaks)
    started = np.searchsorted(hit_start, end)
    n_hits = started - np.searchsorted(np.sort(hit_end), start, side="right")
    is_part = peaks["max_gap"] == -1
    np.copyto(peaks["n_hits"], n_hits, where=peaks["n_hits"] == 0)
    # Peaks do not overlap with earlier hits, so the latest end so far is that of an own hit
    latest_end = np.maximum.accumulate(hit_end)
    first = np.searchsorted(latest_end, start, side="right")
    np.copyto(peaks["max_gap"], 0, where=is_part & (n_hits > 0))
    several = np.flatnonzero(is_part & (started - first > 1))
    gap = np.maximum(hit_start[1:] - latest_end[:-1], 0)
    peaks["max_gap"][several] = over_ranges(np.maximum, gap, first[several], started[several] - 1)


def over_ranges(
    function: np.ufunc, values: np.ndarray, first: np.ndarray, beyond: np.ndarray
) -> np.ndarray:
    """Return ``function.reduce(values[first:beyond])`` of non-empty ranges, row by row."""
    bounds = np.stack([first, beyond], axis=1).ravel()
    # One more value, in no range, lets a range end at the last
    return function.reduceat(np.concatenate([values, values[-1:]]), bounds)[::2]


def check_disjoint(peaks: np.ndarray) -> None:
    """Raise ValueError when peaks are not sorted by time, or overlap."""
    bad = peaks["time"][1:] < strax.endtime(peaks)[:-1]
    if bad.any():
        raise ValueError(f"peaks overlap or are not sorted at {peaks['time'][1:][bad][0]} ns")


def center_times(peaks: np.ndarray) -> np.ndarray:
    """Return the centre time of each peak [ns since unix epoch], shape (n,).

    It is the start plus the mean time of the samples, weighted with the waveform and truncated to
    whole ns; the start where the area is not positive.
    """
    return _center_times(peaks["time"], peaks["dt"], peaks["area"], peaks["data"])


# numpy, which must add samples one by one for the same rounding, takes three times as long
@kernel(column(I64), column(I32), column(F32), column(F32, 2))
def _center_times(time, dt, area, data):
    result = np.zeros(len(time), dtype=np.int64)
    for i in range(len(time)):
        offset = 0.0
        if area[i] > 0:
            for j in range(data.shape[1]):
                offset += j * dt[i] * data[i, j]
            offset /= area[i]
        result[i] = time[i] + np.int64(offset)
    return result


def set_center_times(peaks: np.ndarray) -> None:
    """Fill center_time [ns]; area_fraction_top needs a channel map and is set to NaN."""
    peaks["center_time"] = center_times(peaks)
    peaks["area_fraction_top"] = np.nan


def area_fraction_top(area_per_channel: np.ndarray, top: tuple[int, int]) -> np.ndarray:
    """Return the fraction of the area seen by the top channels; NaN for areas <= 0.

    `area_per_channel` [PE] covers all channels of the TPC, shape (n, c); `top` are the first and
    the last channel of the top array.
    """
    is_top = np.zeros(area_per_channel.shape[1], dtype=bool)
    is_top[top[0] : top[1] + 1] = True
    area_top = area_per_channel[:, is_top].sum(axis=1)
    total = area_top + area_per_channel[:, ~is_top].sum(axis=1)
    result = np.full(len(total), np.nan, dtype=np.float32)
    np.divide(area_top, total, out=result, where=total > 0)
    return result


def classify(is_s1: np.ndarray, is_s2: np.ndarray) -> np.ndarray:
    """Return types of peaks: 1 for S1, 2 for S2, 0 for neither or both."""
    result = np.zeros(len(is_s1), dtype=np.int16)
    result[is_s1 & ~is_s2] = S1
    result[is_s2 & ~is_s1] = S2
    return result


def check_sum_area(
    time: np.ndarray, area: np.ndarray, area_per_channel: np.ndarray, rtol: float
) -> None:
    """Raise ValueError when areas per channel, shape (n, c), do not add up to `area`.

    The tolerance is `rtol` x area; peaks of area <= 0 pass.
    """
    total = area_per_channel.sum(axis=1)
    bad = (area > 0) & (np.abs(total - area) > rtol * area)
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"the channels of the peak at {time[i]} ns add up to {total[i]} PE, its area is "
            f"{area[i]} PE: more than the fraction check_peak_sum_area_rtol={rtol} apart. Are "
            "peaks and peak_basics made with the same gains?"
        )


def radius(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance of (x, y) from the axis; `numpy.hypot` differs in the last digit."""
    return np.sqrt(x**2 + y**2)


def reconstruct_positions(
    area: np.ndarray,
    aft: np.ndarray,
    area_per_channel: np.ndarray,
    first_top_channel: int,
    polynomials,
) -> dict[str, np.ndarray]:
    """Return positions of peaks from the light of the four top channels a, b, c, d.

    x_cgr = (A_a + A_b)/A_top and y_cgr = (A_a + A_c)/A_top are fractions; x_corr and y_corr, in mm,
    are polynomials of them in single precision. With r_cgr and r_corr, arrays of shape (n,) are
    returned; NaN where A_top is 0.

    Parameters
    ----------
    area, aft
        Area [PE] and area fraction top, shape (n,); A_top is their product.
    area_per_channel, first_top_channel
        Shape (n, c) [PE], and the number of channel a.
    polynomials
        Coefficients for x and y, highest power first (as in `numpy.poly1d`).
    """
    a, b, c = (area_per_channel[:, first_top_channel + i] for i in range(3))
    area_top = area * aft
    result = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis, pair, polynomial in zip("xy", (a + b, a + c), polynomials, strict=True):
            fraction = np.where(area_top != 0, pair / area_top, np.float32(np.nan))
            result[f"{axis}_cgr"] = fraction
            result[f"{axis}_corr"] = np.polyval(np.asarray(polynomial, dtype=np.float32), fraction)
    for kind in ("cgr", "corr"):
        result[f"r_{kind}"] = radius(result[f"x_{kind}"], result[f"y_{kind}"])
    return result
