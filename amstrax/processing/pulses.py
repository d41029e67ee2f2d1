"""Pulses: baselines, integrals, counts and checks of records.

A pulse is the data of a digitizer channel after one trigger, in one or more records (fragments) of
equal size, the first of which is fragment 0. All functions take arrays of `strax.raw_record_dtype`
or `strax.record_dtype`, shape (n,), sorted by time.
"""

import warnings

import numpy as np
import strax

from amstrax.exceptions import InvalidOption, LiveDataCorrupted, PulsesOverlap
from amstrax.processing.compiled import (
    BOOL,
    F64,
    I16,
    I32,
    I64,
    column,
    columns,
    kernel,
    output,
    row,
)

#: Largest count of a digitizer of 14 bits
ADC_MAX = 2**14 - 1

#: Baselines of a channel differ by this at least where they count as different [ADC counts]
_LEAST_OFF = 1.0

#: Stored as mean baseline of a channel without pulses
NO_BASELINE = -9999

_Raw = columns(
    __name__,
    "_Raw",
    strax.raw_record_dtype(),
    column,
    "time length dt channel pulse_length record_i data",
)
_Records = columns(__name__, "_Records", strax.record_dtype(), output)


def raw_to_records(
    raw_records: np.ndarray,
    baseline_samples: int,
    flip: bool = True,
    allow_sloppy_chunking: bool = False,
    fallback_baseline: int = 16000,
    floor: bool = False,
) -> np.ndarray:
    """Return baselined and integrated records of `raw_records`.

    Samples beyond a fragment's length are set to zero. The baseline and its parameters are those of
    `baseline_per_channel`. ``area`` [ADC counts x samples] includes the fractional part of the
    baseline times the length, rounded.

    With `floor`, negative baselines (of positive pulses that the reader has inverted) are rounded
    down, and `fallback_baseline` - `ADC_MAX` is used where samples are negative. Without it they
    are rounded towards zero, while their fractional part counts from the integer below: waveforms
    and integrals are up to 1 ADC count per sample too high.
    """
    record_length = raw_records.dtype["data"].shape[0]
    records = np.empty(len(raw_records), dtype=strax.record_dtype(record_length))
    options = baseline_samples, flip, allow_sloppy_chunking, fallback_baseline, floor
    _baseline(raw_records, records, *options)
    return records


def baseline_per_channel(
    records: np.ndarray,
    baseline_samples: int = 40,
    flip: bool = False,
    allow_sloppy_chunking: bool = False,
    fallback_baseline: int = 16000,
) -> None:
    """Subtract from each pulse, in place, the mean of its first samples.

    The baseline is that of fragment 0, including samples beyond its length; later fragments take
    that of the latest fragment 0 in their channel. Its integer part is subtracted from the
    ``length`` samples of a record; ``baseline`` and ``baseline_rms`` are filled.

    Parameters
    ----------
    records
        `strax.record_dtype`, shape (n,), sorted by time, with correct ``record_i``.
    baseline_samples
        Number of samples at the start of a pulse for the mean and standard deviation.
    flip
        Invert the data (for negative pulses). Without it the baseline is subtracted as well, with a
        FutureWarning: amstrax 2 left the data unchanged.
    allow_sloppy_chunking
        Use `fallback_baseline` [ADC counts], with an rms of NaN, for a fragment without an earlier
        fragment 0 in its channel.

    Raises
    ------
    LiveDataCorrupted
        For a fragment without an earlier fragment 0 in its channel, unless `allow_sloppy_chunking`,
        and for a negative channel number.
    """
    if not flip:
        warnings.warn(
            "baseline_per_channel(flip=False) subtracts the baseline (amstrax 2 left the data as "
            "it was): give records.copy() where the data is to stay",
            FutureWarning,
            stacklevel=2,
        )
    options = baseline_samples, flip, allow_sloppy_chunking, fallback_baseline, False
    _baseline(records, records, *options)


def _baseline(
    raw, records, baseline_samples, flip, allow_sloppy_chunking, fallback_baseline, floor
):
    """Check `raw` and fill `records` from it; only data and baselines if both are the same."""
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
        _Raw.of(raw),
        _Records.of(records),
        raw is not records,
        int(raw["channel"].max()) + 1,
        int(baseline_samples),
        -1 if flip else 1,
        bool(allow_sloppy_chunking),
        int(fallback_baseline),
        bool(floor),
    )
    if missing >= 0:
        bad = raw[missing]
        raise LiveDataCorrupted(
            f"fragment {bad['record_i']} of a pulse in channel {bad['channel']} at {bad['time']} "
            "ns has no fragment 0 before it, so its baseline is unknown: the live data is "
            "incomplete, or set allow_sloppy_chunking to take a fixed baseline"
        )


