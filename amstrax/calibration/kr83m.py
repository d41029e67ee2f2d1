"""Kr-83m: the two S1s of a decay, 32.1 keV and then 9.4 keV, and the half-life between them.

The pulse shape of an S1 is an exponential decay that starts at the deposit, smeared by a normal
distribution for the PMTs and the digitizer. Two such pulses are fitted to the sum waveform of the
S1 of an event, whether that is one peak or several.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from amstrax.calibration.result import Result
from amstrax.exceptions import InvalidOption, NoResult

#: Half-life of the 9.4-keV state [ns]: ENSDF, as in `amstrax.simulation.sources`
HALF_LIFE = 154.4
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


class Quality(IntEnum):
    """Quality of the two S1s of an event."""

    NONE = 0  #: no second S1 improves the fit
    DOUBTFUL = 1  #: a second S1 that fails a condition of the options
    MERGED = 2  #: two S1s in one peak
    SEPARATE = 3  #: two S1s in different peaks


class Pairs(NamedTuple):
    """Two S1s fitted to each of n waveforms, arrays of shape (n,); NaN without light."""

    start: np.ndarray  #: of the first S1, from the start of the waveform [ns]
    delay: np.ndarray  #: of the second S1 after the first [ns]
    first: np.ndarray  #: area of the first S1 [PE]
    second: np.ndarray  #: area of the second S1 [PE]
    #: Gain in log-likelihood over one S1: 2 x gain follows about chi2 of two degrees of freedom
    gain: np.ndarray


def pulse_shape(n_samples: int, decay_time: float, spread: float, start: float = 0.0) -> np.ndarray:
    """Return the share of an S1's light in each sample, shape (n_samples,).

    Parameters
    ----------
    n_samples
        Number of samples of `SAMPLE` ns.
    decay_time
        Of the exponential decay [ns].
    spread
        Standard deviation of the normal distribution that smears it [ns].
    start
        Time of the deposit, from the start of the first sample [ns].
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

    Light outside of a waveform is left out.

    Parameters
    ----------
    peaks
        Shape (p,), with time, length, dt (a multiple of `SAMPLE`) and data.
    row
        Waveform to which each peak belongs, shape (p,).
    start
        Start of each waveform [ns].
    n_samples
        Samples of `SAMPLE` ns in a waveform.
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

    The first pulse is near the onset of the waveform, the second at any later time. Areas are those
    of the linear least-squares fit at the best positions, in steps of 5 ns; times are interpolated
    between these.

    Parameters
    ----------
    waveforms
        Sum waveforms [PE/sample] of samples of `SAMPLE` ns, shape (n, m).
    decay_time, spread
        As in `pulse_shape`.
    min_delay
        Least delay of the second S1 [ns].
    """
    n = len(waveforms)
    result = Pairs(*np.full((5, n), np.nan))
    for begin in range(0, n, _BATCH):
        part = waveforms[begin : begin + _BATCH].astype(np.float64)
        lit = np.flatnonzero(part.sum(axis=1) > 0)
        if len(lit):
            for column, fitted in zip(
                result, _fit(part[lit], decay_time, spread, min_delay), strict=True
            ):
                column[begin + lit] = fitted
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
    for column, shift in enumerate(shifts):
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
        gained = by_shift[:, column] = decrease[rows, j]
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
    return Pairs(*(np.where(found, column, np.nan) for column in columns))


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


def half_life(delays: np.ndarray, shortest: float, longest: float) -> Result:
    """Return the half-life [ns] from delays, by likelihood of a truncated exponential.

    Delays are exponential between the limits, with the same efficiency at all. The interval is
    where the log-likelihood is within 0.5 of its maximum.

    Parameters
    ----------
    delays
        Delays of the second S1 [ns]; those outside of [shortest, longest) are left out.
    shortest, longest
        Limits of the fit [ns].

    Raises
    ------
    InvalidOption
        (a ValueError) unless 0 <= shortest < longest.
    NoResult
        (a ValueError) with fewer than 20 delays, or delays that do not fall off.
    """
    if not 0 <= shortest < longest < np.inf:
        raise InvalidOption(
            f"delays from {shortest} to {longest} ns: give limits with 0 <= shortest < longest"
        )
    inside = delays[(delays >= shortest) & (delays < longest)].astype(np.float64) - shortest
    n, span = len(inside), float(longest - shortest)
    if n < 20:
        raise NoResult(
            f"half-life of Kr-83m: {n} delays from {shortest:g} to {longest:g} ns, at least 20 are "
            "needed: take a longer run, or wider limits"
        )
    mean = inside.mean()

    def log_likelihood(rate: float) -> float:
        """Of a rate of decay [1/ns]."""
        return n * float(np.log(rate) - rate * mean - np.log1p(-np.exp(-rate * span)))

    # d log_likelihood/d rate falls from infinity to below 0 if the mean is below half of the span
    def slope(rate: float) -> float:
        return float(1 / rate - mean - span / np.expm1(rate * span))

    low, high = 1e-6 / span, 700 / span
    if not slope(low) > 0 > slope(high):
        raise NoResult(
            f"half-life of Kr-83m: {n} delays with a mean of {mean + shortest:.0f} ns do not fall "
            f"off from {shortest:g} to {longest:g} ns: is this a Kr-83m run?"
        )
    best = brentq(slope, low, high, rtol=1e-12)
    top = log_likelihood(best)

    def beyond(rate: float) -> float:
        return log_likelihood(rate) - top + 0.5

    slowest = brentq(beyond, low, best) if beyond(low) < 0 else 0.0
    fastest = brentq(beyond, best, high) if beyond(high) < 0 else np.inf
    value, lower, upper = (
        np.log(2) / rate if rate else np.inf for rate in (best, fastest, slowest)
    )
    return Result(
        "kr83m_half_life", float(value), float(lower), float(upper), "ns",
        f"likelihood of {n} delays from {shortest:g} to {longest:g} ns",
    )  # fmt: skip
