"""Reconstruction part ``events``: scatters, pile-up, shadow, and errors of corrected areas.

The lab's events have a main and an alternative S2, whose area is corrected with the drift time of
the main one, and say neither whether they hold several interactions nor how exact areas are.
"""

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.plugins.event_processing import CorrectedAreasBase, EventPositions
from amstrax.plugins.peak_processing import check_numbers, dtype_of
from amstrax.processing import events as kernels
from amstrax.processing import scatters
from amstrax.processing.peaks import S2
from amstrax.processing.shadow import NO_S2, cast_shadow
from amstrax.strax_ext.plugin import OverlapWindowPlugin

__all__ = ["EventScatters", "PeakShadow"]

_AXES = "xyr"


class _Checked(CorrectedPlugin):
    """Plugin with options that must be numbers of 0 or more."""

    not_negative: tuple[str, ...] = ()

    def setup(self):
        super().setup()
        check_numbers(self, "0 or more", *self.not_negative)


class _ScatterSelection(_Checked):
    """Options that select scatters and signs of pile-up, the same in all plugins of a context."""

    drift_time_gate = EventPositions.drift_time_gate
    drift_time_cathode = EventPositions.drift_time_cathode
    scatter_min_area = XAMSConfig(default=100, help="Least area of the S2 of a scatter [PE]")
    scatter_min_fraction = XAMSConfig(
        default=0.005,
        help="Least area of the S2 of a scatter, of that of the largest S2 before it in the event "
        "[1]; smaller ones are after-pulses, and electrons that the light of that S2 sets free",
    )
    scatter_drift_time_margin = XAMSConfig(
        default=2000,
        help="Scatters have drift times from this much below drift_time_gate to this much above "
        "drift_time_cathode [ns]",
    )
    pile_up_s1_min_area = XAMSConfig(
        default=20,
        help="Another S1 of at least this area is a sign of pile-up [PE]; single electrons, 10 PE, "
        "may be taken for S1s",
    )
    pile_up_s1_min_delay = XAMSConfig(
        default=2000,
        help="S1s closer to the main S1 than this are no sign of pile-up [ns]; 13 half-lives of "
        "Kr-83m",
    )

    not_negative: tuple[str, ...] = (
        *("scatter_min_area", "scatter_min_fraction", "scatter_drift_time_margin"),
        *("pile_up_s1_min_area", "pile_up_s1_min_delay"),
    )

    def limits(self) -> scatters.Limits:
        """Return the conditions on scatters and pile-up."""
        return scatters.Limits(
            min_area=self.scatter_min_area,
            min_fraction=self.scatter_min_fraction,
            shortest=self.drift_time_gate - self.scatter_drift_time_margin,
            longest=self.drift_time_cathode + self.scatter_drift_time_margin,
            s1_min_area=self.pile_up_s1_min_area,
            s1_min_delay=self.pile_up_s1_min_delay,
        )


