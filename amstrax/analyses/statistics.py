"""Numbers with errors: fractions, medians, widths, lines, robust against outliers."""

from typing import NamedTuple

import numpy as np

from amstrax.calibration.result import ONE_SIGMA, Number, interval

#: Standard error of the median / that of the mean, for a normal distribution
_MEDIAN_ERROR = np.sqrt(np.pi / 2)
#: Standard error of half the central 68 % of a normal distribution, in units of sigma / sqrt(n):
#: sqrt(p (1 - 2 p) / 2) / density at the quantile, with p = 0.1587
_WIDTH_ERROR = 0.9621


class Line(NamedTuple):
    """A straight line that was fitted to points."""

    slope: Number
    intercept: Number


NOTHING = Number(np.nan, np.nan)


def fraction(n: int, total: int) -> Number:
    """Return n / total, with half the 68 % interval of Wilson (JASA 22 (1927) 209) as error.

    That interval has a length also for fractions of 0 and 1.
    """
    if total == 0:
        return NOTHING
    low, high = fraction_interval(np.array([n]), np.array([total]))
    return Number(n / total, float(high[0] - low[0]) / 2)


def share(which: np.ndarray, of: np.ndarray) -> Number:
    """Return the `fraction` of the rows `of` that are also `which`; both are masks, shape (n,)."""
    return fraction(int((which & of).sum()), int(of.sum()))


def fraction_interval(n: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's 68 % interval for binomial fractions n / total.

    Shape (k,) each; NaN where the total is 0.
    """
    from scipy.stats import binomtest

    limits = np.full((len(n), 2), np.nan)
    for i in np.flatnonzero(total):
        limits[i] = binomtest(int(n[i]), int(total[i])).proportion_ci(ONE_SIGMA, "wilson")
    return limits[:, 0], limits[:, 1]


def median(values: np.ndarray) -> Number:
    """Return the median, and its error for a normal distribution of the same central 68 %."""
    if len(values) == 0:
        return NOTHING
    low, high = interval(values) if len(values) > 1 else (np.nan, np.nan)
    error = _MEDIAN_ERROR * (high - low) / 2 / np.sqrt(len(values))
    return Number(float(np.median(values)), float(error))


def spread(values: np.ndarray) -> Number:
    """Return half the width of the central 68 %, and its error for a normal distribution."""
    if len(values) < 2:
        return NOTHING
    low, high = interval(values)
    width = (high - low) / 2
    return Number(width, _WIDTH_ERROR * width / np.sqrt(len(values)))


def fit_line(x: np.ndarray, y: np.ndarray, n_sigma: float = 4.0, iterations: int = 20) -> Line:
    """Return the line through points by least squares, without outliers.

    Points further than `n_sigma` standard deviations from the line, as estimated from the nearest
    68 % of all points, are left out, and the line is fitted again, until that changes nothing or
    for `iterations` times. `x` and `y` have shape (n,); points that are not finite are left out.
    """
    from scipy.stats import linregress

    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, float)[finite], np.asarray(y, float)[finite]
    kept = np.ones(len(x), dtype=bool)
    line = Line(NOTHING, NOTHING)
    for _ in range(iterations):
        if kept.sum() < 3 or np.ptp(x[kept]) == 0:
            return Line(NOTHING, NOTHING)
        fit = linregress(x[kept], y[kept])
        line = Line(
            Number(float(fit.slope), float(fit.stderr)),
            Number(float(fit.intercept), float(fit.intercept_stderr)),
        )
        off = np.abs(y - line.intercept.value - line.slope.value * x)
        # Points on the line but for rounding are no outliers
        scale = max(float(np.percentile(off, 68.27)), 1e-12 * float(off.max()))
        before, kept = kept, off <= n_sigma * scale
        if (kept == before).all():
            break
    return line
