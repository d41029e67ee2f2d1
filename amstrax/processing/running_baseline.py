"""Running-mean baseline of pulses, which follows a drifting baseline.

Arrays are of `strax.raw_record_dtype` or `strax.record_dtype`, shape (n,), sorted by time.
"""

import numba
import numpy as np
import strax

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import check_records, sort_by_time
from amstrax.processing.pulses import raw_to_records

#: Standard deviation of rounding to whole ADC counts: 1 / sqrt(12)
QUANTISATION_NOISE = 12**-0.5


def subtract_running_mean(
    raw_records: np.ndarray, n_samples: int, n_sigma: float, flip: bool = True
) -> np.ndarray:
    """Return records whose baseline is, at each sample, the mean of `n_samples` before it.

    The first `n_samples` of a pulse have their own mean and standard deviation (at least that of
    rounding). Each later sample is compared with the mean of the last `n_samples` baseline samples.
    A sample above it by `n_sigma` standard deviations or more is signal, and leaves the mean
    unchanged. Later fragments continue the mean of the previous one, or start anew without it.

    `raw_records` are sorted by time, with correct ``record_i``, and pulses negative (`flip`) or
    positive. A pulse must start with `n_samples`, at most those of a fragment, without signal.

    In the array of `strax.record_dtype` that is returned, ``data`` is positive and rounded to ADC
    counts; ``baseline`` is the mean over the record, rounded, without fractional part;
    ``baseline_rms`` is the standard deviation above; ``area`` is the sum of the data.

    Raises InvalidOption for `n_samples` or `n_sigma` out of range, and IndexOutOfBounds for a
    length that is negative or above that of a fragment; both are ValueErrors.
    """
    record_length = raw_records.dtype["data"].shape[0]
    if not 1 < n_samples <= record_length:
        raise InvalidOption(
            f"a running mean cannot be over {n_samples} samples: take 2 to {record_length}, the "
            "length of a fragment"
        )
    if not 0 < n_sigma < np.inf:
        raise InvalidOption(f"signal cannot be {n_sigma} standard deviations up: take more than 0")
    # For copied fields and blanked samples; its baseline is not used
    records = raw_to_records(raw_records, n_samples, flip=False, allow_sloppy_chunking=True)
    check_records(records)
    if len(records):
        _running_mean(records, raw_records["data"], n_samples, n_sigma, -1 if flip else 1)
    return records


@numba.njit(nogil=True, cache=True)
def _running_mean(records, raw, n_samples, n_sigma, sign):
    n_channels = records["channel"].max() + 1
    # Per channel: ring buffer of the samples in the mean, their sum, place of the next one
    ring = np.zeros((n_channels, n_samples))
    total = np.zeros(n_channels)
    place = np.zeros(n_channels, dtype=np.int64)
    rms = np.zeros(n_channels)
    next_time = np.full(n_channels, -1, dtype=np.int64)
    for i in range(len(records)):
        r = records[i]
        c = r["channel"]
        length = min(r["length"], raw.shape[1])
        if r["record_i"] == 0 or r["time"] != next_time[c]:
            n = max(min(n_samples, length), 1)
            mean = raw[i, :n].mean()
            rms[c] = max(raw[i, :n].std(), QUANTISATION_NOISE)
            ring[c, :] = mean
            ring[c, :n] = raw[i, :n]
            total[c] = ring[c].sum()
            place[c] = 0
            first = n
        else:
            first = 0
        next_time[c] = r["time"] + np.int64(length) * r["dt"]
        area = 0
        baselines = 0.0
        for j in range(length):
            baseline = total[c] / n_samples
            signal = sign * (raw[i, j] - baseline)
            rounded = round(signal)
            r["data"][j] = rounded
            area += rounded
            baselines += baseline
            if j >= first and signal < n_sigma * rms[c]:
                total[c] += raw[i, j] - ring[c, place[c]]
                ring[c, place[c]] = raw[i, j]
                place[c] = (place[c] + 1) % n_samples
        r["area"] = area
        r["baseline"] = round(baselines / max(length, 1))
        r["baseline_rms"] = rms[c]


def keep_hits(records: np.ndarray, n_sigma: float, left: int, right: int) -> np.ndarray:
    """Blank, in place, samples outside hits, and return the hits, sorted by time.

    `records` are from `subtract_running_mean`; areas become those of the remaining samples. Hits
    are `n_sigma` standard deviations of the baseline high; `left` and `right` samples before and
    after each are kept.
    """
    check_records(records)
    hits = strax.find_hits(records, min_amplitude=0, min_height_over_noise=n_sigma)
    hits = sort_by_time(hits)
    kept = strax.cut_outside_hits(records, hits, left_extension=left, right_extension=right)
    records["data"] = kept["data"]
    records["reduction_level"] = kept["reduction_level"]
    strax.integrate(records)
    return hits
