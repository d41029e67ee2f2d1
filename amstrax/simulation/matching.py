"""Matching of true signals, the S1s and S2s of simulated events, with peaks and events.

The peaks that overlap with the interval of a signal (`light_intervals`) hold its light. Tables are
those of `amstrax.simulation.load_truth`, peak_basics, and event_basics or event_info, all sorted by
time. Signals in dead time or below thresholds count as missed.
"""

from enum import IntEnum

import numba
import numpy as np
import strax

NO_MATCH = -1
KINDS = ("s1", "s2")
#: Length of the interval of an S1, in mean delays of its photoelectrons
_S1_MEAN_DELAYS = 5


class Outcome(IntEnum):
    """Outcome of a true signal: the first of these that applies."""

    NO_LIGHT = -1  #: it has no photoelectrons
    MISSED = 0  #: no peak holds its light
    MERGED = 1  #: its largest peak holds another true signal too
    SPLIT = 2  #: several peaks hold its light
    MISCLASSIFIED = 3  #: one peak holds it, alone, and is of the other type or of none
    FOUND = 4  #: one peak holds it, alone, and is of the right type


EVENT_MATCH_DTYPE = np.dtype(
    [
        (("Event that contains the centre of the true S2, or -1", "event"), np.int64),
        (("True events in that event, this one included; 0 without one", "n_truth"), np.int32),
        (("Reconstructed events that overlap with its light", "n_events"), np.int32),
        (("Main or alternative S1 of the event holds the true S1", "s1_found"), np.bool_),
        (("Main S1 of the event holds the true S1", "s1_is_main"), np.bool_),
        (("Main or alternative S2 of the event holds the true S2", "s2_found"), np.bool_),
        (("Main S2 of the event holds the true S2", "s2_is_main"), np.bool_),
    ]
)

PEAK_MATCH_DTYPE = np.dtype(
    [
        ((f"True {kind.upper()}: {title}", f"{kind}_{name}"), dtype)
        for kind in KINDS
        for name, title, dtype in (
            ("outcome", "Outcome", np.int8),
            ("peak", "largest peak that holds it, or -1", np.int64),
            ("type", "type of that peak, -1 without one", np.int8),
            ("n_peaks", "number of peaks that hold it", np.int32),
            ("n_signals", "true signals in its largest peak, 0 without one", np.int32),
            ("area", "area of its largest peak [PE], NaN without one", np.float64),
            ("area_sum", "area of all peaks that hold it [PE]", np.float64),
        )
    ]
)

PEAK_LABEL_DTYPE = np.dtype(
    [
        (("Row of the true event of its largest true signal, or -1", "truth"), np.int64),
        (("Kind of that signal: 1 S1, 2 S2, 0 no true signal", "kind"), np.int8),
        (("True signals that it holds", "n_signals"), np.int32),
    ]
)