def steady_baselines(records: np.ndarray, half_window: int = 5) -> np.ndarray:
    """Return a copy of records in which baselines are medians over pulses of the same channel.

    A pulse that closely follows another begins with signal, which lowers its own baseline and so
    its area. The median is over it and `half_window` pulses on each side, fewer at both ends,
    without those further from the median than three standard deviations, by the median deviation.
    Pulses of `records` are positive.
    """
    records = records.copy()
    shift = np.zeros(len(records), dtype=np.int64)
    for channel in np.unique(records["channel"]):
        own = np.flatnonzero(records["channel"] == channel)
        is_first = records["record_i"][own] == 0
        baseline = records["baseline"][own[is_first]].astype(np.float64)
        if not len(baseline):
            continue
        padded = np.pad(baseline, half_window, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half_window + 1)
        median = np.nanmedian(windows, axis=1, keepdims=True)
        off = np.abs(windows - median)
        # Pulses that begin with signal are outliers on one side, which would move the median
        limit = np.maximum(4.5 * np.nanmedian(off, axis=1, keepdims=True), _LEAST_OFF)
        steady = np.nanmedian(np.where(off <= limit, windows, np.nan), axis=1)
        change = np.rint(steady - baseline).astype(np.int64)
        # Later fragments have the baseline of their pulse
        pulse = np.cumsum(is_first) - 1
        shift[own] = np.where(pulse >= 0, change[pulse], 0)
    changed = np.flatnonzero(shift)
    by, length = shift[changed, np.newaxis], records["length"][changed, np.newaxis]
    inside = np.arange(records["data"].shape[1]) < length
    records["data"][changed] += (by * inside).astype(np.int16)
    records["baseline"] += shift
    records["area"] += shift * records["length"]
    return records


@kernel(_Raw, _Records, BOOL, I64, I64, I64, BOOL, I64, BOOL)
def _subtract_baseline(
    raw, records, make_new, n_channels, baseline_samples, sign, sloppy, fallback, floor
):
    """Fill the baselines and the data above them; return a record without baseline, or -1.

    For `make_new` records, samples beyond the length of a record count as zeros, and all other
    fields are filled. Otherwise `records` are `raw`.
    """
    n_samples = raw.data.shape[1]
    means = np.zeros(n_channels, dtype=np.float32)
    rmss = np.zeros(n_channels, dtype=np.float32)
    seen = np.zeros(n_channels, dtype=np.bool_)
    for i in range(len(raw.channel)):
        c = raw.channel[i]
        n = max(np.int64(0), min(np.int64(raw.length[i]), n_samples))
        samples = row(raw.data, i)
        if raw.record_i[i] == 0:
            n_mean = min(baseline_samples, n_samples)
            n_filled = max(np.int64(0), min(n_mean, n) if make_new else n_mean)
            total = np.int64(0)
            for j in range(np.uint64(n_filled)):
                total += samples[j]
            mean = total / n_mean
            squares = 0.0
            for j in range(np.uint64(n_filled)):
                squares += (samples[j] - mean) ** 2
            for _ in range(n_filled, n_mean):
                squares += mean**2
            seen[c] = True
            means[c] = mean
            rmss[c] = np.sqrt(squares / n_mean)
            # Before the mean is rounded to single precision
            whole = np.int64(mean)
        else:
            if not seen[c]:
                if not sloppy:
                    return i
                is_inverted = floor and n > 0 and samples[0] < 0
                means[c] = fallback - ADC_MAX if is_inverted else fallback
                rmss[c] = np.nan
            whole = np.int64(means[c])
        if floor:
            whole = np.int64(np.floor(means[c]))
        records.baseline[i] = means[c]
        records.baseline_rms[i] = rmss[c]
        above = row(records.data, i)
        total = np.int64(0)
        for j in range(np.uint64(n)):
            x = np.int16(sign * (samples[j] - whole))
            above[j] = x
            total += x
        if make_new:
            for j in range(np.uint64(n), np.uint64(n_samples)):
                above[j] = 0
            records.area[i] = total + round((np.float64(means[c]) % 1) * n)
            records.time[i] = raw.time[i]
            records.length[i] = raw.length[i]
            records.dt[i] = raw.dt[i]
            records.channel[i] = c
            records.pulse_length[i] = raw.pulse_length[i]
            records.record_i[i] = raw.record_i[i]
            records.reduction_level[i] = 0
            records.amplitude_bit_shift[i] = 0
    return -1