class _AreaErrors(_Checked):
    """Options for errors of corrected areas, the same in all plugins of a context."""

    elife = CorrectedAreasBase.elife
    s1_area_fano = XAMSConfig(
        default=1.5,
        help="Variance / mean of areas of S1s of equally many photons [PE]: 1.15 from the spread "
        "of the charge of photoelectrons, and double photoelectrons",
    )
    s2_area_fano = XAMSConfig(
        default=2.25,
        help="Variance / mean of areas of S2s of equally many electrons at the gate [PE]: 1.5 as "
        "of S1s, 0.25 from the spread of the light of an electron, 0.5 from the extraction of 95 %",
    )
    se_gain = XAMSConfig(
        default=10.0, help="Area of an extracted electron [PE], for errors by electrons lost"
    )
    elife_relative_error = XAMSConfig(
        default=0.05, help="Standard deviation of elife / elife [1]; assumed"
    )
    drift_time_error = XAMSConfig(
        default=50.0,
        help="Standard deviation of drift times [ns]; in simulated events of 5 to 60 keV 4 ns, in "
        "those of Cs-137 67 ns",
    )
    s1_map_error = XAMSConfig(
        default=0.25,
        help="Relative standard deviation of corrected S1s over the volume [1], 0 with an exact "
        "s1_map; the default is that of simulated events with the correction by depth",
    )
    s2_map_error = XAMSConfig(
        default=0.18,
        help="Relative standard deviation of corrected S2s over the volume [1], which have no map "
        "in x and y; the default is that of simulated events",
    )

    not_negative: tuple[str, ...] = (
        *("s1_area_fano", "s2_area_fano", "se_gain", "elife_relative_error"),
        *("drift_time_error", "s1_map_error", "s2_map_error"),
    )

    def s2_errors(
        self,
        area: np.ndarray,
        drift_time: np.ndarray,
        corrected: np.ndarray,
        saturation_error: np.ndarray | float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return error, and that by statistics alone, of corrected S2s [PE], shape (n,).

        `saturation_error` is that of `area` by its correction for saturation [PE].
        """
        fano = scatters.s2_fano(drift_time, self.elife, self.s2_area_fano, self.se_gain)
        statistical = corrected * scatters.area_error(area, fano)
        errors = self.elife_relative_error, self.drift_time_error
        correction = scatters.s2_correction_error(drift_time, self.elife, *errors)
        correction = np.hypot(correction, self.s2_map_error)
        correction = np.hypot(correction, _relative(saturation_error, area))
        return np.hypot(statistical, corrected * correction), statistical


def _saturation_error(rows: np.ndarray, prefix: str = "") -> np.ndarray | float:
    """Return the error of areas by the part saturation [PE], 0 without it and for absent peaks."""
    name = f"{prefix}saturation_correction_error"
    return np.nan_to_num(rows[name]) if name in (rows.dtype.names or ()) else 0.0


def _errors_of(name: str) -> list:
    """Return the dtype of the errors of a corrected area."""
    fields = {"error": "", "statistical_error": " by statistics alone"}
    return [
        ((f"Standard deviation of {name}{by} [PE]", f"{name}_{field}"), np.float32)
        for field, by in fields.items()
    ]


def _relative(error: np.ndarray | float, area: np.ndarray) -> np.ndarray:
    """Return error / area [1], NaN for areas of 0 or less."""
    return error / np.where(area > 0, area, np.nan)


class EventBasicsWithScatters(_ScatterSelection):
    """Main and alternative S1 and S2 of each event; number of scatters and signs of pile-up."""

    added_fields = [
        (("Number of scatters: rows of event_scatters", "n_scatters"), np.int16),
        (
            (
                "Signs of pile-up, added: 1 second S1, 2 S2 outside the drift times of the "
                "main S1, 4 S2s further apart than drift times",
                "pile_up",
            ),
            np.int8,
        ),
    ]

    def describe(self, result, peaks, first, chosen):
        super().describe(result, peaks, first, chosen)
        limits, main_s1 = self.limits(), chosen[:, kernels.MAIN_S1]
        _, event, _ = scatters.find_scatters(peaks, first, main_s1, limits)
        result["n_scatters"] = np.bincount(event, minlength=len(result))
        result["pile_up"] = scatters.pile_up(peaks, first, main_s1, limits)


class EventPositionsOfBoth(CorrectedPlugin):
    """Position of each event, also in depth for the alternative S2."""

    added_fields = dtype_of(
        {"z": ("depth below the gate, from its drift time, downwards negative [mm]", np.float32)},
        {"alt_s2_": "Alternative S2: "},
    )

    def compute(self, events):
        result = super().compute(events)
        result["alt_s2_z"] = self.depth(events["alt_s2_interaction_drift_time"])
        return result


class CorrectedAreasWithErrors(_AreaErrors):
    """Areas corrected for the position, alternative S2s for their own, with errors.

    Alternative S1s are corrected for the position of the main S2, as those of Kr-83m need it.
    """

    drift_time_gate = EventPositions.drift_time_gate
    drift_time_cathode = EventPositions.drift_time_cathode
    gate_cathode_distance = EventPositions.gate_cathode_distance

    added_fields = [
        field for name in ("cs1", "cs2", "alt_cs1", "alt_cs2") for field in _errors_of(name)
    ]

    def s2_place(self, events, prefix):
        names = ("drift_time", "x", "y")
        if prefix:
            names = ("alt_s2_interaction_drift_time", "alt_s2_x", "alt_s2_y")
        return tuple(events[name] for name in names)

    def compute(self, events):
        result = super().compute(events)
        s1_correction = np.hypot(self.s1_depth_error(events), self.s1_map_error)
        for prefix in ("", "alt_"):
            corrected = result[f"{prefix}cs1"]
            area = events[f"{prefix}s1_area"]
            statistical = corrected * scatters.area_error(area, self.s1_area_fano)
            result[f"{prefix}cs1_statistical_error"] = statistical
            saturation = _relative(_saturation_error(events, f"{prefix}s1_"), area)
            correction = corrected * np.hypot(s1_correction, saturation)
            result[f"{prefix}cs1_error"] = np.hypot(statistical, correction)
            names = f"{prefix}cs2_error", f"{prefix}cs2_statistical_error"
            result[names[0]], result[names[1]] = self.s2_errors(
                events[f"{prefix}s2_area"],
                self.s2_place(events, prefix)[0],
                result[f"{prefix}cs2"],
                _saturation_error(events, f"{prefix}s2_"),
            )
        return result

    def s1_depth_error(self, events: np.ndarray) -> np.ndarray:
        """Return the relative error of corrected S1s by that of the drift time [1]."""
        speed = self.gate_cathode_distance / (self.drift_time_cathode - self.drift_time_gate)
        factors = []
        fields = ("x", "y", "z", "r")
        for sign in (-1, 1):
            # A copy of all fields takes longer than the factors
            moved = np.empty(len(events), dtype=[(name, events.dtype[name]) for name in fields])
            for name in fields:
                moved[name] = events[name]
            moved["z"] += sign * speed * self.drift_time_error
            factors.append(self.s1_factor(moved))  # type: ignore[attr-defined]  # of CorrectedAreas
        return np.abs(factors[1] - factors[0]) / np.abs(factors[1] + factors[0])


class EventScatters(_ScatterSelection, _AreaErrors):
    """Scatters of each event: S2s with a drift time from its main S1, a row each.

    Events without a main S1 have none. x and y are those of peak_positions.
    """

    # Python inherits options of the first class only
    takes_config = immutabledict(
        {**_ScatterSelection.takes_config, **_AreaErrors.takes_config}  # type: ignore[dict-item]
    )
    gate_cathode_distance = EventPositions.gate_cathode_distance
    s2_map = CorrectedAreasBase.s2_map

    __version__ = "1.0.0"
    depends_on = ("event_basics", "peak_basics", "peak_positions")
    provides = "event_scatters"
    data_kind = "event_scatters"
    parallel = "process"
    save_when = strax.SaveWhen.TARGET
    not_negative = _ScatterSelection.not_negative + _AreaErrors.not_negative

    def infer_dtype(self):
        known = self.deps["peak_positions"].dtype_for("peak_positions").names
        title = "{} of the S2 [mm]"
        fields = [
            *strax.time_fields,
            (("Mean time of the S2 since unix epoch [ns]", "center_time"), np.int64),
            (("Number of the event in the run", "event_number"), np.int64),
            (("Number of the peak in the event", "index"), np.int32),
            (("Number of the scatter in the event, in order of time", "scatter"), np.int16),
            (("Whether it is the main S2 of the event", "is_main"), np.bool_),
            (("Area of the S2 [PE]", "area"), np.float32),
            (
                ("Time from the centre of the main S1 to that of the S2 [ns]", "drift_time"),
                np.float32,
            ),
            *(((title.format(f"Reconstructed {axis}"), axis), np.float32) for axis in _AXES),
            (("Depth below the gate, downwards negative [mm]", "z"), np.float32),
            (("Area of the S2, corrected for lost electrons [PE]", "cs2"), np.float32),
            *_errors_of("cs2"),
        ]
        return fields + [
            (
                (title.format(f"Standard deviation of {axis}, from light alone,"), f"{axis}_error"),
                np.float32,
            )
            for axis in _AXES
            if f"{axis}_mle_error" in known
        ]

    def compute(self, events, peaks):
        inside, first = kernels.contained_peaks(peaks, events)
        chosen = kernels.peaks_of_events(events, np.arange(len(inside)), first)
        peaks = peaks[inside]
        rows, event, drift_time = scatters.find_scatters(
            peaks, first, chosen[:, kernels.MAIN_S1], self.limits()
        )
        result = np.zeros(len(rows), dtype=self.dtype)
        for name in ("time", "endtime", "center_time", "area", *_AXES):
            result[name] = peaks[name][rows]
        for axis in _AXES:
            if f"{axis}_error" in self.dtype.names:
                result[f"{axis}_error"] = peaks[f"{axis}_mle_error"][rows]
        result["event_number"] = events["event_number"][event]
        result["index"] = rows - first[event]
        result["scatter"] = np.arange(len(rows)) - np.searchsorted(event, event)
        result["is_main"] = rows == chosen[event, kernels.MAIN_S2]
        result["drift_time"] = drift_time
        result["z"] = kernels.depth(
            drift_time, self.gate_cathode_distance, self.drift_time_gate, self.drift_time_cathode
        )
        area = result["area"]
        result["cs2"] = area * kernels.s2_correction(
            drift_time, result["x"], result["y"], self.elife, self.s2_map
        )
        result["cs2_error"], result["cs2_statistical_error"] = self.s2_errors(
            area, drift_time, result["cs2"], _saturation_error(peaks[rows])
        )
        return result


class PeakShadow(_Checked, OverlapWindowPlugin):
    """Shadow on each peak: the large S2 before it whose late electrons disturb it most."""

    shadow_min_area = XAMSConfig(
        default=1000, help="S2s of at least this area cast a shadow on later peaks [PE]"
    )
    shadow_window = XAMSConfig(
        default=1_000_000_000, help="S2s cast a shadow on peaks up to this much later [ns]"
    )

    __version__ = "1.0.0"
    depends_on = ("peak_basics", "peak_positions")
    input_fields = immutabledict(
        peak_basics=("center_time", "area", "type"), peak_positions=("x", "y")
    )
    provides = "peak_shadow"
    data_kind = "peaks"
    save_when = strax.SaveWhen.TARGET
    not_negative = ("shadow_min_area", "shadow_window")

    dtype = [
        *strax.time_fields,
        (
            (
                "Shadow: largest area of an S2 before the peak / time since that S2, 0 without one "
                "[PE/ns]",
                "shadow",
            ),
            np.float32,
        ),
        (("Time since the centre of that S2, -1 without one [ns]", "shadow_delay"), np.int64),
        (("Area of that S2, 0 without one [PE]", "shadow_area"), np.float32),
        (
            ("Distance in x and y from that S2, NaN without one [mm]", "shadow_distance"),
            np.float32,
        ),
    ]

    def get_window_size(self):
        return int(self.shadow_window), 0

    def compute(self, peaks):
        result = np.zeros(len(peaks), dtype=self.dtype)
        is_large = (peaks["type"] == S2) & (peaks["area"] >= self.shadow_min_area)
        found = cast_shadow(peaks["center_time"], peaks["area"], is_large, int(self.shadow_window))
        result["time"], result["endtime"] = peaks["time"], strax.endtime(peaks)
        result["shadow"], result["shadow_delay"] = found.shadow, found.delay
        result["shadow_distance"] = np.nan
        has = found.s2 != NO_S2
        s2 = peaks[found.s2[has]]
        result["shadow_area"][has] = s2["area"]
        result["shadow_distance"][has] = np.hypot(
            peaks["x"][has] - s2["x"], peaks["y"][has] - s2["y"]
        )
        return result
