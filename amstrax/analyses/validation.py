"""Figures of merit of the reconstruction, from simulated and reconstructed events."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from amstrax.analyses import statistics
from amstrax.analyses.statistics import NOTHING, Number
from amstrax.analyses.validation_data import (
    APART,
    Conditions,
    Matched,
    OfSensor,
    Parts,
    true_scatters,
)
from amstrax.calibration.gains import mean_gain
from amstrax.exceptions import NoGain
from amstrax.processing.events import find_groups
from amstrax.simulation import matching
from amstrax.simulation.light import Origin
from amstrax.simulation.matching import KINDS, Outcome
from amstrax.simulation.parts import Sensor
from amstrax.simulation.sources import Interaction
from amstrax.simulation.yields import WORK_FUNCTION

#: Name, number, unit and description
Row = tuple[str, Number, str, str]

#: Format of the report; increased by changes after which older ones cannot be compared
FORMAT = 2
#: Single numbers of fractions and areas are of signals above these sizes [PE]
THRESHOLDS = {"s1": 50, "s2": 200}
BINS_PER_DECADE = 4
#: A signal is whole if its area is within this fraction of the true one
WHOLE = 0.2
#: Numbers that are compared at different rates
PILE_UP = (
    *("s1_efficiency", "s1_merged", "s2_efficiency", "s2_merged", "event_efficiency"),
    *("events_merged", "events_merged_expected", "s2_area_bias"),
)
#: Rings of the same area for positions; rings and layers in depth for the uniformity
N_RINGS, N_LAYERS = 4, 5
#: Least events in a bin of the uniformity
_LEAST_IN_BIN = 10
#: Fraction of a peak's light, or of a signal, that belongs together in a good peak
_GOOD_SHARE = 0.9
#: Delays between the two S1s of Kr-83m [ns]
KR_DELAYS = (0.0, 50.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0)
#: Energies of a pair's partner in the NaI detector [keV], and its least energy for efficiencies
COINCIDENT, LEAST_ENERGY = (456.0, 566.0), 100.0
#: Photoelectrons from which single numbers of the SiPM count [PE]
LEAST_SIPM = 3.0
#: Rows and columns of the misclassification matrix; the columns are types 1, 2, 0 and no peak
TRUE_KINDS = ("S1", "S2", "no true signal")
FOUND_KINDS = ("S1", "S2", "unknown", "missed")
_COLUMN_OF_TYPE = np.array([2, 0, 1, 3])  # of types 0, 1, 2 and -1


def validation_report(
    matched: Matched, conditions: Conditions, parts: Parts | None = None
) -> dict[str, Any]:
    """Return all figures of merit, a dictionary for JSON, with NaN for unknown numbers.

    Those that need `parts` are left out without them.

    - ``format``: see `FORMAT`
    - ``numbers``: name to ``value``, ``error``, ``unit`` and ``text``, its description
    - ``poor``: names of numbers outside `LIMITS`
    - ``unknown``: names of numbers with `LIMITS` that too few signals leave unknown
    - ``rings``: errors of positions in rings of the same area, inner ring first
    - ``uniformity``: for cs1 and cs2, medians by ring and layer relative to all, layers downwards
    - ``kr_delays``: for Kr-83m, what the two S1s were found as, in bins of their delay
    - ``by_size``: for s1 and s2, and for sipm [PE] and external [keV] if there are such, in bins
      of true photoelectrons (``edges``): numbers of signals
      (``n``), found as the right type (``n_found``), and with a compared area (``n_area``);
      ``bias`` and ``resolution`` of the area with ``_error``
    - ``matrix``: ``rows``, ``columns``, ``counts`` of true against found kind
    - ``outcomes``: for s1 and s2, the number of each `matching.Outcome`
    """
    rings: dict[str, list] = {}
    uniformity: dict[str, Any] = {}
    text = "peaks that hold no true S1 or S2: after-pulses, dark counts, noise"
    rows = [
        *_signal_numbers(matched, "s1"),
        *_signal_numbers(matched, "s2"),
        *_line_numbers(matched),
        ("stray_peaks", _rate(int((matched.labels["kind"] == 0).sum()), conditions), "Hz", text),
    ]
    if conditions.has_events:
        rings, uniformity = _rings(matched, conditions), _uniformity(matched, conditions)
        rows += _event_numbers(matched, conditions)
        rows += _position_numbers(matched)
        rows += _ring_numbers(rings)
        rows += _energy_numbers(matched, uniformity)
        rows += _pull_numbers(matched)
        rows += _lifetime_numbers(matched, conditions)
    by_size = {kind: _by_size_of(matched, kind) for kind in KINDS}
    kr_delays: dict[str, list] = {}
    if parts is not None:
        rows += _composition_numbers(matched, parts, conditions)
        rows += _apart_numbers(matched)
        if conditions.has_events:
            rows += _scatter_numbers(matched, parts)
        kr_delays, numbers_of_kr = _double_s1s(matched, parts)
        rows += numbers_of_kr
        for prefix, of_sensor, sensor in (
            ("sipm", parts.sipm, Sensor.SIPM),
            ("external", parts.external, Sensor.EXTERNAL),
        ):
            if of_sensor is not None:
                by_size[prefix], numbers_of_sensor = _sensor(prefix, parts, of_sensor, sensor)
                rows += numbers_of_sensor
        if parts.coincidences is not None:
            rows += _coincidence_numbers(matched, parts.coincidences)
    n_events = len(matched.events) if conditions.has_events else None
    return _report(rows, len(matched.truth), len(matched.peaks), n_events) | {
        "rings": rings,
        "uniformity": uniformity,
        "kr_delays": kr_delays,
        "by_size": by_size,
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


def led_report(
    led: np.ndarray, truth: np.ndarray, gains: Mapping[int, float], occupancy: float
) -> dict[str, Any]:
    """Return the figures of merit of an LED run, as `validation_report`.

    Parameters
    ----------
    led
        As of led_calibration, shape (n,).
    truth
        As of `amstrax.simulation.load_truth`: flashes.
    gains
        True mean area of a photoelectron [ADC counts x samples] of each channel.
    occupancy
        Mean number of photoelectrons in a flash.
    """
    rows: list[Row] = []
    for channel, true_gain in gains.items():
        try:
            found = mean_gain(led[led["channel"] == channel])
        except NoGain:
            gain = light = NOTHING
        else:
            gain = Number(found.gain.value / true_gain - 1, found.error / true_gain)
            light = Number(found.occupancy.value / occupancy - 1, found.occupancy.error / occupancy)
        where = f"channel {channel}"
        rows.append((f"led_gain_{channel}", gain, "1", f"gain of {where}: found/true - 1"))
        text = f"photoelectrons of a flash in {where}: found/true - 1"
        rows.append((f"led_occupancy_{channel}", light, "1", text))
    return _report(rows, len(truth), len(led), None) | {"by_size": {}, "matrix": {}}


def _report(rows: list[Row], n_truth: int, n_peaks: int, n_events: int | None) -> dict[str, Any]:
    numbers = {
        name: {**number._asdict(), "unit": unit, "text": text} for name, number, unit, text in rows
    }
    return {
        "format": FORMAT,
        "n_truth": n_truth,
        "n_peaks": n_peaks,
        "n_events": n_events,
        "numbers": numbers,
        "poor": poor(numbers),
        "unknown": unknown(numbers),
    }


def pile_up_numbers(reports: Mapping[float, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return entries of ``numbers`` of reports of the same source at different rates [Hz]."""
    found = {}
    for rate, report in sorted(reports.items()):
        for name in PILE_UP:
            if name in report["numbers"]:
                entry = report["numbers"][name]
                text = f"at {rate:g} Hz: {entry['text']}"
                found[f"pile_up_{name}_{rate:g}"] = {**entry, "text": text}
    return found


