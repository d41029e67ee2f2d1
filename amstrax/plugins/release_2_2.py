"""Plugins of release 2.2 of the lab's package (2026) that differ from those of release 2.1.

Class names are part of the lineage, so each class has the name of the class it replaces.
"""

from typing import Any

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax import rundoc
from amstrax.corrections.config import XAMSConfig
from amstrax.plugins import (
    daqreader,
    event_processing,
    led_calibration,
    peak_processing,
    pulse_processing,
)
from amstrax.processing import events as kernels
from amstrax.processing import led

__all__ = [
    "CorrectedAreas",
    "DAQReader",
    "EventAreaPerChannel",
    "EventPositions",
    "PeakBasics",
    "PeakBasicsSiPM",
    "PeakPositions",
    "PulseProcessingSiPM",
    "RecordsLED",
]

_CHANNEL_MAP = (
    "rundoc://?path=xams_bookkeeping.channel_map,daq_config.channel_map&fallback=xams_default"
)


def _channel_map(
    help: str = "First and last channel of each subdetector, by default of the run document",
) -> XAMSConfig:
    return XAMSConfig(default=_CHANNEL_MAP, track=False, type=immutabledict, help=help)


def _with_channel_map(plugin: Any, *help: str) -> Any:
    """Return a plugin of release 2.1 with the channel map of the run document."""
    members = {"__doc__": plugin.__doc__, "__module__": __name__}
    if "input_fields" in vars(plugin):
        # Input is narrowed only in a class that defines both attributes itself
        members |= {name: vars(plugin)[name] for name in ("input_fields", "compute")}
    return type(plugin.__name__, (plugin,), members | {"channel_map": _channel_map(*help)})


class DAQReader(daqreader.XAMSReader):
    """Read the live data of XAMS; provides raw records of the TPC, the NaI and the SiPMs.

    Waveforms are as digitised: pulses of SiPMs are positive.
    """

    channel_map = _channel_map()

    __version__ = "0.1.0"
    provides = daqreader.XAMSReader.raw_types


PeakBasics = _with_channel_map(peak_processing.PeakBasics)
PeakBasicsSiPM = _with_channel_map(peak_processing.PeakBasicsSiPM, "Not used")
PeakPositions = _with_channel_map(peak_processing.PeakPositions)
EventAreaPerChannel = _with_channel_map(event_processing.EventAreaPerChannel, "Not used")


class PulseProcessingSiPM(pulse_processing.PulseProcessingSiPM):
    """Compute baseline and integral of raw records of the SiPMs, whose pulses are positive."""

    __version__ = "0.0.2"
    flip = False