def pulse_count_dtype(n_channels: int) -> list:
    """Return the dtype of pulse_counts: one row per chunk, one entry per channel."""
    per_channel = [
        ("Number of pulses", "pulse_count", np.int64),
        ("Number of lone pulses", "lone_pulse_count", np.int64),
        ("Integral of all pulses [ADC counts x samples]", "pulse_area", np.int64),
        ("Integral of lone pulses [ADC counts x samples]", "lone_pulse_area", np.int64),
        ("Mean baseline [ADC counts], -9999 without pulses", "baseline_mean", np.int16),
        ("Mean baseline rms [ADC counts]", "baseline_rms_mean", np.float32),
    ]
    return [
        (("Start time since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time since unix epoch [ns]", "endtime"), np.int64),
        *(((title, name), dtype, n_channels) for title, name, dtype in per_channel),
    ]


def count_pulses(
    records: np.ndarray, n_channels: int, start: int, end: int, floor: bool = False
) -> np.ndarray:
    """Return pulse counts, integrals and mean baselines per channel.

    A pulse is lone when it starts after the end of every earlier pulse of any channel, and ends
    before the next record starts; the last record of a chunk is not lone. `records` of the chunk
    [`start`, `end`) [ns since unix epoch] are baselined, integrated and sorted by time. With
    `floor` negative mean baselines are rounded down, as by `raw_to_records`, instead of towards
    zero. The result has `pulse_count_dtype`, shape (1,).
    """
    result = np.zeros(1, dtype=pulse_count_dtype(n_channels))
    result["time"], result["endtime"] = start, end
    sums = np.zeros((n_channels, 2))
    unknown = _count_pulses(
        _Counted.of(records), records["data"].shape[1], _Counts.of(result), sums
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


_Counted = columns(
    __name__,
    "_Counted",
    strax.record_dtype(),
    column,
    "time dt channel record_i pulse_length area baseline baseline_rms",
)
_Counts = columns(
    __name__,
    "_Counts",
    pulse_count_dtype(2),
    output,
    "pulse_count lone_pulse_count pulse_area lone_pulse_area",
)


@kernel(_Counted, I64, _Counts, output(F64, 2))
def _count_pulses(records, record_length, counts, baseline_sums):
    """Fill the counts and sums; return the index of a record of an unknown channel, or -1."""
    n_channels = len(baseline_sums)
    is_lone = np.zeros(n_channels, dtype=np.bool_)
    latest_end = np.int64(0)
    n = len(records.time)
    for i in range(n):
        c, time = records.channel[i], records.time[i]
        if not 0 <= c < n_channels:
            return i
        samples_left = (
            np.int64(records.pulse_length[i]) - np.int64(records.record_i[i]) * record_length
        )
        end = time + samples_left * records.dt[i]
        counts.pulse_area[0, c] += records.area[i]
        if records.record_i[i] == 0:
            counts.pulse_count[0, c] += 1
            baseline_sums[c, 0] += records.baseline[i]
            baseline_sums[c, 1] += records.baseline_rms[i]
            is_lone[c] = time > latest_end and i + 1 < n and end < records.time[i + 1]
            counts.lone_pulse_count[0, c] += is_lone[c]
        if is_lone[c]:
            counts.lone_pulse_area[0, c] += records.area[i]
        latest_end = max(latest_end, end)
    return -1


def _unknown_channel(records: np.ndarray, i: int, n_channels: int) -> LiveDataCorrupted:
    channel, time = records["channel"][i], records["time"][i]
    return LiveDataCorrupted(
        f"records of channel {channel}, but n_tpc_pmts is {n_channels} (row {i}, at {time} ns): is "
        "this run of another detector? Otherwise raise n_tpc_pmts"
    )


def check_overlaps(records: np.ndarray, n_channels: int) -> None:
    """Check that records, shape (n,), are sorted, and that no two of a channel overlap in time.

    Raises PulsesOverlap (a ValueError) with channel and time of the first overlap or unsorted
    record, and LiveDataCorrupted for a channel number not below `n_channels`.
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
            f"{time[i - 1]} ns. Sort them by time first "
            "(amstrax.processing.compiled.sort_by_time)"
        )
    raise PulsesOverlap(
        f"two pulses overlap in channel {channel[i]} at {time[i]} ns: the live data "
        "holds something twice, or the digitizer's clock was reset. Set "
        "check_raw_record_overlaps=False to process it all the same"
    )


# numpy reads each column of the wide rows from memory: 33 instead of 6 ms for 347,000 records
@kernel(column(I64), column(I32), column(I16), column(I16), I64)
def _first_overlap(time, length, dt, channel, n_channels):
    """Return the index of the first record that is unsorted, overlaps or is unknown, or -1."""
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
