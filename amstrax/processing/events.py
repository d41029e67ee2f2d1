"""Events: the choice of main and alternative S1 and S2, drift times, positions, corrections.

In all functions ``e`` is the number of events and ``n`` that of peaks. Both are sorted by time.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import strax
from numba import types

from amstrax.exceptions import IndexOutOfBounds, InvalidOption
from amstrax.processing.compiled import BOOL, F64, I64, column, kernel, output
from amstrax.processing.peaks import S1, S2
from amstrax.processing.rows import check_bounds

#: Columns of the array of indices that `choose_peaks` returns
MAIN_S1, ALT_S1, MAIN_S2, ALT_S2 = range(4)
#: Prefix of the fields of each of these
PREFIXES = ("s1_", "alt_s1_", "s2_", "alt_s2_")
NO_PEAK = -1

_REMEDY = "events and peaks are not of the same processing; remove both and make them again"


class Selection(NamedTuple):
    """What may be a main or alternative S1 or S2; see the options of EventBasics."""

    allow_posts2_s1s: bool
    s1_min_coincidence: int
    force_alt_s2_in_max_drift_time: bool
    force_main_before_alt: bool
    max_drift_time: float  #: [ns]


def group_triggers(
    peaks: np.ndarray, min_area: float, left: int, right: int, start: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends [ns] of events around S2s, clipped to [start, end).

    Parameters
    ----------
    peaks
        Shape (n,), with ``time``, ``endtime`` (or ``length`` and ``dt``), ``type`` and ``area``.
    min_area
        S2s of a larger area [PE] make an event.
    left, right
        An event extends this far [ns] before its first and beyond its last such S2; where two
        would touch they are one. Where S2s follow each other so closely for over a second, events
        of a second are made, which overlap; a peak in two of them belongs to the first, and one
        that extends beyond the end of the first to none.
    """
    is_trigger = (peaks["type"] == S2) & (peaks["area"] > min_area)
    begin, stop = find_groups(
        peaks["time"][is_trigger], strax.endtime(peaks)[is_trigger], left, right
    )
    return np.clip(begin, start, end), np.clip(stop, start, end)


