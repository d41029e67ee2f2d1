"""Pulses: baselines, integrals, counts and checks of records.

A pulse is what a digitizer channel wrote after one trigger; it lies in one or more records
(fragments) of equal size, of which fragment 0 is the first. All functions take arrays of
`strax.raw_record_dtype` or `strax.record_dtype`, shape (n,), sorted by time.
"""

import warnings

import numpy as np
import strax
from numba import types

from amstrax.exceptions import InvalidOption, LiveDataCorrupted, PulsesOverlap
from amstrax.processing.compiled import BOOL, F64, I64, column, kernel, output, row

#: Largest count of a digitizer of 14 bits
ADC_MAX = 2**14 - 1

#: Stored as mean baseline of a channel that has no pulses
NO_BASELINE = -9999

_COPIED: dict[str, types.Type] = {
    "time": I64,
    "length": types.int32,
    "dt": types.int16,
    "channel": types.int16,
    "pulse_length": types.int32,
    "record_i": types.int16,
}
_ZEROED_FIELDS = ("reduction_level", "amplitude_bit_shift")
_COUNTED_FIELDS = (
    "time",
    "dt",
    "channel",
    "record_i",
    "pulse_length",
    "area",
    "baseline",
    "baseline_rms",
)


def raw_to_records(
    raw_records: np.ndarray,
    baseline_samples: int,
    flip: bool = True,
    allow_sloppy_chunking: bool = False,
    fallback_baseline: int = 16000,
    floor: bool = False,
) -> np.ndarray:
    """Return baselined and integrated records of `raw_records`.

    Samples beyond a fragment's length are set to zero. The other parameters, and the baseline,
    are as in `baseline_per_channel`; the integral ``area`` is in ADC counts x samples, and holds
    the part of the baseline behind the point, times the length, rounded.

    Parameters
    ----------
    floor
        Round negative baselines, those of positive pulses that the reader has turned over, down.
        Without it they are rounded towards zero, while their part behind the point counts from
        the integer below: waveforms and integrals are up to 1 ADC count a sample too high. Also,
        take `fallback_baseline` - `ADC_MAX` where samples are negative.
    """
    record_length = raw_records.dtype["data"].shape[0]
    records = np.empty(len(raw_records), dtype=strax.record_dtype(record_length))
    _baseline(
        raw_records,
        records,
        baseline_samples,
        flip,
        allow_sloppy_chunking,
        fallback_baseline,
        floor,
    )
    return records


def baseline_per_channel(
    records: np.ndarray,
    baseline_samples: int = 40,
    flip: bool = False,
    allow_sloppy_chunking: bool = False,
    fallback_baseline: int = 16000,
) -> None:
    """Subtract from each pulse, in place, the mean of its first samples.

    The baseline is that of fragment 0, with which all samples count, also those beyond its
    length; later fragments take that of the pulse before them in their channel. The whole part of
    the baseline is subtracted from the ``length`` samples of a record; ``baseline`` and
    ``baseline_rms`` are stored.

    Parameters
    ----------
    records
        Shape (n,), `strax.record_dtype`, sorted by time; ``record_i`` must be right.
    baseline_samples
        Number of samples at the start of a pulse to take the mean and standard deviation of.
    flip
        Turn the sign of the data (for pulses that go down). Without it the baseline is subtracted
        as well, of which a warning tells: amstrax 2 left the data as it was.
    allow_sloppy_chunking
        Take `fallback_baseline`, with an rms of NaN, for a fragment whose channel has had no
        fragment 0 yet.
    fallback_baseline
        ADC counts.

    Raises
    ------
    LiveDataCorrupted
        When a fragment comes before any fragment 0 of its channel, unless
        `allow_sloppy_chunking`; or for a negative channel number.
    """
    if not flip:
        warnings.warn(
            "baseline_per_channel(flip=False) subtracts the baseline (amstrax 2 left the data as "
            "it was): give records.copy() where the data is to stay",
            FutureWarning,
            stacklevel=2,
        )
    _baseline(
        records,
        records,
        baseline_samples,
        flip,
        allow_sloppy_chunking,
        fallback_baseline,
        False,
    )


def _baseline(
    raw, records, baseline_samples, flip, allow_sloppy_chunking, fallback_baseline, floor
):
    """Check `raw`, and fill `records` from it; the rest is as in `_subtract_baseline`.

    If both are the same, only data and baselines are filled.
    """
    if baseline_samples < 1:
        raise InvalidOption(f"baseline_samples={baseline_samples}: a mean is over 1 sample or more")
    if not len(raw):
        return
    if raw["channel"].min() < 0:
        bad = raw[raw["channel"] < 0][0]
        raise LiveDataCorrupted(
            f"record at {bad['time']} ns has the channel number {bad['channel']}: the live data "
            "is not what redax writes"
        )
    missing = _subtract_baseline(
        *(raw[field] for field in _COPIED),
        raw["data"],
        int(baseline_samples),
        -1 if flip else 1,
        bool(allow_sloppy_chunking),
        int(fallback_baseline),
        bool(floor),
        raw is not records,
        *(records[field] for field in _COPIED),
        *(records[field] for field in _ZEROED_FIELDS),
        records["data"],
        records["baseline"],
        records["baseline_rms"],
        records["area"],
    )
    if missing >= 0:
        bad = raw[missing]
        raise LiveDataCorrupted(
            f"fragment {bad['record_i']} of a pulse in channel {bad['channel']} at {bad['time']} "
            "ns has no fragment 0 before it, so its baseline is unknown: the live data is "
            "incomplete, or set allow_sloppy_chunking to take a fixed baseline"
        )


