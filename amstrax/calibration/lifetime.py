"""Electron lifetime from S2 areas of a mono-energetic population against drift time.

The area falls as S2(t) = S2(0) exp(-t / lifetime). Everything is done on ln S2, where that is a
line whose slope is -1 / lifetime: medians in slices of drift time, within a band around the line,
are independent of tails, and of the shape of the peak.
"""

from typing import NamedTuple

import numpy as np

from amstrax.calibration import drift
from amstrax.calibration.result import ONE_SIGMA, Result, bootstrap, interval
from amstrax.exceptions import NoResult

#: Least number of events in the band
FEWEST_EVENTS = 100
#: Slices of drift time, and the fewest events of each
_SLICES, _FEWEST_IN_SLICE = 12, 20
#: Fewest slices of which the spread may change with drift time
_FEWEST_SLICES = 6
#: Rates of loss among which the first guess is [1/ns], and the bins of its histogram in ln S2
_RATES = np.concatenate([[0.0], np.geomspace(1e-7, 5e-4, 60)])
_BIN = 0.04
#: The band ends where the density is below this share of its peak, but not above this distance
_END_OF_BAND, _WIDEST_BAND = 0.1, 1.5
#: Rings of equal numbers of events, in which the light of S2s is averaged
_RINGS = 6
#: Share of events with saturated channels above which the S2s are not to be trusted
MOST_SATURATED = 0.05
#: S2s that rise with drift time by more than so many errors are no lifetime
_MOST_RISE = 4.0
_ITERATIONS = 30
#: Events so near to the edges of the drift volume are left out [ns]
_MARGIN = 500.0


class Line(NamedTuple):
    """ln S2 against drift time: medians in slices, and the line through them."""

    rate: float  #: 1 / lifetime [1/ns]
    rate_error: float  #: its standard error by likelihood [1/ns]
    log_area: float  #: ln of the S2 area in PE at drift time 0
    half_width: float  #: half the width of the band around the line, in ln S2
    time: np.ndarray  #: mean drift time of each slice [ns], shape (k,)
    median: np.ndarray  #: median of ln S2 in each slice, at the mean light of the rings
    median_error: np.ndarray
    in_band: np.ndarray  #: which events are used, shape (n,)
    chi2: float

    def area(self, drift_time: np.ndarray) -> np.ndarray:
        """Return the S2 area [PE] on the line at drift times [ns]."""
        return np.exp(self.log_area - self.rate * drift_time)


class Lifetime(NamedTuple):
    """Electron lifetime [ns] with uncertainties by likelihood and by bootstrap, and its line."""

    likelihood: Result
    bootstrap: Result
    line: Line
    limit: float  #: lower limit of the lifetime at 90 % confidence [ns]


def lifetime_of_events(
    events: np.ndarray,
    s2_range: tuple[float, float] | None = None,
    drift_range: tuple[float, float] | None = None,
    allow_saturated: bool = False,
    n_samples: int = 100,
) -> tuple[np.ndarray, Lifetime]:
    """Return the events that are used, and the lifetime that `find_lifetime` finds in them.

    Raises NoResult as of `find_lifetime`, and if over 5 % of the S2s have saturated channels.

    Parameters
    ----------
    events
        With the columns ``s2_area``, ``drift_time``, ``r`` and ``s2_n_saturated_channels`` of
        event_info, shape (n,).
    s2_range
        Lowest and highest S2 area [PE]; None: all.
    drift_range
        First and last drift time [ns]; None: from gate to cathode as of
        `amstrax.calibration.drift.first_guess`, without 500 ns at each end.
    allow_saturated
        Use S2s with saturated channels, as where they have been corrected.
    n_samples
        As of `find_lifetime`.
    """
    if drift_range is None:
        gate, cathode = drift.first_guess(events["drift_time"])
        drift_range = gate + _MARGIN, cathode - _MARGIN
    low, high = (0.0, np.inf) if s2_range is None else s2_range
    area, time = events["s2_area"], events["drift_time"]
    inside = (time >= drift_range[0]) & (time <= drift_range[1]) & (area > low) & (area < high)
    events = events[inside & np.isfinite(area)]
    saturated = (events["s2_n_saturated_channels"] > 0).mean() if len(events) else 0.0
    if saturated > MOST_SATURATED and not allow_saturated:
        raise NoResult(
            f"{saturated:.0%} of the S2s have saturated channels, and are too small: take a source "
            "of lower energy, choose others with --s2_range, or give --allow_saturated"
        )
    found = find_lifetime(events["s2_area"], events["drift_time"], events["r"], n_samples)
    return events, found


