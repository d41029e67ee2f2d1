"""Events: the choice of main and alternative S1 and S2, drift times, positions, corrections.

``e`` is the number of events, ``n`` that of peaks. Both are sorted by time.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import strax

from amstrax.exceptions import IndexOutOfBounds, InvalidOption
from amstrax.processing.compiled import F32, I64, check_bounds, column, kernel, output
from amstrax.processing.peaks import S1, S2

#: Columns of the array of indices that `choose_peaks` returns
MAIN_S1, ALT_S1, MAIN_S2, ALT_S2 = range(4)
#: Prefix of the fields of each of these
PREFIXES = ("s1_", "alt_s1_", "s2_", "alt_s2_")
NO_PEAK = -1

#: Items of the option pos_rec_map
_KEYS = ("uv_min", "step", "n", "x", "y")

_REMEDY = "events and peaks are not of the same processing; remove both and make them again"


class Selection(NamedTuple):
    """Conditions on main and alternative S1s and S2s; see the options of EventBasics."""

    allow_posts2_s1s: bool
    s1_min_coincidence: int
    force_alt_s2_in_max_drift_time: bool
    force_main_before_alt: bool
    max_drift_time: float  #: [ns]


def group_triggers(
    peaks: np.ndarray, min_area: float, left: int, right: int, start: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends [ns] of events around S2s, clipped to [start, end).

    Triggers are S2s of an area above `min_area` [PE]. An event begins `left` before its first and
    ends `right` after its last trigger [ns]; events that would touch are one. Triggers that follow
    each other this closely for over a second make overlapping events of a second; a peak in two of
    them belongs to the first, and one that extends beyond the end of the first to none.
    """
    is_trigger = (peaks["type"] == S2) & (peaks["area"] > min_area)
    begin, stop = find_groups(
        peaks["time"][is_trigger], strax.endtime(peaks)[is_trigger], left, right
    )
    return np.clip(begin, start, end), np.clip(stop, start, end)


