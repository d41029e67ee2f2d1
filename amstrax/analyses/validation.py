"""Figures of merit of the reconstruction, from simulated and reconstructed events."""

from typing import Any, NamedTuple

import numpy as np

from amstrax.analyses import statistics
from amstrax.analyses.statistics import NOTHING, Number
from amstrax.processing.events import find_groups
from amstrax.simulation import matching
from amstrax.simulation.matching import KINDS, Outcome

#: Format of the report; increased by changes after which older ones cannot be compared
FORMAT = 1
#: Single numbers of fractions and areas are of signals above these sizes [PE]
THRESHOLDS = {"s1": 50, "s2": 200}
BINS_PER_DECADE = 4
#: Rows and columns of the misclassification matrix; the columns are types 1, 2, 0 and no peak
TRUE_KINDS = ("S1", "S2", "no true signal")
FOUND_KINDS = ("S1", "S2", "unknown", "missed")
_COLUMN_OF_TYPE = np.array([2, 0, 1, 3])  # of types 0, 1, 2 and -1


class Conditions(NamedTuple):
    """Conditions of a run on which its figures of merit depend."""

    duration: float  #: of the run [s]
    left_event_extension: int  #: [ns]
    right_event_extension: int  #: [ns]
    elife: float  #: electron lifetime with which cs2 was made [ns]
    true_elife: float  #: that of the simulation [ns]; NaN: not known


