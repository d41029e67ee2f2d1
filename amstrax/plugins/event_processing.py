"""From peaks to events: main and alternative S1 and S2, positions, corrected areas."""

from enum import IntEnum

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.common import DEFAULT_ELIFE, XAMS_VOLUME
from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption
from amstrax.plugins.peak_processing import (
    ALGORITHMS,
    OF_POSITIONS,
    OF_S1,
    OF_S2,
    SIGNALS,
    CoincidencesBase,
    PeakPositions,
    PeaksBase,
    check_numbers,
    dtype_of,
    peak_basics_dtype,
    rows_for,
)
from amstrax.processing import events as kernels
from amstrax.processing import splitting
from amstrax.processing.peaks import S2, radius
from amstrax.strax_ext.plugin import OverlapWindowPlugin, Plugin, dependencies

__all__ = [
    "CorrectedAreas",
    "EventAreaPerChannel",
    "EventBasics",
    "EventCoincidences",
    "EventEnergy",
    "EventInfo",
    "EventKr83m",
    "EventPositions",
    "EventWaveform",
    "Events",
]


_TIMES = [
    (("Start time of the event since unix epoch [ns]", "time"), np.int64),
    (("Exclusive end time of the event since unix epoch [ns]", "endtime"), np.int64),
]


#: Properties of S1s and S2s in event_basics that are those of peak_basics, and their types
BASICS_OF_SX = {
    "n_channels": np.int16,
    "n_hits": np.int16,
    "max_pmt": np.int16,
    "max_pmt_area": np.float32,
    "range_50p_area": np.float32,
    "range_90p_area": np.float32,
    "rise_time": np.float32,
    "area_fraction_top": np.float32,
    "tight_coincidence": np.int16,
    "n_saturated_channels": np.int16,
}


def event_basics_dtype() -> list:
    """Return the dtype of event_basics."""
    times = {
        "time": ("start time since unix epoch [ns]", np.int64),
        "center_time": ("mean time since unix epoch [ns]", np.int64),
        "endtime": ("exclusive end time since unix epoch [ns]", np.int64),
        "area": ("area [PE]", np.float32),
    }
    titles = {name: title[0].lower() + title[1:] for (title, name), *_ in peak_basics_dtype()}
    basics = {name: (titles[name], dtype) for name, dtype in BASICS_OF_SX.items()}
    common = {"index": ("number of the peak in the event", np.int32), **times, **basics}
    fields = [
        *_TIMES,
        (("Number of peaks in the event", "n_peaks"), np.int32),
        (("Time between the centres of main S1 and main S2 [ns]", "drift_time"), np.float32),
        (("Number of the event in the run", "event_number"), np.int64),
    ]
    for sx, of_sx, drift in (
        ("s1", OF_S1, "Time between the centres of alternative S1 and main S2 [ns]"),
        ("s2", OF_S2, "Time between the centres of main S1 and alternative S2 [ns]"),
    ):
        for name, field in common.items():
            fields += dtype_of({name: field}, of_sx)
        delay = f"Time from the centre of the main to that of the alternative {sx.upper()} [ns]"
        fields += [
            ((drift, f"alt_{sx}_interaction_drift_time"), np.float32),
            ((delay, f"alt_{sx}_delay"), np.int32),
        ]
    for name, title in (("max_diff", "largest"), ("min_diff", "smallest")):
        title += " time between hits [ns], not known: -1"
        fields += dtype_of({name: (title, np.int32)}, OF_S1)

    def position(suffix, title):
        texts = {axis + suffix: f"reconstructed {axis}, {title}" for axis in "xy"}
        return dtype_of({name: (text, np.float32) for name, text in texts.items()}, OF_S2)

    fields += position("", "always NaN, use x, y, alt_s2_x, alt_s2_y of event_positions [mm]")
    fields += [
        (("Area of peaks that start before the main S2 [PE]", "area_before_main_s2"), np.float32),
        (
            (
                "Area of the largest S2 that starts before the main S2 [PE]",
                "large_s2_before_main_s2",
            ),
            np.float32,
        ),
    ]
    for suffix, unit, description in ALGORITHMS:
        fields += position(f"_{suffix}", f"{description} [{unit}]")
    return fields


