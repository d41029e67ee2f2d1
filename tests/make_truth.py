"""True events that tests make, and what a perfect reconstruction would make of them."""

import numpy as np
import strax

from amstrax.plugins.event_processing import event_basics_dtype
from amstrax.plugins.peak_processing import peak_basics_dtype
from amstrax.processing.compiled import sort_by_time
from amstrax.simulation import TRUTH_DTYPE

T0 = 1_704_164_645_000_000_000
DRIFT_SPEED = 50.5 / 36_500  # [mm/ns]
EVENT_DTYPE = np.dtype(
    event_basics_dtype() + [(name, np.float32) for name in ("x", "y", "z", "cs1", "cs2")]
)


def make_truth(times, drift=20_000, s1_pe=100, s2_pe=5_000):
    """Return true events at `times` [ns after T0], S1s 30 ns and S2s `drift` after that."""
    truth = np.zeros(len(times), dtype=TRUTH_DTYPE)
    truth["time"] = T0 + np.asarray(times, dtype=np.int64)
    truth["event_number"] = np.arange(len(times))
    truth["s1_pe"], truth["s2_pe"] = s1_pe, s2_pe
    truth["s1_center_time"] = np.where(truth["s1_pe"] > 0, truth["time"] + 30, -1)
    truth["s2_center_time"] = np.where(truth["s2_pe"] > 0, truth["time"] + 30 + drift, -1)
    last = np.where(truth["s2_pe"] > 0, truth["s2_center_time"] + 1_000, truth["time"] + 200)
    truth["endtime"] = last
    both = (truth["s1_pe"] > 0) & (truth["s2_pe"] > 0)
    truth["drift_time"] = np.where(both, drift, np.nan)
    truth["z"] = -(truth["drift_time"] - 3_000) * DRIFT_SPEED
    truth["electrons"] = truth["s2_pe"] / 10
    truth["n_deposits"] = 1
    return truth


def make_peaks(intervals):
    """Return peaks, sorted, of rows (start, end [ns after T0], type, area)."""
    peaks = np.zeros(len(intervals), dtype=peak_basics_dtype())
    for row, (start, end, kind, area) in zip(peaks, intervals, strict=True):
        row["time"], row["endtime"], row["type"], row["area"] = T0 + start, T0 + end, kind, area
        row["center_time"] = T0 + (start + end) // 2
    return sort_by_time(peaks)


def perfect_peaks(truth):
    """Return a peak for each S1 and each S2, with the true area."""
    rows = []
    for row in truth:
        start = row["time"] - T0
        if row["s1_pe"] > 0:
            rows.append((start - 30, start + 200, 1, row["s1_pe"]))
        if row["s2_pe"] > 0:
            center = row["s2_center_time"] - T0
            rows.append((center - 1_000, center + 1_000, 2, row["s2_pe"]))
    return make_peaks(rows)


def perfect_events(truth, window=50_000):
    """Return an event for each true one (they must be apart), with what is true of it."""
    events = np.zeros(len(truth), dtype=EVENT_DTYPE)
    strax.set_nan_defaults(events)
    events["time"] = truth["s2_center_time"] - 1_000 - window
    events["endtime"] = truth["s2_center_time"] + 1_000 + window
    for kind, left, right in (("s1", 60, 170), ("s2", 1_000, 1_000)):
        center = truth[f"{kind}_center_time"]
        there = center != -1
        events[f"{kind}_time"][there] = (center - left)[there]
        events[f"{kind}_endtime"][there] = (center + right)[there]
        events[f"{kind}_center_time"][there] = center[there]
        events[f"{kind}_area"][there] = truth[f"{kind}_pe"][there]
    for field in ("event_number", "drift_time", "x", "y", "z"):
        events[field] = truth[field]
    events["cs1"] = events["s1_area"]
    events["cs2"] = events["s2_area"]
    return events