def find_groups(
    start: np.ndarray, end: np.ndarray, left: int, right: int, max_duration: int = 1_000_000_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends of groups of intervals, extended to the left and right.

    Intervals are in one group if they are no more than `left` + `right` apart, so that extended
    groups do not touch. A group ends early where the next interval would make it longer than
    `max_duration`. It is what `strax.find_peak_groups` returns, without its buffers of peaks.

    Parameters
    ----------
    start, end
        Intervals [ns], sorted by start, shape (n,).
    left, right, max_duration
        ns.
    """
    groups = np.zeros((len(start), 2), dtype=np.int64)
    n = _find_groups(start, end, left, right, max_duration, groups)
    return groups[:n, 0], groups[:n, 1]


@kernel(column(I64), column(I64), I64, I64, I64, output(I64, 2))
def _find_groups(start, end, left, right, max_duration, groups):
    n = 0
    latest_end = np.int64(0)
    for i in range(len(start)):
        is_first = i == 0
        if not is_first:
            is_first = start[i] - latest_end > left + right or (
                end[i] - groups[n - 1, 0] + left + right > max_duration
            )
        if is_first:
            groups[n, 0] = start[i] - left
            latest_end = end[i]
            n += 1
        latest_end = max(latest_end, end[i])
        groups[n - 1, 1] = latest_end + right
    return n


def contained_peaks(peaks: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which peaks lie fully in an event, and the first of them for each event.

    Returns
    -------
    inside
        Indices of these peaks, in order, shape (m,).
    first
        Shape (e + 1,): event i has the peaks ``inside[first[i]:first[i + 1]]``.
    """
    event_of_peak = container_of(peaks, events)
    inside = np.flatnonzero(event_of_peak >= 0)
    first = np.searchsorted(event_of_peak[inside], np.arange(len(events) + 1))
    return inside, first


def container_of(things: np.ndarray, containers: np.ndarray) -> np.ndarray:
    """Return, for each of `things`, which of `containers` it lies fully in, or -1.

    Where containers overlap, only the first that ends after the start of the thing is looked at.

    Both are sorted by time and have ``endtime``, or ``length`` and ``dt``; shapes (n,) and (m,).

    Raises
    ------
    ValueError
        When they are not sorted.
    """
    for name, array in (("things", things), ("containers", containers)):
        if (array["time"][1:] < array["time"][:-1]).any():
            raise ValueError(f"{name} must be sorted by time")
    result = np.full(len(things), NO_PEAK, dtype=np.int32)
    _container_of(
        things["time"],
        strax.endtime(things),
        containers["time"],
        strax.endtime(containers),
        result,
    )
    return result


@kernel(*[column(I64)] * 4, output(types.int32))
def _container_of(start, end, container_start, container_end, result):
    c = 0
    for i in range(len(start)):
        while c < len(container_end) and container_end[c] <= start[i]:
            c += 1
        if c == len(container_end):
            break
        if container_start[c] <= start[i] and end[i] <= container_end[c]:
            result[i] = c


def choose_peaks(peaks: np.ndarray, first: np.ndarray, selection: Selection) -> np.ndarray:
    """Return indices of the main and alternative S1 and S2 of each event.

    The main S2 is the largest; S1s count only when they start before it (unless
    ``allow_posts2_s1s``) and are seen by ``s1_min_coincidence`` channels at once; main and
    alternative S1 are the two largest. The alternative S2 is the largest other one; with
    ``force_alt_s2_in_max_drift_time`` only one whose centre comes after that of the main S1, and
    within 1.01 times the maximum drift time of it. With ``force_main_before_alt`` the earlier of
    a main and an alternative peak is the main one. Of equal areas the later peak is the larger.

    Parameters
    ----------
    peaks
        Peaks inside events, shape (m,), with type, area, time, center_time, tight_coincidence.
    first
        Shape (e + 1,): peaks of event i are ``first[i]`` to ``first[i + 1]``.

    Returns
    -------
    Shape (e, 4), columns MAIN_S1, ALT_S1, MAIN_S2, ALT_S2; indices into `peaks`, or NO_PEAK.

    Raises
    ------
    IndexOutOfBounds
        (a ValueError) when `first` is beyond `peaks`, or falls.
    """
    _check_first(first, len(peaks))
    chosen = np.full((len(first) - 1, 4), NO_PEAK, dtype=np.int64)
    _choose_peaks(
        peaks["type"],
        peaks["area"],
        peaks["time"],
        peaks["center_time"],
        peaks["tight_coincidence"],
        first,
        selection.allow_posts2_s1s,
        selection.s1_min_coincidence,
        selection.force_alt_s2_in_max_drift_time,
        1.01 * selection.max_drift_time,
        chosen,
    )
    if selection.force_main_before_alt:
        for main, alt in ((MAIN_S1, ALT_S1), (MAIN_S2, ALT_S2)):
            both = chosen[:, alt] != NO_PEAK
            pair = np.sort(chosen[both][:, [main, alt]], axis=1)  # peaks are sorted by time
            chosen[both, main], chosen[both, alt] = pair[:, 0], pair[:, 1]
    return chosen


@kernel(
    column(types.int16),
    column(types.float32),
    column(I64),
    column(I64),
    column(types.int16),
    column(I64),
    BOOL,
    I64,
    BOOL,
    F64,
    output(I64, 2),
)
def _choose_peaks(
    types,
    area,
    time,
    center_time,
    coincidence,
    first,
    allow_posts2_s1s,
    s1_min_coincidence,
    limit_alt_s2,
    max_alt_delay,
    chosen,
):
    for e in range(len(first) - 1):
        start, stop = first[e], first[e + 1]
        s1 = alt_s1 = s2 = alt_s2 = NO_PEAK
        for i in range(start, stop):
            if types[i] == S2 and (s2 == NO_PEAK or area[i] >= area[s2]):
                s2 = i
        for i in range(start, stop):
            if types[i] != S1 or coincidence[i] < s1_min_coincidence:
                continue
            if s2 != NO_PEAK and not allow_posts2_s1s and time[i] >= time[s2]:
                continue
            if s1 == NO_PEAK or area[i] >= area[s1]:
                s1, alt_s1 = i, s1
            elif alt_s1 == NO_PEAK or area[i] >= area[alt_s1]:
                alt_s1 = i
        for i in range(start, stop):
            if types[i] != S2 or i == s2:
                continue
            if limit_alt_s2 and s1 != NO_PEAK:
                delay = center_time[i] - center_time[s1]
                if delay <= 0 or delay >= max_alt_delay:
                    continue
            if alt_s2 == NO_PEAK or area[i] >= area[alt_s2]:
                alt_s2 = i
        chosen[e, MAIN_S1] = s1
        chosen[e, ALT_S1] = alt_s1
        chosen[e, MAIN_S2] = s2
        chosen[e, ALT_S2] = alt_s2


def _check_first(first: np.ndarray, n_peaks: int) -> None:
    """Check that events have peaks ``first[i]`` to ``first[i + 1]`` of `n_peaks`."""
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
    """Check that chosen peaks, shape (e,) or (e, 4), are among `n_peaks`, or none."""
    for index in np.atleast_2d(chosen.T):
        check_bounds("peak", index, NO_PEAK, n_peaks, _REMEDY)


def copy_properties(
    peaks: np.ndarray, chosen: np.ndarray, result: np.ndarray, fields: Iterable[str]
) -> None:
    """Fill ``s1_FIELD``, ``alt_s1_FIELD``, ``s2_FIELD``, ``alt_s2_FIELD`` of `result` from peaks.

    Rows without such a peak stay as they are; fields that `result` does not have are passed over.

    Parameters
    ----------
    peaks
        Shape (n,).
    chosen
        Shape (e, 4), as from `choose_peaks`.
    result
        Shape (e,).
    fields
        Fields of `peaks`.

    Raises
    ------
    IndexOutOfBounds
        (a ValueError) when a chosen peak does not exist.
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
    """Return indices of peaks counted from the first peak of their event; NO_PEAK stays."""
    return np.where(index == NO_PEAK, NO_PEAK, index - first[:-1])


def peaks_of_events(events: np.ndarray, inside: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return indices of the chosen peaks, as from `choose_peaks`, from the fields of event_basics.

    `inside` and `first` are as from `contained_peaks`; the result counts in all peaks. Raises
    IndexOutOfBounds (a ValueError) when an event has fewer peaks than that.
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

    All of them are absent, NaN or -1, in an event without main S1 or without main S2.

    `center_time` has shape (n,); `chosen` is as from `choose_peaks`. Raises IndexOutOfBounds (a
    ValueError) when a chosen peak does not exist.
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
    """Return for each event the area [PE] of peaks that start before the main S2.

    Parameters
    ----------
    peaks, first
        As in `choose_peaks`.
    main_s2
        Shape (e,), indices of main S2s or NO_PEAK.

    Returns
    -------
    Summed area, and area of the largest S2 among these peaks (0 without one), shape (e,); NaN
    where there is no main S2.

    Raises
    ------
    IndexOutOfBounds
        (a ValueError) when `first` is beyond `peaks` or falls, or a main S2 does not exist.
    """
    _check_first(first, len(peaks))
    _check_chosen(main_s2, len(peaks))
    if len(main_s2) != len(first) - 1:
        raise IndexOutOfBounds(f"{len(main_s2)} main S2s of {len(first) - 1} events: {_REMEDY}")
    total = np.full(len(main_s2), np.nan, dtype=np.float32)
    largest = np.full(len(main_s2), np.nan, dtype=np.float32)
    _areas_before(peaks["type"], peaks["area"], peaks["time"], first, main_s2, total, largest)
    return total, largest


@kernel(
    column(types.int16),
    column(types.float32),
    column(I64),
    column(I64),
    column(I64),
    output(types.float32),
    output(types.float32),
)
def _areas_before(types, area, time, first, main_s2, total, largest):
    for e in range(len(main_s2)):
        s2 = main_s2[e]
        if s2 == NO_PEAK:
            continue
        total[e] = largest[e] = 0
        for i in range(first[e], first[e + 1]):
            if time[i] >= time[s2]:
                break
            total[e] += area[i]
            if types[i] == S2:
                largest[e] = max(largest[e], area[i])


def depth(
    drift_time: np.ndarray, gate_cathode_distance: float, gate_time: float, cathode_time: float
) -> np.ndarray:
    """Return z [mm] below the gate for drift times [ns], shape (e,).

    Linear between the drift times of the gate (0) and of the cathode (-gate_cathode_distance).
    """
    speed = gate_cathode_distance / (cathode_time - gate_time)
    return -speed * (drift_time - gate_time)


def s1_z_correction(z: np.ndarray, parameters: tuple[float, float, float, float]) -> np.ndarray:
    """Return the factor f((zmin + zmax)/2)/f(z) for S1 areas, with f(z) = y0 + a z.

    `z` [mm] has shape (e,); `parameters` are (zmin [mm], zmax [mm], y0 [PE], a [PE/mm]).
    """
    z_min, z_max, y0, slope = parameters
    return (y0 + slope * (z_min + z_max) / 2) / (y0 + slope * z)


def s1_map_correction(r: np.ndarray, z: np.ndarray, s1_map: Mapping[str, Any]) -> np.ndarray:
    """Return the factor <h>/h(r, z) for S1 areas, with h the light seen from a place.

    h is that of the bin. <h> is its mean over the volume of the bins, so that areas stay in PE: for
    an h that falls linearly with z the factor is that of `s1_z_correction`, but for the bins. A
    place outside the bins has the h of the nearest one. Bins without a positive number are empty:
    the factor there is NaN, and they do not count in the mean. Where `r` or `z` is NaN, so is the
    factor.

    Parameters
    ----------
    r, z
        Distance from the axis and depth [mm], shape (e,).
    s1_map
        ``r_edges`` and ``z_edges``, which rise [mm], shapes (n + 1,) and (m + 1,), and
        ``hist_ratio``, h for each bin of r and z, shape (n, m) [any unit].

    Raises
    ------
    InvalidOption
        When `s1_map` is not like that.
    """
    r_edges, z_edges, light = _checked_map(s1_map)
    light = np.where(np.isfinite(light) & (light > 0), light, np.nan)
    volume = np.outer(np.diff(r_edges**2), np.diff(z_edges))
    mean = np.nansum(volume * light) / volume[~np.isnan(light)].sum()
    row = np.clip(np.searchsorted(r_edges, r, side="right") - 1, 0, len(r_edges) - 2)
    column = np.clip(np.searchsorted(z_edges, z, side="right") - 1, 0, len(z_edges) - 2)
    return np.where(np.isnan(r) | np.isnan(z), np.nan, mean / light[row, column])


def _checked_map(s1_map: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges of r, of z, and the light in the bins, as arrays."""
    try:
        r_edges, z_edges, light = (
            np.asarray(s1_map[name]) for name in ("r_edges", "z_edges", "hist_ratio")
        )
        for values in (r_edges, z_edges, light):
            if values.size and values.dtype.kind not in "iuf":
                raise TypeError(f"{values.ravel().tolist()[0]!r} is not one")
    except KeyError as error:
        raise InvalidOption(
            f"s1_map has no {error}: it needs r_edges, z_edges, hist_ratio"
        ) from None
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"s1_map must be a table of lists of numbers: {error}") from None
    for name, edges in (("r_edges", r_edges), ("z_edges", z_edges)):
        is_finite = edges.ndim == 1 and np.isfinite(edges).all()
        if not is_finite or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise InvalidOption(f"{name} of s1_map must be two or more numbers that rise [mm]")
    if r_edges[0] < 0:
        raise InvalidOption(f"r_edges of s1_map begins at {r_edges[0]} mm: it cannot be below 0")
    shape = len(r_edges) - 1, len(z_edges) - 1
    if light.shape != shape:
        raise InvalidOption(
            f"hist_ratio of s1_map has the shape {light.shape}: it must be {shape}, a row for each "
            "bin of r and a column for each bin of z"
        )
    if not (np.isfinite(light) & (light > 0)).any():
        raise InvalidOption("hist_ratio of s1_map has no bin above 0")
    return r_edges.astype(np.float64), z_edges.astype(np.float64), light.astype(np.float64)


def s2_lifetime_correction(drift_time: np.ndarray, elife: float) -> np.ndarray:
    """Return the factor exp(drift_time/elife) for S2 areas; both in ns, shape (e,)."""
    return np.exp(drift_time / elife)