#: Lowest and highest good value of numbers; others are named as poor
LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        **{
            f"{kind}_{name}": limits
            for kind in KINDS
            for name, limits in (
                ("efficiency", (0.95, 1.0)),
                ("whole", (0.9, 1.0)),
                ("unknown", (0.0, 0.05)),
                ("split", (0.0, 0.05)),
                ("merged", (0.0, 0.1)),
                ("area_bias", (-0.05, 0.05)),
            )
        },
        **{f"line_{kind}_area_bias": (-0.05, 0.05) for kind in KINDS},
        "event_efficiency": (0.95, 1.0),
        "elife_left": (-0.05, 0.05),
        "elife_left_of_line": (-0.05, 0.05),
        "elife_bias": (-0.05, 0.05),
        "elife_per_electron_bias": (-0.05, 0.05),
        **{f"ring_{i}_error": (0.0, 3.0) for i in range(1, N_RINGS + 1)},
        **{f"ring_{i}_bias": (-1.0, 1.0) for i in range(1, N_RINGS + 1)},
        "cs1_uniformity": (0.0, 0.05),
        "cs2_uniformity": (0.0, 0.05),
        "kr_unknown": (0.0, 0.05),
        **{f"peaks_{kind}_impure": (0.0, 0.1) for kind in KINDS},
        **{f"peaks_{kind}_incomplete": (0.0, 0.1) for kind in KINDS},
        **{f"led_gain_{channel}": (-0.05, 0.05) for channel in range(16)},
        **{f"led_occupancy_{channel}": (-0.05, 0.05) for channel in range(16)},
        "coincidence_efficiency": (0.95, 1.0),
        "coincidence_false": (0.0, 0.02),
        "sipm_efficiency": (0.9, 1.0),
        "sipm_area_bias": (-0.1, 0.1),
        "external_efficiency": (0.95, 1.0),
        "external_area_bias": (-0.05, 0.05),
    }
)


