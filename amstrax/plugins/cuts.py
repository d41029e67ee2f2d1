"""Cuts on events that most analyses repeat; thresholds are options.

A cut is a data type with one boolean column: True for the events that it keeps. ``event_cuts`` has
all of them, and ``st.cut_flow`` counts what they leave.
"""

import numpy as np
import strax

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption

__all__ = [
    "CutFiducialVolume",
    "CutS1Area",
    "CutS2Area",
    "CutS2Width",
    "CutSaturation",
    "CutSingleScatter",
    "EventCuts",
]


class Cut(CorrectedPlugin, strax.CutPlugin):
    """Base of the cuts: a subclass sets options, names, and ``cut_by``."""

    __version__ = "1.0.0-amstrax3"
    depends_on: tuple[str, ...] = ("event_basics",)
    data_kind = "events"
    parallel = "process"
    save_when = strax.SaveWhen.TARGET


class CutFiducialVolume(Cut):
    """Keep events whose position is within a cylinder; events without position are cut."""

    cut_fiducial_max_r = XAMSConfig(
        default=25.0, help="Events in the fiducial volume are at most this far from the axis [mm]"
    )
    cut_fiducial_min_z = XAMSConfig(
        default=-45.0, help="Events in the fiducial volume are not below this z [mm]"
    )
    cut_fiducial_max_z = XAMSConfig(
        default=-5.0, help="Events in the fiducial volume are not above this z [mm]"
    )

    depends_on = ("event_positions",)
    provides = "cut_fiducial_volume"
    cut_name = "cut_fiducial_volume"
    cut_description = "Position in the fiducial volume"

    def cut_by(self, events):
        inside = (events["z"] >= self.cut_fiducial_min_z) & (events["z"] <= self.cut_fiducial_max_z)
        return inside & (events["r"] <= self.cut_fiducial_max_r)


class CutSingleScatter(Cut):
    """Keep events with S1 and S2 whose alternative S2 is small; none is small, too."""

    cut_single_scatter_max_fraction = XAMSConfig(
        default=0.05,
        help="The alternative S2 of single scatters has at most this fraction of the area of the "
        "main one [1]",
    )
    cut_single_scatter_max_area = XAMSConfig(
        default=50.0,
        help="The alternative S2 of single scatters may always have this area, as delayed single "
        "electrons do [PE]",
    )

    provides = "cut_single_scatter"
    cut_name = "cut_single_scatter"
    cut_description = "S1 and S2, and no other S2 of comparable size"

    def cut_by(self, events):
        most = np.maximum(
            self.cut_single_scatter_max_fraction * events["s2_area"],
            self.cut_single_scatter_max_area,
        )
        is_large = events["alt_s2_area"] > most  # False without an alternative S2
        return np.isfinite(events["drift_time"]) & ~is_large


class CutS2Width(Cut):
    """Keep events whose S2 is as wide as diffusion over its drift time makes it.

    Expected is w = sqrt(w0^2 + k t), for drift time t, with w0 the width without drift and k from
    longitudinal diffusion. Defaults are those of simulated Kr-83m in XAMS.
    """

    cut_s2_width_zero = XAMSConfig(
        default=1003.0, help="Width of the central 50 % of the area of S2s without drift [ns]"
    )
    cut_s2_width_slope = XAMSConfig(
        default=0.8, help="Increase of the square of that width with drift time [ns^2/ns]"
    )
    cut_s2_width_range = XAMSConfig(
        default=(0.85, 1.2),
        type=(tuple, list),
        help="Least and largest width over expected width [1]",
    )

    provides = "cut_s2_width"
    cut_name = "cut_s2_width"
    cut_description = "S2 width as expected for the drift time"

    def setup(self):
        super().setup()
        if np.shape(self.cut_s2_width_range) != (2,):
            raise InvalidOption(
                f"cut_s2_width_range={self.cut_s2_width_range!r}: give least and largest width "
                "over expected width, as (0.85, 1.2)"
            )

    def cut_by(self, events):
        square = self.cut_s2_width_zero**2 + self.cut_s2_width_slope * events["drift_time"]
        with np.errstate(invalid="ignore"):
            ratio = events["s2_range_50p_area"] / np.sqrt(square)
        least, most = self.cut_s2_width_range
        return (ratio >= least) & (ratio <= most)


class CutS1Area(Cut):
    """Keep events with an S1 above a threshold."""

    cut_s1_min_area = XAMSConfig(default=20.0, help="Least area of the main S1 [PE]")

    provides = "cut_s1_area"
    cut_name = "cut_s1_area"
    cut_description = "S1 above threshold"

    def cut_by(self, events):
        return events["s1_area"] >= self.cut_s1_min_area


class CutS2Area(Cut):
    """Keep events with an S2 above a threshold."""

    cut_s2_min_area = XAMSConfig(default=200.0, help="Least area of the main S2 [PE]")

    provides = "cut_s2_area"
    cut_name = "cut_s2_area"
    cut_description = "S2 above threshold"

    def cut_by(self, events):
        return events["s2_area"] >= self.cut_s2_min_area


class CutSaturation(Cut):
    """Keep events in which no more than some channels reach the end of the ADC."""

    cut_max_saturated_channels = XAMSConfig(
        default=0, help="Largest number of saturated channels in the main S1, and in the main S2"
    )

    provides = "cut_saturation"
    cut_name = "cut_saturation"
    cut_description = "No saturated channels in S1 and S2"

    def cut_by(self, events):
        # Absent peaks have -1
        most = np.maximum(events["s1_n_saturated_channels"], events["s2_n_saturated_channels"])
        return most <= self.cut_max_saturated_channels


class EventCuts(strax.CutList):
    """All cuts of each event; ``cut_all`` is True for the events that all of them keep."""

    __version__ = "1.0.0-amstrax3"
    provides = "event_cuts"
    data_kind = "events"
    accumulated_cuts_string = "cut_all"
    #: In the order of the cut flow
    cuts = CutS1Area, CutS2Area, CutSingleScatter, CutFiducialVolume, CutS2Width, CutSaturation