@kernel(
    *map(column, _COPIED.values()),
    column(types.int16, 2),
    I64,
    I64,
    BOOL,
    I64,
    BOOL,
    BOOL,
    *map(output, _COPIED.values()),
    output(types.uint8),
    output(types.int16),
    output(types.int16, 2),
    output(types.float32),
    output(types.float32),
    output(types.int32),
)
def _subtract_baseline(
    time,
    length,
    dt,
    channel,
    pulse_length,
    record_i,
    data,
    baseline_samples,
    sign,
    sloppy,
    fallback,
    floor,
    make_new,
    new_time,
    new_length,
    new_dt,
    new_channel,
    new_pulse_length,
    new_record_i,
    reduction_level,
    bit_shift,
    result,
    baseline,
    baseline_rms,
    area,
):
    """Fill `result`, which may be `data`, with that above the baseline, and the two baselines.

    To `make_new` records all other fields are filled, too, and what lies beyond the length of a
    record is blanked, before anything else is done. Returns the index of a record whose pulse has
    no beginning, or -1.
    """
    n_samples = data.shape[1]
    n_channels = 0
    for i in range(len(channel)):
        n_channels = max(n_channels, channel[i] + 1)
    means = np.zeros(n_channels, dtype=np.float32)
    rmss = np.zeros(n_channels, dtype=np.float32)
    seen = np.zeros(n_channels, dtype=np.bool_)
    for i in range(len(channel)):
        c = channel[i]
        n = max(np.int64(0), min(np.int64(length[i]), n_samples))
        raw = row(data, i)
        whole = np.int64(0)
        if record_i[i] == 0:
            n_mean = min(baseline_samples, n_samples)
            # Blanked samples count, as zeros
            n_filled = max(np.int64(0), min(n_mean, n) if make_new else n_mean)
            total = np.int64(0)
            for j in range(np.uint64(n_filled)):
                total += raw[j]
            mean = total / n_mean
            squares = 0.0
            for j in range(np.uint64(n_filled)):
                squares += (raw[j] - mean) ** 2
            for _ in range(n_filled, n_mean):
                squares += mean**2
            seen[c] = True
            means[c] = mean
            rmss[c] = np.sqrt(squares / n_mean)
            whole = np.int64(mean)
        else:
            if not seen[c]:
                if not sloppy:
                    return i
                is_turned = floor and n > 0 and raw[0] < 0
                means[c] = fallback - ADC_MAX if is_turned else fallback
                rmss[c] = np.nan
            whole = np.int64(means[c])
        if floor:
            whole = np.int64(np.floor(means[c]))
        baseline[i] = means[c]
        baseline_rms[i] = rmss[c]
        above = row(result, i)
        total = np.int64(0)
        for j in range(np.uint64(n)):
            x = np.int16(sign * (raw[j] - whole))
            above[j] = x
            total += x
        if make_new:
            for j in range(np.uint64(n), np.uint64(n_samples)):
                above[j] = 0
            area[i] = total + round((np.float64(means[c]) % 1) * n)
            new_time[i] = time[i]
            new_length[i] = length[i]
            new_dt[i] = dt[i]
            new_channel[i] = c
            new_pulse_length[i] = pulse_length[i]
            new_record_i[i] = record_i[i]
            reduction_level[i] = 0
            bit_shift[i] = 0
    return -1


def pulse_count_dtype(n_channels: int) -> list:
    """Return the dtype of pulse_counts: one row a chunk, an entry a channel."""
    return [
        (("Start time since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time since unix epoch [ns]", "endtime"), np.int64),
        (("Number of pulses", "pulse_count"), np.int64, n_channels),
        (("Number of lone pulses", "lone_pulse_count"), np.int64, n_channels),
        (("Integral of all pulses [ADC counts x samples]", "pulse_area"), np.int64, n_channels),
        (
            ("Integral of lone pulses [ADC counts x samples]", "lone_pulse_area"),
            np.int64,
            n_channels,
        ),
        (
            ("Mean baseline [ADC counts], -9999 without pulses", "baseline_mean"),
            np.int16,
            n_channels,
        ),
        (("Mean baseline rms [ADC counts]", "baseline_rms_mean"), np.float32, n_channels),
    ]