def poor(numbers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of numbers that are outside `LIMITS` by more than two errors."""
    found = []
    for name in sorted(numbers, key=_order):
        low, high = limits_of(name)
        value, error = numbers[name]["value"], np.nan_to_num(numbers[name]["error"])
        if value + 2 * error < low or value - 2 * error > high:
            found.append(name)
    return found


def limits_of(name: str) -> tuple[float, float]:
    """Return lowest and highest good value of a number; infinite for those without `LIMITS`."""
    return LIMITS.get(_at_any_rate(name), (-np.inf, np.inf))


def _at_any_rate(name: str) -> str:
    """Return the name of a number without the rate that `pile_up_numbers` adds."""
    before, of, number = name.partition("pile_up_")
    return number.rpartition("_")[0] if of and not before else name


def _order(name: str) -> tuple[bool, int]:
    """Return what numbers are sorted by: the order of `LIMITS`, those at other rates last."""
    own = _at_any_rate(name)
    place = list(LIMITS).index(own) if own in LIMITS else len(LIMITS)
    return own != name, place


def unknown(numbers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of numbers with `LIMITS` that are not known."""
    return [name for name in LIMITS if name in numbers and np.isnan(numbers[name]["value"])]


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


def _ratio_of_largest(matched: Matched, kind: str) -> np.ndarray:
    """Return area of the largest peak / true photoelectrons, whatever its type; NaN without."""
    size = matched.truth[f"{kind}_pe"]
    return matched.of_peaks[f"{kind}_area"] / np.where(size > 0, size, np.nan)


def _is_saturated(matched: Matched, kind: str) -> np.ndarray:
    """Return whether the largest peak of each s1 or s2 reaches the end of the ADC."""
    peak = matched.of_peaks[f"{kind}_peak"]
    # The last row serves signals without a peak
    return np.append(matched.peaks["n_saturated_channels"] > 0, False)[peak]


def _is_right_type(matched: Matched, kind: str) -> np.ndarray:
    return matched.of_peaks[f"{kind}_type"] == KINDS.index(kind) + 1


def _signal_numbers(matched: Matched, kind: str) -> Iterator[Row]:
    least = THRESHOLDS[kind]
    large = (matched.truth[f"{kind}_pe"] > least) & matched.is_one(kind)
    name = f"{kind.upper()}s above {least} PE"
    right = _is_right_type(matched, kind)
    efficiency = statistics.share(right, large)
    yield f"{kind}_efficiency", efficiency, "1", f"{name} whose largest peak is an {kind.upper()}"
    whole = right & (np.abs(_ratio_of_largest(matched, kind) - 1) < WHOLE)
    text = f"{name} found as an {kind.upper()} with an area within {WHOLE:.0%} of the true one"
    yield f"{kind}_whole", statistics.share(whole, large), "1", text
    unknown = statistics.share(matched.of_peaks[f"{kind}_type"] == 0, large)
    yield f"{kind}_unknown", unknown, "1", f"{name} whose largest peak has no type"
    for outcome, text in (
        (Outcome.MISSED, "without a peak"),
        (Outcome.MISCLASSIFIED, "in one peak of another type"),
        (Outcome.SPLIT, "in several peaks"),
        (Outcome.MERGED, "that share their largest peak"),
    ):
        fraction = statistics.share(matched.of_peaks[f"{kind}_outcome"] == outcome, large)
        yield f"{kind}_{outcome.name.lower()}", fraction, "1", f"{name} {text}"
    ratio, saturated = area_ratio(matched, kind), _is_saturated(matched, kind)
    for suffix, which, text in (
        ("", large, ""),
        ("_unsaturated", large & ~saturated, ", unsaturated"),
        ("_saturated", large & saturated, ", saturated"),
    ):
        own = ratio[which & np.isfinite(ratio)]
        what = f"area of {name}{text}"
        yield f"{kind}_area_bias{suffix}", _bias(own), "1", f"{what}: median of found/true - 1"
        spread = statistics.spread(own)
        yield f"{kind}_area_resolution{suffix}", spread, "1", f"{what}: spread of found/true"
    fraction = statistics.share(saturated, large)
    yield f"{kind}_saturated", fraction, "1", f"{name} whose largest peak is saturated"


def _bias(ratio: np.ndarray) -> Number:
    middle = statistics.median(ratio)
    return Number(middle.value - 1, middle.error)


def line(truth: np.ndarray) -> tuple[np.ndarray, float]:
    """Return whether events have the most frequent energy, and that energy [keV].

    If fewer than a tenth have it, the source has no line: all events, and NaN.
    """
    energy, of_row, count = np.unique(
        np.round(truth["energy"], 1), return_inverse=True, return_counts=True
    )
    if not len(truth) or count.max() < max(len(truth) / 10, 2):
        return np.ones(len(truth), dtype=bool), np.nan
    return of_row == count.argmax(), float(energy[count.argmax()])


def _line_numbers(matched: Matched) -> Iterator[Row]:
    on_line, energy = line(matched.truth)
    if np.isnan(energy):
        return
    for kind in KINDS:
        own = on_line & matched.is_one(kind)
        name = f"{kind.upper()}s at {energy:g} keV"
        ratio = _ratio_of_largest(matched, kind)[own]
        bias = _bias(ratio[np.isfinite(ratio)])
        yield f"line_{kind}_area_bias", bias, "1", f"area of {name}: median of found/true - 1"
        n = int((own & (matched.truth[f"{kind}_pe"] > 0)).sum())
        saturated = statistics.fraction(int((own & _is_saturated(matched, kind)).sum()), n)
        yield f"line_{kind}_saturated", saturated, "1", f"{name} whose largest peak is saturated"


def _by_size_of(matched: Matched, kind: str) -> dict[str, list]:
    size, found = matched.truth[f"{kind}_pe"], _is_right_type(matched, kind)
    result = _by_size(size, found, area_ratio(matched, kind))
    saturated = np.histogram(size[_is_saturated(matched, kind)], result["edges"])[0]
    return result | {"n_saturated": saturated.tolist()}


def _by_size(size: np.ndarray, found: np.ndarray, ratio: np.ndarray) -> dict[str, list]:
    """Return columns of ``by_size`` for signals of some `size`, whether found, and area/size."""
    size = size.astype(np.float64)
    largest = max(size.max(initial=1.0), 10.0)
    n_bins = int(np.ceil(np.log10(largest + 1) * BINS_PER_DECADE))
    edges = 10 ** (np.arange(n_bins + 1) / BINS_PER_DECADE)
    n, _ = np.histogram(size, edges)
    n_found, _ = np.histogram(size[found], edges)
    bin_of = np.digitize(size, edges) - 1
    rows = []
    for i in range(n_bins):
        inside = ratio[(bin_of == i) & np.isfinite(ratio)]
        middle, width = statistics.median(inside), statistics.spread(inside)
        rows.append((len(inside), middle.value - 1, middle.error, *width))
    names = ("n_area", "bias", "bias_error", "resolution", "resolution_error")
    result = {"edges": edges.tolist(), "n": n.tolist(), "n_found": n_found.tolist()}
    return result | _columns(names, rows)


def _columns(names: tuple[str, ...], rows: list[tuple]) -> dict[str, list]:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _event_numbers(matched: Matched, conditions: Conditions) -> Iterator[Row]:
    truth, match_ = matched.truth, matched.of_events
    large = (truth["s1_pe"] > THRESHOLDS["s1"]) & (truth["s2_pe"] > THRESHOLDS["s2"])
    both = match_["s1_is_main"] & match_["s2_is_main"]
    efficiency = statistics.share(both, large)
    name = f"events with S1 above {THRESHOLDS['s1']} PE and S2 above {THRESHOLDS['s2']} PE"
    yield "event_efficiency", efficiency, "1", f"{name} that are main S1 and main S2 of an event"
    n_in_event = int((match_["event"] != matching.NO_MATCH).sum())
    merged = _of_pairs(int((match_["n_truth"] > 1).sum()), n_in_event)
    yield "events_merged", merged, "1", "true events that share their reconstructed event"
    by_window = merged_by_window(matched, conditions)
    expected = _of_pairs(int(by_window.sum()), len(by_window))
    text = "the same, predicted from the event window and the true times of found S2s"
    yield "events_merged_expected", expected, "1", text
    poisson = Number(_poisson_merging(matched, conditions), 0.0)
    text = "the same, predicted from the event window and the rate, if every S2 makes an event"
    yield "events_merged_poisson", poisson, "1", text
    if "pile_up" not in (matched.events.dtype.names or ()):
        return
    flagged = matched.events["pile_up"] > 0
    n_true = np.bincount(
        match_["event"][match_["event"] != matching.NO_MATCH], minlength=len(flagged)
    )
    for name, own, text in (
        ("found", n_true > 1, "of several true events"),
        ("false", n_true == 1, "of one true event"),
    ):
        fraction = statistics.share(flagged, own)
        yield f"event_pile_up_{name}", fraction, "1", f"reconstructed events {text} with pile_up"


def _rate(n: int, conditions: Conditions) -> Number:
    return Number(n / conditions.duration, np.sqrt(max(n, 1)) / conditions.duration)


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


def _position_numbers(matched: Matched) -> Iterator[Row]:
    truth, events = matched.clean_rows()
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


def _edges(conditions: Conditions, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of rings in r and of layers in -z [mm]."""
    radius, depth = conditions.radius, conditions.depth
    if np.isnan(radius):
        radius = max(float(np.hypot(truth["x"], truth["y"]).max(initial=0)), 1e-3)
    if np.isnan(depth):
        depth = max(float(-truth["z"].min(initial=0)), 1e-3)
    rings = radius * np.sqrt(np.arange(N_RINGS + 1) / N_RINGS)
    return rings, np.linspace(0, depth, N_LAYERS + 1)


def _in_bins(value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of the bin of each value; those outside are in the first or last one."""
    return np.clip(np.digitize(value, edges) - 1, 0, len(edges) - 2)


def _rings(matched: Matched, conditions: Conditions) -> dict[str, list]:
    truth, events = matched.clean_rows()
    edges, _ = _edges(conditions, matched.truth)
    r = np.hypot(truth["x"], truth["y"])
    off = np.hypot(events["x"], events["y"]).astype(np.float64) - r
    distance = np.hypot(events["x"] - truth["x"], events["y"] - truth["y"])
    ring, good = _in_bins(r, edges), np.isfinite(distance)
    rows = []
    for i in range(N_RINGS):
        own = good & (ring == i)
        bias, error = statistics.median(off[own]), statistics.median(distance[own])
        rows.append((int(own.sum()), *bias, *error))
    names = ("n", "bias", "bias_error", "error", "error_error")
    return {"edges": edges.tolist()} | _columns(names, rows)


def _ring_numbers(rings: dict[str, list]) -> Iterator[Row]:
    for i in range(N_RINGS):
        low, high = rings["edges"][i : i + 2]
        where = f"position, true r of {low:.1f} to {high:.1f} mm"
        error = Number(rings["error"][i], rings["error_error"][i])
        yield f"ring_{i + 1}_error", error, "mm", f"{where}: median distance of found and true"
        bias = Number(rings["bias"][i], rings["bias_error"][i])
        yield f"ring_{i + 1}_bias", bias, "mm", f"{where}: median of found r - true r"


def _per_quantum(matched: Matched) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return clean truth and events, and their cs1 per photon and cs2 per electron."""
    truth, events = matched.clean_rows()
    per_quantum = {
        name: events[name] / np.where(truth[quanta] > 0, truth[quanta], np.nan)
        for name, quanta in (("cs1", "photons"), ("cs2", "electrons"))
    }
    return truth, events, per_quantum


def _uniformity(matched: Matched, conditions: Conditions) -> dict[str, Any]:
    """Return ``uniformity`` of the report: medians, errors and edges."""
    truth, _, per_quantum = _per_quantum(matched)
    rings, layers = _edges(conditions, matched.truth)
    ring = _in_bins(np.hypot(truth["x"], truth["y"]), rings)
    layer = _in_bins(-truth["z"], layers)
    result: dict[str, Any] = {"rings": rings.tolist(), "layers": layers.tolist()}
    for name, values in per_quantum.items():
        good = np.isfinite(values)
        middle = statistics.median(values[good]).value
        table = np.full((2, N_RINGS, N_LAYERS), np.nan)
        for i, j in np.ndindex(N_RINGS, N_LAYERS):
            own = values[good & (ring == i) & (layer == j)]
            if len(own) >= _LEAST_IN_BIN:
                table[:, i, j] = np.array(statistics.median(own)) / middle
        result[name], result[f"{name}_error"] = table.tolist()
    return result


def _energy_numbers(matched: Matched, uniformity: dict[str, Any]) -> Iterator[Row]:
    for name, quantum in (("cs1", "photon"), ("cs2", "electron")):
        median, error = (np.array(uniformity[f"{name}{suffix}"]) for suffix in ("", "_error"))
        used = np.isfinite(median)
        number = NOTHING
        if used.sum() > 1:
            # Statistical errors of the medians spread them, too
            square = median[used].var() - np.mean(error[used] ** 2)
            spread_error = np.sqrt(np.mean(error[used] ** 2) / (2 * used.sum()))
            number = Number(float(np.sqrt(max(square, 0))), float(spread_error))
        text = f"{name} per {quantum}: standard deviation over the volume, {used.sum()} bins"
        yield f"{name}_uniformity", number, "1", text
    truth, events, per_quantum = _per_quantum(matched)
    own, energy = line(truth)
    of = f"of {energy:g} keV" if np.isfinite(energy) else "of all energies"
    quanta = np.zeros(len(truth))
    for name, ratio in per_quantum.items():
        quanta += events[name] / statistics.median(ratio[np.isfinite(ratio)]).value
    for name, found, text in (
        ("cs1", events["cs1"], "cs1"),
        ("cs2", events["cs2"], "cs2"),
        ("energy", WORK_FUNCTION * quanta, "energy from cs1 and cs2"),
    ):
        ratio = (found / np.where(truth["energy"] > 0, truth["energy"], np.nan))[own]
        ratio = ratio[np.isfinite(ratio)]
        middle, spread = statistics.median(ratio), statistics.spread(ratio)
        relative = Number(spread.value / middle.value, spread.error / middle.value)
        what = f"{text} / true energy, events {of}: spread / median"
        yield f"{name}_resolution", relative, "1", what


def _apart_numbers(matched: Matched) -> Iterator[Row]:
    """Yield numbers of events with several S2s."""
    large = matched.truth["s2_pe"] > THRESHOLDS["s2"]
    apart = large & matched.apart
    name = f"S2s more than {APART / 1000:g} us apart"
    share = statistics.share(apart, large)
    yield "scatters", share, "1", f"events with {name}, which numbers on S2s leave out"
    resolved = statistics.share(matched.of_peaks["s2_n_peaks"] > 1, apart)
    yield "scatters_resolved", resolved, "1", f"events with {name} that have several peaks there"


def _pull_numbers(matched: Matched) -> Iterator[Row]:
    """Yield numbers of deviations of corrected areas over their errors."""
    truth, events, per_quantum = _per_quantum(matched)
    for name, quanta in (("cs1", "photons"), ("cs2", "electrons")):
        ratio = per_quantum[name]
        expected = statistics.median(ratio[np.isfinite(ratio)]).value * truth[quanta]
        for error, text in (("error", "error"), ("statistical_error", "error by statistics")):
            if f"{name}_{error}" not in (events.dtype.names or ()):
                continue
            pull = (events[name] - expected) / events[f"{name}_{error}"]
            width = statistics.spread(pull[np.isfinite(pull)])
            what = f"({name} - median per quantum x true quanta) / {text}: spread"
            yield f"{name}_{error.replace('error', 'pull')}", width, "1", what


def _scatter_numbers(matched: Matched, parts: Parts) -> Iterator[Row]:
    """Yield numbers of scatters, and the selection of single ones."""
    true = true_scatters(parts.light)
    of = np.searchsorted(matched.truth["event_number"], true["event_number"])
    purity = NOTHING
    if parts.scatters is not None:
        n_pure = int(_found_scatters(matched, true, of, parts.scatters).sum())
        purity = statistics.fraction(n_pure, len(parts.scatters))
    large = (true["size"] > THRESHOLDS["s2"]) & (matched.truth["s1_pe"][of] > THRESHOLDS["s1"])
    true, of = true[large], of[large]
    n_true = np.bincount(of, minlength=len(matched.truth))
    name = f"scatters of more than {THRESHOLDS['s2']} PE"
    if parts.scatters is not None:
        found = _found_scatters(matched, true, of, parts.scatters)
        n_found = np.bincount(of[found], minlength=len(n_true))
        fraction = statistics.fraction(int(found.sum()), len(true))
        yield "scatters_efficiency", fraction, "1", f"true {name} in event_scatters"
        yield "scatters_purity", purity, "1", "rows of event_scatters that are a true scatter"
        fraction = statistics.share(n_found == n_true, n_true > 1)
        text = f"true events of several {name} with all of them in event_scatters"
        yield "scatters_complete", fraction, "1", text
    rows = np.flatnonzero(matched.clean)
    events = matched.event_of(rows)
    if "n_scatters" in (events.dtype.names or ()):
        selected, text = events["n_scatters"] == 1, "one scatter"
    else:
        selected, text = ~(events["alt_s2_area"] > 0), "no alternative S2"
    for suffix, own, what in (
        ("single_kept", n_true[rows] == 1, "one scatter"),
        ("multiple_kept", n_true[rows] > 1, "several scatters"),
    ):
        fraction = statistics.share(selected, own)
        yield f"scatters_{suffix}", fraction, "1", f"true events of {what} found with {text}"


def _found_scatters(
    matched: Matched, true: np.ndarray, of: np.ndarray, scatters: np.ndarray
) -> np.ndarray:
    """Return whether true scatters, of these rows of truth, are the largest in a row of theirs."""
    row = np.searchsorted(scatters["time"], true["time"], side="right") - 1
    event = matched.of_events["event"][of]
    own = (row >= 0) & (event != matching.NO_MATCH) & matched.of_events["s1_is_main"][of]
    inside = np.flatnonzero(own)
    found = scatters[row[inside]]
    inside = inside[
        (true["time"][inside] < found["endtime"])
        & (matched.events["event_number"][event[inside]] == found["event_number"])
    ]
    order = inside[np.lexsort((true["size"][inside], row[inside]))]
    is_largest = np.append(np.diff(row[order]) != 0, True)[: len(order)]
    result = np.zeros(len(true), dtype=bool)
    result[order[is_largest]] = True
    return result


def _composition_numbers(matched: Matched, parts: Parts, conditions: Conditions) -> Iterator[Row]:
    made_of = parts.made_of
    row = np.searchsorted(matched.truth["event_number"], made_of["event_number"])
    for i, kind in enumerate(KINDS):
        # The last row serves peaks of no event
        is_one = np.append(matched.is_one(kind), False)[row]
        large = (made_of["kind"] == i + 1) & (made_of["n_pe"] > THRESHOLDS[kind]) & is_one
        name = f"peaks with a true {kind.upper()} and above {THRESHOLDS[kind]} PE"
        for field, suffix, text in (
            ("purity", "impure", "of which more than a tenth is something else"),
            ("completeness", "incomplete", "that hold less than nine tenths of it"),
        ):
            fraction = statistics.share(made_of[field] < _GOOD_SHARE, large)
            yield f"peaks_{kind}_{suffix}", fraction, "1", f"{name} {text}"
    for origin, text in (
        (-1, "no photoelectrons at all, of noise"),
        (Origin.AFTERPULSE, "after-pulses"),
        (Origin.DARK_COUNT, "dark counts"),
        (Origin.PHOTOIONISATION, "electrons of photoionisation"),
        (Origin.DELAYED_ELECTRON, "delayed electrons"),
    ):
        name = "noise" if origin == -1 else Origin(origin).name.lower()
        rate = _rate(int((made_of["origin"] == origin).sum()), conditions)
        yield f"peaks_of_{name}", rate, "Hz", f"peaks mostly of {text}"


def _double_s1s(matched: Matched, parts: Parts) -> tuple[dict[str, list], list[Row]]:
    """Return ``kr_delays`` of the report, and numbers; both empty without Kr-83m."""
    second = parts.deposits[parts.deposits["interaction"] == Interaction.KR83M_SECOND]
    if not len(second):
        return {}, []
    row = np.searchsorted(matched.truth["event_number"], second["event_number"])
    delay = (second["time"] - matched.truth["time"][row]).astype(np.float64)
    n = int(second["event_number"].max()) + 1
    is_s1 = parts.made_of["kind"] == 1
    event, type_ = parts.made_of["event_number"][is_s1], matched.peaks["type"][is_s1]
    # Peaks of one deposit count once
    pairs = np.stack([event, parts.made_of["deposit"][is_s1]])[:, type_ == 1]
    events_of_typed, _ = np.unique(pairs, axis=1)
    n_typed = np.bincount(events_of_typed[events_of_typed < n], minlength=n)[second["event_number"]]
    unknown = event[(type_ == 0) & (event < n)]
    n_unknown = np.bincount(unknown, minlength=n)[second["event_number"]]
    outcomes = {
        "two": (n_typed >= 2, "as two S1s"),
        "one": ((n_typed == 1) & (n_unknown == 0), "as one S1"),
        "unknown": ((n_typed < 2) & (n_unknown > 0), "with a peak of no type, and no two S1s"),
    }
    bin_of = _in_bins(delay, np.array(KR_DELAYS))
    table = {"edges": list(KR_DELAYS)}
    table["n"] = np.bincount(bin_of, minlength=len(KR_DELAYS) - 1).tolist()
    rows: list[Row] = []
    for name, (which, text) in outcomes.items():
        table[name] = np.bincount(bin_of[which], minlength=len(KR_DELAYS) - 1).tolist()
        fraction = statistics.fraction(int(which.sum()), len(second))
        rows.append((f"kr_{name}", fraction, "1", f"S1 pairs of Kr-83m found {text}"))
    return table, rows


def _sensor(
    prefix: str, parts: Parts, found: OfSensor, sensor: Sensor
) -> tuple[dict[str, list], list[Row]]:
    """Return ``by_size`` of the report for another sensor, and numbers."""
    light = parts.light[parts.light["sensor"] == sensor]
    peak = np.searchsorted(found.peaks["time"], light["time"], side="right") - 1
    inside = peak >= 0
    inside[inside] = light["time"][inside] < found.peaks["endtime"][peak[inside]]
    if sensor == Sensor.SIPM:
        # All light of the S1 or S2 of an event is a signal
        light_of = np.isin(light["origin"], (Origin.S1, Origin.S2)) & (light["event_number"] >= 0)
        light, inside = light[light_of], inside[light_of]
        key = light["event_number"] * len(Origin) + light["origin"]
        _, first, signal = np.unique(key, return_index=True, return_inverse=True)
        size = light["size_of_signal"][first]
        is_found = np.bincount(signal, inside, len(first)) > 0
        least, unit = LEAST_SIPM, "PE"
    else:
        size, is_found, least, unit = light["size"], inside, LEAST_ENERGY, "keV"
    n_pe = found.made_of["n_pe"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = found.peaks["area"] / n_pe
    large = size > least
    name = {"sipm": "signals in the SiPM", "external": "deposits in the NaI detector"}[prefix]
    name += f" above {least:g} {unit}"
    efficiency = statistics.share(is_found, large)
    own = ratio[n_pe > least]
    columns = _by_size(size, is_found, np.full(len(size), np.nan))
    return columns, [
        (f"{prefix}_efficiency", efficiency, "1", f"{name} in a peak"),
        (f"{prefix}_area_bias", _bias(own), "1", f"area of {name}: median of found/true - 1"),
        (f"{prefix}_area_resolution", statistics.spread(own), "1", f"area of {name}: spread"),
    ]


def _coincidence_numbers(matched: Matched, coincidences: np.ndarray) -> Iterator[Row]:
    rows = np.flatnonzero(matched.clean)
    energy = matched.truth["external_energy"][rows]
    is_coinc = coincidences["is_coinc"][matched.of_events["event"][rows]].astype(bool)
    low, high = COINCIDENT
    pair, alone = (energy > low) & (energy < high), energy == 0
    found = statistics.share(is_coinc, pair)
    text = f"events with {low:g} to {high:g} keV in the NaI detector found as coincidences"
    yield "coincidence_efficiency", found, "1", text
    false = statistics.share(is_coinc, alone)
    yield "coincidence_false", false, "1", "events without energy there found as coincidences"


def lifetime_points(
    matched: Matched, own: np.ndarray | bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return drift time [ns], cs2 [PE] and cs2 per true electron of clean events.

    `own` says which rows of truth count.
    """
    rows = np.flatnonzero(matched.clean & (matched.truth["electrons"] > 0) & own)
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


def _change_over_drift(drift_time: np.ndarray, cs2: np.ndarray) -> Number:
    """Return the relative change of cs2 over all drift times, of a line through its logarithm."""
    slope = statistics.fit_line(drift_time, np.log(cs2)).slope
    span = float(np.ptp(drift_time)) if len(drift_time) else np.nan
    return Number(float(np.expm1(slope.value * span)), slope.error * span)


def _lifetime_numbers(matched: Matched, conditions: Conditions) -> Iterator[Row]:
    own, energy = line(matched.truth)
    of = f"of {energy:g} keV" if np.isfinite(energy) else "of all energies"
    drift_time, _, per_electron = lifetime_points(matched)
    drift_on_line, cs2, _ = lifetime_points(matched, own)
    left = _change_over_drift(drift_time, per_electron)
    text = "cs2 per true electron from the shortest to the longest drift time: change that is left"
    yield "elife_left", left, "1", text
    if np.isfinite(energy):
        text = text.replace("per true electron", of)
        yield "elife_left_of_line", _change_over_drift(drift_on_line, cs2), "1", text
    true = conditions.true_elife
    for name, times, values, text in (
        ("elife", drift_on_line, cs2, f"from cs2, {of}"),
        ("elife_per_electron", drift_time, per_electron, "from cs2 / true electrons"),
    ):
        found = electron_lifetime(times, values, conditions.elife)
        yield name, found, "ns", f"electron lifetime {text}"
        # As many errors from 0 as the rates of losses, whose errors are symmetric, are apart
        bias = Number(found.value / true - 1, found.error / found.value)
        known = f"{true:.6g} ns" if np.isfinite(true) else "not known"
        yield f"{name}_bias", bias, "1", f"electron lifetime {text}: found/true - 1; true {known}"
