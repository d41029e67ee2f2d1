"""Numbers with errors: fractions, medians, widths, lines. Outliers have little say in them."""

from typing import NamedTuple

import numpy as np

#: Standard error of the median of a normal distribution, in units of that of its mean
_MEDIAN_ERROR = np.sqrt(np.pi / 2)
#: Standard error of half the central 68 % of a normal distribution, in units of sigma / sqrt(n):
#: sqrt(p (1 - 2 p) / 2) / density at the quantile, with p = 0.1587
_WIDTH_ERROR = 0.9621
_ONE_SIGMA = (15.865525393145708, 84.13447460685429)  # [%]


class Number(NamedTuple):
    """A number with its standard error; both NaN where there is nothing to tell it from."""

    value: float
    error: float


class Line(NamedTuple):
    """A straight line that was fitted to points."""

    slope: Number
    intercept: Number


NOTHING = Number(np.nan, np.nan)


def fraction(n: int, total: int) -> Number:
    """Return n / total, with half the 68 % interval of Wilson's (JASA 22 (1927) 209) as error.

    That interval has a length also where the fraction is 0 or 1.
    """
    if total == 0:
        return NOTHING
    low, high = fraction_interval(np.array([n]), np.array([total]))
    return Number(n / total, float(high[0] - low[0]) / 2)


def fraction_interval(n: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 68 % interval of Wilson's for binomial fractions n / total.

    Shape (k,) each; NaN where the total is 0.
    """
    total = np.where(total > 0, total, np.nan)
    p = n / total
    center = (p + 1 / (2 * total)) / (1 + 1 / total)
    half = np.sqrt(p * (1 - p) / total + 1 / (4 * total**2)) / (1 + 1 / total)
    return np.minimum(center - half, p), np.maximum(center + half, p)


def median(values: np.ndarray) -> Number:
    """Return the median; its error is that for a normal distribution of the same central 68 %."""
    if len(values) == 0:
        return NOTHING
    error = (
        _MEDIAN_ERROR * _half_width(values) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    )
    return Number(float(np.median(values)), float(error))


def spread(values: np.ndarray) -> Number:
    """Return half the width of the central 68 %, and its error for a normal distribution."""
    if len(values) < 2:
        return NOTHING
    width = _half_width(values)
    return Number(width, _WIDTH_ERROR * width / np.sqrt(len(values)))


def _half_width(values: np.ndarray) -> float:
    low, high = np.percentile(values, _ONE_SIGMA)
    return float(high - low) / 2


def fit_line(x: np.ndarray, y: np.ndarray, n_sigma: float = 4.0, iterations: int = 20) -> Line:
    """Return the line through points, by least squares without those far off it.

    Points further than `n_sigma` standard deviations from the line, as estimated from the nearest
    68 % of all points, are left out, and the line is fitted anew, until that changes nothing.

    Parameters
    ----------
    x, y
        Shape (n,); points that are not finite are left out.
    n_sigma, iterations
        See above; so many fits at most.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, float)[finite], np.asarray(y, float)[finite]
    kept = np.ones(len(x), dtype=bool)
    line = Line(NOTHING, NOTHING)
    for _ in range(iterations):
        if kept.sum() < 3 or np.ptp(x[kept]) == 0:
            return Line(NOTHING, NOTHING)
        line = _least_squares(x[kept], y[kept])
        off = np.abs(y - line.intercept.value - line.slope.value * x)
        before, kept = kept, off <= n_sigma * _robust_scale(off)
        if (kept == before).all():
            break
    return line


def _robust_scale(off: np.ndarray) -> float:
    """Return the standard deviation that normal residuals of these absolute values would have."""
    scale = float(np.percentile(off, 68.27))
    # Points on the line but for rounding are no outliers
    return max(scale, 1e-12 * float(off.max(initial=0.0)))


def _least_squares(x: np.ndarray, y: np.ndarray) -> Line:
    mean_x, mean_y = x.mean(), y.mean()
    square = np.sum((x - mean_x) ** 2)
    slope = np.sum((x - mean_x) * (y - mean_y)) / square
    residual = y - mean_y - slope * (x - mean_x)
    variance = np.sum(residual**2) / max(len(x) - 2, 1)
    return Line(
        Number(float(slope), float(np.sqrt(variance / square))),
        Number(
            float(mean_y - slope * mean_x),
            float(np.sqrt(variance * (1 / len(x) + mean_x**2 / square))),
        ),
    )