class Matched(NamedTuple):
    """Simulated events, reconstructed peaks and events, and which belongs to which."""

    truth: np.ndarray
    peaks: np.ndarray
    events: np.ndarray
    of_peaks: np.ndarray  #: row by row of truth: `matching.PEAK_MATCH_DTYPE`
    of_events: np.ndarray  #: row by row of truth: `matching.EVENT_MATCH_DTYPE`
    labels: np.ndarray  #: row by row of peaks: `matching.PEAK_LABEL_DTYPE`

    @property
    def clean(self) -> np.ndarray:
        """Whether rows of truth are alone in their event, with its main S1 and main S2."""
        match = self.of_events
        return (match["n_truth"] == 1) & match["s1_is_main"] & match["s2_is_main"]

    def event_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the events of these rows of truth, which all have one."""
        return self.events[self.of_events["event"][rows]]


def match(truth: np.ndarray, peaks: np.ndarray, events: np.ndarray) -> Matched:
    """Match simulated events with peaks as of peak_basics and events as of event_info.

    Raises ValueError when one is not sorted by time.
    """
    of_peaks = matching.match_peaks(truth, peaks)
    of_events = matching.match_truth(truth, events)
    return Matched(truth, peaks, events, of_peaks, of_events, matching.label_peaks(truth, peaks))


def validation_report(matched: Matched, conditions: Conditions) -> dict[str, Any]:
    """Return all figures of merit, a dictionary for JSON, with NaN for unknown numbers.

    - ``format``: see `FORMAT`
    - ``numbers``: name to ``value``, ``error``, ``unit`` and ``text``, its description
    - ``by_size``: for s1 and s2, in bins of true photoelectrons (``edges``): numbers of signals
      (``n``), found as the right type (``n_found``), and with a compared area (``n_area``);
      ``bias`` and ``resolution`` of the area with ``_error``
    - ``matrix``: ``rows``, ``columns``, ``counts`` of true against found kind
    - ``outcomes``: for s1 and s2, the number of each `matching.Outcome`
    """
    rows = (
        *_signal_numbers(matched, "s1"),
        *_signal_numbers(matched, "s2"),
        *_event_numbers(matched, conditions),
        *_position_numbers(matched),
        *_lifetime_numbers(matched, conditions),
    )
    numbers = {
        name: {**number._asdict(), "unit": unit, "text": text} for name, number, unit, text in rows
    }
    return {
        "format": FORMAT,
        "n_truth": len(matched.truth),
        "n_peaks": len(matched.peaks),
        "n_events": len(matched.events),
        "numbers": numbers,
        "by_size": {kind: _by_size(matched, kind) for kind in KINDS},
        "matrix": {
            "rows": list(TRUE_KINDS),
            "columns": list(FOUND_KINDS),
            "counts": confusion_matrix(matched).tolist(),
        },
        "outcomes": {
            kind: {
                outcome.name.lower(): int((matched.of_peaks[f"{kind}_outcome"] == outcome).sum())
                for outcome in Outcome
            }
            for kind in KINDS
        },
    }


def confusion_matrix(matched: Matched) -> np.ndarray:
    """Return numbers of true signals by the type of their largest peak: TRUE_KINDS x FOUND_KINDS.

    Shape (3, 4). The last row counts peaks without true signal.
    """
    result = np.zeros((3, 4), dtype=np.int64)
    for row, kind in enumerate(KINDS):
        has_light = matched.of_peaks[f"{kind}_outcome"] != Outcome.NO_LIGHT
        found = _COLUMN_OF_TYPE[matched.of_peaks[f"{kind}_type"][has_light]]
        result[row] = np.bincount(found, minlength=4)
    stray = matched.peaks["type"][matched.labels["kind"] == 0]
    result[2] = np.bincount(_COLUMN_OF_TYPE[stray], minlength=4)
    return result


def area_ratio(matched: Matched, kind: str) -> np.ndarray:
    """Return peak area / true photoelectrons of each s1 or s2; NaN unless it is FOUND."""
    result = np.full(len(matched.truth), np.nan)
    found = matched.of_peaks[f"{kind}_outcome"] == Outcome.FOUND
    result[found] = matched.of_peaks[f"{kind}_area"][found] / matched.truth[f"{kind}_pe"][found]
    return result


def _is_right_type(matched: Matched, kind: str) -> np.ndarray:
    return matched.of_peaks[f"{kind}_type"] == KINDS.index(kind) + 1


def _signal_numbers(matched: Matched, kind: str):
    """Yield name, number, unit and text for all S1s or all S2s."""
    least = THRESHOLDS[kind]
    large = matched.truth[f"{kind}_pe"] > least
    n = int(large.sum())
    name = f"{kind.upper()}s above {least} PE"
    right = _is_right_type(matched, kind)
    efficiency = statistics.fraction(int((right & large).sum()), n)
    yield f"{kind}_efficiency", efficiency, "1", f"{name} whose largest peak is an {kind.upper()}"
    for outcome, text in (
        (Outcome.MISSED, "without a peak"),
        (Outcome.MISCLASSIFIED, "in one peak of another type"),
        (Outcome.SPLIT, "in several peaks"),
        (Outcome.MERGED, "that share their largest peak"),
    ):
        count = int((large & (matched.of_peaks[f"{kind}_outcome"] == outcome)).sum())
        fraction = statistics.fraction(count, n)
        yield f"{kind}_{outcome.name.lower()}", fraction, "1", f"{name} {text}"
    ratio = area_ratio(matched, kind)[large]
    ratio = ratio[np.isfinite(ratio)]
    middle = statistics.median(ratio)
    bias = Number(middle.value - 1, middle.error)
    yield f"{kind}_area_bias", bias, "1", f"area of {name}: median of found/true - 1"
    resolution = statistics.spread(ratio)
    yield f"{kind}_area_resolution", resolution, "1", f"area of {name}: spread of found/true"


def _by_size(matched: Matched, kind: str) -> dict[str, list]:
    size = matched.truth[f"{kind}_pe"].astype(np.float64)
    largest = max(size.max(initial=1.0), 10.0)
    n_bins = int(np.ceil(np.log10(largest + 1) * BINS_PER_DECADE))
    edges = 10 ** (np.arange(n_bins + 1) / BINS_PER_DECADE)
    n, _ = np.histogram(size, edges)
    n_found, _ = np.histogram(size[_is_right_type(matched, kind)], edges)
    ratio = area_ratio(matched, kind)
    bin_of = np.digitize(size, edges) - 1
    rows = []
    for i in range(n_bins):
        inside = ratio[(bin_of == i) & np.isfinite(ratio)]
        middle, width = statistics.median(inside), statistics.spread(inside)
        rows.append((len(inside), middle.value - 1, middle.error, *width))
    columns = ("n_area", "bias", "bias_error", "resolution", "resolution_error")
    result = {"edges": edges.tolist(), "n": n.tolist(), "n_found": n_found.tolist()}
    return result | dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


def _event_numbers(matched: Matched, conditions: Conditions):
    """Yield name, number, unit and text for events as a whole."""
    truth, match_ = matched.truth, matched.of_events
    large = (truth["s1_pe"] > THRESHOLDS["s1"]) & (truth["s2_pe"] > THRESHOLDS["s2"])
    both = match_["s1_is_main"] & match_["s2_is_main"]
    efficiency = statistics.fraction(int((large & both).sum()), int(large.sum()))
    name = f"events with S1 above {THRESHOLDS['s1']} PE and S2 above {THRESHOLDS['s2']} PE"
    yield "event_efficiency", efficiency, "1", f"{name} that are main S1 and main S2 of an event"
    n_in_event = int((match_["event"] != matching.NO_MATCH).sum())
    merged = _of_pairs(int((match_["n_truth"] > 1).sum()), n_in_event)
    yield "events_merged", merged, "1", "true events that share their reconstructed event"
    by_window = merged_by_window(matched, conditions)
    expected = _of_pairs(int(by_window.sum()), len(by_window))
    text = "that the event window predicts, from the true times of the S2s that were found"
    yield "events_merged_expected", expected, "1", text
    poisson = Number(_poisson_merging(matched, conditions), 0.0)
    text = "that the event window predicts from their rate, if every S2 makes an event"
    yield "events_merged_poisson", poisson, "1", text
    n_stray = int((matched.labels["kind"] == 0).sum())
    rate = Number(n_stray / conditions.duration, np.sqrt(max(n_stray, 1)) / conditions.duration)
    text = "peaks that hold no true S1 or S2: after-pulses, dark counts, noise"
    yield "stray_peaks", rate, "Hz", text


def _of_pairs(n: int, total: int) -> Number:
    """Return a fraction of pairs, of which half as many are independent."""
    one = statistics.fraction(n, total)
    return Number(one.value, one.error * np.sqrt(2))


def merged_by_window(matched: Matched, conditions: Conditions) -> np.ndarray:
    """Return whether the event window merges true events, for each in an event.

    The windows are those of the plugin, but around the true light of found S2s.
    """
    start, end = matching.light_intervals(matched.truth)
    found = _is_right_type(matched, "s2")
    order = np.argsort(start[found, 1], kind="stable")
    begin, stop = find_groups(
        start[found, 1][order],
        end[found, 1][order],
        conditions.left_event_extension,
        conditions.right_event_extension,
    )
    center = matched.truth["s2_center_time"]
    group = np.searchsorted(begin, center, side="right") - 1
    inside = (group >= 0) & (center != -1)
    inside[inside] = center[inside] < stop[group[inside]]
    group = group[inside]
    return np.bincount(group, minlength=len(begin))[group] > 1


def _poisson_merging(matched: Matched, conditions: Conditions) -> float:
    """Return the probability of another S2 in an event window, for a Poisson process."""
    has_light = matched.truth["s2_center_time"] != -1
    if not has_light.any():
        return np.nan
    start, end = (limits[has_light, 1] for limits in matching.light_intervals(matched.truth))
    window = conditions.left_event_extension + conditions.right_event_extension
    window += np.mean(end - start)
    rate = (has_light.sum() - 1) / conditions.duration / 1e9
    return float(1 - np.exp(-2 * rate * window))


def _position_numbers(matched: Matched):
    """Yield name, number, unit and text for drift time and position."""
    rows = np.flatnonzero(matched.clean)
    truth, events = matched.truth[rows], matched.event_of(rows)
    for field, unit in (("drift_time", "ns"), ("z", "mm"), ("x", "mm"), ("y", "mm")):
        text = field.replace("_", " ")
        off = events[field].astype(np.float64) - truth[field]
        off = off[np.isfinite(off)]
        middle, size = statistics.median(off), statistics.median(np.abs(off))
        yield f"{field}_bias", middle, unit, f"{text}: median of found - true"
        yield f"{field}_error", size, unit, f"{text}: median of |found - true|"
        yield f"{field}_resolution", statistics.spread(off), unit, f"{text}: spread of found - true"
    for field in ("x", "y"):
        line = statistics.fit_line(truth[field], events[field])
        yield f"{field}_slope", line.slope, "1", f"{field}: slope of found against true"


def lifetime_points(matched: Matched) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return drift time [ns], cs2 [PE] and cs2 per true electron of clean events."""
    rows = np.flatnonzero(matched.clean & (matched.truth["electrons"] > 0))
    events = matched.event_of(rows)
    cs2 = events["cs2"].astype(np.float64)
    good = cs2 > 0
    electrons = matched.truth["electrons"][rows]
    return events["drift_time"][good].astype(np.float64), cs2[good], (cs2 / electrons)[good]


