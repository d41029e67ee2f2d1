"""Simulated and reconstructed events of a run, matched: what figures of merit are made from."""

from typing import NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.simulation import matching
from amstrax.simulation.light import Origin
from amstrax.simulation.parts import Sensor

#: S2s of an event whose mean times differ by more are not one signal [ns]; those with less than
#: `_LEAST_S2` of the electrons' light do not count
APART = 1_000
_LEAST_S2 = 0.01
#: S2s of an event whose mean times are closer than this are one scatter: they last so long [ns]
RESOLVED = 3000.0


class Conditions(NamedTuple):
    """Conditions of a run on which its figures of merit depend."""

    duration: float  #: of the run [s]
    left_event_extension: int  #: [ns]
    right_event_extension: int  #: [ns]
    elife: float  #: electron lifetime with which cs2 was made [ns]
    true_elife: float  #: that of the simulation [ns]; NaN: not known
    has_events: bool = True  #: whether the context makes events
    radius: float = np.nan  #: of the active volume [mm]; NaN: that of the true events
    depth: float = np.nan  #: of the active volume [mm]; NaN: that of the true events


class OfSensor(NamedTuple):
    """Peaks of a sensor, and their truth."""

    peaks: np.ndarray  #: as of peak_basics
    made_of: np.ndarray  #: row by row: as of peak_truth


class Parts(NamedTuple):
    """Parts of the truth, and data that is compared with them."""

    deposits: np.ndarray  #: as of truth_deposits
    light: np.ndarray  #: as of truth_light
    made_of: np.ndarray  #: row by row of the peaks: as of peak_truth
    sipm: OfSensor | None = None
    external: OfSensor | None = None
    coincidences: np.ndarray | None = None  #: row by row of the events: as of event_coincidences
    scatters: np.ndarray | None = None  #: as of event_scatters


class Matched(NamedTuple):
    """Simulated events, reconstructed peaks and events, and which belongs to which."""

    truth: np.ndarray
    peaks: np.ndarray
    events: np.ndarray
    of_peaks: np.ndarray  #: row by row of truth: `matching.PEAK_MATCH_DTYPE`
    of_events: np.ndarray  #: row by row of truth: `matching.EVENT_MATCH_DTYPE`
    labels: np.ndarray  #: row by row of peaks: `matching.PEAK_LABEL_DTYPE`
    #: row by row of truth: whether scatters have S2s that are `APART`; all False if not known
    apart: np.ndarray

    @property
    def clean(self) -> np.ndarray:
        """Whether rows of truth are alone in their event, with its main S1 and main and only S2."""
        match = self.of_events
        is_alone = (match["n_truth"] == 1) & ~self.apart
        return is_alone & match["s1_is_main"] & match["s2_is_main"]

    def clean_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the `clean` rows of truth, and the event of each."""
        rows = np.flatnonzero(self.clean)
        return self.truth[rows], self.event_of(rows)

    def is_one(self, kind: str) -> np.ndarray:
        """Return whether all light of the s1 or s2 of each row of truth is one signal."""
        return ~self.apart if kind == "s2" else np.ones(len(self.truth), dtype=bool)

    def event_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the events of these rows of truth, which all have one."""
        return self.events[self.of_events["event"][rows]]


_EVENT_TIMES = [
    f"{prefix}{edge}"
    for prefix in ("", "s1_", "s2_", "alt_s1_", "alt_s2_")
    for edge in ("time", "endtime")
]
#: Events of contexts that make none
NO_EVENTS = np.zeros(0, dtype=[(name, np.int64) for name in _EVENT_TIMES])


def with_true_types(peaks: np.ndarray, truth: np.ndarray, gain: float) -> np.ndarray:
    """Return peaks of a chain without gains and types: areas / `gain`, and the true types.

    The type of a peak is then that of the largest true signal in it.
    """
    peaks = peaks.copy()
    peaks["area"] /= gain
    peaks["type"] = matching.label_peaks(truth, peaks)["kind"]
    return peaks


def match(
    truth: np.ndarray, peaks: np.ndarray, events: np.ndarray, light: np.ndarray | None = None
) -> Matched:
    """Match simulated events with peaks as of peak_basics and events as of event_info.

    With `light`, as of truth_light, events of several S2s are known, see `Matched.apart`. Raises
    ValueError when a table is not sorted by time.
    """
    of_peaks = matching.match_peaks(truth, peaks)
    of_events = matching.match_truth(truth, events)
    labels = matching.label_peaks(truth, peaks)
    apart = np.zeros(len(truth), dtype=bool) if light is None else s2s_apart(truth, light)
    return Matched(truth, peaks, events, of_peaks, of_events, labels, apart)


def _s2s_of_deposits(light: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first light, mean time [ns] and size [PE] of the S2 of each deposit of an event.

    `light` is as of truth_light.
    """
    own = (light["sensor"] == Sensor.TPC) & (light["origin"] == Origin.S2)
    light = light[own & (light["event_number"] >= 0) & (light["deposit"] >= 0)]
    _, index, deposit = np.unique(light["deposit"], return_index=True, return_inverse=True)
    first = light[index]
    size = np.bincount(deposit, light["size"], len(first))
    delay = (light["time"] - first["time"][deposit]).astype(np.float64)
    mean = first["time"] + np.bincount(deposit, light["size"] * delay, len(first)) / size
    return first, mean, size


def s2s_apart(truth: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Return whether events have S2s of several deposits whose mean times are `APART`.

    Shape (n,), row by row of `truth`. `light` is as of truth_light.
    """
    first, mean, size = _s2s_of_deposits(light)
    large = size >= _LEAST_S2 * first["size_of_signal"]
    row = np.searchsorted(truth["event_number"], first["event_number"][large])
    earliest, latest = np.full(len(truth), np.inf), np.full(len(truth), -np.inf)
    np.minimum.at(earliest, row, mean[large])
    np.maximum.at(latest, row, mean[large])
    return latest - earliest > APART


def true_scatters(light: np.ndarray) -> np.ndarray:
    """Return the scatters of true events that S2s can resolve: event_number, time [ns], size [PE].

    Deposits of an event are one scatter if the mean times of their S2s are closer than `RESOLVED`
    to the next. Sorted by time. `light` is as of truth_light.
    """
    first, time, size = _s2s_of_deposits(light)
    event = first["event_number"]
    order = np.lexsort((time, event))
    time, event, size = time[order], event[order], size[order]
    is_new = np.append(True, (np.diff(event) != 0) | (np.diff(time) > RESOLVED))[: len(order)]
    group = np.cumsum(is_new) - 1
    result = np.zeros(
        int(is_new.sum()), dtype=[("event_number", "i8"), ("time", "i8"), ("size", "f8")]
    )
    result["event_number"], result["size"] = event[is_new], np.bincount(group, size)
    shift = np.bincount(group, size * (time - time[is_new][group]))
    result["time"] = time[is_new] + shift / result["size"]
    return result[np.argsort(result["time"], kind="stable")]


def check_same_run(truth: np.ndarray, deposits: np.ndarray) -> None:
    """Raise InvalidOption when truth and truth_deposits are not of one simulation."""
    number = deposits["event_number"]
    n = max(len(truth), int(number.max(initial=-1)) + 1)
    if len(truth) == n and all(
        np.allclose(np.bincount(number, deposits[x], n), truth[x], rtol=1e-4)
        for x in ("energy", "photons", "s1_pe", "s2_pe")
    ):
        return
    raise InvalidOption(
        f"the truth of {len(truth)} events is not that of the deposits in parts_RUN.npz: take the "
        "files of one `amstrax simulate`"
    )