def find_lifetime(
    s2_area: np.ndarray, drift_time: np.ndarray, r: np.ndarray | None = None, n_samples: int = 100
) -> Lifetime:
    """Return the electron lifetime of events of one energy.

    Uncertainty by likelihood: medians have normal errors, of the spread in the band, so that of the
    slope is that of a line by least squares. It is scaled by 1 / (1 - h), where h is the density at
    the ends of the band relative to that at its middle, because the band follows the line.
    Uncertainty by bootstrap: `amstrax.calibration.result.bootstrap` of all of it, with the band.
    An upper end is infinite if a slope of 0 is within the interval, as is then the value if the
    slope is not negative.

    Raises NoResult for too few events, and S2s that rise with drift time.

    Parameters
    ----------
    s2_area
        Uncorrected areas of S2s [PE], shape (n,), all above 0. Other populations may be among them,
        as a Compton continuum, if the densest line of ln S2 against drift time is that wanted.
    drift_time
        Drift times [ns], shape (n,), within the drift volume.
    r
        Distances from the axis [mm], shape (n,): light is then averaged in rings, which removes
        its dependence on r from the spread. NaN counts as a ring.
    n_samples
        Number of samples of the bootstrap.
    """
    y = np.log(np.asarray(s2_area, dtype=np.float64))
    t = np.asarray(drift_time, dtype=np.float64)
    ring = _rings(r, len(y))
    line = fit_line(y, t, ring)
    if line.rate < -_MOST_RISE * line.rate_error:
        raise NoResult(
            f"S2s rise with drift time, by {np.expm1(-line.rate * np.ptp(t)):.1%} from the first "
            "to the last: no lifetime; choose the population (--s2_range), and look at saturation"
        )
    rates = bootstrap(
        lambda rows: np.array([fit_line(y[rows], t[rows], ring[rows], line).rate]),
        len(y),
        n_samples,
    )[:, 0]
    by_bootstrap = interval(rates)
    by_likelihood = line.rate - line.rate_error, line.rate + line.rate_error
    return Lifetime(
        _result(line.rate, by_likelihood, "likelihood"),
        _result(line.rate, by_bootstrap, "bootstrap"),
        line,
        _inverse(line.rate + 1.2816 * line.rate_error),  # one-sided, normal
    )


def _result(rate: float, ends: tuple[float, float], method: str) -> Result:
    return Result(
        "elife",
        _inverse(rate),
        _inverse(ends[1]),
        _inverse(ends[0]),
        "ns",
        f"medians in slices of drift time, {method}",
    )


def _inverse(rate: float) -> float:
    """Return the lifetime for a rate of loss; infinite if nothing is lost."""
    return 1 / rate if rate > 0 else np.inf


def _rings(r: np.ndarray | None, n: int) -> np.ndarray:
    """Return the number of each event's ring, of equal numbers of events; NaN is in the last."""
    if r is None:
        return np.zeros(n, dtype=np.int64)
    finite = np.isfinite(r)
    edges = np.quantile(r[finite], np.linspace(0, 1, _RINGS + 1)[1:-1]) if finite.any() else []
    return np.where(finite, np.searchsorted(edges, r), _RINGS)


def fit_line(y: np.ndarray, t: np.ndarray, ring: np.ndarray, start: Line | None = None) -> Line:
    """Return the line of ln S2, `y`, against drift time `t` [ns]; parameters have shape (n,).

    Raises NoResult for fewer than `FEWEST_EVENTS` in the band.
    """
    if len(y) < FEWEST_EVENTS:
        raise NoResult(_too_few(len(y)))
    if start is None:
        rate, middle = _first_guess(y, t)
        half_width = _half_width(y + rate * t - middle)
    else:
        rate, middle, half_width = start.rate, start.log_area, start.half_width
    light = np.zeros(_RINGS + 1)
    for i in range(_ITERATIONS):
        off = y + rate * t - middle - light[ring]
        in_band = np.abs(off) < half_width
        if in_band.sum() < FEWEST_EVENTS:
            raise NoResult(_too_few(int(in_band.sum())))
        for j in np.unique(ring[in_band]):
            light[j] += np.median(off[in_band & (ring == j)])
        light -= np.average(light, weights=np.bincount(ring, minlength=len(light)))
        line = _through_medians(y - light[ring], t, in_band, half_width)
        moved = abs(line.rate - rate) * np.ptp(t)
        rate, middle = line.rate, line.log_area
        if i == 2 and start is None:
            half_width = _half_width(y + rate * t - middle - light[ring])
        elif moved < 1e-5:
            break
    return _with_error_of_band(line, y - light[ring], t)


