"""Splitting of peaks at local minima and natural breaks, and two S1s in one waveform.

Criteria and numbers of splits are those of `strax.split_peaks`, which compiles its splitter anew in
every process.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from strax.processing.peak_splitting import natural_breaks_gof

from amstrax.processing.compiled import (
    F32,
    F64,
    I32,
    I64,
    as_void,
    check_bounds,
    column,
    kernel,
    output,
    time_order,
)
from amstrax.processing.waveforms import set_widths, sum_waveform

#: Above any real waveform [PE/sample]
_HUGE = 99999999999999.9


def split_peaks(
    peaks: np.ndarray,
    hits: np.ndarray,
    records: np.ndarray,
    links: tuple[np.ndarray, np.ndarray],
    to_pe: np.ndarray,
    find_splits: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    iterations: int = 1,
    adc_max: int = 0,
) -> np.ndarray:
    """Return peaks split where `find_splits` says, with waveforms and widths of the parts.

    `find_splits` takes peaks, `strax.peak_dtype` with sum waveforms and widths, shape (n,). It
    returns the index of the peak and the last sample (excluded) of every part of the peaks to
    split, in order. Parts are split again, `iterations` times in all at most. Other parameters are
    those of `amstrax.processing.waveforms.sum_waveform`.
    """
    if not len(peaks) or not len(records) or iterations <= 0:
        return peaks
    index, part_end = find_splits(peaks)
    if not len(index):
        return peaks
    parts = _make_parts(peaks, index, part_end, int(records["dt"][0]))
    sum_waveform(parts, hits, records, links, to_pe, adc_max)
    set_widths(parts)
    parts = split_peaks(parts, hits, records, links, to_pe, find_splits, iterations - 1, adc_max)
    return _replace(peaks, index, parts)


def _replace(peaks: np.ndarray, index: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return peaks with those at `index` replaced by their parts, sorted by time."""
    is_whole = np.ones(len(peaks), dtype=bool)
    is_whole[index] = False
    whole = np.flatnonzero(is_whole)
    order = time_order(
        *(np.concatenate([peaks[field][whole], parts[field]]) for field in ("time", "channel"))
    )
    # Peaks are wide, so each is copied once: rows of parts first get a copy of the first peak
    origin = np.concatenate([whole, np.zeros(len(parts), dtype=np.int64)])
    if order is None:
        order = np.arange(len(origin))
    result = as_void(peaks)[origin[order]]
    is_part = order >= len(whole)
    result[is_part] = as_void(parts)[order[is_part] - len(whole)]
    return result.view(peaks.dtype)


def _make_parts(
    peaks: np.ndarray, index: np.ndarray, part_end: np.ndarray, record_dt: int
) -> np.ndarray:
    """Return new peaks, without waveforms, for parts of `peaks` that end at samples `part_end`."""
    parts = np.zeros(len(index), dtype=peaks.dtype)
    same_peak = np.zeros(len(index), dtype=bool)
    same_peak[1:] = index[1:] == index[:-1]
    part_start = np.where(same_peak, np.roll(part_end, 1), 0)
    dt = peaks["dt"][index].astype(np.int64)
    parts["time"] = peaks["time"][index] + part_start * dt
    parts["length"] = (part_end - part_start) * dt // record_dt
    parts["dt"] = record_dt
    parts["channel"] = peaks["channel"][index]
    for field in ("max_gap", "max_diff", "min_diff", "first_channel", "last_channel"):
        parts[field] = -1
    return parts


def _check_lengths(peaks: np.ndarray) -> None:
    room = peaks["data"].shape[1]
    remedy = "longer than its waveform, or negative; make peaks again"
    check_bounds("length", peaks["length"], 0, room + 1, remedy, peaks["time"])


