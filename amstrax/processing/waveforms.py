"""Sum waveforms of peaks, from the records of their hits, and their widths.

All numbers are those of the functions of strax with these names, including where strax uses single
precision. ``n`` is the number of peaks, ``m`` that of hits, ``r`` that of records.
"""

import numpy as np
import strax

from amstrax.exceptions import IndexOutOfBounds, InvalidOption
from amstrax.processing.compiled import (
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
)

#: Index that stands for no record
NO_RECORD = -1

_Peaks = columns(
    __name__,
    "_Peaks",
    strax.peak_dtype(),
    output,
    "time length dt area area_per_channel data saturated_channel n_saturated_channels",
)
_Hits = columns(
    __name__,
    "_Hits",
    strax.hit_dtype,
    column,
    "time length dt channel record_i left_integration right_integration",
)
_Records = columns(
    __name__,
    "_Records",
    strax.record_dtype(),
    column,
    "time length baseline amplitude_bit_shift data",
)


def record_links(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of the previous and the next record of each record's pulse, or NO_RECORD.

    `records`, shape (r,), are sorted by time. Raises IndexOutOfBounds (a ValueError) for a negative
    channel.
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


@kernel(column(I64), column(I16), column(I16), column(I16), I64, I64)
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
    """Fill, in place, waveforms and areas of peaks with the sum of the samples in hits.

    A waveform longer than its field is downsampled: samples are added up in groups, the rest at the
    end is dropped, and ``dt`` and ``length`` become those of the groups.

    Raises InvalidOption when `to_pe` has too few channels, ValueError when a peak and a hit in it
    differ in ``dt``, or from the first record, and IndexOutOfBounds (a ValueError) for hits of
    unknown channels or records, links to unknown records, or a negative length.

    Parameters
    ----------
    peaks, hits
        Sorted by time, shapes (n,) and (m,); ``dt`` as in records.
    records, links
        Records of the hits, shape (r,), and their `record_links`.
    to_pe
        PE per ADC count x sample of each channel.
    adc_max
        Largest count of the digitizer: samples of positive pulses, with negative baselines since
        the reader inverts them, are saturated there, others at count 0. With 0, samples are
        saturated where they reach the baseline, so positive pulses always are.
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
        _Peaks.of(peaks),
        _Hits.of(hits),
        _Records.of(records),
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


@kernel(_Peaks, _Hits, _Records, column(I32), column(I32), column(F64), I64, I64)
def _sum_waveform(peaks, hits, records, before, behind, to_pe, record_dt, adc_max):
    """Return the index of a peak whose dt is not that of its hits, or -1."""
    n_channels = peaks.area_per_channel.shape[1]
    n_samples, n_record_samples = peaks.data.shape[1], records.data.shape[1]
    longest = 0
    for p in range(len(peaks.time)):
        longest = max(longest, peaks.length[p])
    waveform = np.empty(longest, dtype=np.float32)
    in_pe = np.empty(n_record_samples, dtype=np.float32)
    areas = np.empty(n_channels, dtype=np.float32)
    segments = np.empty(3, dtype=np.int64)
    first = 0
    for p in range(len(peaks.time)):
        n = peaks.length[p]
        peaks.area[p] = 0
        waveform[:n] = 0
        areas[:] = 0
        # The first hit that reaches into the peak
        while first < len(hits.time) and (
            peaks.time[p] >= hits.time[first] + np.int64(hits.length[first]) * record_dt
        ):
            first += 1
        if first == len(hits.time):
            break
        peak_start = peaks.time[p] // record_dt
        for h in range(first, len(hits.time)):
            if peaks.dt[p] != hits.dt[h] or peaks.dt[p] != record_dt:
                return p
            shift = (peaks.time[p] - hits.time[h]) // record_dt
            if shift <= -n:
                break
            if hits.length[h] <= shift:
                continue
            channel = hits.channel[h]
            hit_start = hits.time[h] // record_dt
            # Samples in hit and peak, from the start of the hit
            low = max(np.int64(0), peak_start - hit_start)
            high = min(np.int64(hits.length[h]), peak_start - hit_start + n)
            segments[0] = segments[2] = NO_RECORD
            segments[1] = hits.record_i[h]
            if hits.left_integration[h] < 0:
                segments[0] = before[hits.record_i[h]]
            if hits.right_integration[h] > n_record_samples:
                segments[2] = behind[hits.record_i[h]]
            in_hit = np.float32(0)
            for k in range(3):
                r = segments[k]
                if r == NO_RECORD:
                    continue
                # Sample of the record at the start of the hit
                offset = hit_start - records.time[r] // record_dt
                start = max(np.int64(0), -offset)
                n_filled = min(np.int64(records.length[r]), n_record_samples)
                stop = min(np.int64(hits.length[h]), n_filled - offset)
                if start >= stop:
                    continue
                samples = row(records.data, r)
                multiplier = np.int64(1) << np.int64(records.amplitude_bit_shift[r])
                highest = np.int16(-(2**15))
                for j in range(np.uint64(start + offset), np.uint64(stop + offset)):
                    highest = max(highest, samples[j])
                limit = np.int64(np.int16(records.baseline[r]))
                if adc_max > 0 and records.baseline[r] < 0:
                    limit = np.int64(np.floor(records.baseline[r])) + adc_max
                if highest * multiplier >= limit:
                    peaks.saturated_channel[p, channel] = 1
                start, stop = max(start, low), min(stop, high)
                if start >= stop:
                    continue
                scale, gain = np.float64(multiplier), to_pe[channel]
                baseline = np.float64(records.baseline[r])
                fraction = baseline - np.floor(baseline)
                of_record = np.uint64(start + offset)
                of_peak = np.uint64(start + hit_start - peak_start)
                # Vectorised; the sum is separate, since its rounding depends on the order
                for j in range(np.uint64(stop - start)):
                    x = np.float32(scale * samples[of_record + j] + fraction)
                    x = np.float32(x * gain)
                    in_pe[j] = x
                    waveform[of_peak + j] += x
                for j in range(np.uint64(stop - start)):
                    in_hit += in_pe[j]
            areas[channel] += in_hit
            peaks.area[p] += in_hit
        factor = np.int64(np.ceil(n / n_samples))
        if factor > 1:
            n = n // factor
            for i in range(n):
                total = np.float32(0)
                for j in range(i * factor, (i + 1) * factor):
                    total += waveform[j]
                peaks.data[p, i] = total
            peaks.length[p] = n
            peaks.dt[p] *= factor
        else:
            for i in range(n):
                peaks.data[p, i] = waveform[i]
        count = 0
        for c in range(n_channels):
            peaks.area_per_channel[p, c] = areas[c]
            count += peaks.saturated_channel[p, c]
        peaks.n_saturated_channels[p] = count
    return -1


def set_widths(peaks: np.ndarray) -> None:
    """Fill width, area_decile_from_midpoint and median_time [ns] of peaks with sum waveforms.

    ``width`` is the range of the central 0, 10, ... 100 % of the area, and
    ``area_decile_from_midpoint`` the time from the median to 0, 10, ... 100 % of the area.
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


@kernel(column(F32), column(I32), column(F32, 2), column(F64), output(F32, 2))
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