def count_pulses(
    records: np.ndarray, n_channels: int, start: int, end: int, floor: bool = False
) -> np.ndarray:
    """Return pulse counts, integrals and mean baselines per channel.

    A pulse is lone when it starts after the end of every pulse before it, in any channel, and
    ends before the next record starts; the last record of a chunk is none.

    Parameters
    ----------
    records
        Baselined and integrated records of the chunk, sorted by time.
    n_channels
        Number of channels to count for.
    start, end
        Bounds of the chunk [ns since unix epoch].
    floor
        Round negative mean baselines down, as `raw_to_records` does, not towards zero.

    Returns
    -------
    Array of `pulse_count_dtype`, shape (1,).
    """
    result = np.zeros(1, dtype=pulse_count_dtype(n_channels))
    result["time"] = start
    result["endtime"] = end
    sums = np.zeros((n_channels, 2))
    unknown = _count_pulses(
        *(records[field] for field in _COUNTED_FIELDS),
        records["data"].shape[1],
        result["pulse_count"][0],
        result["lone_pulse_count"][0],
        result["pulse_area"][0],
        result["lone_pulse_area"][0],
        sums,
    )
    if unknown >= 0:
        raise _unknown_channel(records, unknown, n_channels)
    count = result["pulse_count"][0]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / count[:, np.newaxis]
    baseline = np.nan_to_num(means[:, 0])
    result["baseline_mean"] = np.where(
        count > 0, np.floor(baseline) if floor else baseline, NO_BASELINE
    )
    result["baseline_rms_mean"] = means[:, 1]
    return result


def _unknown_channel(records: np.ndarray, i: int, n_channels: int) -> LiveDataCorrupted:
    channel, time = records["channel"][i], records["time"][i]
    return LiveDataCorrupted(
        f"records of channel {channel}, but n_tpc_pmts is {n_channels} (row {i}, at {time} ns): is "
        "this run of another detector? Otherwise raise n_tpc_pmts"
    )


@kernel(
    column(I64),
    *[column(types.int16)] * 3,
    *[column(types.int32)] * 2,
    *[column(types.float32)] * 2,
    I64,
    *[output(I64)] * 4,
    output(F64, 2),
)
def _count_pulses(
    time,
    dt,
    channel,
    record_i,
    pulse_length,
    area,
    baseline,
    baseline_rms,
    record_length,
    count,
    lone_count,
    area_sum,
    lone_area_sum,
    baseline_sums,
):
    """Fill the counts and sums; return the index of a record whose channel has none, or -1."""
    is_lone = np.zeros(len(count), dtype=np.bool_)
    latest_end = np.int64(0)
    for i in range(len(time)):
        c = channel[i]
        if not 0 <= c < len(count):
            return i
        samples_left = np.int64(pulse_length[i]) - np.int64(record_i[i]) * record_length
        end = time[i] + samples_left * dt[i]
        area_sum[c] += area[i]
        if record_i[i] == 0:
            count[c] += 1
            baseline_sums[c, 0] += baseline[i]
            baseline_sums[c, 1] += baseline_rms[i]
            is_lone[c] = time[i] > latest_end and i + 1 < len(time) and end < time[i + 1]
            lone_count[c] += is_lone[c]
        if is_lone[c]:
            lone_area_sum[c] += area[i]
        latest_end = max(latest_end, end)
    return -1


def check_overlaps(records: np.ndarray, n_channels: int) -> None:
    """Check that no two records of a channel overlap in time.

    Parameters
    ----------
    records
        Shape (n,), with fields ``time``, ``length``, ``dt`` and ``channel``; sorted by time.
    n_channels
        Number of channels: channel numbers are below it.

    Raises
    ------
    PulsesOverlap
        (a ValueError) with the channel and the time of the first overlap, or of the first record
        that starts before the one in front of it.
    """
    time, channel = records["time"], records["channel"]
    i = _first_overlap(time, records["length"], records["dt"], channel, n_channels)
    if i < 0:
        return
    if not 0 <= channel[i] < n_channels:
        raise _unknown_channel(records, i, n_channels)
    if i and time[i] < time[i - 1]:
        raise PulsesOverlap(
            f"records are not sorted: channel {channel[i]} at {time[i]} ns comes after "
            f"{time[i - 1]} ns. Sort them by time first (strax.sort_by_time)"
        )
    raise PulsesOverlap(
        f"two pulses overlap in channel {channel[i]} at {time[i]} ns: the live data "
        "holds something twice, or the digitizer's clock was reset. Set "
        "check_raw_record_overlaps=False to process it all the same"
    )


@kernel(column(I64), column(types.int32), column(types.int16), column(types.int16), I64)
def _first_overlap(time, length, dt, channel, n_channels):
    """Return the index of the first record that is out of order, overlaps or is unknown, or -1."""
    last_end = np.zeros(n_channels, dtype=np.int64)
    for i in range(len(time)):
        c = channel[i]
        if (i and time[i] < time[i - 1]) or not 0 <= c < n_channels or time[i] < last_end[c]:
            return i
        last_end[c] = time[i] + np.int64(length[i]) * dt[i]
    return -1


def mask_and_not(x: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the elements of `x` where `mask` is true, and the others."""
    return x[mask], x[~mask]


def channel_split(rr: np.ndarray, first_other_ch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of `rr` with ``channel`` below `first_other_ch`, and the others."""
    return mask_and_not(rr, rr["channel"] < first_other_ch)
