"""Reconstruction part ``peaks``: pieces of S2s are merged, and pairs of S1s are split.

The lab ends a peak after 300 ns without a hit. Photoelectrons of a single electron, 10 within 2 us,
are often further apart. The lab splits peaks at minima between maxima of 25 PE a sample, which the
second S1 of Kr-83m does not reach.
"""

import numpy as np

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.plugins.daqreader import check_safe_break
from amstrax.plugins.peak_processing import check_numbers
from amstrax.processing import merging, splitting
from amstrax.processing.compiled import as_void

#: Help of options that parts share; the defaults must be the same, too
S1_WINDOW_HELP = "Light of an S1 comes within this time [ns]: five decay times of 27 ns"
AREA_FANO_HELP = (
    "Variance of the area of a signal divided by its mean [PE]: 1.15 from the spread of the charge "
    "of photoelectrons, times 1.3 from double photoelectrons"
)


class MergedPeaks(CorrectedPlugin):
    """Peaks, with pieces of S2s merged and pairs of S1s split."""

    s2_merge_gap = XAMSConfig(
        default=1000,
        help="Groups of hits this near to each other may be one S2 [ns]: half of the transit time "
        "of an electron in the gas, which eight photoelectrons exceed once in 30 times",
    )
    s2_max_duration = XAMSConfig(
        default=4000,
        help="Groups are merged up to this duration [ns]: the transit time in the gas, and six "
        "standard deviations of the longitudinal diffusion in the longest drift",
    )
    s1_window = XAMSConfig(default=150, help=S1_WINDOW_HELP)
    s1_min_prompt_area = XAMSConfig(
        default=5,
        help="Groups with this area within s1_window, and twice that of even light, are S1s and "
        "not merged [PE]: of single electrons 0.75 PE come in the window",
    )
    s1_split_window = XAMSConfig(
        default=40, help="Light between two S1s is counted in sums over this time [ns]"
    )
    s1_split_significance = XAMSConfig(
        default=2.5,
        help="Two S1s are split if the sums beside the minimum are so many standard deviations "
        "higher [1]",
    )
    s1_split_min_fraction = XAMSConfig(
        default=0.05,
        help="Both S1s have this fraction of the area [1]: ten times that of after-pulses",
    )
    area_fano = XAMSConfig(default=1.5, help=AREA_FANO_HELP)

    def setup(self):
        super().setup()
        check_safe_break(self, s2_merge_gap=self.s2_merge_gap)
        names = "s1_split_window", "s1_split_significance", "area_fano"
        check_numbers(self, "a number above 0", *names, above=0)

    def group_hits(self, hits, to_pe, dtype, min_area, min_channels):
        groups = super().group_hits(hits, to_pe, merging.group_dtype(dtype), -np.inf, 1)
        groups = merging.merge_groups(
            groups,
            hits,
            to_pe,
            self.s2_merge_gap,
            self.s2_max_duration,
            self.s1_window,
            self.s1_min_prompt_area,
        )
        n_channels = (groups["area_per_channel"] != 0).sum(axis=1)
        large = (groups["area"] >= min_area) & (n_channels >= min_channels)
        groups = as_void(groups)[large].view(groups.dtype)
        peaks = np.zeros(len(groups), dtype=dtype)
        for name in groups.dtype.names:
            peaks[name] = groups[name]
        return peaks

    def split_finder(self):
        pairs = splitting.s1_pair_splits(
            self.s1_window,
            self.s1_split_window,
            self.s1_split_significance,
            self.s1_split_min_fraction,
            self.area_fano,
        )
        return splitting.first_of(super().split_finder(), pairs)