def _too_few(n: int) -> str:
    return (
        f"{n} events of one energy in the range of drift times are too few: take {FEWEST_EVENTS} "
        "or more, or choose the population (--s2_range, --drift_range)"
    )


def _first_guess(y: np.ndarray, t: np.ndarray) -> tuple[float, float]:
    """Return the rate of loss [1/ns] and ln S2 at drift time 0 of the densest line."""
    best = 0.0, 0.0, 0.0
    for rate in _RATES:
        off = y + rate * t
        counts, edges = np.histogram(off, np.arange(off.min(), off.max() + 2 * _BIN, _BIN))
        smooth = np.convolve(counts, np.ones(5), "same")
        i = int(np.argmax(smooth))
        best = max(best, (float(smooth[i]), float(rate), float(edges[i] + edges[i + 1]) / 2))
    return best[1:]


def _half_width(off: np.ndarray) -> float:
    """Return the distance from 0 at which the density falls to `_END_OF_BAND` of its peak."""
    near = np.abs(off[np.abs(off) < _WIDEST_BAND])
    # Width of the core, by the half with the smallest distances around the peak
    core = np.sort(near)[: max(len(near) // 2, 1)][-1]
    edges = np.arange(0, _WIDEST_BAND + core, core / 3)
    density = np.convolve(np.histogram(near, edges)[0], np.ones(3) / 3, "same")
    # The first bin lacks a neighbour
    low = np.flatnonzero(density[1:] < _END_OF_BAND * density[1:].max())
    return float(edges[low[0] + 1]) if len(low) else _WIDEST_BAND


def _through_medians(y: np.ndarray, t: np.ndarray, in_band: np.ndarray, half_width: float) -> Line:
    """Return the line through medians of `y` in slices of `t`, of events in the band."""
    order = np.flatnonzero(in_band)[np.argsort(t[in_band], kind="stable")]
    n_slices = min(_SLICES, len(order) // _FEWEST_IN_SLICE)
    slices = np.array_split(order, n_slices)
    time = np.array([t[rows].mean() for rows in slices])
    median = np.array([np.median(y[rows]) for rows in slices])
    shares = 0.5 - ONE_SIGMA / 2, 0.5 + ONE_SIGMA / 2
    spread = np.array([np.ptp(np.quantile(y[rows], shares)) / 2 for rows in slices])
    # Fewer electrons arrive from below, so the spread grows with drift time. That of each slice
    # alone would spoil the weights, if events are few
    if n_slices >= _FEWEST_SLICES:
        spread = np.exp(np.polyval(np.polyfit(time, np.log(np.maximum(spread, 1e-6)), 1), time))
    else:
        spread = np.full(n_slices, spread.mean())
    error = np.sqrt(np.pi / 2 / np.array([len(rows) for rows in slices])) * spread
    weight = 1 / error**2
    centre = np.average(time, weights=weight)
    sum_of_squares = np.sum(weight * (time - centre) ** 2)
    slope = np.sum(weight * (time - centre) * median) / sum_of_squares
    at_0 = np.average(median, weights=weight) - slope * centre
    chi2 = np.sum(weight * (median - at_0 - slope * time) ** 2)
    return Line(
        -float(slope),
        float(sum_of_squares**-0.5),
        float(at_0),
        half_width,
        time,
        median,
        error,
        in_band,
        float(chi2),
    )


def _with_error_of_band(line: Line, y: np.ndarray, t: np.ndarray) -> Line:
    """Return the line with the error of a slope that the band follows, see `find_lifetime`."""
    off = np.abs(y + line.rate * t - line.log_area)
    bin_ = line.half_width / 5
    inside = int(np.count_nonzero(off < bin_))
    at_end = int(np.count_nonzero(np.abs(off - line.half_width) < bin_ / 2))
    follows = min(at_end / max(inside, 1), 0.5)
    return line._replace(rate_error=line.rate_error / (1 - follows))