def electron_lifetime(drift_time: np.ndarray, cs2: np.ndarray, elife: float) -> Number:
    """Return the electron lifetime [ns] from the remaining slope of corrected S2s.

    A line is fitted to log(cs2) against drift time. With a slope k, cs2 was corrected with a rate
    of losses 1/elife that is too large by k: 1/lifetime = 1/elife - k.

    `drift_time` [ns] and `cs2` [PE] of events of one energy, or cs2 per electron, have shape (n,);
    `elife` [ns] is the lifetime of the correction.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = statistics.fit_line(drift_time, np.log(cs2)).slope
    rate = 1 / elife - slope.value
    if not rate > 0:
        return NOTHING
    return Number(1 / rate, slope.error / rate**2)


def _lifetime_numbers(matched: Matched, conditions: Conditions):
    """Yield name, number, unit and text for the electron lifetime."""
    drift_time, cs2, per_electron = lifetime_points(matched)
    true = conditions.true_elife
    for name, values, text in (
        ("elife", cs2, "from cs2, of all energies"),
        ("elife_per_electron", per_electron, "from cs2 / true electrons"),
    ):
        found = electron_lifetime(drift_time, values, conditions.elife)
        yield name, found, "ns", f"electron lifetime {text}"
        bias = Number(found.value / true - 1, found.error / true)
        known = f"{true:.6g} ns" if np.isfinite(true) else "not known"
        yield f"{name}_bias", bias, "1", f"found/true - 1, {text}; the true one is {known}"