def find_groups(
    start: np.ndarray, end: np.ndarray, left: int, right: int, max_duration: int = 1_000_000_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends [ns] of groups of intervals, extended to the left and right.

    Intervals up to `left` + `right` apart are in one group, so extended groups do not touch. A
    group ends before the interval that would make it longer than `max_duration`. The result is that
    of `strax.find_peak_groups`. `start` and `end`, shape (n,), are sorted by start.
    """
    groups = np.empty((len(start), 2), dtype=np.int64)
    n = _find_groups(start, end, left, right, max_duration, groups)
    return groups[:n, 0], groups[:n, 1]


# A loop in Python takes 3 % of the chain
@kernel(column(I64), column(I64), I64, I64, I64, output(I64, 2))
def _find_groups(start, end, left, right, max_duration, groups):
    n = 0
    latest_end = np.int64(0)
    for i in range(len(start)):
        if (
            n == 0
            or start[i] - latest_end > left + right
            or end[i] - groups[n - 1, 0] + left + right > max_duration
        ):
            groups[n, 0] = start[i] - left
            latest_end = end[i]
            n += 1
        latest_end = max(latest_end, end[i])
        groups[n - 1, 1] = latest_end + right
    return n


def contained_peaks(peaks: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of peaks that lie fully in an event, and the first of each event.

    Event i has the peaks ``inside[first[i]:first[i + 1]]``; `first` has shape (e + 1,).
    """
    event_of_peak = index_of_container(peaks, events)
    inside = np.flatnonzero(event_of_peak >= 0)
    first = np.searchsorted(event_of_peak[inside], np.arange(len(events) + 1))
    return inside, first


def index_of_container(intervals: np.ndarray, containers: np.ndarray) -> np.ndarray:
    """Return the index of the container that each interval lies fully in, or -1, shape (n,).

    Of overlapping containers, only the first that ends after the start of the interval counts. Both
    have ``endtime``, or ``length`` and ``dt``. Raises ValueError when they are not sorted by time.
    """
    for name, array in (("intervals", intervals), ("containers", containers)):
        if (array["time"][1:] < array["time"][:-1]).any():
            raise ValueError(f"{name} must be sorted by time")
    if not len(containers):
        return np.full(len(intervals), NO_PEAK, dtype=np.int32)
    end = strax.endtime(containers)
    index = np.searchsorted(np.maximum.accumulate(end), intervals["time"], side="right")
    candidate = np.minimum(index, len(containers) - 1)
    is_inside = (
        (index < len(containers))
        & (containers["time"][candidate] <= intervals["time"])
        & (strax.endtime(intervals) <= end[candidate])
    )
    return np.where(is_inside, index, NO_PEAK).astype(np.int32)


def choose_peaks(peaks: np.ndarray, first: np.ndarray, selection: Selection) -> np.ndarray:
    """Return indices of the main and alternative S1 and S2 of each event.

    The main S2 is the largest. S1s count only if they start before it (unless
    ``allow_posts2_s1s``) and have a tight coincidence of ``s1_min_coincidence`` channels; main and
    alternative S1 are the two largest. The alternative S2 is the largest other one; with
    ``force_alt_s2_in_max_drift_time`` only one whose centre is after that of the main S1, by less
    than 1.01 times the maximum drift time. With ``force_main_before_alt`` the earlier of a main and
    an alternative peak is the main one. Of equal areas the later peak counts as larger.

    `peaks` are those inside events, shape (m,), those of event i being ``first[i]`` to ``first[i +
    1]``. The result has the shape (e, 4), with columns MAIN_S1, ALT_S1, MAIN_S2, ALT_S2: indices
    into `peaks`, or NO_PEAK. Raises IndexOutOfBounds (a ValueError) when `first` exceeds `peaks` or
    decreases.
    """
    _check_first(first, len(peaks))
    chosen = np.full((len(first) - 1, 4), NO_PEAK, dtype=np.int64)
    peaks, event = _peaks_in_events(peaks, first)
    is_s2 = peaks["type"] == S2
    chosen[:, MAIN_S2], _ = _two_largest(peaks["area"], event, is_s2, len(chosen))
    main_s2 = chosen[event, MAIN_S2]
    is_s1 = (peaks["type"] == S1) & (peaks["tight_coincidence"] >= selection.s1_min_coincidence)
    if not selection.allow_posts2_s1s:
        is_s1 &= (main_s2 == NO_PEAK) | (peaks["time"] < peaks["time"][main_s2])
    chosen[:, MAIN_S1], chosen[:, ALT_S1] = _two_largest(peaks["area"], event, is_s1, len(chosen))
    is_s2 &= main_s2 != np.arange(len(peaks))
    if selection.force_alt_s2_in_max_drift_time:
        main_s1 = chosen[event, MAIN_S1]
        delay = peaks["center_time"] - peaks["center_time"][main_s1]
        in_time = (delay > 0) & (delay < 1.01 * selection.max_drift_time)
        is_s2 &= (main_s1 == NO_PEAK) | in_time
    chosen[:, ALT_S2], _ = _two_largest(peaks["area"], event, is_s2, len(chosen))
    chosen[chosen != NO_PEAK] += first[0]
    if selection.force_main_before_alt:
        for main, alt in ((MAIN_S1, ALT_S1), (MAIN_S2, ALT_S2)):
            both = chosen[:, alt] != NO_PEAK
            pair = np.sort(chosen[both][:, [main, alt]], axis=1)  # peaks are sorted by time
            chosen[both, main], chosen[both, alt] = pair[:, 0], pair[:, 1]
    return chosen


def _peaks_in_events(peaks: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the peaks from ``first[0]`` to ``first[-1]``, and the event of each."""
    return peaks[first[0] : first[-1]], np.repeat(np.arange(len(first) - 1), np.diff(first))


def _two_largest(
    area: np.ndarray, event: np.ndarray, is_candidate: np.ndarray, n_events: int
) -> np.ndarray:
    """Return the candidates with the largest and second largest area of each event, (2, e)."""
    candidates = np.flatnonzero(is_candidate)
    order = candidates[np.lexsort((area[candidates], event[candidates]))]
    begin = np.searchsorted(event[order], np.arange(n_events))
    end = np.searchsorted(event[order], np.arange(n_events), side="right")
    order = np.append(order, NO_PEAK)
    return np.stack([order[np.where(end - begin >= k, end - k, -1)] for k in (1, 2)])


def _check_first(first: np.ndarray, n_peaks: int) -> None:
    """Check that `first` rises from 0 or more to `n_peaks` at most."""
    if not len(first):
        raise IndexOutOfBounds(f"no bounds of events in {n_peaks} peaks: {_REMEDY}")
    check_bounds("first peak", first, 0, n_peaks + 1, _REMEDY)
    falls = first[1:] < first[:-1]
    if falls.any():
        i = int(np.argmax(falls))
        raise IndexOutOfBounds(
            f"the peaks of event {i} begin at {first[i]} and end at {first[i + 1]}: {_REMEDY}"
        )


def _check_chosen(chosen: np.ndarray, n_peaks: int) -> None:
    """Check that chosen peaks, shape (e,) or (e, 4), are below `n_peaks` or NO_PEAK."""
    for index in np.atleast_2d(chosen.T):
        check_bounds("peak", index, NO_PEAK, n_peaks, _REMEDY)


def copy_properties(
    peaks: np.ndarray, chosen: np.ndarray, result: np.ndarray, fields: Iterable[str]
) -> None:
    """Fill ``s1_FIELD``, ``alt_s1_FIELD``, ``s2_FIELD``, ``alt_s2_FIELD`` of `result` from peaks.

    `chosen`, shape (e, 4), is from `choose_peaks`. Rows without such a peak stay unchanged; fields
    that `result` does not have are ignored. Raises IndexOutOfBounds (a ValueError) when a chosen
    peak does not exist.
    """
    _check_chosen(chosen, len(peaks))
    names = result.dtype.names or ()
    for which, prefix in enumerate(PREFIXES):
        present = np.flatnonzero(chosen[:, which] != NO_PEAK)
        index = chosen[present, which]
        for field in fields:
            if prefix + field in names:
                result[prefix + field][present] = peaks[field][index]


def index_in_event(index: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return indices of peaks relative to the first peak of their event; NO_PEAK stays."""
    return np.where(index == NO_PEAK, NO_PEAK, index - first[:-1])


def peaks_of_events(events: np.ndarray, inside: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the result of `choose_peaks`, as indices into all peaks, from rows of event_basics.

    `inside` and `first` are from `contained_peaks`. Raises IndexOutOfBounds (a ValueError) for an
    index beyond the peaks of its event.
    """
    _check_first(first, len(inside))
    n_peaks = np.diff(first)
    chosen = np.full((len(events), len(PREFIXES)), NO_PEAK, dtype=np.int64)
    for which, prefix in enumerate(PREFIXES):
        index = events[f"{prefix}index"]
        present = index != NO_PEAK
        bad = present & ((index < 0) | (index >= n_peaks))
        if bad.any():
            i = int(np.argmax(bad))
            raise IndexOutOfBounds(
                f"{prefix}index {index[i]} of the event in row {i} at {events['time'][i]} ns, "
                f"which has {n_peaks[i]} peaks: {_REMEDY}"
            )
        chosen[present, which] = inside[first[:-1][present] + index[present]]
    return chosen


def drift_times(center_time: np.ndarray, chosen: np.ndarray, result: np.ndarray) -> None:
    """Fill the differences [ns] between centre times of chosen peaks in `result`.

    All are absent, NaN or -1, in an event without main S1 or without main S2. Raises
    IndexOutOfBounds (a ValueError) when a chosen peak does not exist.
    """
    _check_chosen(chosen, len(center_time))
    has_main = (chosen[:, (MAIN_S1, MAIN_S2)] != NO_PEAK).all(axis=1)
    for name, late, early in (
        ("drift_time", MAIN_S2, MAIN_S1),
        ("alt_s1_interaction_drift_time", MAIN_S2, ALT_S1),
        ("alt_s2_interaction_drift_time", ALT_S2, MAIN_S1),
        ("alt_s1_delay", ALT_S1, MAIN_S1),
        ("alt_s2_delay", ALT_S2, MAIN_S2),
    ):
        both = has_main & (chosen[:, late] != NO_PEAK) & (chosen[:, early] != NO_PEAK)
        delay = center_time[chosen[both, late]] - center_time[chosen[both, early]]
        result[name] = NO_PEAK if name.endswith("delay") else np.nan
        result[name][both] = delay


def areas_before_main_s2(
    peaks: np.ndarray, first: np.ndarray, main_s2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the area [PE] of peaks before the main S2 of each event: sum, and largest S2.

    Both have shape (e,), and are NaN without a main S2; the largest S2 is 0 where none is before.
    `peaks` and `first` are as in `choose_peaks`; `main_s2`, shape (e,), has indices or NO_PEAK.
    Raises IndexOutOfBounds (a ValueError) when `first` exceeds `peaks` or decreases, or a main S2
    does not exist.
    """
    _check_first(first, len(peaks))
    _check_chosen(main_s2, len(peaks))
    if len(main_s2) != len(first) - 1:
        raise IndexOutOfBounds(f"{len(main_s2)} main S2s of {len(first) - 1} events: {_REMEDY}")
    total, largest = np.where(main_s2 == NO_PEAK, np.float32(np.nan), np.zeros((2, 1), np.float32))
    time_of_s2 = peaks["time"][main_s2] if len(peaks) else main_s2
    peaks, event = _peaks_in_events(peaks, first)
    is_before = (main_s2[event] != NO_PEAK) & (peaks["time"] < time_of_s2[event])
    # Unlike np.add.reduceat, this adds peaks one by one in single precision
    np.add.at(total, event[is_before], peaks["area"][is_before])
    is_before &= peaks["type"] == S2
    np.maximum.at(largest, event[is_before], peaks["area"][is_before])
    return total, largest


def depth(
    drift_time: np.ndarray, gate_cathode_distance: float, gate_time: float, cathode_time: float
) -> np.ndarray:
    """Return z [mm], from 0 at the gate to -gate_cathode_distance, linear in drift times [ns]."""
    speed = gate_cathode_distance / (cathode_time - gate_time)
    return -speed * (drift_time - gate_time)


def s1_z_correction(z: np.ndarray, parameters: tuple[float, float, float, float]) -> np.ndarray:
    """Return the factor f((zmin + zmax)/2)/f(z) for S1 areas, with f(z) = y0 + a z.

    `z` [mm] has shape (e,); `parameters` are (zmin [mm], zmax [mm], y0 [PE], a [PE/mm]).
    """
    z_min, z_max, y0, slope = parameters
    return (y0 + slope * (z_min + z_max) / 2) / (y0 + slope * z)


def s1_map_correction(r: np.ndarray, z: np.ndarray, s1_map: Mapping[str, Any]) -> np.ndarray:
    """Return the factor <h>/h(r, z) for S1 areas, with h the light seen from a position.

    h is the value of the bin, or of the nearest bin outside of all, and <h> its mean over the
    volume of the bins. Areas stay in PE: for an h linear in z the factor is that of
    `s1_z_correction`, up to the binning. Bins without a positive number are empty: they do not
    count in the mean, and the factor there is NaN, as for NaN in `r` or `z` [mm], shape (e,).

    `s1_map` has ``r_edges`` and ``z_edges``, increasing [mm], shapes (n + 1,) and (m + 1,), and
    ``hist_ratio``, h for each bin of r and z, shape (n, m) [any unit]; otherwise InvalidOption is
    raised.
    """
    r_edges, z_edges, light = _checked_map(s1_map)
    light = np.where(np.isfinite(light) & (light > 0), light, np.nan)
    volume = np.outer(np.diff(r_edges**2), np.diff(z_edges))
    mean = np.nansum(volume * light) / volume[~np.isnan(light)].sum()
    row, column = _bin(r, r_edges), _bin(z, z_edges)
    return np.where(np.isnan(r) | np.isnan(z), np.nan, mean / light[row, column])


def s2_map_correction(x: np.ndarray, y: np.ndarray, s2_map: Mapping[str, Any]) -> np.ndarray:
    """Return the factor <h>/h(x, y) for S2 areas, with h the light seen from a position.

    h is the value of the bin, or of the nearest bin with a positive number, and <h> its mean over
    the area of these bins. NaN for NaN in `x` or `y` [mm], shape (e,). `s2_map` is as in
    `s1_map_correction`, with ``x_edges`` and ``y_edges``; otherwise InvalidOption is raised.
    """
    x_edges, y_edges, light = _checked_map(s2_map, "s2_map", "xy")
    is_filled = np.isfinite(light) & (light > 0)
    area = np.outer(np.diff(x_edges), np.diff(y_edges))
    mean = np.average(light[is_filled], weights=area[is_filled])
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    factor = np.full(len(x), np.nan)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    row, column = _bin(x[known], x_edges), _bin(y[known], y_edges)
    middle_x, middle_y = ((edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges))
    filled = np.argwhere(is_filled)
    for i in np.flatnonzero(~is_filled[row, column]):
        distance = np.hypot(
            middle_x[filled[:, 0]] - x[known[i]], middle_y[filled[:, 1]] - y[known[i]]
        )
        row[i], column[i] = filled[distance.argmin()]
    factor[known] = mean / light[row, column]
    return factor


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of each value, or the nearest one."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _checked_map(
    map_: Mapping[str, Any], name: str = "s1_map", axes: str = "rz"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges of both axes, and the light in the bins, as arrays."""
    keys = [f"{axis}_edges" for axis in axes] + ["hist_ratio"]
    try:
        first, second, light = arrays = tuple(np.asarray(map_[key]) for key in keys)
        for values in arrays:
            if values.size and values.dtype.kind not in "iuf":
                raise TypeError(f"{values.ravel().tolist()[0]!r} is not one")
    except KeyError as error:
        raise InvalidOption(f"{name} has no {error}: it needs {', '.join(keys)}") from None
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"{name} must be a table of lists of numbers: {error}") from None
    for key, edges in zip(keys, (first, second), strict=False):
        is_finite = edges.ndim == 1 and np.isfinite(edges).all()
        if not is_finite or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise InvalidOption(f"{key} of {name} must be two or more numbers that rise [mm]")
    if axes[0] == "r" and first[0] < 0:
        raise InvalidOption(f"r_edges of {name} begins at {first[0]} mm: it cannot be below 0")
    shape = len(first) - 1, len(second) - 1
    if light.shape != shape:
        raise InvalidOption(
            f"hist_ratio of {name} has the shape {light.shape}: it must be {shape}, a row for each "
            f"bin of {axes[0]} and a column for each bin of {axes[1]}"
        )
    if not (np.isfinite(light) & (light > 0)).any():
        raise InvalidOption(f"hist_ratio of {name} has no bin above 0")
    return first.astype(np.float64), second.astype(np.float64), light.astype(np.float64)


def combined_energy(
    cs1: np.ndarray, cs2: np.ndarray, g1: float, g2: float, w: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the energy in photons, in electrons, and their sum [keV], shape (e,) each.

    W cS1 / g1, W cS2 / g2, and W (cS1 / g1 + cS2 / g2): T. Shutt et al., NIM A 579 (2007) 451.
    The sum is the energy of a deposit by an electron or photon, whatever recombines. `cs1` and
    `cs2` are in PE, `g1` in PE/photon, `g2` in PE/electron, `w` in eV.
    """
    light = 1e-3 * w / g1 * np.asarray(cs1, dtype=np.float64)
    charge = 1e-3 * w / g2 * np.asarray(cs2, dtype=np.float64)
    return light, charge, light + charge


def s2_lifetime_correction(drift_time: np.ndarray, elife: float) -> np.ndarray:
    """Return the factor exp(drift_time/elife) for S2 areas; both in ns, shape (e,)."""
    return np.exp(drift_time / elife)


def s2_correction(
    drift_time: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    elife: float,
    s2_map: Mapping[str, Any] | None,
) -> np.ndarray:
    """Return the factor for S2 areas: that of the lifetime, times that of `s2_map` if there is one.

    Parameters are as in `s2_lifetime_correction` and `s2_map_correction`.
    """
    factor = s2_lifetime_correction(drift_time, elife)
    return factor if s2_map is None else factor * s2_map_correction(x, y, s2_map)


# Maps from light fractions to positions, in the format of the option pos_rec_map


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