class Events(CorrectedPlugin, OverlapWindowPlugin):
    """Time intervals around S2s; intervals that would touch are merged."""

    trigger_min_area = XAMSConfig(default=10, help="S2s of a larger area make an event [PE]")
    left_event_extension = XAMSConfig(
        default=int(0.5e6), help="Events begin this long before their first such S2 [ns]"
    )
    right_event_extension = XAMSConfig(
        default=int(5e4), help="Events end this long after their last such S2 [ns]"
    )

    __version__ = "1.0.2"
    depends_on = ("peaks", "peak_basics")
    input_fields = immutabledict(peaks=(), peak_basics=("area", "type"))
    provides = "events"
    data_kind = "events"
    rechunk_on_save = False
    events_seen = 0

    dtype = [(("Number of the event in the run", "event_number"), np.int64), *_TIMES]

    def get_window_size(self):
        return 2 * self.left_event_extension + self.right_event_extension

    def compute(self, peaks, start, end):
        extensions = self.left_event_extension, self.right_event_extension
        time, endtime = kernels.group_triggers(
            peaks, self.trigger_min_area, *extensions, start, end
        )
        result = np.zeros(len(time), dtype=self.dtype)
        result["time"], result["endtime"] = time, endtime
        return result

    def iter(self, iters, executor=None):
        # Events in the overlap are made twice and sent once, so they are numbered when sent
        for chunk in super().iter(iters, executor=executor):
            n = len(chunk)
            chunk.data["event_number"] = np.arange(self.events_seen, self.events_seen + n)
            self.events_seen += n
            yield chunk


