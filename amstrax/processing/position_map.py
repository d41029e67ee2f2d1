"""Maps from light fractions to positions, in the format of the option pos_rec_map."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import F32, column, kernel, output

_KEYS = ("uv_min", "step", "n", "x", "y")


@dataclass(frozen=True)
class PositionMap:
    """Positions on a square grid of u and v."""

    uv_min: float  #: lowest u and v [1]; the highest are -uv_min
    step: float  #: spacing of grid points [1]
    x: np.ndarray  #: position [mm] at u = uv_min + i step, v = uv_min + j step, shape (n, n)
    y: np.ndarray


def position_map(pos_rec_map: Any) -> PositionMap:
    """Return the option pos_rec_map as a map, after a check.

    `pos_rec_map` is a table with uv_min, step, n (points along u and v), and x and y as n lists of
    n numbers. Raises InvalidOption for an invalid table.
    """
    if not isinstance(pos_rec_map, Mapping):
        raise InvalidOption(
            f"pos_rec_map is {pos_rec_map!r:.40}: give a table with {', '.join(_KEYS)}"
        )
    missing = [key for key in _KEYS if key not in pos_rec_map]
    if missing:
        raise InvalidOption(
            f"pos_rec_map has no {missing[0]}: add it, a map has {', '.join(_KEYS)}"
        )
    uv_min, step, n = (_number(pos_rec_map, key) for key in _KEYS[:3])
    if uv_min >= 0:
        raise InvalidOption(f"uv_min of pos_rec_map is {uv_min:g}: give the lowest u, below 0")
    x, y = (_grid(pos_rec_map, key) for key in "xy")
    if x.shape != y.shape:
        raise InvalidOption(
            f"x of pos_rec_map has the shape {x.shape}, y {y.shape}: give both the same"
        )
    if n != len(x):
        raise InvalidOption(
            f"n of pos_rec_map is {n:g}, and x has {len(x)} rows: correct n, or add what is missing"
        )
    expected = -2 * uv_min / (len(x) - 1)
    # Decimal fractions such as 0.005 are not exact
    if not abs(step - expected) <= 1e-6 * expected:
        raise InvalidOption(
            f"step of pos_rec_map is {step:g}: {len(x)} points from {uv_min:g} to {-uv_min:g} are "
            f"{expected:g} apart, correct step, uv_min or n"
        )
    return PositionMap(uv_min, step, x, y)


def positions(map_: PositionMap, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y [mm] at u and v, by bilinear interpolation between four grid points.

    With i = floor((u - uv_min) / step), s = (u - uv_min) / step - i, and j and t likewise for v::

        x = (1 - s) (1 - t) x[i, j] + s (1 - t) x[i + 1, j]
          + (1 - s) t x[i, j + 1] + s t x[i + 1, j + 1]

    Source: ../shared/spec/lab_2026.md, section 2. `u` and `v` [1] are float64, shape (n,), and are
    clipped to the grid. Where one is not finite, x and y are NaN.
    """
    finite = np.isfinite(u) & np.isfinite(v)
    (i, s), (j, t) = (_cell(map_, np.where(finite, w, 0.0)) for w in (u, v))
    weights = ((0, 0, (1 - s) * (1 - t)), (1, 0, s * (1 - t)), (0, 1, (1 - s) * t), (1, 1, s * t))
    x, y = (
        sum(weight * grid[i + a, j + b] for a, b, weight in weights) for grid in (map_.x, map_.y)
    )
    return np.where(finite, x, np.nan), np.where(finite, y, np.nan)


def _cell(map_: PositionMap, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the grid point below each coordinate, and the remainder [steps]."""
    steps = (np.clip(w, map_.uv_min, -map_.uv_min) - map_.uv_min) / map_.step
    index = np.clip(np.floor(steps).astype(np.int64), 0, len(map_.x) - 2)
    return index, steps - index


def _number(pos_rec_map: Mapping[str, Any], key: str) -> float:
    value = pos_rec_map[key]
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(value):
        raise InvalidOption(f"{key} of pos_rec_map is {value!r:.40}: give a finite number")
    return float(value)


def _grid(pos_rec_map: Mapping[str, Any], key: str) -> np.ndarray:
    try:
        grid = np.asarray(pos_rec_map[key])
    except ValueError:  # rows of different lengths
        grid = np.empty(0)
    if grid.ndim != 2 or grid.shape[0] != grid.shape[1] or len(grid) < 2:
        raise InvalidOption(
            f"{key} of pos_rec_map is not square: give n lists of n numbers, n at least 2"
        )
    if grid.dtype.kind not in "iuf" or not np.isfinite(grid).all():
        raise InvalidOption(
            f"{key} of pos_rec_map has other values than finite numbers: correct it"
        )
    return grid.astype(np.float64)


def azimuth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the angle of (x, y) from the x axis towards y [rad], in the precision of x and y.

    Single precision uses the C library: ``numpy.arctan2`` differs from it in the last digits on
    processors with AVX-512.
    """
    if x.dtype != np.float32:
        return np.arctan2(y, x)
    result = np.empty(len(x), dtype=np.float32)
    _azimuth(x, y, result)
    return result


@kernel(column(F32), column(F32), output(F32))
def _azimuth(x, y, result):
    for i in range(len(x)):
        result[i] = math.atan2(y[i], x[i])