class EventPositions(event_processing.EventPositions):
    """Position of each event: x and y of the main S2, z from the drift time."""

    pos_rec_map = XAMSConfig(
        default=None,
        help="Table with uv_min, step, n, x and y, from which x and y [mm] are interpolated in u "
        "and v; see amstrax.processing.events.position_map. None: x and y of the reconstruction "
        "algorithm",
    )

    __version__ = "1.2.0"
    dtype = [
        *peak_processing.dtype_of(
            {
                "x": ("reconstructed x [mm]", np.float32),
                "y": ("reconstructed y [mm]", np.float32),
                "r": ("reconstructed distance from the axis [mm]", np.float32),
                "phi": ("reconstructed azimuth, from x towards y [rad]", np.float32),
            },
            peak_processing.OF_POSITIONS,
        ),
        (("Main S2: light of the left less that of the right top channels [1]", "u"), np.float32),
        (("Main S2: light of the upper less that of the lower top channels [1]", "v"), np.float32),
        (("Depth below the gate, from the drift time, downwards negative [mm]", "z"), np.float32),
        *strax.time_fields,
    ]

    def setup(self):
        super().setup()
        table = self.pos_rec_map
        self.map = None if table is None else kernels.position_map(table)

    def compute(self, events):
        result = super().compute(events)
        result["u"], result["v"] = self.light_fractions(events, "s2_")
        return result

    @staticmethod
    def light_fractions(events: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Return u and v [1] of the S2s whose fields begin with `source`, float64."""
        u, v = (2 * events[f"{source}{axis}_cgr"].astype(np.float64) - 1 for axis in "yx")
        return u, v

    def coordinates(self, events: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
        if self.map is None:
            return super().coordinates(events, source)
        return kernels.positions(self.map, *self.light_fractions(events, source))

    def set_position(self, result: np.ndarray, prefix: str, x: np.ndarray, y: np.ndarray) -> None:
        super().set_position(result, prefix, x, y)
        result[f"{prefix}phi"] = kernels.azimuth(x, y)


class CorrectedAreas(event_processing.CorrectedAreasBase):
    """Areas corrected for the event position, in total and for the top and bottom PMTs.

    cS1 is corrected for depth, cS2 for lost electrons. Alternative S1s and S2s are corrected with
    the position of the main ones.
    """

    __version__ = "0.7.0"
    provides = "corrected_areas"
    dtype = [
        *strax.time_fields,
        *(
            ((f"Corrected area of the {which} {sx.upper()}{title} [PE]", f"{prefix}c{sx}{part}"),)
            + (np.float32,)
            for which, prefix in (("main", ""), ("alternative", "alt_"))
            for sx, part, title in (
                ("s1", "", ""),
                ("s2", "", ""),
                ("s1", "_top", ", seen by the top PMTs"),
                ("s1", "_bottom", ", seen by the bottom PMT"),
                ("s2", "_top", ", seen by the top PMTs"),
                ("s2", "_bottom", ", seen by the bottom PMT"),
            )
        ),
    ]

    def compute(self, events):
        result = super().compute(events)
        for prefix in ("", "alt_"):
            for sx in ("s1", "s2"):
                area = result[f"{prefix}c{sx}"]
                top = events[f"{prefix}{sx}_area_fraction_top"]
                result[f"{prefix}c{sx}_top"] = area * top
                result[f"{prefix}c{sx}_bottom"] = area * (1 - top)
        return result


class RecordsLED(led_calibration.LEDPulses):
    """Join the fragments of each pulse of TPC and SiPMs to one row, and subtract the baseline.

    Pulses become positive in all channels. A missing fragment leaves no gap: later samples move
    forward, and ``length`` is below ``pulse_length``.
    """

    daq_registers = XAMSConfig(
        default="rundoc://?path=daq_config.registers&fallback=empty",
        track=False,
        help="Registers of the digitizers, for the polarity of channels",
    )

    __version__ = "1.1.0"
    depends_on = ("raw_records", "raw_records_sipm")
    provides = "records_led"

    def compute(self, raw_records, raw_records_sipm):
        raw = np.concatenate([raw_records, raw_records_sipm])
        n_samples = self.config["record_length"] * self.config["n_records_per_pulse"]
        order, first, data = led.concatenate_fragments(raw, n_samples)
        raw = raw[order]
        result = np.zeros(len(first), dtype=self.dtype)
        if not len(first):
            return result
        for field in ("time", "dt", "channel"):
            result[field] = raw[field][first]
        result["pulse_length"] = np.maximum.reduceat(raw["pulse_length"], first)
        result["length"] = np.minimum(np.add.reduceat(raw["length"], first), n_samples)
        up = rundoc.extract_channel_polarity(self.daq_registers)
        goes_up = [channel for channel, polarity in up.items() if polarity > 0]
        sign = np.where(np.isin(result["channel"], goes_up), 1, -1).astype(np.float32)
        begin, end = (min(max(0, int(i)), n_samples) for i in self.config["baseline_window"])
        if end <= begin:
            begin, end = 0, min(50, n_samples)
        baseline = data[:, begin:end].mean(axis=1)
        inside = np.arange(n_samples) < result["length"][:, np.newaxis]
        above = sign[:, np.newaxis] * (data - baseline[:, np.newaxis])
        result["data"] = np.where(inside, above, 0)
        return result
