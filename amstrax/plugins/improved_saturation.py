"""Reconstruction part ``saturation``: areas of signals that reach the end of the ADC.

The lab's areas sum what the ADC has recorded, and only count the channels that reach its end: of
large signals up to more than half is lost.
"""

import numpy as np

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.plugins.improved_peaks import AREA_FANO_HELP
from amstrax.plugins.peak_processing import SIGNALS, check_numbers, dtype_of
from amstrax.processing import saturation
from amstrax.processing.pulses import ADC_MAX


class SaturationPeaks(CorrectedPlugin):
    """Peaks whose samples at the end of the ADC are those of unsaturated channels, scaled."""

    saturation_max_error = XAMSConfig(
        default=0.3,
        help="Saturated peaks are corrected where the light of a channel in its saturated samples "
        "is known within this standard deviation [fraction of that light]",
    )
    area_fano = XAMSConfig(default=1.5, help=AREA_FANO_HELP)
    pmt_saturation_charge = XAMSConfig(
        default=None,
        help="Charge that halves the gain of a PMT when its base has lost it [PE], a number that "
        "must be measured; None: no correction for it",
    )

    def peak_dtype(self):
        n_channels = self.n_channels  # type: ignore[attr-defined]  # of PeaksBase
        return super().peak_dtype() + saturation.fields(n_channels)  # type: ignore[misc]

    def setup(self):
        super().setup()
        names = ["saturation_max_error", "area_fano"]
        if self.pmt_saturation_charge is not None:
            names.append("pmt_saturation_charge")
        check_numbers(self, "a number above 0", *names, above=0)

    def find_peaks(self, records, start, end):
        peaks = super().find_peaks(records, start, end)  # type: ignore[misc]  # of PeaksBase
        charge = self.pmt_saturation_charge
        goes_up = self.correct_positive_polarity  # type: ignore[attr-defined]  # of PeaksBase
        saturation.correct_saturation(
            peaks,
            records,
            self.gains(),  # type: ignore[attr-defined]  # of PeaksBase
            self.area_fano,
            self.saturation_max_error,
            np.inf if charge is None else charge,
            ADC_MAX if goes_up else 0,
        )
        return peaks


class SaturationPeakBasics(CorrectedPlugin):
    """Basic properties of peaks, and what was corrected for saturation."""

    added_fields = dtype_of(saturation.FIELDS)

    def compute(self, peaks):
        result = super().compute(peaks)
        for name in saturation.FIELDS:
            result[name] = peaks[name]
        return result


class SaturationEventBasics(CorrectedPlugin):
    """Main and alternative S1 and S2 of each event, and what was corrected for saturation."""

    added_fields = dtype_of(saturation.FIELDS, SIGNALS)