class EventBasics(CorrectedPlugin):
    """Main and alternative S1 and S2 of each event, with their properties.

    The main S2 is the largest; main and alternative S1 are the two largest before it; the
    alternative S2 is the largest other one within the longest drift time after the main S1.
    Fields of an absent peak are -1 (integers) or NaN.
    """

    electron_drift_velocity = XAMSConfig(
        default=1.6e-6,
        help="Drift velocity of electrons in the liquid [(unit of max_drift_length)/ns]; used "
        "only in max_drift_length / electron_drift_velocity",
    )
    allow_posts2_s1s = XAMSConfig(default=False, help="Accept S1s after the main S2")
    force_main_before_alt = XAMSConfig(
        default=False, help="Use the earlier of main and alternative S1 (S2) as the main one"
    )
    force_alt_s2_in_max_drift_time = XAMSConfig(
        default=True, help="Accept alternative S2s only within a drift time after the main S1"
    )
    event_s1_min_coincidence = XAMSConfig(
        default=0,
        help="S1s count only with at least this many channels in tight coincidence; above 0, peaks "
        "need the option tight_coincidence_window",
    )
    max_drift_length = XAMSConfig(
        default=10,
        help="Length of the drift field [unit of electron_drift_velocity x ns]: an alternative S2 "
        "comes at most 1.01 max_drift_length / electron_drift_velocity after the main S1. The "
        "defaults give 6.25 ms, which excludes next to nothing; corrections ONLINE give 50 us",
    )

    __version__ = "1.6"
    depends_on = ("events", "peak_basics", "peak_positions")
    provides = "event_basics"
    data_kind = "events"
    parallel = "process"
    dtype = event_basics_dtype()

    def setup(self):
        super().setup()
        for plugin in dependencies(self) if self.event_s1_min_coincidence > 0 else ():
            if isinstance(plugin, PeaksBase) and not plugin.has_coincidences():
                raise InvalidOption(
                    f"event_s1_min_coincidence={self.event_s1_min_coincidence}, but "
                    f"tight_coincidence of {plugin.provides[0]} is 0: set the option "
                    "tight_coincidence_window [ns], as 50"
                )
        self.max_drift_time = int(self.max_drift_length / self.electron_drift_velocity)

    def compute(self, events, peaks):
        result = np.zeros(len(events), dtype=self.dtype)
        strax.set_nan_defaults(result)
        inside, first = kernels.contained_peaks(peaks, events)
        n_peaks = np.diff(first)
        if (n_peaks == 0).any():
            event = events[np.argmin(n_peaks)]
            raise ValueError(
                f"event {event['event_number']} at {event['time']} ns has no peaks: events and "
                "peak_basics are not of the same processing. Remove both and make them again"
            )
        peaks = peaks[inside]
        for field in ("time", "endtime", "event_number"):
            result[field] = events[field]
        result["n_peaks"] = n_peaks
        selection = kernels.Selection(
            allow_posts2_s1s=self.allow_posts2_s1s,
            s1_min_coincidence=self.event_s1_min_coincidence,
            force_alt_s2_in_max_drift_time=self.force_alt_s2_in_max_drift_time,
            force_main_before_alt=self.force_main_before_alt,
            max_drift_time=self.max_drift_time,
        )
        chosen = kernels.choose_peaks(peaks, first, selection)
        # s2_x, s2_y, alt_s2_x and alt_s2_y stay NaN: EventPositions has them
        copied = [name for name in peaks.dtype.names or () if name not in ("x", "y")]
        kernels.copy_properties(peaks, chosen, result, copied)
        for column, prefix in enumerate(kernels.PREFIXES):
            result[f"{prefix}index"] = kernels.index_in_event(chosen[:, column], first)
        kernels.drift_times(peaks["center_time"], chosen, result)
        result["area_before_main_s2"], result["large_s2_before_main_s2"] = (
            kernels.areas_before_main_s2(peaks, first, chosen[:, kernels.MAIN_S2])
        )
        self.describe(result, peaks, first, chosen)
        return result

    def describe(
        self, result: np.ndarray, peaks: np.ndarray, first: np.ndarray, chosen: np.ndarray
    ) -> None:
        """Fill the fields of variants, from the peaks in events; see `kernels.choose_peaks`."""


