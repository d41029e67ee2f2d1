"""Scatters: the S2s of an event that belong to its main S1, signs of pile-up, and errors of areas.

``e`` is the number of events, ``m`` that of peaks in events, as `events.contained_peaks` finds
them: peaks of event i are ``first[i]`` to ``first[i + 1]``.
"""

from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from amstrax.processing.events import NO_PEAK
from amstrax.processing.peaks import S1, S2


class PileUp(IntFlag):
    """Signs that an event holds more than one interaction."""

    SECOND_S1 = 1  #: an S1 that is neither the main one nor soon after or before it
    S2_OUTSIDE = 2  #: an S2 before, or more than the longest drift time after, the main S1
    S2S_APART = 4  #: S2s further apart than drift times can be, whatever the S1


class Limits(NamedTuple):
    """Conditions on scatters and on signs of pile-up; see the options of the plugins."""

    min_area: float  #: of S2s [PE]
    min_fraction: float  #: of the area of the largest S2 before it in the event [1]
    shortest: float  #: drift time [ns]
    longest: float  #: drift time [ns]
    s1_min_area: float  #: of second S1s [PE]
    s1_min_delay: float  #: of second S1s to the main one, either way [ns]


def large_s2s(peaks: np.ndarray, first: np.ndarray, limits: Limits) -> np.ndarray:
    """Return the indices of S2s that are an interaction's own, in order of time.

    They have at least ``min_area``, and ``min_fraction`` of the largest S2 that begins before them
    in their event: smaller ones are after-pulses of it, and electrons that its light sets free.
    `peaks` are sorted by time, shape (m,).
    """
    event = np.repeat(np.arange(len(first) - 1), np.diff(first))
    large = np.flatnonzero((peaks["type"] == S2) & (peaks["area"] >= limits.min_area))
    area = peaks["area"][large].astype(np.float64)
    # Steps between events exceed all areas, so that the largest of earlier events are below 0
    step = event[large] * (2 * area.max(initial=1.0))
    before = np.maximum.accumulate(np.append(-1.0, (area + step)[:-1]))[: len(area)] - step
    return large[area >= limits.min_fraction * np.maximum(before, 0)]


def drift_times_of(
    peaks: np.ndarray, rows: np.ndarray, first: np.ndarray, main_s1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the event, and the time since its main S1 [ns], of each peak of `rows`, shape (k,).

    Times are between centres, and NaN without a main S1. `main_s1`, shape (e,), has indices into
    `peaks`, or NO_PEAK.
    """
    event = np.searchsorted(first, rows, side="right") - 1
    s1 = main_s1[event]
    delay = peaks["center_time"][rows] - peaks["center_time"][s1]
    return event, np.where(s1 == NO_PEAK, np.nan, delay)


def find_scatters(
    peaks: np.ndarray, first: np.ndarray, main_s1: np.ndarray, limits: Limits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index into `peaks`, event and drift time [ns] of each scatter, in order of time.

    Scatters are the `large_s2s` with a drift time from ``shortest`` to ``longest``. Events without
    a main S1 have none. Parameters are those of `large_s2s` and `drift_times_of`.
    """
    rows = large_s2s(peaks, first, limits)
    event, drift_time = drift_times_of(peaks, rows, first, main_s1)
    inside = (drift_time >= limits.shortest) & (drift_time <= limits.longest)
    return rows[inside], event[inside], drift_time[inside]


def pile_up(
    peaks: np.ndarray, first: np.ndarray, main_s1: np.ndarray, limits: Limits
) -> np.ndarray:
    """Return the signs of pile-up of each event, a sum of `PileUp`, int8, shape (e,).

    Parameters are those of `find_scatters`.
    """
    n_events = len(first) - 1
    result = np.zeros(n_events, dtype=np.int8)
    s1s = np.flatnonzero((peaks["type"] == S1) & (peaks["area"] >= limits.s1_min_area))
    event, delay = drift_times_of(peaks, s1s, first, main_s1)
    result[event[np.abs(delay) > limits.s1_min_delay]] |= PileUp.SECOND_S1

    s2s = large_s2s(peaks, first, limits)
    event, delay = drift_times_of(peaks, s2s, first, main_s1)
    outside = (delay < limits.shortest) | (delay > limits.longest)
    result[event[outside]] |= PileUp.S2_OUTSIDE
    earliest = np.searchsorted(event, np.arange(n_events))
    latest = np.searchsorted(event, np.arange(n_events), side="right") - 1
    several = np.flatnonzero(latest > earliest)
    center = peaks["center_time"][s2s]
    apart = center[latest[several]] - center[earliest[several]] > limits.longest - limits.shortest
    result[several[apart]] |= PileUp.S2S_APART
    return result


def area_error(area: np.ndarray, fano: ArrayLike) -> np.ndarray:
    """Return the relative standard deviation [1] of areas by statistics, sqrt(F / A).

    `fano` [PE] is variance / mean of areas for the same number of quanta, see `s2_fano`. Areas of 0
    or less [PE] have NaN.
    """
    return np.sqrt(fano / np.where(area > 0, area, np.nan))


def s2_fano(
    drift_time: np.ndarray, elife: float, fano_at_gate: float, se_gain: float
) -> np.ndarray:
    """Return variance / mean [PE] of areas of S2s for the same number of electrons produced.

    Of N electrons, each of which is seen with probability p and then gives an area of mean G and
    variance V, the sum has the mean N p G and the variance N p (V + (1 - p) G^2): so variance /
    mean is V/G + (1 - p) G, and grows by G for the share that is lost in the drift. `drift_time`,
    shape (e,), and the electron lifetime `elife` are in ns, `fano_at_gate`, without losses in the
    drift, and `se_gain`, which is G, in PE.
    """
    return fano_at_gate + se_gain * -np.expm1(-np.maximum(drift_time, 0) / elife)


def s2_correction_error(
    drift_time: np.ndarray, elife: float, elife_error: float, drift_time_error: float
) -> np.ndarray:
    """Return the relative error [1] of exp(t / elife) for drift times t, shape (e,) [ns].

    It is sqrt((t / elife)^2 elife_error^2 + (drift_time_error / elife)^2), with the relative error
    `elife_error` [1] of the lifetime [ns], and the error of t [ns].
    """
    return np.hypot(drift_time / elife * elife_error, drift_time_error / elife)
