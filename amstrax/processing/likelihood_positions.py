"""Positions of S2s by maximum likelihood: the place from which a light map gives the areas seen.

The area of channel i has the mean S f_i(x, y), with f of the map and S free, and a variance of
`fano` times its mean. With S at its maximum, the logarithm of the likelihood is that of shares,

    sum_i a_i ln p_i / fano,    p_i = f_i / sum_j f_j

so only ratios of channels count. It is searched on a coarse grid over the whole area, since it may
have several maxima, and from there by Fisher scoring: Newton steps with the expected curvature
sum_i A p_i (grad ln p_i)(grad ln p_i)^T / fano, A = sum_i a_i. The inverse of this curvature is the
Cramer-Rao limit of the covariance.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import F64, column, kernel, row

#: Positions are searched up to this many radii of the map, so that fluctuations of events at the
#: wall do not all move inwards
OUTSIDE = 1.15
_COARSE = 3.0  # step of the first search [mm]


class LightTable(NamedTuple):
    """Light of PMTs on a square grid around the axis."""

    radius: float  # of the detector [mm]
    step: float  # of the grid [mm]
    light: np.ndarray  # any unit, shape (PMTs, n, n), of PMT, x and y; n is odd

    @property
    def limit(self) -> float:
        """Return the largest distance from the axis at which positions are searched [mm]."""
        within = (self.light.shape[1] // 2 - 2) * self.step
        return min(OUTSIDE * self.radius, within)


class Fits(NamedTuple):
    """Results of `fit_positions`, arrays of shape (n,); NaN where there is no position."""

    x: np.ndarray  # [mm]
    y: np.ndarray
    x_error: np.ndarray  # standard deviation from the curvature [mm]
    y_error: np.ndarray
    r_error: np.ndarray  # that of the distance from the axis
    deviance: np.ndarray  # per degree of freedom [1]; NaN without degrees of freedom


def table_from(
    light: Callable[[np.ndarray, np.ndarray], np.ndarray], radius: float, step: float = 1.0
) -> LightTable:
    """Return the table of a function of x and y [mm] that returns light of shape (n, PMTs).

    Outside of `radius` the light goes on exponentially, with the slope of its last 3 mm: functions
    fitted to light within the radius mean nothing there.
    """
    half = math.ceil(OUTSIDE * radius / step) + 2
    x, y = (c.ravel() for c in np.meshgrid(*2 * [np.arange(-half, half + 1) * step], indexing="ij"))
    r = np.hypot(x, y)
    inwards = np.minimum(1.0, radius / np.maximum(r, step))
    depth = 3.0
    at = np.log(np.maximum(light(x * inwards, y * inwards), 1e-12))
    outside = r > radius
    further = inwards[outside] * (1 - depth / radius)
    inner = np.log(np.maximum(light(x[outside] * further, y[outside] * further), 1e-12))
    at[outside] += (at[outside] - inner) / depth * (r[outside] - radius)[:, np.newaxis]
    result = np.exp(at)
    return LightTable(radius, step, result.T.reshape(-1, 2 * half + 1, 2 * half + 1))


def check_table(table: Mapping[str, Any], n_channels: int, what: str) -> LightTable:
    """Return the `LightTable` with the values of a table; InvalidOption names `what`."""
    try:
        radius, step = float(table["radius"]), float(table["step"])
        light = np.array(table["light"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidOption(
            f"{what}: no light map ({error!r:.80}): give radius and step [mm], and light, a list "
            "of PMT, x and y"
        ) from None
    n = light.shape[-1] if light.ndim == 3 else 0
    if light.shape != (n_channels, n, n) or n % 2 == 0 or n < 7:
        raise InvalidOption(
            f"{what}: light of shape {light.shape}: give ({n_channels}, n, n), n odd and at least 7"
        )
    if not (np.isfinite(light).all() and (light > 0).all() and 0 < step < radius < np.inf):
        raise InvalidOption(f"{what}: radius, step and light must be finite and above 0")
    if (n // 2 - 2) * step < radius:
        raise InvalidOption(
            f"{what}: the grid ends at {n // 2 * step} mm: it must reach two steps of {step} mm "
            f"beyond the radius of {radius} mm"
        )
    return LightTable(radius, step, light)


def fit_positions(
    areas: np.ndarray, used: np.ndarray, table: LightTable, fano: float, min_area: float
) -> Fits:
    """Return positions of S2s, their errors, and the goodness of fit.

    Raises ValueError when shapes do not fit, and InvalidOption for a `fano` that is not above 0.

    Parameters
    ----------
    areas, table
        Area of each PMT [PE], shape (n, PMTs), of which negative ones count as 0, and their light.
    used
        Whether a PMT counts, same shape; saturated and dead ones do not. At least three are needed.
    fano, min_area
        Variance of an area divided by its mean, and least area of the used PMTs together [PE].
    """
    n_pmts = len(table.light)
    if areas.shape != used.shape or areas.shape[1:] != (n_pmts,):
        raise ValueError(
            f"areas of shape {areas.shape} and used of {used.shape}, for a map of {n_pmts} PMTs"
        )
    if not isinstance(fano, Real) or not 0 < fano < np.inf:
        raise InvalidOption(f"variance over mean of areas {fano!r}: give a number above 0 [PE]")
    result = np.full((len(areas), len(Fits._fields)), np.nan)
    areas = np.maximum(np.where(used, areas, 0), 0).astype(np.float64)
    total = areas.sum(axis=1)
    enough = (total >= min_area) & (total > 0) & (used.sum(axis=1) >= 3)
    # Few sets of channels occur: one call for each
    code = used @ (1 << np.arange(n_pmts))
    middle = table.light.shape[1] // 2
    stride = max(1, round(_COARSE / table.step))
    count = int(table.limit / table.step) // stride
    nodes = np.arange(-count, count + 1) * stride
    i, j = (c.ravel() for c in np.meshgrid(nodes, nodes, indexing="ij"))
    inside = np.hypot(i, j) * table.step <= table.limit
    i, j = i[inside], j[inside]
    start = np.stack([i, j], axis=1) * table.step
    for which in np.unique(code[enough]):
        rows = np.flatnonzero(enough & (code == which))
        channels = np.flatnonzero(used[rows[0]])
        light = np.ascontiguousarray(table.light[channels])
        coarse = light[:, middle + i, middle + j]
        scores = np.log(coarse / coarse.sum(axis=0))
        result[rows] = _fit(
            areas[rows][:, channels],
            light,
            start,
            np.ascontiguousarray(scores),
            table.step,
            table.limit,
            float(fano),
        )
    return Fits(*result.T)


# 3 us a peak. numpy takes 7 us for the grid and 3 us for each of 6 to 10 steps: half of the time of
# the lab's whole chain, 70 us a peak
@kernel(column(F64, 2), column(F64, 3), column(F64, 2), column(F64, 2), F64, F64, F64)
def _fit(areas, light, start, scores, step, limit, fano):
    n, c = areas.shape
    middle, last = light.shape[1] // 2, light.shape[1] - 3
    result = np.full((n, 6), np.nan)
    f, fx, fy, shares = np.zeros(c), np.zeros(c), np.zeros(c), np.zeros(c)
    sums = np.empty(len(start))
    # Weights of the four nodes in x and in y, and their derivatives: cubic convolution,
    # R. Keys, IEEE Trans. Acoust. Speech Signal Process. 29 (1981) 1153
    w = np.zeros((2, 4))
    d = np.zeros((2, 4))
    for peak in range(n):
        total = 0.0
        for k in range(c):
            total += areas[peak, k]
        # Channel by channel, so that several points are summed at once
        sums[:] = 0
        for k in range(c):
            area, of_channel = areas[peak, k], row(scores, k)
            for point in range(np.uint64(len(sums))):
                sums[point] += area * of_channel[point]
        best, found = -np.inf, 0
        for point in range(len(sums)):
            if sums[point] > best:
                best, found = sums[point], point
        x, y = start[found, 0], start[found, 1]
        tx, ty = x, y
        best = -np.inf
        dx, dy = 0.0, 0.0
        xx, xy, yy = 0.0, 0.0, 0.0
        for _ in range(60):
            iu, iv = tx / step + middle, ty / step + middle
            i = min(max(int(iu), 1), last)
            j = min(max(int(iv), 1), last)
            for axis in range(2):
                t = iu - i if axis == 0 else iv - j
                w[axis, 0] = ((-0.5 * t + 1.0) * t - 0.5) * t
                w[axis, 1] = (1.5 * t - 2.5) * t * t + 1.0
                w[axis, 2] = ((-1.5 * t + 2.0) * t + 0.5) * t
                w[axis, 3] = (0.5 * t - 0.5) * t * t
                d[axis, 0] = (-1.5 * t + 2.0) * t - 0.5
                d[axis, 1] = (4.5 * t - 5.0) * t
                d[axis, 2] = (-4.5 * t + 4.0) * t + 0.5
                d[axis, 3] = (1.5 * t - 1.0) * t
            s, sx, sy = 0.0, 0.0, 0.0
            for k in range(c):
                value, value_x, value_y = 0.0, 0.0, 0.0
                for a in range(4):
                    in_y, slope_y = 0.0, 0.0
                    for b in range(4):
                        node = light[k, i + a - 1, j + b - 1]
                        in_y += w[1, b] * node
                        slope_y += d[1, b] * node
                    value += w[0, a] * in_y
                    value_x += d[0, a] * in_y
                    value_y += w[0, a] * slope_y
                f[k] = max(value, 1e-300)
                fx[k], fy[k] = value_x / step, value_y / step
                s += f[k]
                sx += fx[k]
                sy += fy[k]
            score = 0.0
            for k in range(c):
                if areas[peak, k] > 0:
                    score += areas[peak, k] * np.log(f[k] / s)
            if score >= best:
                x, y, best = tx, ty, score
                for k in range(c):
                    shares[k] = f[k] / s
                gx, gy, xx, xy, yy = 0.0, 0.0, 0.0, 0.0, 0.0
                for k in range(c):
                    ux, uy = fx[k] / f[k] - sx / s, fy[k] / f[k] - sy / s
                    gx += areas[peak, k] * ux
                    gy += areas[peak, k] * uy
                    expected = total * f[k] / s
                    xx += expected * ux * ux
                    xy += expected * ux * uy
                    yy += expected * uy * uy
                # A little more curvature keeps steps short where the map is flat
                ridge = 1e-6 * (xx + yy)
                det = (xx + ridge) * (yy + ridge) - xy * xy
                if not det > 0:
                    break
                dx = ((yy + ridge) * gx - xy * gy) / det
                dy = ((xx + ridge) * gy - xy * gx) / det
                length = np.sqrt(dx * dx + dy * dy)
                if length > 3.0:
                    dx, dy = dx * 3.0 / length, dy * 3.0 / length
            else:
                dx, dy = 0.4 * dx, 0.4 * dy
            tx, ty = x + dx, y + dy
            r = np.sqrt(tx * tx + ty * ty)
            if r > limit:
                tx, ty = tx * limit / r, ty * limit / r
            if abs(tx - x) + abs(ty - y) < 1e-3:
                break
        result[peak, 0], result[peak, 1] = x, y
        det = xx * yy - xy * xy
        if det > 0:
            cxx, cxy, cyy = fano * yy / det, -fano * xy / det, fano * xx / det
            result[peak, 2], result[peak, 3] = np.sqrt(cxx), np.sqrt(cyy)
            r = np.sqrt(x * x + y * y)
            ex, ey = (x / r, y / r) if r > 0 else (1.0, 0.0)
            result[peak, 4] = np.sqrt(ex * ex * cxx + 2 * ex * ey * cxy + ey * ey * cyy)
        if c > 3:
            deviance = 0.0
            for k in range(c):
                if areas[peak, k] > 0:
                    deviance += areas[peak, k] * np.log(areas[peak, k] / (total * shares[k]))
            result[peak, 5] = 2 * max(deviance, 0.0) / fano / (c - 3)
    return result