class EventPositions(CorrectedPlugin):
    """Position of each event: x and y of the main S2, z from the drift time."""

    default_reconstruction_algorithm = PeakPositions.default_reconstruction_algorithm
    drift_time_gate = XAMSConfig(
        default=XAMS_VOLUME.drift_time_gate, help="Drift time from the gate [ns]"
    )
    drift_time_cathode = XAMSConfig(
        default=XAMS_VOLUME.drift_time_cathode, help="Drift time from the cathode [ns]"
    )
    gate_cathode_distance = XAMSConfig(
        default=XAMS_VOLUME.depth, help="Distance between gate and cathode [mm]"
    )

    __version__ = "1.1.20"
    depends_on = ("event_basics",)
    provides = "event_positions"
    data_kind = "events"
    parallel = "process"
    dtype = [
        *(
            entry
            for axis in "xyr"
            for entry in dtype_of({axis: (f"reconstructed {axis} [mm]", np.float32)}, OF_POSITIONS)
        ),
        (("Depth below the gate, from the drift time, downwards negative [mm]", "z"), np.float32),
        *strax.time_fields,
    ]

    def compute(self, events):
        result = rows_for(events, self.dtype)
        for source, prefix in zip(OF_S2, OF_POSITIONS, strict=True):
            self.set_position(result, prefix, *self.coordinates(events, source))
        result["z"] = self.depth(events["drift_time"])
        return result

    def depth(self, drift_time: np.ndarray) -> np.ndarray:
        """Return z [mm] for drift times [ns]."""
        edges = self.drift_time_gate, self.drift_time_cathode
        return kernels.depth(drift_time, self.gate_cathode_distance, *edges)

    def coordinates(self, events: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y [mm] of the S2s whose fields begin with `source`."""
        algorithm = self.default_reconstruction_algorithm
        return events[f"{source}x_{algorithm}"], events[f"{source}y_{algorithm}"]

    def set_position(self, result: np.ndarray, prefix: str, x: np.ndarray, y: np.ndarray) -> None:
        """Fill the fields {prefix}x, {prefix}y, ... of `result`."""
        result[f"{prefix}x"] = x
        result[f"{prefix}y"] = y
        result[f"{prefix}r"] = radius(x, y)


class CorrectedAreasBase(CorrectedPlugin):
    """Base of the plugins that correct areas for the position of the event."""

    elife = XAMSConfig(default=DEFAULT_ELIFE, help="Electron lifetime [ns]")
    s1_naive_z_correction = XAMSConfig(
        default=(-52, 0, 700, -7.69),
        help="(zmin [mm], zmax [mm], y0 [PE], a [PE/mm]): S1s are scaled by the line y0 + a z, "
        "relative to its value midway between zmin and zmax",
    )
    s2_map = XAMSConfig(
        default=None,
        omit_default=True,
        help="S2 light seen from each x and y of the reconstruction, by which S2s are scaled too: "
        "x_edges [mm], y_edges [mm], hist_ratio [1]; see "
        "amstrax.processing.events.s2_map_correction. In the lineage only where it is set",
    )

    depends_on = ("event_basics", "event_positions")
    data_kind = "events"
    parallel = "process"

    def compute(self, events):
        result = rows_for(events, self.dtype)
        s1_factor = self.s1_factor(events)
        for prefix in ("", "alt_"):
            drift_time, x, y = self.s2_place(events, prefix)
            s2_factor = kernels.s2_correction(drift_time, x, y, self.elife, self.s2_map)
            result[f"{prefix}cs1"] = events[f"{prefix}s1_area"] * s1_factor
            result[f"{prefix}cs2"] = events[f"{prefix}s2_area"] * s2_factor
        return result

    def s1_factor(self, events: np.ndarray) -> np.ndarray:
        """Return the correction factor for S1s from the depth of each event."""
        return kernels.s1_z_correction(events["z"], self.s1_naive_z_correction)

    def s2_place(self, events: np.ndarray, prefix: str) -> tuple[np.ndarray, ...]:
        """Return the drift time [ns], x and y [mm] for which ``{prefix}s2_area`` is corrected."""
        return events["drift_time"], events["x"], events["y"]


class CorrectedAreas(CorrectedAreasBase):
    """Areas corrected for the position of the event: cS1 for depth, cS2 for lost electrons.

    With an s1_map, cS1 is also corrected for the distance from the axis, and with an s2_map cS2 for
    x and y. Alternative S1s and S2s are corrected for the position of the main ones.
    """

    s1_map = XAMSConfig(
        default=None,
        omit_default=True,
        help="S1 light seen from each place, by which S1s are scaled instead: r_edges [mm], "
        "z_edges [mm], hist_ratio [1]; see amstrax.processing.events.s1_map_correction. In the "
        "lineage only where it is set",
    )

    __version__ = "0.6.0"
    provides = "corrected_areas"
    dtype = [
        *strax.time_fields,
        (("Corrected area of the main S1 [PE]", "cs1"), np.float32),
        (("Corrected area of the main S2 [PE]", "cs2"), np.float32),
        (("Corrected area of the alternative S1 [PE]", "alt_cs1"), np.float32),
        (("Corrected area of the alternative S2 [PE]", "alt_cs2"), np.float32),
    ]

    def s1_factor(self, events):
        if self.s1_map is None:
            return super().s1_factor(events)
        return kernels.s1_map_correction(events["r"], events["z"], self.s1_map)


class EventInfo(Plugin, strax.MergeOnlyPlugin):
    """All properties of each event in one table."""

    __version__ = "0.0.3"
    depends_on = ("event_basics", "corrected_areas", "event_positions")
    provides = "event_info"
    data_kind = "events"
    save_when = strax.SaveWhen.ALWAYS


class EventEnergy(CorrectedPlugin):
    """Energy of each event from light, from charge, and from both.

    The options g1 and g2 have no default: they belong to a detector and its corrections, and
    `amstrax energy` measures them. Of nuclear recoils and alphas, energies are too low.
    """

    g1 = XAMSConfig(default=None, help="Mean cS1 of a photon of scintillation [PE/photon]")
    g2 = XAMSConfig(
        default=None,
        help="Mean cS2 of an electron before extraction [PE/electron]: single-electron gain x "
        "extraction efficiency",
    )
    w_value = XAMSConfig(
        default=13.7,
        help="Mean energy for a photon or an electron [eV]: 13.7 +- 0.2 is C. Dahl, thesis, "
        "Princeton 2009; 11.5 +- 0.5 EXO-200, arXiv:1908.04128, and L. Baudis et al., "
        "arXiv:2109.07151. g1 and g2 must be measured with the same",
    )

    __version__ = "0.1.0"
    depends_on = ("corrected_areas",)
    input_fields = immutabledict(corrected_areas=("cs1", "cs2"))
    provides = "event_energy"
    _units = immutabledict(g1="PE/photon", g2="PE/electron", w_value="eV")
    data_kind = "events"
    parallel = "process"
    dtype = [
        (("Energy that became photons, from the main S1 [keV]", "e_light"), np.float32),
        (("Energy that became electrons, from the main S2 [keV]", "e_charge"), np.float32),
        (("Energy, sum of e_light and e_charge [keV]", "e_ces"), np.float32),
        *strax.time_fields,
    ]

    def setup(self):
        super().setup()
        for name, unit in self._units.items():
            # None is an error of compute, since plugins can be looked at without it
            if getattr(self, name) is not None:
                check_numbers(self, f"a number above 0 [{unit}]", name, above=0)

    def compute(self, events):
        for name, unit in self._units.items():
            if getattr(self, name) is None:
                raise InvalidOption(
                    f"event_energy has no {name} [{unit}]: set the option, or a version of the "
                    "corrections that has it; `amstrax energy` measures g1 and g2"
                )
        result = rows_for(events, self.dtype)
        areas = events["cs1"], events["cs2"]
        result["e_light"], result["e_charge"], result["e_ces"] = kernels.combined_energy(
            *areas, self.g1, self.g2, self.w_value
        )
        return result


class PerPeakCopy(Plugin):
    """Base of the plugins that copy wide fields of main and alternative S1s and S2s to events."""

    depends_on = ("event_basics", "peaks")
    parallel = "process"
    compressor = "zstd"

    def copied_dtype(self, field: str, title: str) -> list:
        """Return fields for a copy of `field`, length and dt of each kind of peak."""
        dtype = self.deps["peaks"].dtype_for("peaks")[field]
        return [
            entry
            for prefix in SIGNALS
            for entry in (
                ((f"{title} of {prefix[:-1]}", f"{prefix}{field}"), dtype.base, dtype.shape),
                ((f"Length of {prefix[:-1]} [samples]", f"{prefix}length"), np.int32),
                ((f"Width of a sample of {prefix[:-1]} [ns]", f"{prefix}dt"), np.int32),
            )
        ]

    def copy(self, events: np.ndarray, peaks: np.ndarray, field: str, result: np.ndarray) -> None:
        """Fill the fields of `copied_dtype`."""
        inside, first = kernels.contained_peaks(peaks, events)
        chosen = kernels.peaks_of_events(events, inside, first)
        kernels.copy_properties(peaks, chosen, result, (field, "length", "dt"))


class EventWaveform(PerPeakCopy):
    """Sum waveforms of the main and alternative S1 and S2 of each event."""

    input_fields = immutabledict(peaks=("data",))
    __version__ = "0.0.1"
    provides = "event_waveform"
    data_kind = "events"
    save_when = strax.SaveWhen.EXPLICIT

    def infer_dtype(self):
        return self.copied_dtype("data", "Waveform [PE/sample]") + strax.time_fields

    def compute(self, events, peaks):
        result = rows_for(events, self.dtype)
        self.copy(events, peaks, "data", result)
        return result


class EventAreaPerChannel(PerPeakCopy):
    """Areas per channel of the main and alternative S1 and S2 of each event.

    event_n_channel holds only the number of channels that saw the main S1.
    """

    channel_map = XAMSConfig(track=False, type=immutabledict, help="Not used")

    input_fields = immutabledict(peaks=("area_per_channel",))
    __version__ = "0.1.1"
    provides = ("event_area_per_channel", "event_n_channel")
    data_kind = immutabledict.fromkeys(provides, "events")

    def infer_dtype(self):
        n_channels = [
            (("Number of channels with a positive area of the main S1", "s1_n_channels"), np.int16)
        ]
        return {
            "event_area_per_channel": self.copied_dtype("area_per_channel", "Area per channel [PE]")
            + n_channels
            + strax.time_fields,
            "event_n_channel": n_channels + strax.time_fields,
        }

    def compute(self, events, peaks):
        areas = rows_for(events, self.dtype["event_area_per_channel"])
        self.copy(events, peaks, "area_per_channel", areas)
        areas["s1_n_channels"] = (areas["s1_area_per_channel"] > 0).sum(axis=1)
        counts = rows_for(events, self.dtype["event_n_channel"])
        counts["s1_n_channels"] = areas["s1_n_channels"]
        return dict(event_area_per_channel=areas, event_n_channel=counts)


class EventCoincidences(CoincidencesBase):
    """Events whose main S1 is in coincidence with an external 511 keV peak."""

    __version__ = "1.1-amstrax3"
    depends_on = ("event_basics", "peaks_ext")
    input_fields = immutabledict(event_basics=("s1_time",), peaks_ext=("area",))
    provides = "event_coincidences"
    data_kind = "events"
    rechunk_on_save = True

    def compute(self, events, peaks_ext):
        return self.coincidences(events, events["s1_time"], peaks_ext)


#: Waveforms begin so long before the largest S1, where the first S1 may be [samples]
_KR83M_LEAD = 20


class Quality(IntEnum):
    """Quality of the two S1s of an event."""

    NONE = 0  #: no second S1 improves the fit
    DOUBTFUL = 1  #: a second S1 that fails a condition of the options
    MERGED = 2  #: two S1s in one peak
    SEPARATE = 3  #: two S1s in different peaks


class EventKr83m(CorrectedPlugin):
    """The two S1s of Kr-83m in each event, also where both are in one peak, and the S2s.

    Two S1s are fitted to the waveform of the peaks that begin before the main S2, are within the
    longest delay of the largest one, and are no S2 or rise fast. So an S1 may be typed unknown or
    S2, and split or not. The S2 of 9.4 keV is the largest S2 that follows the main S2 by the delay
    of the S1s. Fields are NaN where nothing is found.
    """

    kr83m_max_delay = XAMSConfig(default=2000, help="Longest delay of the second S1 [ns]")
    kr83m_min_delay = XAMSConfig(default=30, help="Shortest delay of the second S1 [ns]")
    kr83m_decay_time = XAMSConfig(
        default=27.0, help="Decay time of the light of an S1 in the fit [ns]"
    )
    kr83m_spread = XAMSConfig(
        default=9.0,
        help="Standard deviation by which PMTs and digitizer smear light in the fit [ns]",
    )
    kr83m_min_gain = XAMSConfig(
        default=10.0,
        help="Two S1s are good only if their log-likelihood exceeds that of one by so much [1]",
    )
    kr83m_min_area = XAMSConfig(default=15.0, help="Both S1s are good from this area on [PE]")
    kr83m_max_area = XAMSConfig(
        default=700.0, help="Two S1s are good up to this sum of their areas [PE]"
    )
    kr83m_area_ratio = XAMSConfig(
        default=(0.15, 1.5),
        type=(tuple, list),
        help="Two S1s are good if the area of the second over that of the first is within [1]",
    )
    kr83m_max_rise_time = XAMSConfig(
        default=200.0,
        help="Peaks that rise faster, from 10 % to 50 % of their area, count as S1s even if they "
        "are typed S2 [ns]",
    )
    kr83m_s2_tolerance = XAMSConfig(
        default=300.0, help="Delays of the S2s and of the S1s agree within this [ns]"
    )

    __version__ = "1.0.0-amstrax3"
    depends_on = ("event_basics", "peaks", "peak_basics")
    input_fields = immutabledict(
        event_basics=("s2_time", "s2_center_time", "s2_area"),
        peaks=("data", "length", "dt"),
        peak_basics=("area", "type", "center_time", "rise_time"),
    )
    provides = "event_kr83m"
    data_kind = "events"
    parallel = "process"
    _unless = "NaN unless it is a peak of its own"
    dtype = [
        *_TIMES,
        (("Quality: 0 one S1, 1 doubtful, 2 both in one peak, 3 in two", "kr_quality"), np.int8),
        (("Start of the first S1 since unix epoch, unknown: -1 [ns]", "s1_a_time"), np.int64),
        (("Time from the first to the second S1 [ns]", "s1_delay"), np.float32),
        (("Area of the first S1, 32.1 keV [PE]", "s1_a_area"), np.float32),
        (("Area of the second S1, 9.4 keV [PE]", "s1_b_area"), np.float32),
        (("Log-likelihood of two S1s less that of one [1]", "s1_gain"), np.float32),
        (("Number of peaks that the S1s are in", "s1_n_peaks"), np.int16),
        (("Time from the main S2 to the S2 of 9.4 keV [ns], " + _unless, "s2_delay"), np.float32),
        (("Area of the S2 of 32.1 keV [PE], " + _unless, "s2_a_area"), np.float32),
        (("Area of the S2 of 9.4 keV [PE], " + _unless, "s2_b_area"), np.float32),
    ]

    def setup(self):
        super().setup()
        if not 0 < self.kr83m_min_delay < self.kr83m_max_delay <= 10_000:
            raise InvalidOption(
                f"kr83m_min_delay={self.kr83m_min_delay!r}, kr83m_max_delay="
                f"{self.kr83m_max_delay!r}: give 0 < kr83m_min_delay < kr83m_max_delay <= 10000 ns"
            )
        for name in ("kr83m_decay_time", "kr83m_spread"):
            if not 1 <= getattr(self, name) <= 1000:
                raise InvalidOption(f"{name}={getattr(self, name)!r}: give 1 to 1000 ns")

    def compute(self, events, peaks):
        result = rows_for(events, self.dtype)
        for name in ("s1_delay", "s1_a_area", "s1_b_area", "s1_gain"):
            result[name] = np.nan
        result["s1_a_time"] = -1
        inside, first = kernels.contained_peaks(peaks, events)
        peaks, event = peaks[inside], np.repeat(np.arange(len(events)), np.diff(first))
        is_s1 = self.peaks_of_s1(events, peaks, event)
        n_samples = int(self.kr83m_max_delay) // splitting.SAMPLE + 2 * _KR83M_LEAD
        start = np.full(len(events), -1)
        # Peaks are sorted by time, so the first of an event is written last
        start[event[is_s1][::-1]] = peaks["time"][is_s1][::-1] - _KR83M_LEAD * splitting.SAMPLE
        result["s1_n_peaks"] = np.bincount(event[is_s1], minlength=len(events))
        lit = np.flatnonzero(start >= 0)
        row = np.searchsorted(lit, event[is_s1])
        waveforms = splitting.join_waveforms(peaks[is_s1], row, start[lit], n_samples)
        pairs = splitting.fit_pairs(
            waveforms, self.kr83m_decay_time, self.kr83m_spread, self.kr83m_min_delay
        )
        for name, values in (
            *(("s1_delay", pairs.delay), ("s1_a_area", pairs.first)),
            *(("s1_b_area", pairs.second), ("s1_gain", pairs.gain)),
        ):
            result[name][lit] = values
        found = np.isfinite(pairs.start)
        begin = pairs.start[found].round().astype(np.int64)
        result["s1_a_time"][lit[found]] = start[lit[found]] + begin
        result["kr_quality"] = self.quality(result, peaks[is_s1], event[is_s1])
        self.set_s2s(result, events, peaks, event)
        return result

    def peaks_of_s1(self, events: np.ndarray, peaks: np.ndarray, event: np.ndarray) -> np.ndarray:
        """Return which peaks hold the S1s of their event, shape (n,)."""
        is_fast = (peaks["type"] != S2) | (peaks["rise_time"] < self.kr83m_max_rise_time)
        candidate = np.flatnonzero(is_fast & (peaks["time"] < events["s2_time"][event]))
        order = candidate[np.argsort(peaks["area"][candidate], kind="stable")]
        largest = np.zeros(len(events), dtype=np.int64)
        largest[event[order]] = order
        result = np.zeros(len(peaks), dtype=np.bool_)
        delay = peaks["time"][candidate] - peaks["time"][largest[event[candidate]]]
        result[candidate] = np.abs(delay) <= self.kr83m_max_delay
        return result

    def quality(self, result: np.ndarray, peaks: np.ndarray, event: np.ndarray) -> np.ndarray:
        """Return the quality of each event; `peaks` are those of S1s, in events `event`."""
        lowest, highest = self.kr83m_area_ratio
        first, second = result["s1_a_area"], result["s1_b_area"]
        good = (
            (result["s1_gain"] >= self.kr83m_min_gain)
            & (np.minimum(first, second) >= self.kr83m_min_area)
            & (first + second <= self.kr83m_max_area)
            & (second >= lowest * first)
            & (second <= highest * first)
            & (result["s1_delay"] <= self.kr83m_max_delay)
        )
        # Both S1s are in one peak if none begins between them
        begins = peaks["time"] - result["s1_a_time"][event]
        last = result["s1_delay"][event] + splitting.SAMPLE
        between = (begins > splitting.SAMPLE) & (begins <= last)
        is_separate = np.bincount(event[between], minlength=len(result)) > 0
        return np.select(
            [good & is_separate, good, result["s1_gain"] > 0],
            [Quality.SEPARATE, Quality.MERGED, Quality.DOUBTFUL],
            Quality.NONE,
        )

    def set_s2s(
        self, result: np.ndarray, events: np.ndarray, peaks: np.ndarray, event: np.ndarray
    ) -> None:
        for name in ("s2_delay", "s2_a_area", "s2_b_area"):
            result[name] = np.nan
        delay = peaks["center_time"] - events["s2_center_time"][event]
        candidate = np.flatnonzero(
            (peaks["type"] == S2)
            & (peaks["time"] > events["s2_time"][event])
            & (result["kr_quality"][event] >= Quality.MERGED)
            & (np.abs(delay - result["s1_delay"][event]) <= self.kr83m_s2_tolerance)
        )
        candidate = candidate[np.argsort(peaks["area"][candidate], kind="stable")]
        of_event = event[candidate]
        result["s2_delay"][of_event] = delay[candidate]
        result["s2_a_area"][of_event] = events["s2_area"][of_event]
        result["s2_b_area"][of_event] = peaks["area"][candidate]
