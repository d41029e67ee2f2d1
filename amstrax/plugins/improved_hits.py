"""Reconstruction part ``hits``: thresholds by option, and integration of the whole photoelectron.

The lab's hits are the samples of at least 15 ADC counts, and only these are summed: a photoelectron
keeps 86 to 90 % of its area, while gains from LED runs are those of all of it.
"""

import numpy as np

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption
from amstrax.plugins.daqreader import check_safe_break
from amstrax.processing import live_data, waveforms
from amstrax.processing import peaks as kernels
from amstrax.processing.compiled import sort_by_time


class _IntegratedHits(CorrectedPlugin):
    """Options and algorithm of hits; samples around them are integrated too."""

    hit_threshold_adc = XAMSConfig(
        default=8,
        type=(int, float, tuple, list),
        help="Hits are samples of at least this [ADC counts above the baseline], a number or one "
        "for each channel",
    )
    hit_threshold_sigma = XAMSConfig(
        default=0,
        type=(int, float, tuple, list),
        help="Hits are also at least this high [standard deviations of the baseline of the pulse], "
        "a number or one for each channel",
    )
    hit_left_margin = XAMSConfig(
        default=30, help="Samples this long before a hit are integrated with it [ns]"
    )
    hit_right_margin = XAMSConfig(
        default=60, help="Samples this long behind a hit are integrated with it [ns]"
    )

    def setup(self):
        super().setup()
        for name in ("hit_threshold_adc", "hit_threshold_sigma"):
            self.threshold(name)
        check_safe_break(
            self,
            hit_left_margin=live_data.safe_break_for(self.hit_left_margin),
            hit_right_margin=live_data.safe_break_for(self.hit_right_margin),
        )

    def threshold(self, name: str) -> np.ndarray:
        """Return a threshold, for all channels or for each; raises InvalidOption."""
        value = getattr(self, name)
        try:
            result = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            result = np.array(np.nan)
        if result.ndim > 1 or not result.size or not (result >= 0).all():
            raise InvalidOption(f"{name}={value!r}: give a number of 0 or more, or one a channel")
        return result

    def integrated_hits(
        self, records: np.ndarray, links: tuple[np.ndarray, np.ndarray], widen: bool = False
    ) -> np.ndarray:
        """Return hits sorted by time, with integration bounds and the area within these.

        With `widen`, time and length are those of the bounds.
        """
        hits = kernels.find_hits(
            records,
            self.threshold("hit_threshold_adc"),
            self.threshold("hit_threshold_sigma"),
        )
        margins = self.hit_left_margin, self.hit_right_margin
        # In the order of records, each of which is read once
        kernels.integrate_hits(hits, records, links, *margins, widen)
        return sort_by_time(hits)


class ImprovedHits(_IntegratedHits):
    """Hits above thresholds that are options; areas include the samples around them."""

    def compute(self, records):
        return self.integrated_hits(records, waveforms.record_links(records))


class ImprovedPeaks(_IntegratedHits):
    """Peaks of hits above thresholds that are options, with the samples around these hits."""

    def find_hits(self, records, links):
        return self.integrated_hits(records, links, widen=True)
