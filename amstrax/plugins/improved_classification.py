"""Reconstruction part ``classification``: types by the shape of light in time, pattern and size.

The lab's types need 10 PE, and widths within fixed limits: small S2s and single electrons have no
type, nor have the two S1s of Kr-83m where they are one wide peak. XAMSL has no types at all.
"""

import numpy as np

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.plugins.improved_peaks import AREA_FANO_HELP, S1_WINDOW_HELP
from amstrax.processing import classification
from amstrax.processing import peaks as kernels


class CoincidentPeaks(CorrectedPlugin):
    """Peaks with the channels in tight coincidence."""

    #: Window where the option tight_coincidence_window is not set [ns]: two decay times of an S1
    default_window = 50

    def has_coincidences(self):
        return True

    def set_hit_features(self, peaks, hits):
        super().set_hit_features(peaks, hits)  # type: ignore[misc]  # of PeaksBase
        if self.tight_coincidence_window is None:  # type: ignore[attr-defined]
            kernels.set_tight_coincidence(peaks, hits, self.default_window)


class _Types(CorrectedPlugin):
    """Options of types, and the fields that they add."""

    added_fields = [
        (
            ("Whether it is an S1 of two deposits, as of Kr-83m, in one peak", "is_double_s1"),
            np.bool_,
        ),
        (
            ("Whether it is an S2 of the size and duration of one electron", "is_single_electron"),
            np.bool_,
        ),
    ]

    s1_window = XAMSConfig(default=150, help=S1_WINDOW_HELP)
    s1_prompt_fraction = XAMSConfig(
        default=0.7,
        help="S1s have this fraction of their area within s1_window [1]: 0.99 of the light, but "
        "small S1s also dark counts and after-pulses",
    )
    gas_transit_time = XAMSConfig(
        default=2000,
        help="Electrons give light for so long [ns]: S2s have a central 50% width of half of it",
    )

    def setup(self):
        super().setup()
        self.limits().check()

    def limits(self) -> classification.Limits:
        """Return the limits between S1s and S2s."""
        return classification.Limits(self.s1_window, self.s1_prompt_fraction, self.gas_transit_time)

    def classify(self, result: np.ndarray, peaks: np.ndarray) -> None:
        """Fill the types in rows of peak_basics; `peaks` have the waveforms."""
        limits = self.limits()
        result["type"], result["is_double_s1"] = classification.types(
            result["area"],
            result["area_fraction_top"],
            result["range_50p_area"],
            classification.shapes(peaks, limits.window),
            limits,
        )


class ClassifiedPeakBasics(_Types):
    """Basic properties of the TPC's peaks, with types by shape, pattern and size."""

    typed_min_area = XAMSConfig(
        default=2, help="Peaks of a smaller area have no type [PE]: dark counts and after-pulses"
    )
    area_fano = XAMSConfig(default=1.5, help=AREA_FANO_HELP)
    s1_area_fraction_top = XAMSConfig(
        default=0.22,
        help="Mean fraction of the light of S1s in the top array [1]; used below 30 PE",
    )
    s2_area_fraction_top = XAMSConfig(
        default=0.71,
        help="Mean fraction of the light of S2s in the top array [1]; used below 30 PE",
    )
    s1_min_score = XAMSConfig(
        default=2.6,
        help="S1s have at least this log-likelihood ratio to light of one electron [1]: the log of "
        "gas_transit_time / s1_window, since that light may come together in any window",
    )
    s2_width_sigmas = XAMSConfig(
        default=3, help="S2s are at most so many standard deviations too narrow [1]"
    )
    single_electron_max_area = XAMSConfig(
        default=15,
        help="S2s up to this area are single electrons [PE]: between one electron (mean 10, "
        "standard deviation 4) and two (20, 6)",
    )

    def limits(self):
        return classification.Limits(
            self.s1_window,
            self.s1_prompt_fraction,
            self.gas_transit_time,
            self.typed_min_area,
            self.area_fano,
            (self.s1_area_fraction_top, self.s2_area_fraction_top),
            self.s1_min_score,
            self.s2_width_sigmas,
        )

    def compute(self, peaks):
        result = super().compute(peaks)
        self.classify(result, peaks)
        # The central 90% of even light take 0.9 of the transit time
        is_short = result["range_90p_area"] <= self.gas_transit_time
        is_small = result["area"] <= self.single_electron_max_area
        result["is_single_electron"] = (result["type"] == kernels.S2) & is_short & is_small
        return result


class ClassifiedRadonPeakBasics(_Types):
    """Basic properties of XAMSL's peaks, with types by the shape of their light in time."""

    def compute(self, radon_peaks):
        result = super().compute(radon_peaks)
        self.classify(result, radon_peaks)
        return result


class TriggeredEvents(CorrectedPlugin):
    """Time intervals around S2s of several electrons; intervals that would touch are merged."""

    trigger_min_area = XAMSConfig(
        default=25,
        help="S2s of a larger area make an event [PE]: more than one electron in 9999 of 10000 "
        "cases. By default of the lab 10, where S2s below s2_min_area have no type",
    )
