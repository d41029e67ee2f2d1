"""Sum waveforms of peaks, from the records in which their hits are, and their widths.

All numbers are those of the functions of strax with these names, in single precision where strax
has it. ``n`` is the number of peaks, ``m`` that of hits, ``r`` that of records.
"""

import numpy as np
from numba import types

from amstrax.exceptions import IndexOutOfBounds, InvalidOption
from amstrax.processing.compiled import F64, I64, column, kernel, output, row
from amstrax.processing.rows import check_bounds

#: Stands for a record that is not there
NO_RECORD = -1

#: What `_sum_waveform` takes
_PEAK_FIELDS = (
    "time",
    "length",
    "dt",
    "area",
    "area_per_channel",
    "data",
    "saturated_channel",
    "n_saturated_channels",
)
_HIT_FIELDS = (
    "time",
    "length",
    "dt",
    "channel",
    "record_i",
    "left_integration",
    "right_integration",
)
_RECORD_FIELDS = ("time", "length", "baseline", "amplitude_bit_shift", "data")


def record_links(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of the record before, and behind, each record in its pulse, or NO_RECORD.

    Parameters
    ----------
    records
        Sorted by time, shape (r,).

    Raises
    ------
    IndexOutOfBounds
        (a ValueError) when a channel is negative.
    """
    if not len(records):
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
    channel = np.ascontiguousarray(records["channel"])
    check_bounds("channel", channel, 0, 2**15, "make these records again", records["time"])
    return _record_links(
        records["time"],
        records["dt"],
        channel,
        records["record_i"],
        int(channel.max()) + 1,
        records["data"].shape[1],
    )


@kernel(column(I64), column(types.int16), column(types.int16), column(types.int16), I64, I64)
def _record_links(time, dt, channel, record_i, n_channels, n_samples):
    before = np.empty(len(time), dtype=np.int32)
    behind = np.empty(len(time), dtype=np.int32)
    last = np.empty(n_channels, dtype=np.int32)
    expected = np.zeros(n_channels, dtype=np.int64)
    for c in range(n_channels):
        last[c] = NO_RECORD
    for i in range(len(time)):
        c = channel[i]
        before[i] = behind[i] = NO_RECORD
        if record_i[i] != 0 and time[i] == expected[c]:
            before[i] = last[c]
            if last[c] != NO_RECORD:
                behind[last[c]] = i
        last[c] = i
        expected[c] = time[i] + n_samples * dt[i]
    return before, behind


def sum_waveform(
    peaks: np.ndarray,
    hits: np.ndarray,
    records: np.ndarray,
    links: tuple[np.ndarray, np.ndarray],
    to_pe: np.ndarray,
    adc_max: int = 0,
) -> None:
    """Fill, in place, waveforms and areas of peaks with the sum of all that hits have in them.

    Only samples in hits count. A waveform that is longer than there is room for is downsampled:
    samples are added up in groups, what is left over at the end is lost, and ``dt`` and
    ``length`` are those of the groups.

    Parameters
    ----------
    peaks
        `strax.peak_dtype`, sorted by time, shape (n,), without waveforms; samples as in records.
    hits
        `strax.hit_dtype`, sorted by time, shape (m,).
    records
        Records that the hits are of, shape (r,).
    links
        As from `record_links`, for hits that are wider than their record.
    to_pe
        PE per ADC count x sample of each channel.
    adc_max
        Largest count of the digitizer: samples of positive pulses, whose baseline is negative
        (the reader turns them over), are saturated there, and others at count 0. With 0, all
        are saturated where they reach the baseline: positive pulses always.

    Raises
    ------
    IndexOutOfBounds
        (a ValueError) when hits are of channels or records that do not exist, links lead to
        records that do not exist, or a length is negative.
    InvalidOption
        When `to_pe` has too few channels.
    ValueError
        When a peak and a hit in it differ in ``dt``, or from the first record.
    """
    if not len(records) or not len(peaks) or not len(hits):
        return
    n_channels = peaks["area_per_channel"].shape[1]
    if len(to_pe) < n_channels:
        raise InvalidOption(
            f"gains for {len(to_pe)} channels, but peaks have {n_channels}: give gain_to_pe_array "
            "one for each"
        )
    if records["dt"][0] <= 0:
        raise ValueError(
            f"the record at {records['time'][0]} ns has samples of {records['dt'][0]} ns: make "
            "records again"
        )
    mixed = "hits are not of these records and peaks; make all of them again"
    check_bounds("channel", hits["channel"], 0, n_channels, mixed, hits["time"])
    check_bounds("record_i", hits["record_i"], 0, len(records), mixed, hits["time"])
    check_bounds("length", peaks["length"], 0, 2**31, "make peaks again", peaks["time"])
    for link in links:
        if len(link) != len(records):
            raise IndexOutOfBounds(
                f"links of {len(link)} records, but there are {len(records)}: take those that "
                "record_links returns for these records"
            )
        check_bounds("link", np.asarray(link), NO_RECORD, len(records), mixed, records["time"])
    bad = _sum_waveform(
        *(peaks[field] for field in _PEAK_FIELDS),
        *(hits[field] for field in _HIT_FIELDS),
        *(records[field] for field in _RECORD_FIELDS),
        *(np.asarray(link, dtype=np.int32) for link in links),
        np.asarray(to_pe, dtype=np.float64),
        int(records["dt"][0]),
        int(adc_max),
    )
    if bad >= 0:
        raise ValueError(
            f"the peak at {peaks['time'][bad]} ns has samples of {peaks['dt'][bad]} ns, and hits "
            f"or records others: peaks must have the dt of their records, {records['dt'][0]} ns"
        )


@kernel(
    column(I64),
    output(types.int32),
    output(types.int32),
    output(types.float32),
    output(types.float32, 2),
    output(types.float32, 2),
    output(types.int8, 2),
    output(types.int16),
    column(I64),
    column(types.int32),
    column(types.int16),
    column(types.int16),
    column(types.int32),
    column(types.int16),
    column(types.int16),
    column(I64),
    column(types.int32),
    column(types.float32),
    column(types.int16),
    column(types.int16, 2),
    column(types.int32),
    column(types.int32),
    column(F64),
    I64,
    I64,
)
def _sum_waveform(
    time,
    length,
    dt,
    area,
    area_per_channel,
    data,
    saturated,
    n_saturated,
    hit_time,
    hit_length,
    hit_dt,
    hit_channel,
    hit_record,
    hit_left,
    hit_right,
    record_time,
    record_length,
    baseline,
    bit_shift,
    record_data,
    before,
    behind,
    to_pe,
    record_dt,
    adc_max,
):
    """Return the index of a peak whose dt is not that of its hits, or -1."""
    n_channels = area_per_channel.shape[1]
    n_samples, n_record_samples = data.shape[1], record_data.shape[1]
    longest = 0
    for p in range(len(time)):
        longest = max(longest, length[p])
    waveform = np.empty(longest, dtype=np.float32)
    in_pe = np.empty(n_record_samples, dtype=np.float32)
    areas = np.empty(n_channels, dtype=np.float32)
    segments = np.empty(3, dtype=np.int64)
    first = 0
    for p in range(len(time)):
        n = length[p]
        area[p] = 0
        waveform[:n] = 0
        areas[:] = 0
        # The first hit that reaches into the peak
        while first < len(hit_time) and (
            time[p] >= hit_time[first] + np.int64(hit_length[first]) * record_dt
        ):
            first += 1
        if first == len(hit_time):
            break
        peak_start = time[p] // record_dt
        for h in range(first, len(hit_time)):
            if dt[p] != hit_dt[h] or dt[p] != record_dt:
                return p
            shift = (time[p] - hit_time[h]) // record_dt
            if shift <= -n:
                break
            if hit_length[h] <= shift:
                continue
            channel = hit_channel[h]
            hit_start = hit_time[h] // record_dt
            # Samples in hit and peak, from the start of the hit
            low = max(np.int64(0), peak_start - hit_start)
            high = min(np.int64(hit_length[h]), peak_start - hit_start + n)
            segments[0] = segments[2] = NO_RECORD
            segments[1] = hit_record[h]
            if hit_left[h] < 0:
                segments[0] = before[hit_record[h]]
            if hit_right[h] > n_record_samples:
                segments[2] = behind[hit_record[h]]
            in_hit = np.float32(0)
            for k in range(3):
                r = segments[k]
                if r == NO_RECORD:
                    continue
                # Sample of the record at the start of the hit
                offset = hit_start - record_time[r] // record_dt
                start = max(np.int64(0), -offset)
                n_filled = min(np.int64(record_length[r]), n_record_samples)
                stop = min(np.int64(hit_length[h]), n_filled - offset)
                if start >= stop:
                    continue
                samples = row(record_data, r)
                multiplier = np.int64(1) << np.int64(bit_shift[r])
                highest = np.int16(-(2**15))
                for j in range(np.uint64(start + offset), np.uint64(stop + offset)):
                    highest = max(highest, samples[j])
                limit = np.int64(np.int16(baseline[r]))
                if adc_max > 0 and baseline[r] < 0:
                    limit = np.int64(np.floor(baseline[r])) + adc_max
                if highest * multiplier >= limit:
                    saturated[p, channel] = 1
                start, stop = max(start, low), min(stop, high)
                if start >= stop:
                    continue
                scale, gain = np.float64(multiplier), to_pe[channel]
                fraction = np.float64(baseline[r]) - np.floor(np.float64(baseline[r]))
                of_record = np.uint64(start + offset)
                of_peak = np.uint64(start + hit_start - peak_start)
                # Many samples at a time; their sum is one by one, since its rounding counts
                for j in range(np.uint64(stop - start)):
                    x = np.float32(scale * samples[of_record + j] + fraction)
                    x = np.float32(x * gain)
                    in_pe[j] = x
                    waveform[of_peak + j] += x
                for j in range(np.uint64(stop - start)):
                    in_hit += in_pe[j]
            areas[channel] += in_hit
            area[p] += in_hit
        factor = np.int64(np.ceil(n / n_samples))
        if factor > 1:
            n = n // factor
            for i in range(n):
                total = np.float32(0)
                for j in range(i * factor, (i + 1) * factor):
                    total += waveform[j]
                data[p, i] = total
            length[p] = n
            dt[p] *= factor
        else:
            for i in range(n):
                data[p, i] = waveform[i]
        count = 0
        for c in range(n_channels):
            area_per_channel[p, c] = areas[c]
            count += saturated[p, c]
        n_saturated[p] = count
    return -1


def set_widths(peaks: np.ndarray) -> None:
    """Fill width, area_decile_from_midpoint and median_time [ns] of peaks with sum waveforms.

    ``width`` is the range of the central 0, 10, ... 100 % of the area, and
    ``area_decile_from_midpoint`` the time from the median to the point with 0, 10, ... 100 % of
    the area before it.
    """
    if not len(peaks):
        return
    central = np.linspace(0, 1, peaks["width"].shape[1])[1:]
    fractions = np.unique(np.concatenate([0.5 - central / 2, 0.5 + central / 2, [0.5]]))
    times = np.zeros((len(peaks), len(fractions)), dtype=np.float32)
    _fraction_indices(peaks["area"], peaks["length"], peaks["data"], fractions, times)
    times *= peaks["dt"][:, np.newaxis]
    middle = len(fractions) // 2
    peaks["median_time"] = times[:, middle]
    peaks["width"] = times[:, middle:] - times[:, ::-1][:, middle:]
    peaks["area_decile_from_midpoint"] = times[:, ::2] - times[:, middle][:, np.newaxis]


@kernel(
    column(types.float32),
    column(types.int32),
    column(types.float32, 2),
    column(F64),
    output(types.float32, 2),
)
def _fraction_indices(area, length, data, fractions, result):
    """Fill `result`, (n, f), with the samples at which peaks reach fractions of their area."""
    n_fractions = len(fractions)
    parts = np.empty(data.shape[1], dtype=np.float32)
    for i in range(len(area)):
        if area[i] <= 0:
            continue
        samples, whole = row(data, i), area[i]
        n = np.uint64(max(0, min(length[i], data.shape[1])))
        for j in range(n):
            parts[j] = samples[j] / whole
        seen = np.float64(0)
        k = 0
        fraction = fractions[0]
        for j in range(n):
            with_this = seen + parts[j]
            if with_this < fraction:
                seen = with_this
                continue
            x = samples[j]
            while k < n_fractions and with_this >= fractions[k]:
                if x != 0:
                    result[i, k] = j + whole * (fractions[k] - seen) / x
                else:
                    result[i, k] = j
                k += 1
            if k == n_fractions:
                break
            fraction = fractions[k]
            seen = with_this
        if k >= n_fractions - 1 and fractions[n_fractions - 1] == 1:
            # Rounding may keep the sum of fractions below 1
            result[i, n_fractions - 1] = length[i]