def _finder(kernel_: Callable, fields: str, *options: float) -> Callable:
    """Return a finder for `split_peaks` that calls a kernel with fields of peaks and options."""

    def find_splits(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _check_lengths(peaks)
        return kernel_(*(peaks[name] for name in fields.split()), *map(float, options))

    return find_splits


def local_minimum_splits(min_height: float, min_ratio: float) -> Callable:
    """Return a finder of local minima for `split_peaks`.

    A minimum splits when the maxima on both sides exceed both the minimum plus `min_height`
    [PE/sample] and the minimum times `min_ratio`.
    """

    return _finder(_local_minima, "data length area", min_height, min_ratio)


@kernel(column(F32, 2), column(I32), column(F32), F64, F64)
def _local_minima(data, length, area, min_height, min_ratio):
    index = [0][:0]
    part_end = [0][:0]
    for i in range(len(length)):
        if area[i] < 0:
            continue
        found = False
        last_max = -_HUGE
        minimum = _HUGE
        minimum_at = 0
        for j in range(length[i]):
            x = data[i, j]
            if x < minimum:
                minimum = x
                minimum_at = j
            if min(last_max, x) > max(minimum + min_height, minimum * min_ratio):
                index.append(i)
                part_end.append(minimum_at)
                found = True
                last_max = x
                minimum = _HUGE
                minimum_at = j
            if x > last_max:
                last_max = x
                minimum = _HUGE
                minimum_at = j
        if found:
            index.append(i)
            part_end.append(int(length[i]))
    return np.array(index, dtype=np.int64), np.array(part_end, dtype=np.int64)


def first_of(*finders: Callable) -> Callable:
    """Return a finder for `split_peaks` that splits a peak as the first does that splits it."""

    def find_splits(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index, part_end = finders[0](peaks)
        for finder in finders[1:]:
            more, ends = finder(peaks)
            is_new = ~np.isin(more, index)
            index = np.concatenate([index, more[is_new]])
            part_end = np.concatenate([part_end, ends[is_new]])
        order = np.argsort(index, kind="stable")
        return index[order], part_end[order]

    return find_splits


def s1_pair_splits(
    window: float, split_window: float, significance: float, min_fraction: float, fano: float
) -> Callable:
    """Return a finder of the minimum between two S1s, as those of Kr-83m, for `split_peaks`.

    Light is counted in sums of `split_window` [ns], in which the minimum lies below the largest sum
    on either side by `significance` standard deviations of the difference, the variance of a sum
    being `fano` [PE] times the sum. Both parts have at least `min_fraction` of the area, and at
    least 0.7 of their own area within `window` [ns], so that S2s are not split.
    """

    options = window, split_window, significance, min_fraction, fano
    return _finder(_s1_pairs, "data length dt area", *options)


@kernel(column(F32, 2), column(I32), column(I32), column(F32), F64, F64, F64, F64, F64)
def _s1_pairs(data, length, dt, area, window, split_window, significance, min_fraction, fano):
    index = [0][:0]
    part_end = [0][:0]
    sums = np.empty(data.shape[1] + 1, dtype=np.float64)
    before = np.empty(data.shape[1], dtype=np.float64)
    for i in range(len(length)):
        n = np.int64(length[i])
        w, long = np.int64(split_window / dt[i]), np.int64(window / dt[i])
        # The least area of which a part is significant
        if w < 1 or n < 2 * w or area[i] < 2 * fano * significance**2:
            continue
        highest = np.float32(0)
        sums[0] = 0
        for j in range(n):
            sums[j + 1] = sums[j] + data[i, j]
            highest = max(highest, data[i, j])
        # Not even two windows full of the highest sample suffice
        if 2.0001 * long * highest < 0.7 * sums[n]:
            continue
        # Two S1s have most of the area within two windows, S2s have not
        best = pair = 0.0
        for j in range(n):
            inside = sums[j + 1] - sums[max(j + 1 - long, 0)]
            best = max(best, inside)
            before[j] = best
            pair = max(pair, inside + (before[j - long] if j >= long else 0.0))
        if pair < 0.7 * sums[n]:
            continue
        # Largest sum before, and from the other side behind, of the one that starts at a sample
        n_sums = n - w + 1
        best = 0.0
        for j in range(n_sums):
            best = max(best, sums[j + w] - sums[j])
            before[j] = best
        best, strongest, at = 0.0, significance, -1
        for j in range(n_sums - 1, -1, -1):
            here = sums[j + w] - sums[j]
            best = max(best, here)
            peak = min(best, before[j])
            if peak <= max(here, 0.0):
                continue
            found = (peak - here) / np.sqrt(fano * (peak + max(here, 0.0)))
            if found > strongest:
                strongest, at = found, j
        if at < 0:
            continue
        # The lowest sample of that sum
        split = at
        for j in range(at, at + w):
            if data[i, j] <= data[i, split]:
                split = j
        split = max(split, 1)
        good = True
        for low, high in ((np.int64(0), split), (split, n)):
            whole = sums[high] - sums[low]
            best = 0.0
            for j in range(low, high):
                best = max(best, sums[min(j + long, high)] - sums[j])
            good = good and whole >= min_fraction * sums[n] and best >= 0.7 * whole
        if good:
            index.append(i)
            part_end.append(int(split))
            index.append(i)
            part_end.append(int(n))
    return np.array(index, dtype=np.int64), np.array(part_end, dtype=np.int64)


def natural_breaks_splits(
    threshold: Callable[[np.ndarray], np.ndarray], wing_width: int, min_area: float
) -> Callable:
    """Return a finder of natural breaks for `split_peaks`.

    Peaks of at least `min_area` [PE] split where the goodness of split is largest, if that exceeds
    `threshold(peaks)`. It is `strax.processing.peak_splitting.natural_breaks_gof` with
    ``split_low``, filtered with a moving average of `wing_width` ns to each side. Its largest value
    is stored in ``max_goodness_of_split``.
    """

    def find_splits(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _check_lengths(peaks)
        best = peaks["max_goodness_of_split"].copy()
        found = _natural_breaks(
            peaks["data"],
            peaks["length"],
            peaks["dt"],
            peaks["area"],
            threshold(peaks),
            int(wing_width),
            float(min_area),
            best,
        )
        peaks["max_goodness_of_split"] = best
        return found

    return find_splits


@kernel(column(F32, 2), column(I32), column(I32), column(F32), column(F64), I64, F64, output(F32))
def _natural_breaks(data, length, dt, area, threshold, wing_width, min_area, best):
    index = [0][:0]
    part_end = [0][:0]
    for i in range(len(length)):
        if area[i] < min_area:
            continue
        goodness = natural_breaks_gof(data[i, : length[i]], dt[i], False, True, wing_width)
        at = int(np.argmax(goodness))
        if goodness[at] > threshold[i]:
            index.append(i)
            part_end.append(at)
            index.append(i)
            part_end.append(int(length[i]) - 1)
        best[i] = goodness[at]
    return np.array(index, dtype=np.int64), np.array(part_end, dtype=np.int64)


def natural_breaks_threshold(log10_area_to_gof: tuple) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of peaks that gives the least goodness of split that splits them.

    `log10_area_to_gof` is (None, S1 curve, S2 curve), each curve points (log10 area [PE],
    goodness). Peaks are S2-like by the fraction 1/(1 + exp(-8 log10(rise_time/100 ns))), by which
    the curves are mixed, with rise times limited to [1 ns, 0.1 ms] and areas to [1, 1e7] PE.
    """
    _, s1_points, s2_points = log10_area_to_gof

    def threshold(peaks: np.ndarray) -> np.ndarray:
        rise_time = -peaks["area_decile_from_midpoint"][:, 1]
        log_area = np.log10(np.clip(peaks["area"], 1, 1e7))
        f_s2 = 1 / (1 + np.exp(-8 * np.log10(np.clip(rise_time, 1, 1e5) / 100)))
        return f_s2 * np.interp(log_area, *np.transpose(s2_points)) + (1 - f_s2) * np.interp(
            log_area, *np.transpose(s1_points)
        )

    return threshold


# Two S1s. The pulse shape of an S1 is an exponential decay that starts at the deposit, smeared by a
# normal distribution for the PMTs and the digitizer

#: Width of a sample of the fitted waveforms [ns]
SAMPLE = 10
#: Positions of pulses are fitted in steps of a sample divided by this
_STEPS = 2
#: The first S1 is looked for so long before and after the onset of the waveform [samples]
_AROUND_ONSET = (-6, 4)
#: The onset is where the waveform has this share of its area
_ONSET = 0.03
#: Expected photoelectrons of a sample without light, for likelihoods
_FLOOR = 0.02
#: Events that are fitted at once
_BATCH = 2_000


class Pairs(NamedTuple):
    """Two S1s fitted to each of n waveforms, arrays of shape (n,); NaN without light."""

    start: np.ndarray  #: of the first S1, from the start of the waveform [ns]
    delay: np.ndarray  #: of the second S1 after the first [ns]
    first: np.ndarray  #: area of the first S1 [PE]
    second: np.ndarray  #: area of the second S1 [PE]
    #: Gain in log-likelihood over one S1: 2 x gain follows about chi2 of two degrees of freedom
    gain: np.ndarray


def pulse_shape(n_samples: int, decay_time: float, spread: float, start: float = 0.0) -> np.ndarray:
    """Return the share of an S1's light in each sample of `SAMPLE` ns, shape (n_samples,).

    An exponential decay of `decay_time` [ns], smeared by a normal distribution of standard
    deviation `spread` [ns], begins `start` [ns] after the start of the first sample.
    """
    t = (np.arange(n_samples + 1) * SAMPLE - start) / spread
    ratio = spread / decay_time
    exponent = np.clip(ratio**2 / 2 - ratio * t, None, 700)
    cumulative = ndtr(t) - np.exp(exponent) * ndtr(t - ratio)
    return np.diff(np.nan_to_num(cumulative))


def join_waveforms(
    peaks: np.ndarray, row: np.ndarray, start: np.ndarray, n_samples: int
) -> np.ndarray:
    """Return the sum waveforms of groups of peaks, shape (len(start), n_samples) [PE/sample].

    Light outside of a waveform is left out. `peaks`, shape (p,), have time, length, dt (a multiple
    of `SAMPLE`) and data, and belong to the waveforms `row`. These begin at `start` [ns], and have
    samples of `SAMPLE` ns.
    """
    result = np.zeros((len(start), n_samples))
    for dt in np.unique(peaks["dt"]):
        own = peaks["dt"] == dt
        n_parts = max(int(dt) // SAMPLE, 1)
        data = np.repeat(peaks["data"][own] / n_parts, n_parts, axis=1)
        sample = np.arange(data.shape[1])
        first = (peaks["time"][own] - start[row[own]]) // SAMPLE
        index = first[:, np.newaxis] + sample
        end = peaks["length"][own][:, np.newaxis] * n_parts
        inside = (index >= 0) & (index < n_samples) & (sample < end)
        rows = np.broadcast_to(row[own][:, np.newaxis], index.shape)
        np.add.at(result, (rows[inside], index[inside]), data[inside])
    return result


def fit_pairs(
    waveforms: np.ndarray, decay_time: float, spread: float, min_delay: float = 30.0
) -> Pairs:
    """Return the two pulses, with the least sum of squares, of each waveform.

    The first pulse is near the onset of the waveform, the second at any time from `min_delay` [ns]
    later. Areas are those of the linear least-squares fit at the best positions, in steps of 5 ns;
    times are interpolated between these. `waveforms` [PE/sample] have samples of `SAMPLE` ns, shape
    (n, m); `decay_time` and `spread` are as in `pulse_shape`.
    """
    n = len(waveforms)
    result = Pairs(*np.full((5, n), np.nan))
    for begin in range(0, n, _BATCH):
        part = waveforms[begin : begin + _BATCH].astype(np.float64)
        lit = np.flatnonzero(part.sum(axis=1) > 0)
        if len(lit):
            for values, fitted in zip(
                result, _fit(part[lit], decay_time, spread, min_delay), strict=True
            ):
                values[begin + lit] = fitted
    return result


def _fit(waveforms: np.ndarray, decay_time: float, spread: float, min_delay: float) -> Pairs:
    n, m = waveforms.shape
    shapes = np.array(
        [pulse_shape(m, decay_time, spread, k * SAMPLE / _STEPS) for k in range(m * _STEPS)]
    )
    # Overlaps of pulses with each other, and of waveforms with pulses
    gram = shapes @ shapes.T
    overlap = waveforms @ shapes.T
    norm = gram.diagonal()
    positions = np.arange(m * _STEPS)
    least = int(np.ceil(min_delay / SAMPLE * _STEPS))
    cumulative = np.cumsum(np.maximum(waveforms, 0), axis=1)
    onset = np.argmax(cumulative >= _ONSET * cumulative[:, -1:], axis=1) * _STEPS
    rows = np.arange(n)
    best = np.full(n, -np.inf)
    best_single = np.full(n, -np.inf)
    first, second, single = np.zeros((3, n), dtype=np.int64)
    a, b, of_second = np.zeros((3, n))
    shifts = np.arange(_AROUND_ONSET[0] * _STEPS, _AROUND_ONSET[1] * _STEPS + 1)
    by_shift = np.full((n, len(shifts)), -np.inf)
    for values, shift in enumerate(shifts):
        i = np.clip(onset + shift, 0, m * _STEPS - 1)
        own = overlap[rows, i]
        better = own**2 / norm[i] > best_single
        best_single[better], single[better] = (own**2 / norm[i])[better], i[better]
        # Areas and decrease of the sum of squares, for each position of the second pulse
        cross = gram[i]
        allowed = positions >= i[:, np.newaxis] + least
        determinant = np.where(allowed, norm[i, np.newaxis] * norm - cross**2, np.inf)
        area = (norm * own[:, np.newaxis] - cross * overlap) / determinant
        later = (norm[i, np.newaxis] * overlap - cross * own[:, np.newaxis]) / determinant
        decrease = area * own[:, np.newaxis] + later * overlap
        decrease[~allowed | (area <= 0) | (later <= 0)] = -np.inf
        j = np.argmax(decrease, axis=1)
        gained = by_shift[:, values] = decrease[rows, j]
        better = gained > best
        best[better] = gained[better]
        first[better], second[better] = i[better], j[better]
        a[better], b[better] = area[rows, j][better], later[rows, j][better]
        of_second[better] = _vertex(decrease, j)[better]
    found = np.isfinite(best)
    two = a[:, np.newaxis] * shapes[first] + b[:, np.newaxis] * shapes[second] + _FLOOR
    total = (a + b)[:, np.newaxis]
    one = total * shapes[single] + _FLOOR
    gain = np.where(found, (np.maximum(waveforms, 0) * np.log(two / one)).sum(axis=1), np.nan)
    step = SAMPLE / _STEPS
    start = (first + _vertex(by_shift, np.argmax(by_shift, axis=1))) * step
    columns = (start, (second + of_second) * step - start, a, b, gain)
    return Pairs(*(np.where(found, values, np.nan) for values in columns))


def _vertex(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the vertex of the parabola through the values around each maximum, relative to it.

    `values` has shape (n, m), `index` (n,); the result is 0 at the edges. Without this, delays
    would be multiples of a step, and a limit of a fit would not be where it is said to be.
    """
    inner = np.clip(index, 1, values.shape[1] - 2)
    rows = np.arange(len(values))
    left, middle, right = (values[rows, inner + shift] for shift in (-1, 0, 1))
    with np.errstate(invalid="ignore"):
        curvature = left - 2 * middle + right
        is_peak = (inner == index) & np.isfinite(curvature) & (curvature < 0)
        vertex = np.divide(left - right, 2 * curvature, out=np.zeros(len(values)), where=is_peak)
    return np.clip(vertex, -0.5, 0.5)