def light_intervals(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end of the light of true S1s and S2s [ns since unix epoch].

    That of an S1 begins with the deposit and is five times as long as its mean delay: it holds all
    but 0.7 % of an exponential decay, and both S1s of Kr-83m. That of an S2 ends with the last
    light of the event and is symmetric around its mean time. The middle between the two mean times
    bounds both. Later light, as of after-pulses, belongs to no signal.

    Both have shape (n, 2), S1 and S2, and are -1 without light.
    """
    start = np.full((len(truth), 2), -1, dtype=np.int64)
    end = start.copy()
    time, s1, s2 = (truth[field] for field in ("time", "s1_center_time", "s2_center_time"))
    has_s1, has_s2 = s1 != -1, s2 != -1
    middle = (np.where(has_s1, s1, time) + s2) // 2
    last = time + _S1_MEAN_DELAYS * (s1 - time)
    last[has_s2] = np.minimum(last, np.maximum(middle, s1))[has_s2]
    start[has_s1, 0] = time[has_s1]
    end[has_s1, 0] = last[has_s1] + 1
    start[has_s2, 1] = np.clip(2 * s2 - truth["endtime"], middle, s2)[has_s2]
    end[has_s2, 1] = np.maximum(truth["endtime"], s2 + 1)[has_s2]
    return start, end


def match_truth(truth: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Return the reconstructed event that contains each true event: `EVENT_MATCH_DTYPE`, (n,).

    That is the event that contains the mean time of the S2's light, since S2s make events. True
    events that share an event are merged: all have the same ``event``, and only one is the main
    one. A true event without S2 has none.

    Raises ValueError when a table is not sorted by time.

    Parameters
    ----------
    truth
        As of `amstrax.simulation.load_truth`, shape (n,), sorted by time.
    events
        Shape (e,), sorted by time: time, endtime, and ``PREFIX_time``, ``PREFIX_endtime`` for the
        prefixes s1, alt_s1, s2, alt_s2, as of event_basics.
    """
    _check_sorted(truth, "truth")
    _check_sorted(events, "events")
    result = np.zeros(len(truth), dtype=EVENT_MATCH_DTYPE)
    center = truth["s2_center_time"]
    # Peaks belong to the first of overlapping events
    latest_end = np.maximum.accumulate(events["endtime"])
    index = np.searchsorted(latest_end, center, side="right")
    inside = np.zeros(len(truth), dtype=bool)
    near = (center != -1) & (index < len(events))
    inside[near] = events["time"][index[near]] <= center[near]
    result["event"] = np.where(inside, index, NO_MATCH)
    result["n_truth"][inside] = np.bincount(index[inside], minlength=len(events))[index[inside]]
    before = np.searchsorted(np.sort(events["endtime"]), truth["time"], side="right")
    begun = np.searchsorted(events["time"], truth["endtime"], side="left")
    result["n_events"] = np.maximum(begun - before, 0)
    start, end = light_intervals(truth)
    mine = events[index[inside]]
    for column, kind in enumerate(KINDS):
        low, high = start[inside, column], end[inside, column]
        main, alt = (
            (low < mine[f"{prefix}{kind}_endtime"]) & (mine[f"{prefix}{kind}_time"] < high)
            for prefix in ("", "alt_")
        )
        has_light = low != -1
        result[f"{kind}_is_main"][inside] = main & has_light
        result[f"{kind}_found"][inside] = (main | alt) & has_light
    return result


def match_peaks(truth: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return the `Outcome` and the peaks of S1 and S2 of true events: `PEAK_MATCH_DTYPE`, (n,).

    Raises ValueError when a table is not sorted by time, or peaks overlap.

    Parameters
    ----------
    truth
        As of `amstrax.simulation.load_truth`, shape (n,), sorted by time.
    peaks
        Shape (p,), sorted by time and disjoint: time, endtime (or length and dt), area, type.
    """
    first, beyond = _peak_ranges(truth, peaks)
    n_signals = _count_covering(first.ravel(), beyond.ravel(), len(peaks))
    result = np.zeros(len(truth), dtype=PEAK_MATCH_DTYPE)
    area = peaks["area"].astype(np.float64)
    for column, kind in enumerate(KINDS):
        main, area_sum = _largest_in_ranges(first[:, column], beyond[:, column], area)
        has_peak = main != NO_MATCH
        mine = main[has_peak]
        n_peaks = beyond[:, column] - first[:, column]
        result[f"{kind}_peak"] = main
        result[f"{kind}_n_peaks"] = n_peaks
        result[f"{kind}_area_sum"] = area_sum
        result[f"{kind}_type"] = NO_MATCH
        result[f"{kind}_type"][has_peak] = peaks["type"][mine]
        result[f"{kind}_n_signals"][has_peak] = n_signals[mine]
        result[f"{kind}_area"] = np.nan
        result[f"{kind}_area"][has_peak] = area[mine]
        result[f"{kind}_outcome"] = np.select(
            [
                truth[f"{kind}_center_time"] == -1,
                ~has_peak,
                result[f"{kind}_n_signals"] > 1,
                n_peaks > 1,
                result[f"{kind}_type"] != column + 1,
            ],
            list(Outcome)[:-1],
            default=Outcome.FOUND,
        )
    return result


def label_peaks(truth: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return the largest true signal [PE] that each peak holds: `PEAK_LABEL_DTYPE`, shape (p,).

    Parameters and errors are those of `match_peaks`.
    """
    first, beyond = _peak_ranges(truth, peaks)
    size = np.stack([truth["s1_pe"], truth["s2_pe"]], axis=1).astype(np.float64)
    result = np.zeros(len(peaks), dtype=PEAK_LABEL_DTYPE)
    signal = _largest_covering(first.ravel(), beyond.ravel(), size.ravel(), len(peaks))
    has_signal = signal != NO_MATCH
    result["truth"] = np.where(has_signal, signal // 2, NO_MATCH)
    result["kind"] = np.where(has_signal, signal % 2 + 1, 0)
    result["n_signals"] = _count_covering(first.ravel(), beyond.ravel(), len(peaks))
    return result


def _check_sorted(table: np.ndarray, name: str) -> None:
    """Raise ValueError when a table is not sorted by start time."""
    bad = np.diff(table["time"]) < 0
    if bad.any():
        row = int(np.argmax(bad)) + 1
        raise ValueError(
            f"{name} is not sorted by time: row {row}, at {table['time'][row]} ns, is before row "
            f"{row - 1}. Sort it with amstrax.processing.compiled.sort_by_time"
        )


def _peak_ranges(truth: np.ndarray, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first peak that holds each signal, and the one after the last.

    Both have shape (n, 2), for S1 and S2, and are equal without peak or light.
    """
    _check_sorted(truth, "truth")
    _check_sorted(peaks, "peaks")
    peak_end = strax.endtime(peaks)
    overlap = peaks["time"][1:] < peak_end[:-1]
    if overlap.any():
        row = int(np.argmax(overlap))
        raise ValueError(
            f"peaks {row} and {row + 1}, at {peaks['time'][row]} ns, overlap: give the peaks of "
            "one run, which do not"
        )
    start, end = light_intervals(truth)
    has_light = start != -1
    first = np.searchsorted(peak_end, start, side="right")
    beyond = np.searchsorted(peaks["time"], end, side="left")
    beyond = np.where(has_light, np.maximum(beyond, first), first)
    return first, beyond


def _count_covering(first: np.ndarray, beyond: np.ndarray, n_peaks: int) -> np.ndarray:
    """Return in how many of the ranges [first, beyond) each peak is."""
    change = np.bincount(first, minlength=n_peaks + 1) - np.bincount(beyond, minlength=n_peaks + 1)
    return np.cumsum(change)[:n_peaks]


@numba.njit(nogil=True, cache=True)
def _largest_in_ranges(first, beyond, area):
    """Return the index of the largest area in each range, or -1, and the sum over the range."""
    largest = np.full(len(first), NO_MATCH, dtype=np.int64)
    total = np.zeros(len(first), dtype=np.float64)
    for i in range(len(first)):
        for j in range(first[i], beyond[i]):
            total[i] += area[j]
            if largest[i] == NO_MATCH or area[j] > area[largest[i]]:
                largest[i] = j
    return largest, total


@numba.njit(nogil=True, cache=True)
def _largest_covering(first, beyond, size, n_peaks):
    """Return the largest signal in whose range each peak is, or -1."""
    largest = np.full(n_peaks, NO_MATCH, dtype=np.int64)
    for i in range(len(first)):
        for j in range(first[i], beyond[i]):
            if largest[j] == NO_MATCH or size[i] > size[largest[j]]:
                largest[j] = i
    return largest
