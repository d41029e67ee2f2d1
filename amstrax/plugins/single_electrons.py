"""Single electrons: small peaks after large ones, found with a threshold and a gap of their own.

The lab's peaks start at 10 PE, and a gap of 300 ns ends them. A single electron gives about as much
light, evenly over some 2 us, so most of them fall to pieces there or are lost.
"""

from typing import ClassVar

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.corrections.config import XAMSConfig
from amstrax.plugins.daqreader import check_safe_break
from amstrax.plugins.peak_processing import PeaksBase, rows_for
from amstrax.processing import live_data
from amstrax.processing import peaks as kernels
from amstrax.processing.pulses import steady_baselines
from amstrax.processing.rows import sort_by_time

__all__ = ["SingleElectrons"]

NO_DELAY = -1
#: Samples this long before and behind hits are integrated, as by reconstruction part hits [ns]
_MARGINS = 30, 60


class SingleElectrons(PeaksBase):
    """Find small peaks, candidates for single electrons, and their time after the last large one.

    Rows are peaks from se_min_area to below se_large_area, in time order. Hits further apart than
    se_gap_threshold are different peaks; chunks are cut in shorter gaps, so that each border of
    chunks may cut one peak in two.

    Baselines of pulses are medians over pulses before and after in their channel: photoelectrons of
    one electron are so close that many pulses begin with signal, which would cost 7 % of the area.
    """

    se_min_area = XAMSConfig(default=1.5, help="Least area of the hits of a small peak [PE]")
    se_large_area = XAMSConfig(
        default=200, help="Peaks of at least this area are large: they set electrons free [PE]"
    )
    se_gap_threshold = XAMSConfig(
        default=1500,
        help="An interval this long without hits ends a small peak [ns]; electrons give light for "
        "about 2000 ns",
    )

    se_hit_threshold = XAMSConfig(
        default=8,
        help="Hits of small peaks are samples of at least this [ADC counts above the baseline]; "
        "samples 30 ns before and 60 ns behind are integrated with them",
    )

    # Those of peaks have other values here
    takes_config: ClassVar = immutabledict(
        {
            name: option
            for name, option in PeaksBase.takes_config.items()
            if name not in ("peak_min_area", "peak_gap_threshold")
        }
    )
    __version__ = "0.1.0"
    depends_on = ("records",)
    provides = "single_electrons"
    data_kind = "single_electrons"
    save_when = strax.SaveWhen.TARGET

    @property
    def peak_min_area(self):
        """Least area of the hits of a peak [PE]."""
        return self.se_min_area

    @property
    def peak_gap_threshold(self):
        """An interval this long without hits ends a peak [ns]."""
        return self.se_gap_threshold

    def check_breaks(self):
        check_safe_break(
            self,
            se_hit_threshold=live_data.safe_break_for(max(_MARGINS)),
            peak_left_extension=live_data.safe_break_for(self.peak_left_extension),
            peak_right_extension=live_data.safe_break_for(self.peak_right_extension),
        )

    def infer_dtype(self):
        return [
            (("Area [PE]", "area"), np.float32),
            (("Number of channels with a positive area", "n_channels"), np.int16),
            (("Width of the central 50% of the area [ns]", "range_50p_area"), np.float32),
            (("Width of the central 90% of the area [ns]", "range_90p_area"), np.float32),
            (
                (
                    "Time since the end of the last large peak of the chunk, without one -1 [ns]",
                    "delay",
                ),
                np.int64,
            ),
            (("Area of that peak, without one 0 [PE]", "large_area"), np.float32),
            *strax.time_fields,
        ]

    def find_hits(self, records, links):
        hits = kernels.find_hits(records, self.se_hit_threshold, by_time=True)
        kernels.integrate_hits(hits, records, links, *_MARGINS)
        return sort_by_time(kernels.widen_hits(hits))

    def compute(self, records, start, end):
        peaks = self.find_peaks(steady_baselines(records), start, end)
        is_large = peaks["area"] >= self.se_large_area
        large, small = peaks[is_large], peaks[~is_large]
        result = rows_for(small, self.dtype)
        result["area"] = small["area"]
        result["n_channels"] = (small["area_per_channel"] > 0).sum(axis=1)
        result["range_50p_area"] = small["width"][:, kernels.RANGE_50P]
        result["range_90p_area"] = small["width"][:, kernels.RANGE_90P]
        last = np.searchsorted(large["time"], small["time"], side="right") - 1
        has_large = last >= 0
        last = large[last[has_large]]
        result["delay"] = NO_DELAY
        result["delay"][has_large] = small["time"][has_large] - strax.endtime(last)
        result["large_area"][has_large] = last["area"]
        return result
